"""A hand-written CNN as the backbone of a model: it does what one of timm's does."""

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import nn

import brickyard
from brickyard import (
    BackboneSpec,
    BrickInputError,
    BrickMismatchError,
    FeatureSpec,
    InputSpec,
    Predictor,
    UnsafeBrickError,
    create_model,
    create_part,
    export_onnx,
    fits,
    inspect_brick,
    model_info,
)
from brickyard.recipe.inspection import name_of
from tests.own_backbone import SmallCNN
from tests.toys import run_python

SPEC = BackboneSpec(
    features=FeatureSpec(channels=(8, 16, 32), strides=(4, 8, 16)),
    embedding=32,
    input=InputSpec(channels=3, size=(64, 64), fixed=False, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.1)),
)
TASKS = {"cls": "cls", "seg": "seg", "boxes": "det"}
CLASSES = {"cls": 3, "seg": 4, "boxes": 2}
IMAGE = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def own(tasks=TASKS, seed=0, **classes):
    torch.manual_seed(seed)
    backbone = create_part("plain_cnn", width=8)
    return create_model(
        backbone=backbone, spec=SPEC, tasks=tasks, num_classes=classes or {t: CLASSES[t] for t in tasks}
    )


def outputs(model, *names):
    with torch.no_grad():
        return model.eval()({"image": IMAGE}, outputs=list(names or ("cls/logits", "seg/logits", "boxes/boxes")))


def test_its_outputs_are_those_of_the_modules_wired_by_hand():
    model = own()
    found = outputs(model, "features", "embedding", "cls/logits", "seg/logits")
    cnn, head = model["backbone"].model.eval(), model["cls/head"].model
    with torch.no_grad():
        normalized = (IMAGE - torch.tensor(SPEC.input.mean).view(3, 1, 1)) / torch.tensor(SPEC.input.std).view(3, 1, 1)
        features, embedding = cnn(normalized)
        assert torch.equal(found["cls/logits"], head(embedding))
    assert all(torch.equal(one, other) for one, other in zip(found["features"], features, strict=True))
    assert found["seg/logits"].shape == (2, 4, 64, 64)


