"""`export_onnx(split=True)` writes a folder of parts: a backbone, and heads that read its outputs."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from brickyard import (
    BrickCollection,
    BrickGraphError,
    BrickInputError,
    BrickMismatchError,
    BrickNotFoundError,
    BrickTrainable,
    Predictor,
    UnknownNameError,
    create_model,
    create_model_for,
    evaluate,
    export_onnx,
    open_data,
)
from brickyard.export.deployment import open_onnx
from brickyard.export.onnx_runner import OnnxSession
from tests.toys import SOURCE

SAMPLES = SOURCE / "brickyard" / "samples"
SIZE = 64
CLS = ["cls/class_prediction", "cls/logits", "cls/probabilities"]
SEG = ["seg/class_prediction", "seg/logits"]


def build(seed: int) -> BrickCollection:
    torch.manual_seed(seed)
    return create_model("test_resnet_cls_seg", num_classes={"cls": 3, "seg": 4}).eval()


@pytest.fixture(scope="module")
def model() -> BrickCollection:
    return build(0)


@pytest.fixture(scope="module")
def whole(model: BrickCollection, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("whole") / "model.onnx"
    export_onnx(model, file, image_size=SIZE)
    return file


@pytest.fixture(scope="module")
def exported(model: BrickCollection, tmp_path_factory: pytest.TempPathFactory) -> Path:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    folder = tmp_path_factory.mktemp("parts") / "deployed"
    export_onnx(model, folder, split=True, image_size=SIZE)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    return folder


@pytest.fixture(scope="module")
def of_other_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("other") / "deployed"
    export_onnx(build(1), folder, split=True, heads=["cls"], image_size=SIZE, check=False)
    return folder


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "deployed"))


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def session(file: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


def run_by_hand(folder: Path, head: str, image: np.ndarray) -> dict[str, np.ndarray]:
    """Run a backbone and a head with onnxruntime alone."""
    backbone, reader = session(folder / "backbone.onnx"), session(folder / f"{head}.onnx")
    names = [value.name for value in backbone.get_outputs()]
    values = {"image": image, **dict(zip(names, backbone.run(None, {"image": image}), strict=True))}
    read = {value.name: values[value.name] for value in reader.get_inputs()}
    return dict(zip([value.name for value in reader.get_outputs()], reader.run(None, read), strict=True))


def change_metadata(file: Path, key: str, change: Callable[[str], str]) -> None:
    stored = onnx.load(file)
    entry = next(entry for entry in stored.metadata_props if entry.key == f"brickyard.{key}")
    entry.value = change(entry.value)
    onnx.save(stored, file)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 5])
def test_onnxruntime_alone_has_the_outputs_of_torch_and_of_the_one_file(batch, model, whole, exported):
    image = torch.rand(batch, 3, SIZE, SIZE)
    outputs = run_by_hand(exported, "cls", image.numpy()) | run_by_hand(exported, "seg", image.numpy())
    assert sorted(outputs) == CLS + SEG
    with torch.no_grad():
        expected = model({"image": image}, outputs=sorted(outputs))
    of_whole = OnnxSession(whole)({"image": image.numpy()})
    for name, array in outputs.items():
        np.testing.assert_allclose(array, expected[name].numpy(), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(array, of_whole[name], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_the_folder_has_a_valid_file_for_each_part_and_its_metadata(model, whole, exported):
    assert sorted(files(exported)) == ["backbone.onnx", "cls.onnx", "seg.onnx"]
    hashes = OnnxSession(whole).metadata.bricks
    for file in exported.iterdir():
        onnx.checker.check_model(onnx.load(file))
    parts = {file.stem: OnnxSession(file).metadata for file in exported.iterdir()}
    assert {name: list(metadata.heads) for name, metadata in parts.items()} == {
        "backbone": [],
        "cls": ["cls"],
        "seg": ["seg"],
    }
    assert parts["seg"].part.requires == parts["backbone"].bricks == {"backbone": hashes["backbone"]}
    assert parts["seg"].bricks == {path: sha256 for path, sha256 in hashes.items() if path.startswith("seg/")}
    sizes = {file.stem: file.stat().st_size for file in exported.iterdir()}
    assert sum(sizes.values()) < 1.1 * whole.stat().st_size, "no weights are stored twice"
    assert open_onnx(exported).metadata == OnnxSession(whole).metadata


@pytest.mark.slow
def test_a_predictor_of_the_folder_has_the_results_of_the_one_file(whole, exported):
    expected, found = (list(Predictor(path).predict(SAMPLES, draw=True)) for path in (whole, exported))
    for one, other in zip(expected, found, strict=True):
        assert [row["label"] for row in other.results["cls"]] == [row["label"] for row in one.results["cls"]]
        np.testing.assert_array_equal(other.masks["seg"], one.masks["seg"])
        np.testing.assert_array_equal(np.asarray(other.visualization), np.asarray(one.visualization))
    arrays = Predictor(str(exported))({"image": np.zeros((2, 3, SIZE, SIZE), np.uint8)})
    assert sorted(arrays) == CLS + SEG


@pytest.mark.slow
def test_the_backbone_runs_once_for_the_chosen_heads_whose_files_alone_are_read(folder, whole, monkeypatch):
    (folder / "cls.onnx").write_bytes(b"damaged")
    predictor = Predictor(folder, heads=["seg"])
    assert predictor.heads == ["seg"]
    assert sorted(predictor.hashes()) == ["backbone.onnx", "seg.onnx"]
    calls = []
    run = OnnxSession.run

    def counted(self, values, outputs, device):
        calls.append((Path(self.location).name, list(outputs)))
        return run(self, values, outputs, device)

    monkeypatch.setattr(OnnxSession, "run", counted)
    image = np.random.default_rng(0).random((2, 3, SIZE, SIZE), np.float32)
    outputs = predictor({"image": image})
    assert [name for name, _ in calls] == ["backbone.onnx", "seg.onnx"]
    assert set(calls[0][1]) == {value.name for value in session(folder / "seg.onnx").get_inputs()}
    np.testing.assert_allclose(outputs["seg/logits"], OnnxSession(whole)({"image": image})["seg/logits"], atol=1e-5)


@pytest.mark.slow
def test_a_head_is_added_and_replaced_alone(model, exported, tmp_path):
    folder = tmp_path / "deployed"
    export_onnx(model, folder, split=True, heads=["seg"], image_size=SIZE, check=False)
    first = files(folder)
    assert sorted(first) == ["backbone.onnx", "seg.onnx"]
    export_onnx(model, folder, split=True, heads=["cls"], check=False)  # for images of the size of the backbone
    second = files(folder)
    assert {name: second[name] for name in first} == first
    image = np.random.default_rng(0).random((2, 3, SIZE, SIZE), np.float32)
    outputs, expected = open_onnx(folder)({"image": image}), open_onnx(exported)({"image": image})
    for name in CLS + SEG:
        np.testing.assert_array_equal(outputs[name], expected[name])

    other = copy.deepcopy(model)
    with torch.no_grad():
        next(other["cls/head"].model.parameters()).zero_()
    with pytest.raises(FileExistsError, match="overwrite"):
        export_onnx(other, folder, split=True, heads=["cls"], check=False)
    assert files(folder) == second
    export_onnx(other, folder, split=True, heads=["cls"], overwrite=True, check=False)
    third = files(folder)
    assert [name for name in second if third[name] != second[name]] == ["cls.onnx"]
    logits = open_onnx(folder)({"image": image})["cls/logits"]
    with torch.no_grad():
        changed = other({"image": torch.from_numpy(image)}, outputs=["cls/logits"])["cls/logits"]
    np.testing.assert_allclose(logits, changed.numpy(), atol=1e-4)


@pytest.mark.slow
def test_a_head_of_another_backbone_is_refused_before_anything_runs(folder, of_other_backbone, monkeypatch):
    monkeypatch.setattr(OnnxSession, "run", lambda *_: pytest.fail("a file was run"))
    monkeypatch.setattr(OnnxSession, "__call__", lambda *_: pytest.fail("a file was run"))
    shutil.copy(of_other_backbone / "cls.onnx", folder / "cls.onnx")
    expected = OnnxSession(of_other_backbone / "backbone.onnx").metadata.bricks["backbone"]
    found = OnnxSession(folder / "backbone.onnx").metadata.bricks["backbone"]
    with pytest.raises(BrickMismatchError, match="the head 'cls' does not fit") as error:
        Predictor(folder)
    assert error.value.problems == [f"weights of 'backbone': expected sha256 {expected[:12]}, found {found[:12]}"]
    assert Predictor(folder, heads=["seg"]).heads == ["seg"]


@pytest.mark.slow
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_head_of_another_backbone_is_not_added(folder, overwrite, monkeypatch):
    (folder / "cls.onnx").unlink()
    before = files(folder)
    monkeypatch.setattr("brickyard.export.split.to_onnx", lambda *_, **__: pytest.fail("the export began"))
    with pytest.raises(BrickMismatchError, match="weights of 'backbone'"):
        export_onnx(build(1), folder, split=True, heads=["cls"], image_size=SIZE, overwrite=overwrite)
    assert files(folder) == before


@pytest.mark.slow
def test_a_backbone_is_not_replaced_below_the_heads_of_another(folder, tmp_path):
    torch.manual_seed(2)
    other = create_model("test_resnet_cls", num_classes=3).eval()
    before = files(folder)
    with pytest.raises(BrickMismatchError, match="'seg': weights of 'backbone'"):
        export_onnx(other, folder, split=True, image_size=SIZE, overwrite=True, check=False)
    assert files(folder) == before
    (folder / "seg.onnx").unlink()
    export_onnx(other, folder, split=True, image_size=SIZE, overwrite=True, check=False)
    assert Predictor(folder).heads == ["cls"]


@pytest.mark.slow
def test_a_head_for_images_of_another_size_is_not_added(model, folder):
    (folder / "cls.onnx").unlink()
    (folder / "seg.onnx").unlink()
    before = files(folder)
    with pytest.raises(BrickMismatchError, match=r"'seg': 'features.1': expected .*24, 24.*found .*16, 16"):
        export_onnx(model, folder, split=True, heads=["seg"], image_size=96, check=False)
    assert files(folder) == before


@pytest.mark.slow
def test_a_folder_whose_writer_was_killed_has_the_new_files(folder, of_other_backbone):
    commit = folder / ".brickyard" / "commit"  # a committed change, whose files have not been moved yet
    shutil.copytree(of_other_backbone, commit)
    (commit / ".removed").write_text("seg.onnx")
    predictor = Predictor(folder)
    assert predictor.heads == ["cls"]
    image = np.random.default_rng(0).random((1, 3, SIZE, SIZE), np.float32)
    expected = run_by_hand(of_other_backbone, "cls", image)
    np.testing.assert_array_equal(predictor({"image": image})["cls/logits"], expected["cls/logits"])


@pytest.mark.slow
def test_parts_whose_outputs_differ_are_not_written(folder, model, monkeypatch):
    before = files(folder)
    monkeypatch.setattr("brickyard.export.parity.differences", lambda *sides: ["'cls/logits': values differ"])
    with pytest.raises(BrickMismatchError, match="values differ"):
        export_onnx(model, folder, split=True, heads=["cls"], overwrite=True)
    assert files(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["deployed"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("break_it", "error", "message"),
    [
        (lambda folder: (folder / "backbone.onnx").unlink(), BrickNotFoundError, r"No backbone\.onnx in"),
        (lambda folder: [(folder / f"{head}.onnx").unlink() for head in ("cls", "seg")], BrickNotFoundError, "No head"),
        (lambda folder: (folder / "seg.onnx").rename(folder / "masks.onnx"), BrickMismatchError, "found 'seg'"),
        (lambda folder: (folder / "seg.onnx").write_bytes(b"damaged"), OSError, "cannot load"),
        (
            lambda folder: change_metadata(folder / "seg.onnx", "part", lambda text: "{"),
            BrickMismatchError,
            r"seg\.onnx",
        ),
        (
            lambda folder: change_metadata(folder / "seg.onnx", "part", lambda text: '{"name": "seg", "requires": 5}'),
            BrickMismatchError,
            r"seg\.onnx",
        ),
        (
            lambda folder: change_metadata(
                folder / "seg.onnx",
                "image",
                lambda text: json.dumps(
                    {**json.loads(text), "normalized_inside": {"mean": [0, 0, 0], "std": [1, 1, 1]}}
                ),
            ),
            BrickMismatchError,
            "mean of the images",
        ),
        (
            lambda folder: change_metadata(folder / "seg.onnx", "heads", lambda text: "{}"),
            BrickMismatchError,
            "damaged",
        ),
    ],
)
def test_a_damaged_folder_is_refused(break_it, error, message, folder):
    break_it(folder)
    with pytest.raises(error, match=message):
        Predictor(folder)


@pytest.mark.slow
def test_wrong_heads_and_single_parts_are_refused(folder, whole, model):
    with pytest.raises(UnknownNameError, match=r"Unknown head 'sge'\. Did you mean 'seg'"):
        Predictor(folder, heads=["sge"])
    with pytest.raises(BrickInputError, match="heads: expected one or more of"):
        Predictor(folder, heads=[])
    with pytest.raises(BrickInputError, match="only 'seg' of a deployed folder"):
        Predictor(folder / "seg.onnx")
    for source in (whole, model):
        with pytest.raises(BrickInputError, match="heads: expected a deployed folder"):
            Predictor(source, heads=["cls"])
    shutil.copy(whole, folder / "whole.onnx")
    with pytest.raises(BrickMismatchError, match="found a whole model"):
        Predictor(folder)


@pytest.mark.slow
def test_metrics_of_the_folder_are_those_of_the_one_file(tmp_path):
    data = open_data("digits", "test", length=4, image_size=SIZE)
    model = create_model_for(data, "test_resnet_cls-multilabel_seg")
    export_onnx(model, tmp_path / "model.onnx", image_size=SIZE, check=False)
    export_onnx(model, tmp_path / "parts", split=True, image_size=SIZE, check=False)
    metrics = evaluate(tmp_path / "parts", data)
    assert "seg/MeanIoU" in metrics
    assert metrics == pytest.approx(evaluate(tmp_path / "model.onnx", data), abs=1e-3, nan_ok=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("test_resnet_cls_seg", (192, 128), {"dynamic": ("batch", "height", "width")}),
        ("test_vit_cls_emb", (160, 160), {}),
        ("tf_mobilenetv3_small_minimal_100_cls-multilabel_seg-lraspp", (64, 64), {}),
    ],
)
def test_other_backbones_and_dynamic_sizes_export_in_parts(name, size, options, tmp_path):
    model = create_model(name, num_classes={"seg": 3} if "seg" in name else {}).eval()
    export_onnx(model, tmp_path / "parts", split=True, image_size=None if options else size, **options)
    parts = open_onnx(tmp_path / "parts")
    image = torch.rand(3, 3, *size)
    with torch.no_grad():
        expected = model({"image": image}, outputs=parts.outputs)
    for output, array in parts({"image": image.numpy()}).items():
        if array.dtype.kind == "f":
            np.testing.assert_allclose(array, expected[output].numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_model_of_half_precision_passes_half_precision_features(tmp_path):
    torch.manual_seed(0)
    half = create_model("test_resnet_cls_seg", num_classes={"cls": 5, "seg": 3}).eval().half()
    export_onnx(half, tmp_path / "parts", split=True, image_size=SIZE)
    assert open_onnx(tmp_path / "parts").metadata.part is None
    specs = OnnxSession(tmp_path / "parts" / "seg.onnx").inputs
    assert {spec.type for spec in specs.values()} == {"tensor(float16)"}


def test_a_head_that_reads_another_head_is_refused(tmp_path):
    model = build(0)
    after = BrickTrainable(nn.Softmax(1), ["cls/logits"], ["./of_cls"])
    model["seg/after"] = after
    with pytest.raises(BrickGraphError, match=r"head 'seg' reads values of brick 'cls/head'.*only as one file"):
        export_onnx(model, tmp_path / "parts", split=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"outputs": ["features"]}, BrickInputError, r"outputs: expected outputs of the heads \['cls'\]"),
        ({"heads": ["clss"]}, UnknownNameError, "Did you mean 'cls'"),
        ({"heads": []}, BrickInputError, "a head or more"),
        ({"heads": ["cls"], "outputs": ["features"]}, BrickInputError, r"also \['features'\]"),
    ],
)
def test_arguments_are_checked_before_the_export(options, error, message, tmp_path):
    with pytest.raises(error, match=message):
        export_onnx(create_model("test_resnet_cls"), tmp_path / "parts", split=True, **options)
    assert list(tmp_path.iterdir()) == []


def test_parts_are_written_neither_over_a_file_nor_into_a_stored_model(tmp_path):
    model = create_model("test_resnet_cls")
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(BrickInputError, match="expected a folder for the parts, found a file"):
        export_onnx(model, tmp_path / "file", split=True, overwrite=True)
    model.save_pretrained(tmp_path / "stored")
    with pytest.raises(BrickInputError, match="found a stored model"):
        export_onnx(model, tmp_path / "stored", split=True)


def test_a_folder_without_parts_is_no_deployment(tmp_path):
    with pytest.raises(BrickInputError, match="expected a deployed folder"):
        Predictor(tmp_path, heads=["cls"])
    with pytest.raises(BrickNotFoundError):
        Predictor(tmp_path)
