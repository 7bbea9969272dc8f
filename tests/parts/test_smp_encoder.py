import pytest
import timm
import torch
from segmentation_models_pytorch.encoders.densenet import DenseNetEncoder
from segmentation_models_pytorch.encoders.resnet import ResNetEncoder
from torch import nn
from torchvision.models.resnet import BasicBlock

from brickyard import BrickCollection, BrickMismatchError, create_model
from brickyard.core.backbone import timm_features
from brickyard.parts.backbones import timm_backbone, timm_spec

SMALL_DENSENET = {"growth_rate": 32, "block_config": [2, 2, 2, 2]}


def with_statistics(encoder):
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return encoder.eval()


def check_maps(encoder, backbone, image):
    with torch.no_grad():
        expected, (maps, embedding) = encoder(image)[1:], timm_features(backbone, image)
    assert len(maps) == len(expected)
    assert all(map(torch.equal, maps, expected))
    return maps, embedding


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("size", [(64, 96), (71, 45)])
def test_the_maps_of_a_dilated_resnet_are_those_of_smp(output_stride, size):
    torch.manual_seed(0)
    encoder = ResNetEncoder(out_channels=[3, 64, 64, 128, 256, 512], block=BasicBlock, layers=[1, 2, 2, 2])
    if output_stride < 32:
        encoder.make_dilated(output_stride)
    backbone = timm_backbone("resnet18", smp_output_stride=output_stride, layers=[1, 2, 2, 2]).eval()
    backbone.load_state_dict(with_statistics(encoder).state_dict())
    maps, _ = check_maps(encoder, backbone, torch.randn(2, 3, *size))
    spec = timm_spec(backbone, smp_output_stride=output_stride)
    assert spec.features.strides == tuple(min(stride, output_stride) for stride in (2, 4, 8, 16, 32))
    assert [map_.shape[2:] for map_ in maps] == [
        tuple(-(-side // stride) for side in size) for stride in spec.features.strides
    ]


def test_the_maps_of_a_densenet_are_those_of_smp_and_its_embedding_is_that_of_timm():
    torch.manual_seed(0)
    encoder = DenseNetEncoder(out_channels=[], **SMALL_DENSENET)
    state = with_statistics(encoder).state_dict()
    backbone = timm_backbone("densenet121", smp_output_stride=32, **SMALL_DENSENET).eval()
    backbone.load_state_dict(state)
    image = torch.randn(2, 3, 64, 96)
    maps, embedding = check_maps(encoder, backbone, image)
    assert maps[-1].min() < 0  # no ReLU after the last norm
    plain = timm.create_model("densenet121", num_classes=0, **SMALL_DENSENET).eval()
    plain.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(embedding, plain(image))
    assert timm_spec(backbone).embedding == embedding.shape[1]


def test_a_model_around_a_densenet_of_smp_is_stored_and_loaded(tmp_path):
    torch.manual_seed(0)
    options = {"smp_output_stride": 32, **SMALL_DENSENET}
    model = create_model("densenet121_seg-smpunet", num_classes=3, **options).eval()
    model.save_pretrained(tmp_path)
    loaded = BrickCollection.from_pretrained(tmp_path).eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        left, right = (each({"image": image}, outputs=["seg/logits"])["seg/logits"] for each in (model, loaded))
    assert torch.equal(left, right)


@pytest.mark.parametrize(
    ("name", "output_stride"), [("resnet18", 4), ("densenet121", 16), ("test_convnext", 32), ("test_vit", 32)]
)
def test_another_model_or_stride_is_refused(name, output_stride):
    with pytest.raises(BrickMismatchError, match="cannot be smp's"):
        timm_backbone(name, smp_output_stride=output_stride)
