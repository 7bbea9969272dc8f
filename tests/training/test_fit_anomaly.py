"""A training whose loss draws random numbers: it resumes exactly, and validation does not disturb it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from brickyard import BrickCollection, LabelKind, create_model
from brickyard.training.config import TrainingConfig
from brickyard.training.fit import fit

CONFIG = TrainingConfig(steps=6, batch_size=2, every=3, save_every=2, ema=0.9, monitor="anomaly/AUROC")


class Interrupted(BaseException):
    """Stands in for a kill within one process."""


class Scenes:
    """Grey images with noise; in a mixed set every second one has a white square, and a mask.

    Args:
        length: Number of images.
        mixed: Whether there are anomalies.
        stop_at: Raise at the read of this number, counted from 1.
    """

    labels = {"anomaly": ("normal", "anomalous")}  # noqa: RUF012
    kinds = {"anomaly": LabelKind.CLASS_INDEX, "anomaly/mask": LabelKind.MASK}  # noqa: RUF012

    def __init__(self, length: int, *, mixed: bool = False, stop_at: int | None = None) -> None:
        self.length, self.mixed, self.stop_at, self.read = length, mixed, stop_at, 0

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.read += 1
        if self.read == self.stop_at:
            raise Interrupted
        image = torch.randint(80, 120, (3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(index))
        mask = torch.zeros(64, 64, dtype=torch.int64)
        if self.mixed and index % 2:
            image[:, 20:40, 8:28], mask[20:40, 8:28] = 255, 1
        return {"image": image, "targets/anomaly": mask.max(), "targets/anomaly/mask": mask}


def model() -> BrickCollection:
    torch.manual_seed(0)
    created = create_model("test_resnet_anomaly")
    created.freeze("backbone")
    return created


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    metrics = fit(model(), Scenes(5), Scenes(4, mixed=True), folder, CONFIG)
    assert {"validation/anomaly/AUROC", "validation/anomaly/PixelAUROC", "validation/anomaly/AUPRO"} <= set(metrics)
    return folder


@pytest.mark.parametrize(("of", "stop_at"), [("train", 5), ("train", 10), ("val", 2)])
def test_it_resumes_with_the_same_results(uninterrupted: Path, tmp_path: Path, of: str, stop_at: int) -> None:
    train = Scenes(5, stop_at=stop_at if of == "train" else None)
    val = Scenes(4, mixed=True, stop_at=stop_at if of == "val" else None)
    with pytest.raises(Interrupted):
        fit(model(), train, val, tmp_path / "run", CONFIG)
    resumed = model()
    fit(resumed, Scenes(5), Scenes(4, mixed=True), tmp_path / "run", CONFIG, resume=True)
    assert (tmp_path / "run" / "log.jsonl").read_bytes() == (uninterrupted / "log.jsonl").read_bytes()
    expected = BrickCollection.from_pretrained(uninterrupted / "last").state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.state_dict().items())


def test_more_validations_do_not_change_the_training(uninterrupted: Path, tmp_path: Path) -> None:
    often = TrainingConfig(steps=6, batch_size=2, every=1, save_every=2, ema=0.9, monitor="anomaly/AUROC")
    trained = model()
    fit(trained, Scenes(5), Scenes(4, mixed=True), tmp_path / "run", often)
    expected = BrickCollection.from_pretrained(uninterrupted / "last").state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in trained.state_dict().items())
