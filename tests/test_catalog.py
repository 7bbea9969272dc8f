import pytest
import timm
from torch import nn

from brickyard import UnknownNameError, create_model, model_info
from brickyard.recipe.build import build
from brickyard.storage.meta import build_on_meta
from tests.toys import SOURCE

NAME = "tf_efficientnet_lite0_cls.in1k"
ZOO = SOURCE.parent / "zoo" / NAME


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_facts_of_the_shipped_model():
    info = model_info(NAME)
    assert (info.name, info.backbone, info.weights) == (NAME, "tf_efficientnet_lite0", str(ZOO))
    assert (info.tasks, info.num_classes) == ({"cls": "cls"}, {"cls": 1000})
    assert info.labels == {"cls": timm.data.ImageNetInfo("imagenet-1k").label_descriptions()}
    theirs = timm.create_model("tf_efficientnet_lite0")
    assert info.parameters == {
        "backbone": count(theirs) - count(theirs.get_classifier()),
        "cls/head": count(theirs.get_classifier()),
    }
    assert info.licence == {"backbone": "apache-2.0", "cls/head": "apache-2.0"}
    data = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg("tf_efficientnet_lite0.in1k").to_dict())
    assert (info.spec.input.size, info.spec.input.mean) == (data["input_size"][1:], data["mean"])
    assert info.spec.features.strides == (2, 4, 8, 16, 32)


def test_the_tag_can_be_left_out():
    assert model_info(NAME.partition(".")[0]) == model_info(NAME)


def test_the_facts_of_a_model_that_nobody_trained():
    info = model_info("test_vit_cls")
    assert info.weights is None
    assert (info.labels, info.licence, info.metrics) == ({}, {}, {})
    theirs = timm.create_model("test_vit")
    assert sum(info.parameters.values()) == count(theirs)
    assert info.backbone_weights == ["r160_in1k"]


def test_timm_s_tags_are_named_with_the_default_first():
    assert model_info("resnet18_cls").backbone_weights[0] == timm.get_pretrained_cfg("resnet18").tag
    assert model_info("resnet18_cls.tv_in1k").name == "resnet18_cls.tv_in1k"


def test_no_weights_are_made_or_read(monkeypatch, tmp_path):
    create_model("test_resnet_cls", labels=["a", "b"]).save_pretrained(tmp_path / "test_resnet_cls.mine")
    for file in (tmp_path / "test_resnet_cls.mine").rglob("*.safetensors"):
        file.write_bytes(b"")
    monkeypatch.setenv("BRICKYARD_ZOO", str(tmp_path))
    built = []
    for made, original in {"brickyard.catalog.build": build, "brickyard.catalog.build_on_meta": build_on_meta}.items():
        monkeypatch.setattr(made, lambda *args, original=original: built.append(original(*args)) or built[-1])
    info = model_info("test_resnet_cls.mine")
    assert (info.num_classes, info.labels) == ({"cls": 2}, {"cls": ["a", "b"]})
    assert model_info("resnet152_cls").parameters["backbone"] > 50_000_000
    assert [p for bricks in built for brick in bricks.values() for p in brick.parameters() if not p.is_meta] == []
    assert len(built) == 2


def test_metrics_come_from_the_heads(monkeypatch, tmp_path):
    model = create_model("test_resnet_cls", num_classes=2)
    model["cls/head"].metadata["metrics"] = {"Accuracy": 0.75}
    model.save_pretrained(tmp_path / "test_resnet_cls.mine")
    monkeypatch.setenv("BRICKYARD_ZOO", str(tmp_path))
    assert model_info("test_resnet_cls.mine").metrics == {"cls/Accuracy": 0.75}


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("reznet18_cls", "resnet18_cls"),
        ("resnet18_cls.tv_in2k", "tv_in1k"),
        ("tf_efficientnet_lite0_cls.in2k", "in1k"),
        ("resnet18_clz", "cls"),
    ],
)
def test_an_unknown_name_shows_the_nearest(name, nearest):
    with pytest.raises(UnknownNameError) as caught:
        model_info(name)
    assert f"'{nearest}'" in str(caught.value)


def test_a_zoo_model_is_called_what_create_model_calls_it():
    info = model_info("test_resnet_seg-tower_cls-multilabel_det")
    assert info.name == "test_resnet_cls-multilabel_seg-tower_det.digits_v1"
    assert (info.tasks, info.spec.input.size) == ({"cls": "cls", "seg": "seg", "det": "det"}, (96, 96))
    assert info.metrics["det/map_50"] > 0.9


def test_the_settings_of_a_decoder_are_those_that_the_model_computes_with(tmp_path):
    model = create_model("test_resnet_cls_det-retinanet", num_classes={"cls": 2, "det": 3})
    model["det/decode"].model.class_agnostic = True
    model.save_pretrained(tmp_path)
    decoders = model_info(f"local-dir:{tmp_path}").decoders
    assert decoders == {
        "det": "score_threshold=0.05, iou_threshold=0.5, candidates=1000, count=100, class_agnostic=True"
    }
    assert model_info("test_resnet_det-centernet").decoders["det"].endswith("class_agnostic=False")