def test_it_trains_and_freezes():
    model = own({"cls": "cls", "seg": "seg"})
    batch = {"image": IMAGE, "targets/cls": torch.tensor([0, 2]), "targets/seg": torch.randint(0, 4, (2, 64, 64))}
    optimizer = torch.optim.AdamW(brickyard.parameter_groups(model, lr=0.01, weight_decay=0.01, layer_decay=0.7))
    losses = []
    for _ in range(15):
        loss = sum(model.extract_losses(model.train()(batch, tags=brickyard.Stage.TRAIN.tags)).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    model.freeze("backbone")
    before = {key: value.clone() for key, value in model["backbone"].state_dict().items()}
    model.train()(batch)
    assert all(torch.equal(value, before[key]) for key, value in model["backbone"].state_dict().items())


def test_it_predicts_images_of_any_size(tmp_path):
    Image.fromarray(np.zeros((50, 70, 3), np.uint8)).save(tmp_path / "image.png")
    predictions = list(Predictor(own(), device="cpu").predict(tmp_path / "image.png"))
    assert predictions[0].to_json()["width"] == 70


@pytest.mark.slow
def test_it_is_exported_with_equal_outputs(tmp_path):
    model = own({"cls": "cls", "seg": "seg"})
    expected = outputs(model, "cls/logits", "seg/logits")
    export_onnx(model.eval(), tmp_path / "model.onnx", outputs=list(expected))
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    found = dict(zip(expected, session.run(list(expected), {"image": IMAGE.numpy()}), strict=True))
    for name, value in expected.items():
        assert torch.allclose(torch.from_numpy(found[name]), value, atol=1e-4), name


@pytest.mark.slow
def test_it_is_saved_and_loaded_in_another_process_that_registers_it(tmp_path):
    model = own()
    model.save_pretrained(tmp_path / "model")
    torch.save({"image": IMAGE, **outputs(model)}, tmp_path / "expected.pt")
    code = f"""
import importlib, torch
torch.set_num_threads(1)  # as in this process: sums of several threads are rounded in another order
from brickyard import BrickCollection, UnknownNameError
try:
    BrickCollection.from_pretrained({str(tmp_path / "model")!r})
except UnknownNameError as error:
    print("register_part" in str(error))
importlib.import_module("tests.own_backbone")
expected = torch.load({str(tmp_path / "expected.pt")!r})
model = BrickCollection.from_pretrained({str(tmp_path / "model")!r}).eval()
with torch.no_grad():
    found = model({{"image": expected.pop("image")}}, outputs=list(expected))
print(all(torch.equal(found[name], expected[name]) for name in expected))
"""
    assert run_python(code).split() == ["True", "True"]
    info = model_info(str(tmp_path / "model"))
    assert (info.backbone, info.tasks, info.backbone_weights) == ("SmallCNN", TASKS, [])
    assert name_of(model.bricks()) is None


def test_one_that_is_not_registered_says_how_when_it_is_saved(tmp_path):
    model = create_model(backbone=SmallCNN(), spec=SPEC, tasks={"cls": "cls"}, num_classes=3)
    outputs(model, "cls/logits")
    with pytest.raises(
        UnsafeBrickError, match="Register SmallCNN with `register_part` and build it with `create_part`"
    ):
        model.save_pretrained(tmp_path)


def test_its_heads_and_the_backbone_itself_are_swapped_with_checks(tmp_path):
    model = own()
    model.save_pretrained(tmp_path / "model")
    other = own({"seg": "seg"}, seed=1, seg=7)
    assert "weights of the backbone" in "".join(fits(inspect_brick(str(tmp_path / "model/seg")), other))
    with pytest.raises(BrickMismatchError, match="weights of the backbone"):
        other.swap("seg", tmp_path / "model/seg")
    other.swap("backbone", tmp_path / "model/backbone")
    other.swap("seg", tmp_path / "model/seg")
    assert torch.equal(outputs(other, "seg/logits")["seg/logits"], outputs(model, "seg/logits")["seg/logits"])
    of_timm = create_model("test_resnet_cls", num_classes=3)
    with pytest.raises(BrickMismatchError, match=r"features|embedding"):
        of_timm.swap("backbone", tmp_path / "model/backbone")
    of_timm.pop("cls")
    of_timm.swap("backbone", model["backbone"])
    assert of_timm["preprocessor"].model.mean.flatten().tolist() == pytest.approx(SPEC.input.mean)
    of_timm.swap("cls", tmp_path / "model/cls")
    assert torch.equal(outputs(of_timm, "cls/logits")["cls/logits"], outputs(model, "cls/logits")["cls/logits"])


def test_a_stored_one_takes_other_classes_and_keeps_its_backbone(tmp_path):
    model = own()
    model.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="fresh weights"):
        other = create_model(f"local-dir:{tmp_path}", labels={"cls": ["a", "b"]})
    assert outputs(other, "cls/logits")["cls/logits"].shape == (2, 2)
    assert torch.equal(outputs(other, "seg/logits")["seg/logits"], outputs(model, "seg/logits")["seg/logits"])
    with pytest.raises(BrickInputError, match="not timm's"):
        create_model(f"local-dir:{tmp_path}", in_chans=1)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"features": FeatureSpec((8, 16, 64), (4, 8, 16))}, r"expected .*\(1, 64, 4, 4\).*found .*\(1, 32, 4, 4\)"),
        ({"features": FeatureSpec((8, 16, 32), (4, 8, 32))}, r"expected .*\(1, 32, 2, 2\)"),
        ({"features": FeatureSpec((8, 16), (4, 8))}, "feature maps"),
        ({"embedding": 31}, r"embedding: expected \(1, 31\), found \(1, 32\)"),
    ],
)
def test_a_spec_that_is_not_true_is_refused(change, problem):
    values = {"features": SPEC.features, "embedding": SPEC.embedding, "input": SPEC.input, **change}
    with pytest.raises(BrickMismatchError, match=problem):
        create_model(backbone=SmallCNN(), spec=BackboneSpec(**values), tasks={"cls": "cls"})


def test_a_module_that_returns_something_else_is_told_what_is_expected():
    with pytest.raises(BrickMismatchError, match=r"expected \(feature maps, embedding\), found \(1, 3, 64, 64\)"):
        create_model(backbone=nn.Identity(), spec=SPEC, tasks={"cls": "cls"})


@pytest.mark.parametrize(
    "arguments",
    [
        {"spec": None},
        {"tasks": None},
        {"name": "test_resnet_cls"},
        {"pretrained": True},
        {"in_chans": 1},
        {"drop_path_rate": 0.1},
        {"backbone": "test_resnet"},
    ],
)
def test_arguments_that_have_no_meaning_for_it_are_refused(arguments):
    with pytest.raises(BrickInputError, match="create_model"):
        create_model(**{"backbone": SmallCNN(), "spec": SPEC, "tasks": {"cls": "cls"}, **arguments})


def test_the_statistics_and_modes_of_the_module_stay_as_they_are():
    cnn = SmallCNN().train()
    cnn.deep.eval()
    before = {key: value.clone() for key, value in cnn.state_dict().items()}
    create_model(backbone=cnn, spec=SPEC, tasks={"cls": "cls"}, num_classes=2)
    assert all(torch.equal(value, before[key]) for key, value in cnn.state_dict().items())
    assert cnn.stem.training
    assert not cnn.deep.training
