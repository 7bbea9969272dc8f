"""Measure jobs of `predict_rows` on this machine: correctness after kills, memory and speed.

    python scripts/bench_scale.py [--images 20000] [--compared 1000] [--rounds 5] [--workers 1] [--device cpu]

First, many small images, a few of them damaged, are predicted by the local engine and by two Ray actors, each job in
separate processes. Their rows are compared byte by byte, also those of jobs that were killed and resumed. The peak
memory of a job (`VmHWM`, so on Linux only) is measured with a tenth of the images and with all.

Then `predict_rows` runs against a hand-written loop with a `DataLoader` over the same model, and against reading and
decoding only, alternately in one process. Each row has the median and the quartiles of the ratios of neighbouring runs.
The CPU time of all cores is printed too: other programs on the machine change it less. The loop reads, resizes and
crops with timm's transform and writes the five best classes as JSON lines, but does not handle damaged images, EXIF
rotation or interruptions.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet
import timm
import torch
from bench_table import Row, as_markdown, row_of
from PIL import Image
from torch.utils.data import DataLoader, Dataset

import brickyard
from brickyard.data.images import read_image
from brickyard.inference.jobs import predict_rows

SAMPLES = Path(brickyard.__file__).parent / "samples"
BATCH = 16
SHARD = 500
DAMAGED = 500  # one of this many images is damaged
ENGINES: dict[Literal["local", "ray"], str] = {"local": "local engine", "ray": "two Ray actors"}
READERS = {"pt_data_worker": "data loading process", "ray::_Actor": "actor"}  # by process name
SMALL, SEEN = (96, 96), (64, 64)  # pixels of the images of the jobs, and of the input of their model
COMPARED = {
    "tf_efficientnet_lite0_cls.in1k": (500, 375),
    "test_resnet_cls": SMALL,
}  # the size of ImageNet images; the least work

Seconds = dict[str, list[float]]


class ImageFiles(Dataset[Any]):
    """The data set of the hand-written loop."""

    def __init__(self, files: list[Path], transform: Callable[[Image.Image], Any]) -> None:
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[str, Any]:
        with Image.open(self.files[index]) as image:
            return str(self.files[index]), self.transform(image.convert("RGB"))


def make_images(folder: Path, count: int, size: tuple[int, int], damaged: Iterable[int] = ()) -> list[Path]:
    """Create JPEGs of `size`, (width, height) pixels, from crops of the samples; truncate those at `damaged`."""
    photos = [Image.open(file).convert("RGB") for file in sorted(SAMPLES.glob("*.jpg"))]
    generator = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        photo = photos[number % len(photos)]
        left, top = (int(generator.integers(0, side // 4)) for side in photo.size)
        box = (left, top, left + photo.width * 3 // 4, top + photo.height * 3 // 4)
        photo.resize(size, box=box).save(folder / f"{number:06}.jpg", quality=90)
    for number in damaged:
        file = folder / f"{number:06}.jpg"
        file.write_bytes(file.read_bytes()[:400])
    return sorted(folder.iterdir())


@dataclass
class Job:
    """A job in separate processes.

    Attributes:
        engine: Name of the engine.
        model: Folder of the model.
        images: Folder of the images.
        out: Folder of the rows.
        peaks: Peak memory of each kind of process, in MB.
        seconds: Duration of the job.
    """

    engine: Literal["local", "ray"]
    model: Path
    images: Path
    out: Path
    peaks: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def run(self, options: argparse.Namespace, *, kill_at: int | None = None) -> None:
        """Run the job to its end, or kill it when it has written `kill_at` files."""
        settings = {"engine": self.engine, "shard_size": SHARD, "batch_size": BATCH, "device": options.device}
        settings |= {"actors": 2} if self.engine == "ray" else {"workers": options.workers}
        call = f"predict_rows('local-dir:{self.model}', ['{self.images}'], '{self.out}', **{settings!r})"
        start = time.perf_counter()
        environment = {**os.environ, "RAY_raylet_start_wait_time_s": "300"}  # Ray starts slowly on a busy machine
        command = [sys.executable, "-c", f"from brickyard.inference.jobs import *; {call}"]
        process = subprocess.Popen(command, env=environment)
        while process.poll() is None:
            time.sleep(0.2)
            for kind, peak in _peaks(process.pid):
                self.peaks[kind] = max(peak, self.peaks.get(kind, 0.0))
            if kill_at is not None and len(self.files()) >= kill_at:
                process.send_signal(signal.SIGKILL)
                process.wait()
                return
        self.seconds = time.perf_counter() - start
        print(f"{self.out.name}: {self.seconds:.0f} s, {_memory(self)}", file=sys.stderr, flush=True)
        if process.returncode or kill_at is not None:
            raise RuntimeError(f"{self.out}: the job ended with {process.returncode}")

    def files(self) -> dict[str, Path]:
        return {file.name: file for file in sorted(self.out.glob("part-*"))}

    def same_as(self, other: Job) -> str:
        first, second = ({name: file.read_bytes() for name, file in job.files().items()} for job in (self, other))
        return "yes" if first == second else "**no**"


def _peaks(job: int) -> list[tuple[str, float]]:
    """Return the peak memory in MB of a job and of its data loading processes and actors, by kind of process."""
    parents, peaks = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        try:
            status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
            names = (status["Name"].strip(), (folder / "cmdline").read_text(errors="replace"))
        except OSError:  # it has ended
            continue
        parents[pid] = int(status["PPid"])
        kinds = (
            ["the job"] if pid == job else [READERS[key] for key in READERS if any(n.startswith(key) for n in names)]
        )
        if kinds and "VmHWM" in status:
            peaks[pid] = (kinds[0], int(status["VmHWM"].split()[0]) / 1e3)
    return [peak for pid, peak in peaks.items() if job in _with_ancestors(pid, parents)]


def _with_ancestors(pid: int, parents: dict[int, int]) -> Iterable[int]:
    while pid:
        yield pid
        pid = parents.get(pid, 0)


def jobs(folder: Path, options: argparse.Namespace) -> str:
    """Check and measure jobs: a table with a column for each engine."""
    count = options.images
    damaged = set(range(DAMAGED // 2, count, DAMAGED))
    make_images(folder / "few", count // 10, SMALL)
    make_images(folder / "many", count, SMALL, damaged)
    model = folder / "model"
    small = brickyard.create_model("test_resnet_cls", num_classes=10)
    provides = small["backbone"].provides
    small["backbone"].provides = replace(provides, input=replace(provides.input, size=tuple(SEEN)))
    small.save_pretrained(model)
    reference = Job("local", model, folder / "many", folder / "local")
    columns = {}
    for engine, title in ENGINES.items():
        few = Job(engine, model, folder / "few", folder / f"{engine}-few")
        many = Job(engine, model, folder / "many", folder / engine)
        killed = Job(engine, model, folder / "many", folder / f"{engine}-killed")
        few.run(options)
        many.run(options)
        killed.run(options, kill_at=count // SHARD // 2)
        before = len(killed.files()) * SHARD
        killed.run(options)
        rows = pyarrow.parquet.read_table(killed.out, columns=["file", "error"]).to_pylist()
        failed = {int(Path(row["file"]).stem) for row in rows if row["error"] is not None}
        columns[title] = {
            "the same rows as the local engine": many.same_as(reference),
            "rows before the kill": str(before),
            "after resuming, the same rows as the local engine": killed.same_as(reference),
            "rows after resuming, duplicates": f"{len(rows)}, {len(rows) - len({row['file'] for row in rows})}",
            "damaged images": str(len(damaged)),
            "errors for damaged images, other errors": f"{len(failed & damaged)}, {len(failed - damaged)}",
            f"peak memory with {count // 10} images": _memory(few),
            f"peak memory with {count} images": _memory(many),
            "duration": f"{many.seconds:.0f} s",
        }
    names = list(columns[ENGINES["local"]])
    head = f"| {count} images of 96 x 96, test_resnet_cls | {' | '.join(columns)} |\n|---|---|---|\n"
    return head + "".join(f"| {name} | {' | '.join(column[name] for column in columns.values())} |\n" for name in names)


def _memory(job: Job) -> str:
    return ", ".join(f"{kind} {peak:.0f} MB" for kind, peak in sorted(job.peaks.items(), reverse=True))


def throughput(folder: Path, name: str, size: tuple[int, int], options: argparse.Namespace) -> list[Row]:
    """Measure `predict_rows` with a zoo model, or a newly initialized one, on images of `size`."""
    count = options.compared
    files = make_images(folder / "compared", count, size)
    model = brickyard.create_model(name, pretrained=bool(brickyard.list_models(name, pretrained=True))).eval()
    model.save_pretrained(folder / "model")
    model = model.to(options.device)
    images = model["backbone"].provides.input
    transform = timm.data.create_transform(
        (images.channels, *images.size),
        interpolation=images.interpolation,
        crop_pct=images.crop_pct,
        crop_mode=images.crop_mode,
        normalize=False,
    )
    loader = DataLoader(ImageFiles(files, transform), BATCH, num_workers=options.workers)
    numbers = iter(range(1_000_000))

    def with_brickyard() -> None:
        sources, out = [str(folder / "compared")], folder / f"rows{next(numbers)}"
        settings = {"batch_size": BATCH, "workers": options.workers, "device": options.device}
        predict_rows(f"local-dir:{folder / 'model'}", sources, out, kind="jsonl", **settings)

    def with_loop(cores: int) -> None:
        torch.set_num_threads(cores)
        loop(model, loader, folder / "loop.jsonl", options.device)

    sides: dict[str, Callable[[], Any]] = {
        "predict_rows": with_brickyard,
        "a hand-written DataLoader loop": partial(with_loop, torch.get_num_threads()),
        "the same loop, model on one core": partial(with_loop, 1),
        "reading and resizing only, the same workers": lambda: [None for _ in loader],
        "decoding only, one core": lambda: [read_image(file) and None for file in files],
    }
    seconds, cpu_seconds = alternately(sides, options.rounds)
    reference = seconds["predict_rows"]
    what = f"{count} images of {size[0]} x {size[1]}, {name}"
    for side, spent in cpu_seconds.items():
        print(f"| {what} | {side} | {statistics.median(spent) / count * 1e3:.3g} ms |")
    return [row_of(what, side, reference, other, unit="s") for side, other in seconds.items() if other is not reference]


def loop(model: Any, loader: DataLoader[Any], out: Path, device: str) -> None:
    """The hand-written loop."""
    labels = list(model["cls/head"].head.labels)
    with open(out, "w", encoding="utf-8") as file, torch.inference_mode():
        for names, images in loader:
            inputs = {"image": images.to(device)}
            best = model(inputs, outputs=["cls/probabilities"])["cls/probabilities"].topk(5)
            for name, values, indices in zip(names, best.values.tolist(), best.indices.tolist(), strict=True):
                results = [{"label": labels[i], "probability": v} for v, i in zip(values, indices, strict=True)]
                file.write(json.dumps({"file": name, "cls": results}) + "\n")


def alternately(sides: dict[str, Callable[[], Any]], rounds: int) -> tuple[Seconds, Seconds]:
    """Return the wall time and the CPU time of each side in each round, in seconds.

    The side that runs first changes with each round. The first round is a warmup and not counted.
    """
    seconds: Seconds = {side: [] for side in sides}
    cpu_seconds: Seconds = {side: [] for side in sides}
    order = list(sides)
    for number in range(rounds + 1):
        for side in order[number % len(order) :] + order[: number % len(order)]:
            start, spent = time.perf_counter(), sum(os.times()[:4])
            sides[side]()
            if number:
                seconds[side].append(time.perf_counter() - start)
                cpu_seconds[side].append(sum(os.times()[:4]) - spent)
    return seconds, cpu_seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000, help="number of images of the jobs; 0 for no jobs")
    parser.add_argument(
        "--compared", type=int, default=1000, help="number of images of the comparisons; 0 for no comparisons"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=-(-(os.cpu_count() or 1) // 2))
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    if options.images:
        with tempfile.TemporaryDirectory() as name:
            print(jobs(Path(name), options))
    rows = []
    if options.compared:
        print("| what | side | CPU time per image |\n|---|---|---|")
    for model, size in COMPARED.items() if options.compared else ():
        with tempfile.TemporaryDirectory() as name:
            rows += throughput(Path(name), model, size, options)
    if rows:
        print(f"\n{as_markdown(rows)}")


if __name__ == "__main__":
    main()
