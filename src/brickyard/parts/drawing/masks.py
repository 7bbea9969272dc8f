"""Draw segmentation masks on an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np
import numpy.typing as npt
from PIL import Image

from brickyard.errors import BrickInputError
from brickyard.parts.drawing.canvas import UNCOLORED, Entry, class_colors, to_image, with_legend

_OPACITY = 0.5  # of a class's colour; its border has the full colour


@final
class DrawSegmentation:
    """Colour each pixel by its class, with a legend of the classes in the mask below.

    Pixels of a class named "background" are not coloured.

    Args:
        labels: The K class names.
        top: The maximum number of classes in the legend, by decreasing area.
    """

    def __init__(self, labels: Sequence[str], top: int = 12) -> None:
        self.labels = tuple(labels)
        self.top = top
        self.colors = class_colors(labels)
        self._palette = np.array(self.colors, dtype=np.uint8).reshape(-1, 3)
        self._is_colored = np.array([label != UNCOLORED for label in self.labels])

    def __call__(self, image: npt.NDArray[Any], class_prediction: npt.NDArray[Any]) -> Image.Image:
        """Draw the mask of one image.

        Args:
            image: (H, W, C), C 1 or 3, uint8 or float in [0, 1].
            class_prediction: (h, w) integers, not larger than the image. The image is unchanged to the right of it and
                below (e.g. the legend of another head), and where the class is outside [0, K).

        Returns:
            The visualization with a legend below, at least 320 pixels wide. The image is not resized.

        Raises:
            BrickInputError: The mask is larger than the image.
        """
        shown = to_image(image)
        height, width = class_prediction.shape
        if height > shown.height or width > shown.width:
            expected = f"class_prediction (H, W) within {(shown.height, shown.width)}"
            raise BrickInputError("draw_segmentation", expected, f"{(height, width)}")
        valid = (class_prediction >= 0) & (class_prediction < len(self.labels))
        pixels = np.bincount(class_prediction[valid], minlength=len(self.labels))
        order = np.argsort(-pixels, kind="stable")[: np.count_nonzero(pixels)]
        entries = [
            Entry(
                self.labels[index],
                f"{pixels[index] / valid.size:.1%}",
                self.colors[index] if self._is_colored[index] else None,
            )
            for index in order[: self.top]
        ]
        if len(order) > self.top:
            entries.append(Entry(f"and {len(order) - self.top} more", has_square=False))
        shown.paste(self._colorize(shown.crop((0, 0, width, height)), class_prediction, valid))
        return with_legend(shown, entries)

    def _colorize(self, image: Image.Image, classes: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> Image.Image:
        index = np.where(valid, classes, 0)
        opacity = np.where(valid & self._is_colored[index], np.where(_borders(classes), 1.0, _OPACITY), 0.0)[..., None]
        mixed = np.asarray(image) * (1 - opacity) + self._palette[index] * opacity
        return Image.fromarray(np.rint(mixed).astype(np.uint8))


def _borders(classes: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Mark pixels whose class differs from the pixel below or to the right."""
    borders = np.zeros(classes.shape, dtype=bool)
    borders[:-1] |= classes[:-1] != classes[1:]
    borders[:, :-1] |= classes[:, :-1] != classes[:, 1:]
    return borders
