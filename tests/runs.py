"""Run a small training in a separate process, to be killed, or in two processes: `python -m tests.runs FOLDER ...`."""

import argparse
import os
import signal
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType

import torch
from torch import nn

from brickyard import BrickCollection, BrickLoss, LabelKind, create_model, create_part
from brickyard.data.collate import collate
from brickyard.training.config import TrainerConfig, TrainingConfig
from brickyard.training.fit import fit

SIDE = 64
LABELS = {
    "cls": ("red", "green", "blue"),
    "seg": ("background", "red", "green", "blue"),
    "det": ("red", "green", "blue"),
}

KINDS = {"cls": LabelKind.CLASS_INDEX, "seg": LabelKind.MASK, "det": LabelKind.BOXES}

collate_rectangles = partial(collate, kinds=KINDS)


class Rectangles:
    """Images with one rectangle each, red, green or blue.

    Args:
        length: Number of images.
        unlabelled: Indices of the images without a label, by task.
        noisy: Whether each read adds new noise; otherwise the noise depends on the index only.
        kill_at: Kill this process at the read of this number, counted from 1.
    """

    def __init__(
        self,
        length: int,
        unlabelled: Mapping[str, set[int]] = MappingProxyType({}),
        *,
        noisy: bool = False,
        kill_at: int | None = None,
    ) -> None:
        self.labels, self.kinds = LABELS, KINDS
        self.length, self.unlabelled, self.noisy = length, unlabelled, noisy
        self.kill_at, self.read = kill_at, 0

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict:
        self.read += 1
        if self.read == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        colour, left, top = index % 3, index * 5 % 32, index * 7 % 32
        generator = None if self.noisy else torch.Generator().manual_seed(index)
        image = torch.randint(0, 100, (3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
        image[colour, top : top + 28, left : left + 28] = 255
        mask = torch.zeros(SIDE, SIDE, dtype=torch.int64)
        mask[top : top + 28, left : left + 28] = colour + 1
        box = torch.tensor([[left, top, left + 28, top + 28]], dtype=torch.float32)
        sample = {
            "image": image,
            "targets/cls": torch.tensor(colour),
            "targets/seg": mask,
            "targets/det": {"boxes": box, "labels": torch.tensor([colour])},
        }
        return {
            name: value
            for name, value in sample.items()
            if index not in self.unlabelled.get(name.removeprefix("targets/"), ())
        }


def small_model(name: str = "test_resnet_cls_seg-lraspp_det-ssdlite", **options: float) -> BrickCollection:
    torch.manual_seed(0)
    return create_model(name, labels={task: names for task, names in LABELS.items() if f"_{task}" in name}, **options)


def without_batch_statistics(model: BrickCollection) -> BrickCollection:
    """Keep batch norms in evaluation mode, so that two halves of a batch give the results of the whole batch."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
            module.train = partial(_unchanged, module)  # type: ignore[method-assign]
    return model


def _unchanged(module: nn.Module, mode: bool = True) -> nn.Module:
    return module


# About half of the training images lack each label; the validation images of the second process lack two of them.
UNLABELLED = {"cls": {0, 1, 3}, "seg": {2, 3, 5, 6}, "det": {1, 4, 6, 7}}
UNLABELLED_IN_VAL = {"cls": {1, 3}, "seg": {0}, "det": {1, 2, 3}}


def train_in_parts(out: Path, devices: int, strategy: str) -> None:
    """Train with two processes and two images per step, or one process and four; some labels are missing."""
    model = without_batch_statistics(small_model("test_resnet_cls_seg-lraspp_det-retinanet"))
    brick = model["seg/loss"]  # the default loss has a term that is not a mean over pixels
    model["seg/loss"] = BrickLoss(create_part("segmentation_loss"), brick.input_names, brick.output_names)
    config = TrainingConfig(steps=6, batch_size=4 // devices, every=3, lr=1e-4)
    trainer_config = TrainerConfig(accelerator="cpu", devices=devices, strategy=strategy)
    fit(model, Rectangles(8, UNLABELLED, noisy=True), Rectangles(5, UNLABELLED_IN_VAL), out, config, trainer_config)


def train_until_killed(out: Path, kill_at: int | None, resume: bool) -> None:
    """Train with a moving average and drop path; kill this process at a read of the training data."""
    model = small_model(drop_path_rate=0.3)
    config = TrainingConfig(steps=8, batch_size=2, every=4, save_every=3, ema=0.9)
    fit(model, Rectangles(7, noisy=True, kill_at=kill_at), Rectangles(3), out, config, resume=resume)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--devices", type=int)
    parser.add_argument("--strategy", default="ddp")
    parser.add_argument("--kill-at", type=int)
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.devices is not None:
        train_in_parts(options.out, options.devices, options.strategy)
    else:
        train_until_killed(options.out, options.kill_at, options.resume)
