"""What holds for `fomo`, `anomaly` and `ocr` together: one graph, one file, two processes, the command line."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import multiprocessing

from brickyard import EncodeText, PadBoxes, Stage, create_model, export_onnx, quantize_onnx
from brickyard.cli.main import main
from brickyard.core.metrics import BrickMetrics
from brickyard.inference.jobs import predict_rows
from brickyard.parts.anomaly_metrics import anomaly_map_metrics, anomaly_metrics
from brickyard.parts.detection.fomo import point_metrics
from brickyard.parts.text import text_metrics
from tests.tasks import checks

DIGITS = list("0123456789")
NAME = "test_resnet_fomo_anomaly_ocr"


def model_of(**options):
    torch.manual_seed(0)
    return create_model(NAME, labels={"fomo": DIGITS, "ocr": DIGITS}, **options)


def batch_of(size=64):
    torch.manual_seed(0)
    box = {"boxes": torch.tensor([[4.0, 6, 40, 50]]), "labels": torch.tensor([3])}
    return {
        "image": torch.rand(2, 3, size, size),
        "targets/fomo": [box, box],
        "targets/anomaly": torch.tensor([0, 1]),
        "targets/ocr": ["0123", ""],
    }


def test_one_pass_trains_measures_and_draws_all_three():
    model = model_of(loss_weights="learned")
    values = model(batch_of(), tags=Stage.TRAIN.tags)
    values["loss"].backward()
    weights = {name: weight for head in ("fomo", "anomaly", "ocr") for name, weight in model[head].named_parameters()}
    assert all(weight.grad is not None for weight in weights.values())
    assert set(model.summarize(reset=True)) == set(), "decoded outputs are not measured in training"
    values = model.eval()(batch_of())
    assert all(len(values[f"{head}/visualization"]) == 2 for head in ("fomo", "anomaly", "ocr"))
    measured = {"fomo/F1", "anomaly/AUROC", "ocr/CharErrorRate", "ocr/ExactMatch"}
    assert measured <= set(model.summarize(reset=True))


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False])
def test_a_step_is_one_graph(training):
    torch.compiler.reset()
    model, batch = model_of(loss_weights="learned").train(training), batch_of()
    boxes, labels = PadBoxes(10)(batch["targets/fomo"], batch["image"])
    batch["targets/fomo"] = {"boxes": boxes, "labels": labels}
    batch["targets/ocr"] = EncodeText(DIGITS)(batch["targets/ocr"], torch.zeros(2, 16, 11))
    batch |= {f"labelled/{head}": torch.tensor([True, head != "ocr"]) for head in ("fomo", "anomaly", "ocr")}
    torch.manual_seed(1)
    expected = model(batch, tags=checks.TRAINED)["loss"]
    torch.manual_seed(1)
    loss = torch.compile(model, backend="aot_eager", fullgraph=True)(batch, tags=checks.TRAINED)["loss"]
    torch.testing.assert_close(loss, expected)
    loss.backward()
    torch.compiler.reset()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    export_onnx(model_of().eval(), path, image_size=64)
    return path


@pytest.mark.slow
def test_onnxruntime_alone_gives_the_same(file, tmp_path):
    image = np.random.default_rng(0).random((3, 3, 64, 64), dtype=np.float32)
    np.save(tmp_path / "image.npy", image)
    code = """
