import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
from PIL import Image
from pytorch_lightning.loggers import MLFlowLogger, TensorBoardLogger

from brickyard import MissingExtraError, UnknownNameError
from brickyard.training.fit import fit
from brickyard.training.loggers import check_loggers, image_writer
from brickyard.training.run_folder import SETTINGS, read_settings
from brickyard.training.run_log import RunLog
from tests.runs import Rectangles, small_model
from tests.training.test_fit import SHORT, rows


class Remembering(pl.loggers.Logger):
    """A logger of another package."""

    name, version = "remembering", "1"

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, Any]] = []
        self.images: list[tuple[str, int | None]] = []
        self.settings: dict[str, Any] = {}

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append({"step": step, **metrics})

    def log_hyperparams(self, params: dict[str, Any]) -> None:
        self.settings = params

    def log_image(self, key: str, images: list[Image.Image], step: int | None = None) -> None:
        self.images += [(key, step) for _ in images]


class Counting(pl.Callback):
    def __init__(self) -> None:
        self.steps = 0

    def on_train_batch_end(self, *_: Any) -> None:
        self.steps += 1


def test_further_loggers_get_the_rows_of_the_log_the_settings_and_the_visualizations(tmp_path: Path) -> None:
    logger, callback = Remembering(), Counting()
    model, data = small_model("test_resnet_cls"), Rectangles(3)
    fit(model, data, data, tmp_path, SHORT, loggers=[logger, "csv"], callbacks=[callback])
    assert callback.steps == 2
    assert logger.rows == rows(tmp_path)
    assert logger.settings == read_settings(tmp_path / SETTINGS)
    assert logger.settings["loggers"] == ["csv"]
    assert logger.images == [("validation/cls/visualization", 2)] * 2
    with (tmp_path / "loggers" / "csv" / "version_0" / "metrics.csv").open() as file:
        written = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    assert written == rows(tmp_path)


def test_a_run_is_resumed_with_other_loggers_and_replaced_with_what_they_wrote(tmp_path: Path) -> None:
    data = Rectangles(3)
    for options in ({"loggers": ["csv"]}, {"resume": True}, {"overwrite": True}):
        fit(small_model("test_resnet_cls"), data, data, tmp_path, SHORT, **options)
        assert (tmp_path / "loggers").exists() == (options != {"overwrite": True})


def test_an_unknown_logger_is_an_error_with_the_nearest_name_and_no_run_is_started(tmp_path: Path) -> None:
    data = Rectangles(3)
    with pytest.raises(UnknownNameError, match=r"Unknown logger 'tensorbord'. Did you mean 'tensorboard'"):
        fit(small_model("test_resnet_cls"), data, data, tmp_path / "run", SHORT, loggers=["tensorbord"])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_logger_without_its_package_is_an_error_that_names_the_package(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("brickyard.training.loggers.find_spec", lambda package: None)
    with pytest.raises(MissingExtraError, match=f"The logger '{name}' needs .* pip install {name}"):
        check_loggers(["csv", name])


def test_tensorboard_gets_metrics_and_images(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: PLC0415

    data = Rectangles(3)
    fit(small_model("test_resnet_cls"), data, data, tmp_path, SHORT, loggers=["tensorboard"])
    events = EventAccumulator(str(tmp_path / "loggers" / "tensorboard" / "version_0")).Reload()
    expected = rows(tmp_path, "validation/")[-1]["validation/loss"]
    assert events.Scalars("validation/loss")[-1].value == pytest.approx(expected)
    assert events.Tags()["images"] == [f"validation/cls/visualization/{index}" for index in range(2)]


@pytest.mark.parametrize(
    ("kind", "method", "expected"),
    [
        (TensorBoardLogger, "add_image", [("seg/visualization/0", 7), ("seg/visualization/1", 7)]),
        (MLFlowLogger, "log_image", [("run", "seg/visualization_7_0.png"), ("run", "seg/visualization_7_1.png")]),
    ],
)
def test_images_are_written_as_the_libraries_of_loggers_take_them(
    kind: type, method: str, expected: list[tuple[Any, ...]]
) -> None:
    calls: list[tuple[Any, ...]] = []

    def record(*arguments: Any, **options: Any) -> None:
        calls.append(tuple(each for each in arguments if not isinstance(each, np.ndarray)))
        pixels = next(each for each in arguments if isinstance(each, np.ndarray))
        assert (pixels.shape, pixels.dtype) == ((4, 6, 3), np.uint8)

    fake = type("Fake", (kind,), {"__init__": lambda self: None, "run_id": "run"})
    fake.experiment = SimpleNamespace(**{method: record})
    writer = image_writer(fake())
    assert writer is not None
    writer("seg/visualization", [Image.new("RGB", (6, 4))] * 2, 7)
    assert calls == expected


def test_a_logger_without_images_has_no_writer(tmp_path: Path) -> None:
    assert image_writer(pl.loggers.CSVLogger(tmp_path)) is None
    assert image_writer(RunLog(tmp_path)) is not None
