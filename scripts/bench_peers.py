"""Rows of bench.py: models of other libraries, exported files, downloads and memory."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from bench_table import Row, compare, row_of
from torch import Tensor, nn

import brickyard
from brickyard import BrickCollection
from brickyard.export.deployment import open_onnx
from brickyard.export.onnx_runner import OnnxSession

SIZE = 256
CLASSES = 21


def segmentation_rows() -> Iterator[Row]:
    """The FPN head of brickyard and of segmentation_models.pytorch, on the same resnet18."""
    if not importlib.util.find_spec("segmentation_models_pytorch"):
        return
    import segmentation_models_pytorch as smp  # noqa: PLC0415

    ours = brickyard.create_model("resnet18_seg", num_classes=CLASSES)
    peer_model = smp.FPN("resnet18", encoder_weights=None, classes=CLASSES)
    peer = "segmentation_models.pytorch, FPN"
    image = torch.rand(1, 3, SIZE, SIZE)
    yield _inference(f"masks of resnet18 at {SIZE}, batch 1", peer, ours, lambda: peer_model(image), peer_model, image)
    images, masks = torch.rand(4, 3, SIZE, SIZE), torch.randint(0, CLASSES, (4, SIZE, SIZE))
    criterion = nn.CrossEntropyLoss()
    batch = {"image": images, "targets/seg": masks}
    what = f"training step, masks of resnet18 at {SIZE}, batch 4"
    yield _training(what, peer, ours, batch, peer_model, lambda: criterion(peer_model(images), masks))


def detection_rows() -> Iterator[Row]:
    """The FCOS head of brickyard and of torchvision, on the same resnet18 and pyramid levels."""
    from torchvision.models.detection import FCOS  # noqa: PLC0415
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone  # noqa: PLC0415
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7  # noqa: PLC0415

    ours = brickyard.create_model("resnet18_det", num_classes=CLASSES)
    body = resnet_fpn_backbone(
        backbone_name="resnet18",
        weights=None,
        norm_layer=nn.BatchNorm2d,
        trainable_layers=5,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )
    peer_model = FCOS(body, num_classes=CLASSES, min_size=SIZE, max_size=SIZE)
    peer = "torchvision's FCOS"
    image = torch.rand(1, 3, SIZE, SIZE)
    yield _inference(
        f"boxes of resnet18 at {SIZE}, batch 1", peer, ours, lambda: peer_model([image[0]]), peer_model, image
    )
    images = torch.rand(4, 3, SIZE, SIZE)
    truth = [{"boxes": torch.tensor([[20.0, 30, 120, 150]]), "labels": torch.tensor([3])} for _ in images]
    batch = {"image": images, "targets/det": truth}
    what = f"training step, boxes of resnet18 at {SIZE}, batch 4"
    yield _training(what, peer, ours, batch, peer_model, lambda: sum(peer_model(list(images), truth).values()))


def export_rows() -> Iterator[Row]:
    """The exported model in onnxruntime against the same model in torch; the time of compilation and export."""
    model = brickyard.create_model("resnet18_cls_seg_det").eval()
    image = torch.rand(1, 3, 224, 224)
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "model.onnx"
        start = time.perf_counter()
        brickyard.export_onnx(model, file)
        exporting = time.perf_counter() - start
        session = OnnxSession(file, threads=1)
        names = list(session({"image": image.numpy()}))
        brickyard.export_onnx(model, Path(name) / "parts", split=True, check=False)
        parts = open_onnx(Path(name) / "parts", threads=1)
        what, run_parts = "three tasks of resnet18 at 224, exported in parts", lambda: parts({"image": image.numpy()})
        yield compare(what, "exported as one file", run_parts, lambda: session({"image": image.numpy()}), rounds=30)
        with torch.inference_mode():
            eager = lambda: model({"image": image}, outputs=names)  # noqa: E731
            ours = lambda: session({"image": image.numpy()})  # noqa: E731
            yield compare("three tasks of resnet18 at 224, exported", "torch, eager", ours, eager, rounds=20)
            start = time.perf_counter()
            compiled = torch.compile(model, fullgraph=True)
            compiled({"image": image}, outputs=names)
            compiling = time.perf_counter() - start
            run = lambda: compiled({"image": image}, outputs=names)  # noqa: E731
            yield compare("three tasks of resnet18 at 224, compiled", "torch, eager", run, eager, rounds=20)
        backbone = model["backbone"].model
        start = time.perf_counter()
        torch.onnx.export(backbone, (image,), str(Path(name) / "b.onnx"), dynamo=True, verbose=False)
        yield row_of(
            "export three tasks, with checks",
            "torch.onnx.export of the backbone only",
            [exporting],
            [time.perf_counter() - start],
            unit="s",
            note="brickyard exports three heads and a decoder, too",
        )
        torch.compiler.reset()
        start = time.perf_counter()
        with torch.inference_mode():
            torch.compile(backbone, fullgraph=True)(image)
        yield row_of(
            "compile three tasks",
            "torch.compile of the backbone only",
            [compiling],
            [time.perf_counter() - start],
            unit="s",
            note="brickyard exports three heads and a decoder, too",
        )


def sharing_rows() -> Iterator[Row]:
    """The bytes that a swap downloads, against the whole model."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        brickyard.create_model("resnet18_cls_seg_det").save_pretrained(folder)
        sizes = {
            file.relative_to(folder).as_posix(): file.stat().st_size for file in folder.rglob("*") if file.is_file()
        }
    for head in ("cls", "seg", "det"):
        moved = sum(sizes[f"{head}/head{ending}"] for ending in (".json", ".json", ".safetensors"))
        what = f"bytes downloaded by a swap of {head}"
        yield row_of(what, "the whole resnet18_cls_seg_det", [moved], [sum(sizes.values())], unit="MB")


