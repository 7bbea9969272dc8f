"""The models of a site: what is stored about them, their sample images, and which of their heads fit which backbone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from brickyard.catalog import ModelInfo, find_stored, model_info
from brickyard.core.names import prefix_of
from brickyard.data.images import find_images
from brickyard.errors import BrickInputError
from brickyard.importers.entry import ImportEntry
from brickyard.recipe.inspection import BACKBONE
from brickyard.storage.fit import Backbone, BrickInfo, Check, closest_fit
from brickyard.storage.read import read_bricks
from brickyard.storage.sources.files import FolderFiles
from brickyard.storage.sources.uri import is_exported, locate

_SAMPLES = Path(__file__).parents[1] / "samples"
_MOST_SAMPLES = 6  # images of a model
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


@final
@dataclass(frozen=True)
class SiteModel:
    """A model of a site.

    Attributes:
        location: The source that it is loaded from on this machine.
        source: The source in the lines that a reader copies; a folder of this machine becomes `path/to/<name>`.
        folder: The name of its folder in the site.
        info: The description of the model.
        bricks: The JSON of each brick by path.
        samples: Image files of what the model is for; those that the package ships if its folder has none.
    """

    location: str
    source: str
    folder: str
    info: ModelInfo
    bricks: Mapping[str, BrickInfo]
    samples: Sequence[Path]

    @property
    def name(self) -> str:
        """The name that is shown."""
        return self.info.name

    @property
    def size(self) -> int:
        """The bytes of the stored weights."""
        return sum((brick.weights or {}).get("size") or 0 for brick in self.bricks.values())

    @property
    def heads(self) -> dict[str, BrickInfo]:
        """The JSON of each head by its name."""
        return {prefix_of(path): brick for path, brick in self.bricks.items() if brick.task is not None}

    @property
    def backbone(self) -> Backbone:
        """The backbone that heads are compared with."""
        brick = self.bricks[BACKBONE]
        return Backbone(brick.provides, (brick.weights or {}).get("sha256"))

    def head_source(self, head: str) -> str:
        """Return the source of a head that `BrickCollection.swap` takes."""
        is_name = "/" not in self.source and ":" not in self.source
        return f"{'zoo://' if is_name else ''}{self.source}/{head}"


@final
@dataclass(frozen=True)
class Fit:
    """How a head of a model of the site fits a backbone.

    Attributes:
        model: The model of the head.
        head: The name of the head.
        check: The strictest check by which it fits, None if it does not fit.
    """

    model: SiteModel
    head: str
    check: Check | None


def read_models(sources: Iterable[str | os.PathLike[str]]) -> list[SiteModel]:
    """Read what is stored about models, without weights.

    Args:
        sources: Names of trained models, folders, locks or repos of the Hub.

    Raises:
        BrickInputError: A source is no stored model, or one without a backbone.
        The exceptions of `model_info`.
    """
    models: list[SiteModel] = []
    for source in dict.fromkeys(os.fspath(source) for source in sources):
        models.append(_read_model(source, {model.folder for model in models}))
    return models


def fits_of(backbone: Backbone, models: Iterable[SiteModel]) -> list[Fit]:
    """Compare every head of the models with a backbone, in the order of the models."""
    return [
        Fit(model, name, closest_fit(head.config, backbone)[0])
        for model in models
        for name, head in model.heads.items()
    ]


def _read_model(source: str, taken: set[str]) -> SiteModel:
    location = locate(source)
    if is_exported(location):
        hint = "Pass the model that it was exported from: the page exports it."
        raise BrickInputError(source, "a stored model", "an exported file", hint)
    files, name = find_stored(location)
    if files is None or isinstance(files, ImportEntry):
        hint = "Save it first, with save_pretrained or `brickyard import`."
        raise BrickInputError(source, "a stored model: one of the zoo, a folder or a repo", "none", hint)
    info = model_info(location)
    bricks = {path: brick.with_hashes().info for path, brick in read_bricks(files)[1].items()}
    shown = name or source
    if location.startswith("local-dir:"):
        shown = f"path/to/{Path(location).name}"
    samples = _samples(files.folder) if isinstance(files, FolderFiles) else []
    return SiteModel(
        location, shown, _folder_name(info.name, taken), info, bricks, samples or sorted(_SAMPLES.glob("*.jpg"))
    )


def _samples(folder: Path) -> list[Path]:
    """Return the first images in a model's folder."""
    try:
        return find_images([folder])[:_MOST_SAMPLES]
    except BrickInputError:  # it has none
        return []


def _folder_name(name: str, taken: set[str]) -> str:
    """Return a name for a model's folder in the site that is valid in URLs and on every file system."""
    safe = _UNSAFE.sub("-", name).strip(".-")[:100] or "model"
    folder, number = safe, 2
    while folder.lower() in {other.lower() for other in taken}:
        folder, number = f"{safe}-{number}", number + 1
    return folder
