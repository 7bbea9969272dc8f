import inspect

import pytest
import segmentation_models_pytorch as smp
import torch

from brickyard import BrickInputError, BrickMismatchError, Stage, create_model
from brickyard.core.specs import BackboneSpec, FeatureSpec, InputSpec
from brickyard.parts import smp_decoder
from brickyard.tasks.smp import ARCHITECTURES, smp_maps

OF_BACKBONE = {"encoder_name", "encoder_depth", "encoder_weights", "encoder_output_stride", "encoder_output_indices"}
OF_BACKBONE |= {"self", "in_channels", "classes", "activation", "aux_params", "kwargs"}


def spec(strides):
    channels = tuple(8 * (index + 1) for index in range(len(strides)))
    return BackboneSpec(FeatureSpec(channels, tuple(strides)), 8, InputSpec(3, (64, 64), False, (0,) * 3, (1,) * 3))


def test_the_architectures_are_those_of_smp():
    assert set(ARCHITECTURES) == set(smp.MODEL_ARCHITECTURES_MAPPING)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_arguments_and_defaults_are_those_of_smp(architecture):
    theirs = inspect.signature(smp.MODEL_ARCHITECTURES_MAPPING[architecture].__init__).parameters.values()
    ours = inspect.signature(getattr(smp_decoder, f"_{architecture}")).parameters.values()
    expected = {each.name: each.default for each in theirs if each.name not in OF_BACKBONE}
    if architecture == "dpt":
        expected["decoder_readout"] = "ignore"  # smp reads the class token
    assert {each.name: each.default for each in ours if each.kind is each.KEYWORD_ONLY} == expected


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_weight_of_a_new_decoder_is_trained(architecture):
    torch.manual_seed(0)
    name = "test_vit" if architecture == "dpt" else "test_resnet"
    options = {"output_stride": 16} if architecture in ("deeplabv3", "deeplabv3plus", "pan") else {}
    model = create_model(f"{name}_seg-smp{architecture}", num_classes=3, **options)
    batch = {"image": torch.rand(2, 3, 160, 160), "targets/seg": torch.randint(0, 3, (2, 160, 160))}
    values = model(batch, tags=Stage.TRAIN.tags)
    assert values["seg/logits"].shape == (2, 3, 160, 160)
    values["seg/loss"].backward()
    unused = {"dpt": 4}.get(architecture, 0)  # smp's first fusion block has nothing to fuse
    without = [name for name, weight in model["seg"].named_parameters() if weight.grad is None]
    assert len(without) <= unused, without


@pytest.mark.parametrize(
    ("architecture", "strides", "levels"),
    [
        ("unet", [2, 4, 8, 16, 32], ["image", 0, 1, 2, 3, 4]),
        ("unet", [2, 4, 8, 16, 16], ["image", 0, 1, 2, 3, 4]),
        ("unet", [4, 8, 16, 32], ["image", "empty", 0, 1, 2, 3]),
        ("unet", [1, 2, 4, 8, 16, 32], [0, 1, 2, 3, 4, 5]),
        ("pspnet", [2, 4, 8, 16, 32], ["image", 0, 1, 2]),
        ("dpt", [16] * 12, [2, 5, 8, 11]),
        ("dpt", [14] * 24, [5, 11, 17, 23]),
    ],
)
def test_a_decoder_takes_the_maps_that_smp_gives_it(architecture, strides, levels):
    maps = smp_maps(architecture, spec(strides))
    assert maps["levels"] == levels
    of_smp = {"image": (3, 1), "empty": (0, 2)}
    expected = [of_smp.get(level) or (8 * (level + 1), strides[level]) for level in levels]
    assert list(zip(maps["channels"], maps["strides"], strict=True)) == expected


@pytest.mark.parametrize(
    ("architecture", "strides"), [("unet", [16] * 12), ("dpt", [2, 4, 8, 16, 32]), ("dpt", [16] * 3), ("fpn", [8, 16])]
)
def test_a_backbone_without_such_maps_is_refused(architecture, strides):
    with pytest.raises(BrickMismatchError, match="strides: expected"):
        smp_maps(architecture, spec(strides))


@pytest.mark.parametrize("architecture", ["unetplusplus", "manet", "linknet", "fpn"])
def test_a_decoder_that_doubles_the_size_takes_no_dilated_backbone(architecture):
    with pytest.raises(BrickInputError, match="no dilation"):
        create_model(f"test_resnet_seg-smp{architecture}", output_stride=16)


def test_a_deeplab_needs_a_dilated_backbone():
    with pytest.raises(BrickInputError, match="output_stride=16"):
        create_model("test_resnet_seg-smpdeeplabv3plus")