_PEAK = """
import sys, torch, brickyard
from pathlib import Path
torch.set_num_threads(1)
model = brickyard.create_model("resnet18_cls_seg_det").eval()
image = torch.rand(16, 3, 256, 256)
status = lambda: Path("/proc/self/status").read_text().splitlines()
held = lambda key: int(next(line for line in status() if key in line).split()[1])
Path("/proc/self/clear_refs").write_text("5")  # resets the peak
before = held("VmRSS")
with torch.inference_mode():
    outputs = ["cls/class_prediction", "seg/class_prediction", "det/boxes"] if sys.argv[1] == "pruned" else None
    model({"image": image}, tags=brickyard.Stage.INFERENCE.tags, outputs=outputs)
print(held("VmHWM") - before)
"""


def memory_rows() -> Iterator[Row]:
    """The increase of the peak memory in a call, with selected outputs and with all values; on Linux."""
    if sys.platform != "linux":
        return

    def peak(kind: str) -> float:
        process = subprocess.run([sys.executable, "-c", _PEAK, kind], check=True, capture_output=True, text=True)
        return float(process.stdout) * 1024

    measurements = [(peak("pruned"), peak("all")) for _ in range(3)]
    selected, everything = (list(side) for side in zip(*measurements, strict=True))
    what = "peak memory, three tasks of resnet18 at 256, batch 16, outputs="
    yield row_of(what, "all values kept", selected, everything, unit="MB")


def _inference(what: str, peer: str, ours: BrickCollection, peer_run: Any, peer_model: nn.Module, image: Tensor) -> Row:
    ours.eval()
    peer_model.eval()
    tags = brickyard.Stage.INFERENCE.tags
    with torch.inference_mode():
        row = compare(what, peer, lambda: ours({"image": image}, tags=tags), peer_run, rounds=20)
    ours.train()
    peer_model.train()
    return row


def _training(
    what: str, peer: str, ours: BrickCollection, batch: dict[str, Any], peer_model: nn.Module, peer_loss: Any
) -> Row:
    tags = {"MODEL", "LOSS"}

    def brickyard_step() -> None:
        ours.zero_grad()
        torch.stack(list(ours.extract_losses(ours(batch, tags=tags)).values())).sum().backward()

    def peer_step() -> None:
        peer_model.zero_grad()
        peer_loss().backward()

    return compare(what, peer, brickyard_step, peer_step, rounds=8)
