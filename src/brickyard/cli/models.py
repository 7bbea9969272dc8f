"""Load the model that an argument of a command names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import brickyard

if TYPE_CHECKING:
    from brickyard.collection import BrickCollection
    from brickyard.core.specs import ResizeMode


def locate(name: str) -> str:
    """Return the source that a name means in the current folder; see `brickyard.storage.sources.uri.locate`."""
    from brickyard.storage.sources import uri  # noqa: PLC0415 - it loads torch, and --help must be fast

    return uri.locate(name)


def resize_mode_of(model: BrickCollection | str) -> ResizeMode:
    """Return how the images of a model or an exported file are resized; see `brickyard.training.evaluation`."""
    from brickyard.training import evaluation  # noqa: PLC0415 - it loads torch, and --help must be fast

    return evaluation.resize_mode_of(model)


def image_size_of(model: BrickCollection | str) -> tuple[int, int] | None:
    """Return the image size of a model or an exported file; see `brickyard.training.evaluation.image_size_of`."""
    from brickyard.training import evaluation  # noqa: PLC0415

    return evaluation.image_size_of(model)


def frozen_bricks(model: BrickCollection) -> list[str]:
    """Return the paths of the frozen bricks with parameters."""
    from brickyard.recipe.inspection import frozen_of  # noqa: PLC0415

    return frozen_of(model.bricks())


def load_trained(name: str) -> BrickCollection:
    """Load the trained model of a name, a folder, a repo or a lock."""
    return brickyard.create_model(locate(name), pretrained=True)
