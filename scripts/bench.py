"""Measure brickyard against its peers and print one table of ratios.

    python scripts/bench.py [--json FILE] [--markdown FILE]

Each row runs both sides alternately in one process (imports: in new processes) and reports the median and the quartiles
of the ratios of neighbouring runs; below 1 means that brickyard is faster. Peers that are not dependencies of brickyard
are optional: `pip install torchbricks segmentation-models-pytorch` adds their rows.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import timm
import torch
from bench_peers import detection_rows, export_rows, memory_rows, segmentation_rows, sharing_rows
from bench_table import Row, as_markdown, compare
from torch import Tensor, nn

import brickyard
from brickyard import BrickCollection, BrickNotTrainable, BrickTrainable, ImageClassifier, Preprocessor


def import_rows() -> Iterator[Row]:
    def importing(module: str) -> Callable[[], Any]:
        return lambda: subprocess.run([sys.executable, "-c", f"import {module}"], check=True)

    yield compare("import", "import torch", importing("brickyard"), importing("torch"), rounds=5)


class HandWritten(nn.Module):
    """The computation of the collection below, written as one module."""

    def __init__(self, backbone: nn.Module, heads: list[nn.Module]) -> None:
        super().__init__()
        self.preprocessor = Preprocessor()
        self.backbone = backbone
        self.head0, self.head1, self.head2 = heads

    def forward(self, image: Tensor) -> tuple[Any, ...]:
        features = self.backbone.forward_features(self.preprocessor(image))
        return self.head0(features), self.head1(features), self.head2(features)


class Features(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return self.model.forward_features(image)


def forward_rows() -> Iterator[Row]:
    backbone = timm.create_model("test_resnet", num_classes=0).eval()
    heads = [ImageClassifier(10, backbone.num_features).eval() for _ in range(3)]
    by_hand = HandWritten(backbone, heads).eval()

    def bricks(trainable: Any, fixed: Any) -> dict[str, Any]:
        outputs = [[f"{output}{i}" for output in ("logits", "probabilities", "class")] for i in range(3)]
        return {
            "preprocessor": fixed(Preprocessor(), input_names=["image"], output_names=["normalized"]),
            "backbone": trainable(Features(backbone), input_names=["normalized"], output_names=["features"]),
            **{f"head{i}": trainable(heads[i], input_names=["features"], output_names=outputs[i]) for i in range(3)},
        }

    image = torch.rand(1, 3, 160, 160)
    with torch.inference_mode():
        collection = BrickCollection(bricks(BrickTrainable, BrickNotTrainable)).eval()
        what = "forward, test_resnet with three heads, batch 1"
        yield compare(
            what, "by hand", lambda: collection({"image": image}), lambda: by_hand(image), rounds=60, calls=10
        )
        if importlib.util.find_spec("torchbricks"):
            from torchbricks import brick_collection as peer_collection, bricks as peer  # noqa: I001, PLC0415

            other = peer_collection.BrickCollection(bricks(peer.BrickTrainable, peer.BrickNotTrainable)).eval()
            run = lambda: other(named_inputs={"image": image})  # noqa: E731
            yield compare(what, "torchbricks", lambda: collection({"image": image}), run, rounds=60, calls=10)


def chain_rows() -> Iterator[Row]:
    by_hand = nn.Sequential(*(nn.Identity() for _ in range(20)))
    value = torch.zeros(1)

    def bricks(kind: Any) -> dict[str, Any]:
        return {f"b{i}": kind(nn.Identity(), input_names=[f"x{i}"], output_names=[f"x{i + 1}"]) for i in range(20)}

    collection = BrickCollection(bricks(BrickTrainable))
    what = "chain of 20 identity bricks"
    run = lambda: collection({"x0": value})  # noqa: E731
    note = "named values cost 2 microseconds per brick"
    yield compare(what, "nn.Sequential", run, lambda: by_hand(value), rounds=60, calls=100, note=note)
    if importlib.util.find_spec("torchbricks"):
        from torchbricks import brick_collection as peer_collection, bricks as peer  # noqa: I001, PLC0415

        other = peer_collection.BrickCollection(bricks(peer.BrickTrainable))
        yield compare(what, "torchbricks", run, lambda: other(named_inputs={"x0": value}), rounds=60, calls=100)


def load_rows() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        brickyard.create_model("resnet50_cls").save_pretrained(folder / "resnet50_cls")
        sources = {
            "tf_efficientnet_lite0": lambda: brickyard.create_model("tf_efficientnet_lite0_cls", pretrained=True),
            "resnet50": lambda: brickyard.create_model(f"local-dir:{folder / 'resnet50_cls'}"),
        }
        for backbone, load in sources.items():
            checkpoint = folder / f"{backbone}.pth"
            torch.save(timm.create_model(backbone).state_dict(), checkpoint)

            def with_timm(backbone: str = backbone, checkpoint: Path = checkpoint) -> None:
                timm.create_model(backbone).load_state_dict(torch.load(checkpoint, weights_only=True))

            peer = "timm.create_model + torch.load"
            yield compare(f"create and load {backbone}", peer, load, with_timm, rounds=15)


def task_rows() -> Iterator[Row]:
    what = "classes, masks and boxes of resnet18 at 224, batch 1"
    yield _one_pass(what, "three models", "resnet18", ("cls", "seg", "det"), 224)
    tasks = ("cls", "seg", "det", "inst", "pose", "kpt", "emb", "anomaly", "ocr", "fomo")
    yield _one_pass(
        "ten tasks of tf_efficientnet_lite0 at 96, batch 1", "ten models", "tf_efficientnet_lite0", tasks, 96
    )


def _one_pass(what: str, peer: str, backbone: str, tasks: Sequence[str], size: int) -> Row:
    """Compare one model of several tasks with a model for each."""
    together = brickyard.create_model("_".join([backbone, *tasks])).eval()
    single = [brickyard.create_model(f"{backbone}_{task}").eval() for task in tasks]
    inputs, tags = {"image": torch.rand(1, 3, size, size)}, brickyard.Stage.INFERENCE.tags
    with torch.inference_mode():
        run = lambda: together(inputs, tags=tags)  # noqa: E731
        return compare(what, peer, run, lambda: [model(inputs, tags=tags) for model in single], rounds=20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the measurements to this file")
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)  # several threads would also measure the other programs on the machine
    groups = (
        import_rows,
        forward_rows,
        chain_rows,
        load_rows,
        task_rows,
        segmentation_rows,
        detection_rows,
        export_rows,
        sharing_rows,
        memory_rows,
    )
    rows = [row for group in groups for row in group()]
    table = as_markdown(rows)
    print(table)
    if options.markdown:
        options.markdown.write_text(table, encoding="utf-8")
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
