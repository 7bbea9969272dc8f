"""Trained models on this machine: the zoo in the package, and the folders in `BRICKYARD_ZOO`."""

from __future__ import annotations

import os
from pathlib import Path

from brickyard.errors import UnknownNameError
from brickyard.parts.backbones import timm_tags
from brickyard.recipe.recipe import Recipe
from brickyard.storage.manifest import MANIFEST
from brickyard.storage.sources.files import DEFAULT_ACCESS, Access, FolderFiles

_PACKAGE = Path(__file__).parents[2]


def zoo_folders() -> dict[str, Path]:
    """Return the folder of every trained model by name, those of the package first."""
    folders: dict[str, Path] = {}
    for root in _roots():
        for manifest in sorted(root.glob(f"*/{MANIFEST}")):
            folders.setdefault(manifest.parent.name, manifest.parent)
    return folders


def open_zoo(name: str, access: Access = DEFAULT_ACCESS) -> FolderFiles:
    """Open a model of the zoo by the name of its folder.

    Raises:
        UnknownNameError: There is no such model.
    """
    folders = zoo_folders()
    if name not in folders:
        raise UnknownNameError("zoo model", name, folders)
    return FolderFiles(folders[name], access, name)


def find_in_zoo(stem: str, weights: str | None, access: Access = DEFAULT_ACCESS) -> FolderFiles | None:
    """Open the trained model of a model name, None if there is none.

    Args:
        stem: The model's name without weights tag, as `Recipe.stem` spells it.
        weights: The weights tag, None for the default: the first in the zoo.
        access: How the Hub is accessed for references to it.
    """
    names = [name for name in zoo_folders() if name.partition(".")[0] == stem]
    if weights is not None:
        names = [name for name in names if name == f"{stem}.{weights}"]
    return open_zoo(names[0], access) if names else None


def check_tag(recipe: Recipe) -> None:
    """Raise `UnknownNameError` for a weights tag that neither the zoo nor timm has."""
    known = timm_tags(recipe.backbone)
    if recipe.weights is not None and recipe.weights not in known:
        zoo = [name.partition(".")[2] for name in zoo_folders() if name.startswith(f"{recipe.stem}.")]
        raise UnknownNameError(f"weights of '{recipe.stem}'", recipe.weights, [*zoo, *known])


def _roots() -> list[Path]:
    carried = [_PACKAGE / "zoo", _PACKAGE.parents[1] / "zoo"]  # in a wheel; in a checkout
    named = os.environ.get("BRICKYARD_ZOO", "").split(os.pathsep)
    return [*(root for root in carried if root.is_dir()), *(Path(root).expanduser() for root in named if root)]
