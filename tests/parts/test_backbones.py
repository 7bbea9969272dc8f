import dataclasses
import json

import pytest
import timm
import torch
from timm.models import NormFreeNet
from torch import nn
from torchvision.models import resnet18

from brickyard import BackboneResnet, BackboneSpec, BrickError, BrickMismatchError, UnknownNameError
from brickyard.core.backbone import timm_features, timm_outputs
from brickyard.core.names import parse_reference
from brickyard.core.specs import BLOCK_OUTPUTS
from brickyard.parts.backbones import TimmNames, timm_backbone, timm_spec, timm_tags

# Before 1.0.31, timm's NormFreeNet did not return its feature maps; every other small test model does in every version.
NO_MAPS = set() if hasattr(NormFreeNet, "forward_intermediates") else {"test_nfnet"}


@pytest.mark.parametrize("name", sorted(set(timm.list_models("test_*")) - NO_MAPS))
def test_the_spec_of_a_backbone_is_what_it_returns(name):
    model = timm_backbone(name).eval()
    spec = timm_spec(model)
    height, width = spec.input.size
    features, embedding = timm_features(model, torch.rand(2, 3, height, width))
    wanted = [
        (2, channels, height // stride, width // stride)
        for channels, stride in zip(spec.features.channels, spec.features.strides, strict=True)
    ]
    assert [tuple(map_.shape) for map_ in features] == wanted
    assert embedding.shape == (2, spec.embedding)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_one_pass_gives_the_maps_and_the_vector_of_timm(name):
    model = timm_backbone(name).eval()
    image = torch.rand(2, 3, 160, 160)
    features, embedding = timm_features(model, image)
    maps = model.forward_intermediates(image, intermediates_only=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(features, maps, strict=True))
    torch.testing.assert_close(embedding, model(image))  # of num_classes=0, timm's own output is the pooled vector


def test_the_maps_are_those_of_timm_features_only():
    model = timm_backbone("test_resnet").eval()
    other = timm.create_model("test_resnet", features_only=True).eval()
    other.load_state_dict(model.state_dict())
    image = torch.rand(1, 3, 96, 64)
    features, _ = timm_features(model, image)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(features, other(image), strict=True))
    spec = timm_spec(model)
    assert list(spec.features.channels) == other.feature_info.channels()
    assert list(spec.features.strides) == other.feature_info.reduction()


def test_the_spec_has_timm_s_data_configuration():
    model = timm_backbone("test_vit")
    data = timm.data.resolve_model_data_config(model)
    spec = timm_spec(model).input
    assert (spec.channels, *spec.size) == data["input_size"]
    assert (spec.mean, spec.std) == (data["mean"], data["std"])
    assert (spec.interpolation, spec.crop_pct, spec.crop_mode) == (
        data["interpolation"],
        data["crop_pct"],
        data["crop_mode"],
    )


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "test_vit"])
def test_the_spec_has_the_size_that_the_model_was_made_for(name):
    spec = timm_spec(timm_backbone(name, img_size=(96, 64)), img_size=(96, 64))
    assert spec.input.size == (96, 64)


def test_statistics_have_a_number_for_each_channel():
    for channels in (1, 2, 4):
        spec = timm_spec(timm_backbone("resnet18", in_chans=channels), channels).input
        assert spec.channels == len(spec.mean) == len(spec.std) == channels
    assert timm_spec(timm_backbone("resnet18", in_chans=4), 4).input.mean == (0.485, 0.456, 0.406, 0.485)


def test_a_spec_goes_to_json_and_back():
    spec = timm_spec(timm_backbone("test_convnext"))
    assert BackboneSpec.from_json(json.loads(json.dumps(dataclasses.asdict(spec)))) == spec


def test_block_outputs_are_stored_only_of_a_backbone_that_has_them():
    transformer, other = timm_spec(timm_backbone("test_vit")), timm_spec(timm_backbone("test_resnet"))
    assert transformer.block_outputs == ("normed_features", "class_tokens", "normed_class_tokens")
    assert BackboneSpec.from_json(json.loads(json.dumps(transformer.to_json()))) == transformer
    assert "block_outputs" not in other.to_json()
    assert BackboneSpec.from_json(json.loads(json.dumps(other.to_json()))) == other


