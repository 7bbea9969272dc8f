"""The heads that DINOv2 was published with (https://github.com/facebookresearch/dinov2), on timm's DINOv2 backbones.

Every head was trained on the frozen backbone, so all heads of a size share one. Metrics are those of the model card;
hashes of the files are known for some.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import final

from torchvision.models.segmentation import FCN_ResNet50_Weights

from brickyard.importers.ade20k import ADE20K
from brickyard.importers.entry import ImportEntry, Prefix
from brickyard.parts.backbones import imagenet_classes

_LICENCE = "apache-2.0"
_ADDRESS = "https://dl.fbaipublicfiles.com/dinov2"
_SIZE = (518, 518)  # of the images that the backbones were trained on last, 37 x 37 patches
_FLOAT = 4  # bytes
_MOMENTS = 3  # the files of dense heads have Adam's two moments of each weight, too
_BINS = 256
_VOC = ("background", *FCN_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1.meta["categories"][1:])


@final
class _Labels(Mapping[str, tuple[str, ...]]):
    """Class names by head, made when they are used: those of ImageNet are in timm, which takes a while to import.

    Args:
        makers: A function for each head that returns its class names.
    """

    def __init__(self, makers: Mapping[str, Callable[[], tuple[str, ...]]]) -> None:
        self.makers = makers

    def __getitem__(self, head: str) -> tuple[str, ...]:
        return self.makers[head]()

    def __iter__(self) -> Iterator[str]:
        return iter(self.makers)

    def __len__(self) -> int:
        return len(self.makers)


@final
@dataclass(frozen=True)
class _Model:
    """A size of DINOv2.

    Attributes:
        source: Its name in the addresses of DINOv2's files.
        timm: timm's name, with a field for registers.
        width: C of its tokens.
        accuracy: The accuracy of a linear classifier on ImageNet-1k in percent, without and with registers.
        rmse: The RMSE of `linear4` on NYU Depth v2 in metres.
        miou: The mean IoU of `ms` on ADE20K in percent, evaluated at several scales.
        dpt: The number of parameters of its DPT head.
    """

    source: str
    timm: str
    width: int
    accuracy: tuple[float, float]
    rmse: float
    miou: float
    dpt: int


_MODELS = (
    _Model("vits14", "vit_small_patch14{}_dinov2", 384, (81.1, 80.9), 0.417, 47.2, 13_961_377),
    _Model("vitb14", "vit_base_patch14{}_dinov2", 768, (84.5, 84.6), 0.362, 51.3, 24_193_921),
    _Model("vitl14", "vit_large_patch14{}_dinov2", 1024, (86.3, 86.7), 0.333, 53.1, 34_190_017),
    _Model("vitg14", "vit_giant_patch14{}_dinov2", 1536, (86.5, 87.1), 0.298, 53.0, 61_800_769),
)
_SHA256 = {
    "vits14_linear": "74d2e1e9e662cd2f614edb87866352fd956d0377f62ff2ba110e1e5e848b65b5",
    "vits14_ade20k_linear": "67e10225e0bf1e2c6e8bc9e07020211ab58cbb4aa14efbaa32c52914931c4ade",
    "vits14_nyu_linear": "6062f6789bf73ac06458c1e6c6cb067790da09c78004a33245207f0ad5f7e93c",
    "vitb14_linear": "ea23eb0617ddd9e67ebfb007474d6de446ac58c50da08070bc2525eb5d57ca17",
    "vitb14_ade20k_linear": "7c3545c3a6f79ccc130d075dfe66e84f8c32d72d2acd31fc218f8a15cd2c7b23",
    "vitb14_nyu_linear": "2ce8ccb154437ca5761d16d0609144828ed273afeb73bb776a388650e5e0b339",
    "vitl14_linear": "5b499079fe2c85b6b5d72cc01fe31f192e30302ef8e9c6d999a9513425abd5f1",
    "vitl14_ade20k_linear": "59137f319d7e83c79f3253ab7bf63041f1f884e54ba865a2c7ef0046655306a0",
    "vitl14_nyu_linear": "a853f7dcea0c1e1243cb21b4629b8c61787be9bda51b1f22678aeb8307d82cbf",
}
_RANGES = {"nyu": 10.0, "kitti": 80.0}  # the largest depth in metres


def _backbone(name: str) -> ImportEntry:
    """Describe timm's weights of a backbone, by timm's name."""
    return ImportEntry(
        source=f"hf://timm/{name}.lvd142m/backbone",
        name=f"{name}.lvd142m",
        labels={},
        metrics={},
        licence=_LICENCE,
        url=f"https://huggingface.co/timm/{name}.lvd142m/resolve/main/model.safetensors",
        size=0,
        image_size=_SIZE,
        resize_mode=None,
        prefixes=(Prefix("", "backbone"),),
    )


def _entry(
    model: _Model,
    file: str,
    head: str,
    data: str,
    *,
    registers: str = "",
    labels: Callable[[], tuple[str, ...]],
    metrics: Mapping[str, float],
    prefixes: tuple[Prefix, ...],
    size: int,
    parts: Mapping[str, float] | None = None,
) -> ImportEntry:
    """Describe a head.

    Args:
        model: The size.
        file: The end of the file's name, such as "ade20k_linear".
        head: The head in the name of the model, such as "seg-linear".
        data: The data in the weights tag, such as "ade20k".
        registers: "_reg4" for a backbone with registers.
        labels: A function that returns the class names.
        metrics: Those of the model card.
        prefixes: Which tensors go where.
        size: The bytes of the weights in the file.
        parts: Further arguments of the head's part.
    """
    task, name = head.partition("-")[0], model.timm.format(registers)
    stem = f"{model.source}{registers}_{file}"
    return ImportEntry(
        source=f"dinov2:{stem}",
        name=f"{name}_{head}.dinov2_{data}",
        labels=_Labels({task: labels}),
        metrics={task: metrics},
        licence=_LICENCE,
        url=f"{_ADDRESS}/dinov2_{model.source}/dinov2_{stem}_head.pth",
        size=size,
        image_size=_SIZE,
        resize_mode=None if task == "cls" else "letterbox",
        prefixes=prefixes,
        parts={} if parts is None else {f"{task}/head": parts},
        sha256=_SHA256.get(stem),
        backbone=_backbone(name),
    )


def _classification(model: _Model, layers: int, registers: str = "") -> ImportEntry:
    return _entry(
        model,
        "linear" if layers == 1 else f"linear{layers}",
        f"cls-linear{layers}",
        "in1k",
        registers=registers,
        labels=imagenet_classes,
        metrics={"accuracy ImageNet-1k (linear)": model.accuracy[bool(registers)]},
        prefixes=(Prefix("", "cls/head", "fc."),),
        size=_FLOAT * 1000 * ((layers + 1) * model.width + 1),
    )


def _segmentation(model: _Model, kind: str, data: str, classes: tuple[str, ...]) -> ImportEntry:
    layers = 1 if kind == "linear" else 4
    norm, weights = 2 * layers * model.width, len(classes) * (layers * model.width + 1)
    return _entry(
        model,
        f"{data}_{kind}",
        "seg-linear" if layers == 1 else f"seg-linear{layers}",
        data,
        labels=lambda: classes,
        metrics={"mIoU ADE20K (multiscale)": model.miou} if (data, kind) == ("ade20k", "ms") else {},
        prefixes=(
            Prefix("decode_head.bn.", "seg/head", "norm."),
            Prefix("decode_head.conv_seg.", "seg/head", "classifier."),
        ),
        size=_FLOAT * (_MOMENTS * (weights + norm) + norm),
    )


def _depth(model: _Model, kind: str, data: str) -> ImportEntry:
    layers = 4 if kind == "linear4" else 1
    parameters = model.dpt if kind == "dpt" else _BINS * (2 * layers * model.width + 1)
    return _entry(
        model,
        f"{data}_{kind}",
        f"depth-{kind}",
        data,
        labels=lambda: ("depth",),
        metrics={"RMSE NYU-D (linear 4 layers)": model.rmse} if (data, kind) == ("nyu", "linear4") else {},
        prefixes=_DPT if kind == "dpt" else (Prefix("decode_head.conv_depth.", "depth/head", "score."),),
        size=_FLOAT * _MOMENTS * parameters,
        parts={"max_depth": _RANGES[data]},
    )


def _combined(model: _Model) -> ImportEntry:
    """Describe the model of the best head of each task on one backbone."""
    heads = (
        _classification(model, 4),
        _depth(model, "dpt", "nyu"),
        _segmentation(model, "ms", "ade20k", ADE20K),
    )
    name = model.timm.format("")
    return ImportEntry(
        source=f"dinov2:{model.source}",
        name=f"{name}_cls-linear4_depth-dpt_seg-linear4.dinov2_ade20k_nyu",
        labels=_Labels({head: partial(entry.labels.__getitem__, head) for entry in heads for head in entry.labels}),
        metrics={head: values for entry in heads for head, values in entry.metrics.items()},
        licence=_LICENCE,
        url=f"{_ADDRESS}/dinov2_{model.source}/",
        size=sum(entry.size for entry in heads),
        image_size=_SIZE,
        resize_mode="letterbox",
        prefixes=(),
        backbone=_backbone(name),
        combines=heads,
    )


def _dpt_prefixes() -> Iterator[Prefix]:
    """Yield which tensors of a DPT head go where."""

    def prefix(source: str, target: str) -> Prefix:
        return Prefix(f"decode_head.{source}.", "depth/head", f"{target}.")

    for level in range(4):
        yield prefix(f"reassemble_blocks.readout_projects.{level}", f"readouts.{level}")
        yield prefix(f"reassemble_blocks.projects.{level}.conv", f"projections.{level}")
        yield prefix(f"reassemble_blocks.resize_layers.{level}", f"resizes.{level}")
        yield prefix(f"convs.{level}.conv", f"laterals.{level}")
        yield prefix(f"fusion_blocks.{level}.project.conv", f"fusions.{level}.project")
        for theirs, ours in (("res_conv_unit1", "skip"), ("res_conv_unit2", "refine")):
            yield prefix(f"fusion_blocks.{level}.{theirs}.conv1.conv", f"fusions.{level}.{ours}.first")
            yield prefix(f"fusion_blocks.{level}.{theirs}.conv2.conv", f"fusions.{level}.{ours}.second")
    yield prefix("project.conv", "smooth.0")
    yield prefix("conv_depth.head", "depth")


_DPT = tuple(_dpt_prefixes())

ENTRIES = tuple(
    entry
    for model in _MODELS
    for entry in (
        _combined(model),
        *(_classification(model, layers, registers) for registers in ("", "_reg4") for layers in (1, 4)),
        *(
            _segmentation(model, kind, data, classes)
            for data, classes in (("ade20k", ADE20K), ("voc2012", _VOC))
            for kind in ("linear", "ms")
        ),
        *(_depth(model, kind, data) for data in _RANGES for kind in ("linear", "linear4", "dpt")),
    )
)
