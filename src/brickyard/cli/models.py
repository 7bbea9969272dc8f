"""Load the model that an argument of a command names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import brickyard

if TYPE_CHECKING:
    from brickyard.collection import BrickCollection


def locate(name: str) -> str:
    """Return the source that a name means in the current folder; see `brickyard.storage.sources.uri.locate`."""
    from brickyard.storage.sources import uri  # noqa: PLC0415 - it loads torch, and --help must be fast

    return uri.locate(name)


def is_exported(name: str) -> bool:
    """Return whether a name is an exported file or folder; see `brickyard.storage.sources.uri.is_exported`."""
    from brickyard.storage.sources import uri  # noqa: PLC0415

    return uri.is_exported(name)


def tasks_of(model: BrickCollection | str) -> dict[str, str]:
    """Return the task of each head of a model, none of an exported file."""
    from brickyard.recipe.inspection import heads_of  # noqa: PLC0415 - it loads torch, and --help must be fast

    return {} if isinstance(model, str) else {head: info.task for head, info in heads_of(model.bricks()).items()}


def image_options(model: BrickCollection | str, image_size: int | tuple[int, int] | None) -> dict[str, Any]:
    """Return the arguments of `open_data` for the images that a model or an exported file takes.

    Args:
        model: The model, or the path of the file.
        image_size: Another size in pixels, None for that of the model.
    """
    from brickyard.training.evaluation import input_of  # noqa: PLC0415 - it loads torch, and --help must be fast

    images = input_of(model)
    if images is None:
        return {"image_size": image_size}
    return {"image_size": image_size or images.size, "resize_mode": images.resize_mode}


def frozen_bricks(model: BrickCollection) -> list[str]:
    """Return the paths of the frozen bricks with parameters."""
    from brickyard.recipe.inspection import frozen_of  # noqa: PLC0415

    return frozen_of(model.bricks())


def load_trained(name: str) -> BrickCollection:
    """Load the trained model of a name, a folder, a repo or a lock."""
    return brickyard.create_model(locate(name), pretrained=True)