import sys
import numpy as np
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
names = [output.name for output in session.get_outputs()]
arrays = session.run(names, {"image": np.load(sys.argv[2] + "/image.npy")})
np.savez(sys.argv[2] + "/out.npz", **{name.replace("/", "__"): array for name, array in zip(names, arrays)})
assert "brickyard" not in sys.modules and "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code, str(file), str(tmp_path)], check=True)
    outputs = {name.replace("__", "/"): array for name, array in np.load(tmp_path / "out.npz").items()}
    named = {
        "fomo": ("points", "scores", "labels"),
        "anomaly": ("map", "score"),
        "ocr": ("text", "score"),
    }
    assert set(outputs) == {f"{head}/{name}" for head, names in named.items() for name in names}
    with torch.no_grad():
        expected = model_of().eval()({"image": torch.from_numpy(image)}, outputs=sorted(outputs))
    for name, array in outputs.items():
        np.testing.assert_allclose(array, expected[name].numpy(), rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.mark.slow
def test_a_quantized_file_runs(file, tmp_path):
    images = np.random.default_rng(1).random((8, 3, 64, 64), dtype=np.float32)
    quantize_onnx(file, tmp_path / "small.onnx", [images[:4], images[4:]])
    assert (tmp_path / "small.onnx").stat().st_size < file.stat().st_size
    Image.fromarray((images[0].transpose(1, 2, 0) * 255).astype(np.uint8)).save(tmp_path / "image.png")
    result = predict_rows(str(tmp_path / "small.onnx"), [str(tmp_path / "image.png")], tmp_path / "rows", kind="jsonl")
    assert result.images == 1
    (row,) = [
        json.loads(line) for each in (tmp_path / "rows").glob("*.jsonl") for line in each.read_text().splitlines()
    ]
    assert {"fomo", "anomaly", "ocr"} <= set(row)


def test_the_command_line_prints_a_class_and_a_text(tmp_path):
    model_of().save_pretrained(tmp_path / "model")
    Image.new("RGB", (50, 40)).save(tmp_path / "image.png")
    arguments = [
        "predict",
        tmp_path / "image.png",
        "--model",
        f"local-dir:{tmp_path / 'model'}",
        "--out",
        tmp_path / "out",
    ]
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    (row,) = json.loads((tmp_path / "out" / "predictions.json").read_text(encoding="utf-8"))
    lines = [line.split() for line in result.stdout.splitlines()]
    anomaly = row["anomaly"][0]
    assert [f"{100 * anomaly['score']:.2f}%", anomaly["label"]] in lines
    text = row["ocr"][0]
    assert [f"{100 * text['score']:.2f}%", *([text["label"]] if text["label"] else [])] in lines
    assert (tmp_path / "out" / "image_anomaly.png").exists(), "the mask"


METRICS = {
    "fomo": lambda: point_metrics(8.0),
    "anomaly": anomaly_metrics,
    "anomaly_map": anomaly_map_metrics,
    "ocr": text_metrics,
}


def rows_of(kind, rows):
    """The inputs of a metric for some of six images."""
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(6, 16, 4, generator=generator).cumsum(dim=2) * 20
    labels = torch.randint(-1, 3, (6, 16), generator=generator)
    points = (boxes[..., :2] + boxes[..., 2:]) / 2 + torch.rand(6, 16, 2, generator=generator) * 9
    scores = torch.rand(6, 16, generator=generator).sort(dim=1, descending=True).values
    maps = torch.rand(6, 20, 20, generator=generator)
    masks = (torch.rand(6, 20, 20, generator=generator) < 0.1).long()
    texts = torch.randint(-1, 3, (6, 8), generator=generator)
    inputs = {
        "fomo": (points, scores, labels, boxes, labels),
        "anomaly": (scores[:, 3], torch.tensor([0, 1, 0, 1, 1, 0])),
        "anomaly_map": (maps + 0.2 * masks, masks),
        "ocr": (texts, texts.flip(0)),
    }
    return [value[rows] for value in inputs[kind]]


def one_of_two(rank, folder):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    values = {}
    for kind, create in METRICS.items():
        brick = BrickMetrics(create(), ["values"]).at_path(f"{kind}/metrics")
        for rows in ((0, 1), (2, 3, 4, 5)) if rank == 0 else ():  # the second process has no image
            brick.metrics.update(*rows_of(kind, list(rows)))
        values |= brick.summarize(reset=True)
    torch.save(values, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_metrics_are_those_of_all_processes_also_of_one_without_images(tmp_path):
    multiprocessing.spawn(one_of_two, (str(tmp_path),), nprocs=2)
    expected = {}
    for kind, create in METRICS.items():
        metrics = create()
        metrics.update(*rows_of(kind, list(range(6))))
        expected |= {f"{kind}/{name}": value for name, value in metrics.compute().items()}
    assert len(expected) == 8
    for rank in (0, 1):
        values = torch.load(tmp_path / f"{rank}.pt")
        assert values.keys() == expected.keys()
        for name, value in values.items():
            torch.testing.assert_close(value, expected[name], msg=name)
