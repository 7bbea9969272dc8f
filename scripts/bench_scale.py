"""Measure `predict_rows` on this machine against decoding alone and against a hand-written loop.

    python scripts/bench_scale.py [--pictures 2000] [--model NAME] [--workers 1] [--rounds 5] [--memory]

All sides take the same generated pictures, alternately in one process; each figure is the median of the ratios of
neighbouring runs with their quartiles. The loop is what one writes with a `DataLoader` over the same model: it reads,
resizes and crops with timm's transform and writes the five best classes as JSON lines, but has no answer to a damaged
picture, a turned one or a stop. With --memory, jobs of 1, 2 and 4 times as many pictures run in processes of their own,
and their highest memory is shown.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from bench_table import Row, as_markdown, of_figures
from PIL import Image
from torch.utils.data import DataLoader, Dataset

import brickyard
from brickyard.inference.jobs import predict_rows
from brickyard.parts.pictures import read_picture

SAMPLES = Path(brickyard.__file__).parent / "samples"
BATCH = 16


class Pictures(Dataset[Any]):
    """What a hand-written loop reads."""

    def __init__(self, files: list[Path], transform: Callable[[Image.Image], Any]) -> None:
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[str, Any]:
        with Image.open(self.files[index]) as picture:
            return str(self.files[index]), self.transform(picture.convert("RGB"))


def make_pictures(folder: Path, count: int) -> list[Path]:
    """Photos of 500 x 375 pixels, cut from the samples: about 45 kB each, as in ImageNet's validation set."""
    photos = [Image.open(file).convert("RGB") for file in sorted(SAMPLES.glob("*.jpg"))]
    generator = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        photo = photos[number % len(photos)]
        left, top = (int(generator.integers(0, side // 4)) for side in photo.size)
        cut = photo.crop((left, top, left + photo.width * 3 // 4, top + photo.height * 3 // 4))
        cut.resize((500, 375)).save(folder / f"{number:06}.jpg", quality=90)
    return sorted(folder.iterdir())


def loop(model: Any, labels: list[str], loader: DataLoader[Any], out: Path) -> None:
    """The hand-written loop."""
    with open(out, "w", encoding="utf-8") as file, torch.inference_mode():
        for names, images in loader:
            best = model({"image": images}, outputs=["cls/probabilities"])["cls/probabilities"].topk(5)
            for name, values, indices in zip(names, best.values.tolist(), best.indices.tolist(), strict=True):
                found = [{"label": labels[i], "probability": v} for v, i in zip(values, indices, strict=True)]
                file.write(json.dumps({"file": name, "cls": found}) + "\n")


def throughput(folder: Path, options: argparse.Namespace) -> list[Row]:
    files = make_pictures(folder / "pictures", options.pictures)
    model = brickyard.create_model(options.model, pretrained=True).eval()
    images = brickyard.BackboneSpec.from_json(model["backbone"].metadata["provides"]).input
    labels = model["cls/head"].metadata["labels"]
    transform = timm.data.create_transform(
        (images.channels, *images.size),
        interpolation=images.interpolation,
        crop_pct=images.crop_pct,
        crop_mode=images.crop_mode,
        normalize=False,
    )
    loader = DataLoader(Pictures(files, transform), BATCH, num_workers=options.workers)
    numbers = iter(range(1_000_000))

    def ours() -> None:
        predict_rows(
            options.model,
            [str(folder / "pictures")],
            folder / f"rows{next(numbers)}",
            kind="jsonl",
            batch_size=BATCH,
            workers=options.workers,
        )

    def decode() -> None:
        for file in files:
            read_picture(file)

    def theirs() -> None:
        loop(model, labels, loader, folder / "loop.jsonl")

    sides = {
        "predict_rows": ours,
        "a hand-written DataLoader loop": theirs,
        "reading and resizing alone, the same workers": lambda: [None for _ in loader],
        "decoding alone, one core": decode,
    }
    seconds = alternately(sides, options.rounds)
    mine = seconds.pop("predict_rows")
    what = f"{options.pictures} pictures, {options.model}"
    return [of_figures(what, side, mine, other, unit="s") for side, other in seconds.items()]


def alternately(sides: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """The seconds of each side in each round; which goes first changes, and the first round warms up."""
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    order = list(sides)
    for number in range(rounds + 1):
        for side in order[number % len(order) :] + order[: number % len(order)]:
            start = time.perf_counter()
            sides[side]()
            if number:
                seconds[side].append(time.perf_counter() - start)
    return seconds


def memory(folder: Path, options: argparse.Namespace) -> str:
    """The highest memory of jobs of growing size, each in a process of its own."""
    lines = ["| pictures | highest memory, model's process | a reading process |", "|---|---|---|"]
    for times in (1, 2, 4):
        pictures = folder / f"pictures{times}"
        make_pictures(pictures, times * options.pictures)
        command = [sys.executable, __file__, "--one-job", str(pictures), "--model", options.model]
        shown = subprocess.run(
            [*command, "--workers", str(options.workers)], check=True, capture_output=True, text=True
        ).stdout
        own, reader = json.loads(shown.splitlines()[-1])
        lines.append(f"| {times * options.pictures} | {own:.0f} MB | {reader:.0f} MB |")
    return "\n".join(lines)


def one_job(pictures: str, options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as out:
        predict_rows(options.model, [pictures], out, kind="jsonl", shard_size=250, workers=options.workers)
    unit = 1e6 if sys.platform == "darwin" else 1e3
    of = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    print(json.dumps([resource.getrusage(who).ru_maxrss / unit for who in of]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--model", default="tf_efficientnet_lite0_cls.in1k")
    parser.add_argument("--workers", type=int, default=-(-(os.cpu_count() or 1) // 2))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--one-job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one_job:
        one_job(options.one_job, options)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(memory(folder, options) if options.memory else as_markdown(throughput(folder, options)))


if __name__ == "__main__":
    main()
