"""Small modules and collections that the tests share."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

import brickyard
from brickyard import Brick, BrickLoss, BrickMetrics, BrickModule, BrickNotTrainable, BrickTrainable

SOURCE = Path(brickyard.__file__).parents[1]
ROOT = Path(__file__).parents[1]


class Half(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image / 2


class TinyBackbone(nn.Module):
    def __init__(self, n_features: int = 5) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, n_features, kernel_size=3, padding=1)
        self.norm = nn.BatchNorm2d(n_features)

    def forward(self, image: Tensor) -> Tensor:
        return self.norm(self.conv(image))


class TinyClassifier(nn.Module):
    def __init__(self, num_classes: int = 3, n_features: int = 5) -> None:
        super().__init__()
        self.fc = nn.Linear(n_features, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        return self.fc(features.mean(dim=(2, 3)))


def tiny_bricks(num_classes: int = 3) -> dict[str, Any]:
    """A preprocessor, a backbone, and a head with a loss and metrics."""
    metrics = MetricCollection(
        {
            "Accuracy": MulticlassAccuracy(num_classes, average="micro"),
            "ConfMat": MulticlassConfusionMatrix(num_classes),
        }
    )
    return {
        "preprocessor": BrickNotTrainable(Half(), input_names=["raw"], output_names=["processed"]),
        "backbone": BrickTrainable(TinyBackbone(), input_names=["processed"], output_names=["features"]),
        "head": {
            "classifier": BrickTrainable(TinyClassifier(num_classes), ["features"], ["./logits"]),
            "loss": BrickLoss(nn.CrossEntropyLoss(), ["./logits", "targets"], ["./loss_ce"]),
            "metrics": BrickMetrics(metrics, ["./logits", "targets"]),
        },
    }


def tiny_inputs(batch_size: int = 4, num_classes: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "raw": torch.rand((batch_size, 3, 8, 10), generator=generator),
        "targets": torch.randint(num_classes, (batch_size,), generator=generator),
    }


def identity(reads: Any, writes: Any, **kwargs: Any) -> BrickModule:
    """A brick that passes on what it reads: one value as it is, several as a tuple."""
    return BrickModule(_pass_on, reads, writes, **kwargs)


def _pass_on(*values: Any) -> Any:
    return values[0] if len(values) == 1 else values


def plus(amount: float, reads: list[str], writes: list[str], **kwargs: Any) -> BrickModule:
    """A brick that adds a number, which can be told from others by what it makes."""
    return BrickModule(Plus(amount), reads, writes, **kwargs)


class Plus(nn.Module):
    def __init__(self, amount: float) -> None:
        super().__init__()
        self.amount = amount

    def forward(self, value: Tensor) -> Tensor:
        return value + self.amount


def weight_of(brick: Brick) -> Tensor:
    """The first parameter of a brick."""
    return next(brick.parameters())


def run_python(code: str, *flags: str, **environment: str) -> str:
    """What a new interpreter prints when it runs `code`."""
    done = subprocess.run(
        [sys.executable, *flags, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCE), str(ROOT)]), **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
