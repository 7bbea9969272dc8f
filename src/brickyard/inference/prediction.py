"""The prediction for one image: its results as JSON values, as an image and as `supervision.Detections`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy.typing as npt
from PIL import Image

from brickyard.errors import BrickInputError
from brickyard.inference.detections import to_detections
from brickyard.inference.masks import with_masks
from brickyard.storage.atomic import write_atomically

if TYPE_CHECKING:
    import supervision as sv


@final
@dataclass(frozen=True)
class Prediction:
    """The prediction for one image.

    Attributes:
        name: The path or URL of the image, or its position, such as "sources[2]".
        file: The image file, None for a URL or an image in memory.
        size: (width, height) in pixels after EXIF rotation; (0, 0) if the image could not be read.
        results: For each head the results of its task, best first; see `Task.results`.
        masks: For each segmentation head the class of each pixel of the original image, (height, width) integers; -1
            where the class was not selected.
        visualization: The image with the results of every head drawn on it; None if nothing was drawn.
        error: Why the image could not be read, or None.
        located: The heads whose results have a box or a mask.
    """

    name: str
    file: Path | None = None
    size: tuple[int, int] = (0, 0)
    results: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    masks: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    visualization: Image.Image | None = None
    error: str | None = None
    located: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return everything except the visualization, as JSON values; masks as run lengths, see `with_masks`."""
        if self.error is not None:
            return {"file": self.name, "error": self.error}
        return {
            "file": self.name,
            "width": self.size[0],
            "height": self.size[1],
            **with_masks(self.results, self.masks),
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the visualization to an image file, atomically; an existing file is replaced.

        Args:
            path: The file, whose folder is created if needed; its suffix is that of the format: ".png", ".jpg", ...

        Raises:
            BrickInputError: Nothing was drawn, or Pillow does not write files of this suffix.
        """
        file, drawn = Path(path).expanduser(), self._drawn()
        if Image.registered_extensions().get(file.suffix.lower()) not in Image.SAVE:
            raise BrickInputError(f"{file}", "the suffix of an image, e.g. .png", f"'{file.suffix}'")
        file.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(file) as temp:
            drawn.save(temp)

    def show(self) -> None:
        """Show the visualization in the image viewer of the system.

        Raises:
            BrickInputError: Nothing was drawn.
        """
        self._drawn().show(title=self.name)

    def to_supervision(self, head: str | None = None) -> sv.Detections:
        """Convert the results of a head to `supervision.Detections`, for its trackers, zones and annotators.

        Args:
            head: The name of a head with boxes or masks, None for the only one.

        Returns:
            One detection for each result, in order: `xyxy` in pixels of the original image, those around the mask where
            a result has no box; `mask` (N, H, W) bool of results with pixels; `class_id`; `confidence`, None of results
            without a score; and the class names as `data["class_name"]`.

        Raises:
            MissingExtraError: The extra `supervision` is not installed.
            UnknownNameError: There is no such head.
            BrickInputError: The head has neither boxes nor masks, several have and `head` is None, or the image could
                not be read.
        """
        if self.error is not None:
            raise BrickInputError(self.name, "an image that could be read", self.error)
        return to_detections(with_masks(self.results, self.masks), self.located if head is None else [head])

    def _drawn(self) -> Image.Image:
        if self.visualization is None:
            found = "none" if self.error is None else self.error
            raise BrickInputError(self.name, "a visualization", found, "Predict with draw=True.")
        return self.visualization
