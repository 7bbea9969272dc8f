"""A folder or repo that timm wrote, `config.json` and `model.safetensors`, presented as bricks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from brickyard.core.brick import Brick
from brickyard.errors import BrickNotFoundError, UnsafeBrickError
from brickyard.recipe.build import build
from brickyard.recipe.inspection import BACKBONE, name_of
from brickyard.recipe.recipe import HeadRecipe, Recipe
from brickyard.storage.config import describe, limit_modules, well_formed
from brickyard.storage.fit import Backbone
from brickyard.storage.manifest import MANIFEST, Entry, Manifest, check_bounded, dump
from brickyard.storage.sources.files import Check, Files
from brickyard.storage.tensor_file import read_weights
from brickyard.storage.weights import weights_sha256

CONFIG = "config.json"
_WEIGHTS = "model.safetensors"
_HEAD = "cls/head"


@final
class TimmFiles(Files):
    """timm's classifier as the bricks of `<architecture>_cls`.

    Args:
        files: With a `config.json` of timm's.
    """

    def __init__(self, files: Files) -> None:
        super().__init__(files.access)
        self._files = files
        location = f"{files.location}/{CONFIG}"
        with well_formed(location):
            config = json.loads(files.peek(CONFIG))
            if not isinstance(config, dict) or "architecture" not in config:
                raise UnsafeBrickError(f"{location} is not timm's: expected an architecture in it.")
            check_bounded(config, location)
            self._trained = dict(config.get("pretrained_cfg") or {})
            with limit_modules(location):
                self._bricks = _on_meta(config, self._trained)
            named = self._trained.get("classifier") or "fc"
            self._classifiers = tuple(f"{name}." for name in ([named] if isinstance(named, str) else named))

    @property
    def location(self) -> str:
        return self._files.location

    def peek(self, name: str) -> bytes:
        if name == MANIFEST:
            configs = {path: self.peek(f"{path}.json") for path in self._bricks}
            entries = {path: Entry(path, hashlib.sha256(text).hexdigest()) for path, text in configs.items()}
            return dump(Manifest(name_of(self._bricks), entries).to_json()).encode()
        brick = self._bricks.get(name.removesuffix(".json"))
        if brick is None:
            raise BrickNotFoundError.of(name.removesuffix(".json"), self.location, self._bricks)
        config = describe(brick)
        if brick.path == _HEAD:
            config |= Backbone(self._bricks[BACKBONE].provides, None).requirements()
        if brick.path in (BACKBONE, _HEAD):
            config["weights"] = {"sha256": None, "size": None}
            config |= {"licence": self._trained["license"]} if "license" in self._trained else {}
        return dump(config).encode()

    def file(self, name: str, size: int | None = None) -> Path:
        return self._files.file(name, size)

    def fetch(self, sizes: Mapping[str, int | None]) -> None:
        self._files.fetch({CONFIG: None})

    def uri(self, path: str) -> str | None:
        return self._files.uri(path)

    def with_hashes(self, path: str, config: Mapping[str, Any]) -> Mapping[str, Any]:
        if path not in (BACKBONE, _HEAD) or config["weights"]["sha256"] is not None:
            return config
        filled = {**config, "weights": self._weights_of(path)}
        if path == _HEAD:
            backbone = Backbone(self._bricks[BACKBONE].provides, self._weights_of(BACKBONE)["sha256"])
            filled |= backbone.requirements()
        return filled

    def tensors(self, path: str, weights: Mapping[str, Any], check: Check) -> dict[str, Tensor]:
        tensors = self._tensors_of(path)
        check(tensors)
        return tensors

    def _tensors_of(self, path: str) -> dict[str, Tensor]:
        if path == _HEAD:
            first = self._classifiers[0]
            return {key.removeprefix(first): each for key, each in self._tensors.items() if key.startswith(first)}
        return {key: each for key, each in self._tensors.items() if not key.startswith(self._classifiers)}

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        return read_weights(self._files.file(_WEIGHTS))

    def _weights_of(self, path: str) -> dict[str, Any]:
        """Return the `sha256` and `size` that the weights have as those of a brick."""
        tensors = self._tensors_of(path)
        held = nn.Module()
        held.state_dict = lambda **_: tensors  # type: ignore[method-assign,assignment]
        return {"sha256": weights_sha256(held), "size": sum(tensor.nbytes for tensor in tensors.values())}


def _on_meta(config: Mapping[str, Any], trained: Mapping[str, Any]) -> dict[str, Brick]:
    """Build the model on the meta device, with the image statistics that the weights were trained with."""
    labels = config.get("label_names") or trained.get("label_names")
    number = config.get("num_classes", trained.get("num_classes", 0))
    heads = (HeadRecipe("cls", "cls", None, number, tuple(labels) if labels else None),) if number else ()
    options = dict(config.get("model_args") or {})
    options.pop("num_classes", None)  # the classifier is a brick of its own
    recipe = Recipe(config["architecture"], heads, trained.get("tag"), options.pop("in_chans", 3), options=options)
    with torch.device("meta"):
        bricks = build(recipe)
    backbone = bricks[BACKBONE]
    if backbone.provides is not None:
        known = {key: trained[key] for key in ("interpolation", "crop_pct", "crop_mode") if key in trained}
        known |= {key: tuple(trained[key]) for key in ("mean", "std") if key in trained}
        backbone.provides = replace(backbone.provides, input=replace(backbone.provides.input, **known))
    return bricks
