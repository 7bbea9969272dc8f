"""Where trained models lie on this machine: the zoo that the package carries, and the folders of `BRICKYARD_ZOO`."""

from __future__ import annotations

import os
from pathlib import Path

from brickyard.errors import UnknownNameError
from brickyard.parts.backbones import timm_tags
from brickyard.recipe.names import Recipe
from brickyard.storage.manifest import MANIFEST

_PACKAGE = Path(__file__).parents[2]


def zoo_folders() -> dict[str, Path]:
    """Every trained model by its name, the package's own first."""
    found: dict[str, Path] = {}
    for root in _roots():
        for manifest in sorted(root.glob(f"*/{MANIFEST}")):
            found.setdefault(manifest.parent.name, manifest.parent)
    return found


def find_in_zoo(stem: str, weights: str | None) -> Path | None:
    """The folder of a trained model.

    Args:
        stem: The model's name without weights tag.
        weights: The tag, None for the first there is.
    """
    folders = zoo_folders()
    if weights is not None:
        return folders.get(f"{stem}.{weights}")
    return next((folder for name, folder in folders.items() if name.partition(".")[0] == stem), None)


def check_tag(recipe: Recipe) -> None:
    """Refuse a weights tag that neither the zoo nor timm knows."""
    known = timm_tags(recipe.backbone)
    if recipe.weights is not None and recipe.weights not in known:
        zoo = [name.partition(".")[2] for name in zoo_folders() if name.startswith(f"{recipe.stem}.")]
        raise UnknownNameError(f"weights of '{recipe.stem}'", recipe.weights, [*zoo, *known])


def _roots() -> list[Path]:
    carried = [_PACKAGE / "zoo", _PACKAGE.parents[1] / "zoo"]  # in a wheel; in a checkout, beside src/
    named = os.environ.get("BRICKYARD_ZOO", "").split(os.pathsep)
    return [*(root for root in carried if root.is_dir()), *(Path(root).expanduser() for root in named if root)]