@pytest.mark.parametrize(
    ("name", "size", "has_class_token"),
    [
        ("test_vit", 160, True),  # a class token
        ("test_vit2", 160, False),  # a register, and no class token
        ("test_vit3", 160, False),
        ("deit_tiny_distilled_patch16_224", 32, True),  # a class token and a distillation token
        ("eva02_tiny_patch14_224", 28, True),
        ("beit_base_patch16_224", 32, True),
    ],
)
def test_maps_and_class_tokens_of_blocks_are_those_of_timm_with_and_without_its_norm(name, size, has_class_token):
    options = {} if size == 160 else {"img_size": size}
    model = timm_backbone(name, **options).eval()
    for weight in model.norm.parameters():
        nn.init.uniform_(weight)
    outputs = timm_spec(model).block_outputs
    assert outputs == (BLOCK_OUTPUTS if has_class_token else BLOCK_OUTPUTS[:1])
    image = torch.rand(2, 3, size, size)
    features, embedding, further = timm_outputs(model, image, [parse_reference(name, "") for name in outputs])
    plain, pooled = timm_features(model, image)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip([*features, embedding], [*plain, pooled], strict=True))
    for norm in (False, True):
        pairs = model.forward_intermediates(
            image, norm=norm, return_prefix_tokens=has_class_token, intermediates_only=True
        )
        maps = [pair[0] for pair in pairs] if has_class_token else pairs
        for ours, theirs in zip(further["normed_features"] if norm else features, maps, strict=True):
            torch.testing.assert_close(ours, theirs)
        if has_class_token:
            tokens = further["normed_class_tokens" if norm else "class_tokens"]
            for token, (_, prefix) in zip(tokens, pairs, strict=True):
                torch.testing.assert_close(token, prefix[:, 0])


def test_only_the_blocks_that_are_read_are_normed():
    model = timm_backbone("test_vit").eval()
    shapes = []
    model.norm.register_forward_hook(lambda _, inputs, __: shapes.append(inputs[0].shape))
    reads = [parse_reference(text, "") for text in ("normed_features[-2:]", "normed_features[-1]", "class_tokens[0,5]")]
    _, _, further = timm_outputs(model, torch.rand(1, 3, 160, 160), reads)
    assert [item is not None for item in further["normed_features"]] == [False] * 4 + [True] * 2
    assert [item is not None for item in further["class_tokens"]] == [True, *[False] * 4, True]
    assert "normed_class_tokens" not in further
    assert shapes == [(1, 101, 64), (1, 100, 64), (1, 100, 64)]  # timm's own, for the embedding, and two maps


def test_an_unknown_backbone_names_the_nearest():
    with pytest.raises(UnknownNameError, match="'resnet18'"):
        timm_backbone("resnet81")


def test_a_backbone_that_cannot_serve_is_refused_by_name(monkeypatch):
    monkeypatch.delattr(timm.models.resnet.ResNet, "forward_intermediates")
    with pytest.raises(BrickMismatchError, match=r"'test_resnet' is not supported") as caught:
        timm_backbone("test_resnet")
    assert "forward_intermediates" in caught.value.problems[0]


@pytest.mark.parametrize(
    "option",
    [
        {"checkpoint_path": "weights.pth"},
        {"pretrained": True},
        {"pretrained_cfg": {"url": "https://example.org/weights.pth"}},
        {"pretrained_cfg_overlay": {"file": "weights.pth"}},
    ],
    ids=lambda option: next(iter(option)),
)
def test_an_option_that_would_bring_weights_from_elsewhere_is_refused(option, monkeypatch):
    def reached(*args: object, **kwargs: object) -> None:
        raise AssertionError("timm was asked")

    monkeypatch.setattr(timm, "create_model", reached)  # options also come from stored files
    with pytest.raises(BrickError, match=next(iter(option))):
        timm_backbone("test_resnet", **option)


def test_timm_names_are_a_collection_of_all_models():
    names = TimmNames()
    assert list(names) == timm.list_models()
    assert len(names) == len(timm.list_models())
    assert "resnet18" in names
    assert "" not in names
    assert 3 not in names


def test_tags_are_timm_s_pretrained_configurations_with_the_default_first():
    known = [name.partition(".")[2] for name in timm.list_models("resnet18.*", pretrained=True)]
    assert sorted(timm_tags("resnet18")) == sorted(known)
    assert timm_tags("resnet18")[0] == timm.get_pretrained_cfg("resnet18").tag
    assert timm_tags("no_such_model") == []


def test_a_torchvision_resnet_without_its_classifier():
    resnet = resnet18(weights=None).eval()
    backbone = BackboneResnet(resnet).eval()
    assert backbone.n_backbone_features == 512
    image = torch.rand(2, 3, 64, 64)
    pooled = resnet.avgpool(backbone(image)).flatten(1)
    torch.testing.assert_close(resnet.fc(pooled), resnet(image))
    assert set(backbone.state_dict()) == {key for key in resnet.state_dict() if not key.startswith("fc.")}
    assert backbone.conv1 is resnet.conv1
