"""Draw the masks and key points of detected objects on an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from brickyard.parts.drawing.boxes import DrawBoxes
from brickyard.parts.drawing.canvas import FARTHEST, Color, Entry, class_colors, row_height, to_image, with_legend
from brickyard.parts.instances.mask_images import paste_mask

_OPACITY = 0.5  # of a mask; its border has the full colour
_NEIGHBOURS = np.s_[:-2, 1:-1], np.s_[2:, 1:-1], np.s_[1:-1, :-2], np.s_[1:-1, 2:]  # of an array padded by 1
_OUTLINE: Color = (0, 0, 0)


@final
class DrawInstances:
    """Draw objects: a translucent mask in the colour of its class, or key points joined by the skeleton, and the box.

    Boxes, tags and the legend of the classes are those of `DrawBoxes`; a legend of the key points is below.

    Args:
        labels: The K class names.
        keypoints: The J names of the key points.
        skeleton: The pairs of indices of key points that are joined by a line.
        score_threshold: Objects and key points with a lower score are not drawn.
    """

    def __init__(
        self,
        labels: Sequence[str],
        keypoints: Sequence[str] = (),
        skeleton: Sequence[Sequence[int]] = (),
        score_threshold: float = 0.3,
    ) -> None:
        self.keypoints = tuple(keypoints)
        self.skeleton = tuple((first, second) for first, second in skeleton)
        self.draw_boxes = DrawBoxes(labels, score_threshold)
        self.point_threshold = score_threshold
        self._point_colors = class_colors(self.keypoints)

    @property
    def score_threshold(self) -> float:
        """The lowest score of an object that is drawn."""
        return self.draw_boxes.score_threshold

    @score_threshold.setter
    def score_threshold(self, value: float) -> None:
        self.draw_boxes.score_threshold = value

    def __call__(
        self,
        image: npt.NDArray[Any],
        boxes: npt.NDArray[Any],
        scores: npt.NDArray[Any],
        labels: npt.NDArray[Any],
        masks: npt.NDArray[Any] | None = None,
        keypoints: npt.NDArray[Any] | None = None,
    ) -> Image.Image:
        """Draw the objects of one image.

        Args:
            image: (H, W, C), C 1 or 3, uint8 or float in [0, 1].
            boxes: (N, 4), or its transpose, as for `DrawBoxes`.
            scores: (N,), in [0, 1], best first.
            labels: (N,), in [0, K), or -1 for padding.
            masks: (h, w, N), in [0, 1], which cover the image, as `BrickPerImageVisualization` passes (B, N, h, w).
            keypoints: (J, 3, N): x, y in pixels and score, as it passes (B, N, J, 3). A point that is not finite, or
                far away, is not drawn.

        Returns:
            The visualization: the image with legends below if there are objects, then at least 320 pixels wide.
        """
        canvas = to_image(image)
        rows = boxes if boxes.shape == (len(scores), 4) else boxes.T
        is_shown = (scores >= self.score_threshold) & (labels >= 0) & (np.abs(rows) < FARTHEST).all(axis=1)
        shown = [int(index) for index in np.flatnonzero(is_shown)]
        for index in reversed(shown):  # the highest score last, on top
            if masks is not None:
                pixels = paste_mask(masks[..., index], rows[index], (canvas.height, canvas.width))
                canvas = _tinted(canvas, pixels, self.draw_boxes.colors[labels[index]])
        if keypoints is not None:
            for index in reversed(shown):
                self._draw_points(canvas, keypoints[..., index])
        drawn = self.draw_boxes(np.asarray(canvas), boxes, scores, labels)
        entries = zip(self.keypoints, self._point_colors, strict=True)
        return with_legend(drawn, [Entry(name, color=color) for name, color in entries] if shown else [])

    def _draw_points(self, canvas: Image.Image, points: npt.NDArray[Any]) -> None:
        """Draw the key points (J, 3) of one object."""
        draw = ImageDraw.Draw(canvas)
        radius = max(1.5, row_height(canvas) / 6)
        is_shown = (points[:, 2] >= self.point_threshold) & (np.abs(points[:, :2]) < FARTHEST).all(axis=1)
        places = [(float(x), float(y)) for x, y in points[:, :2]]
        for first, second in self.skeleton:
            if is_shown[first] and is_shown[second]:
                draw.line((*places[first], *places[second]), fill=self._point_colors[second], width=round(radius))
        for index in np.flatnonzero(is_shown):
            x, y = places[index]
            for size, color in ((radius + 1, _OUTLINE), (radius, self._point_colors[index])):
                draw.ellipse((x - size, y - size, x + size, y + size), fill=color)


def _tinted(image: Image.Image, pixels: npt.NDArray[np.bool_], color: Color) -> Image.Image:
    above, below, left, right = (np.pad(pixels, 1)[rows] for rows in _NEIGHBOURS)
    opacity = np.where(above & below & left & right, _OPACITY, 1.0)[..., None] * pixels[..., None]
    mixed = np.asarray(image) * (1 - opacity) + np.array(color) * opacity
    return Image.fromarray(np.rint(mixed).astype(np.uint8))
