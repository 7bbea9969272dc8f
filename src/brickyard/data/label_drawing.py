"""Draw a label of any kind on its image, by the drawing parts that models use for predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from brickyard.core.conversions import torch_to_numpy
from brickyard.core.specs import KeypointSpec
from brickyard.data.dataset import LabelledDataset, keypoints_of
from brickyard.data.label_kinds import TARGETS, LabelKind, visible_points
from brickyard.data.survey import class_names
from brickyard.data.transforms import Augment
from brickyard.parts.drawing.anomaly import DrawAnomaly
from brickyard.parts.drawing.boxes import DrawBoxes
from brickyard.parts.drawing.canvas import MIN_WIDTH, to_image
from brickyard.parts.drawing.classification import DrawClassification
from brickyard.parts.drawing.depth import DrawDepth
from brickyard.parts.drawing.instances import DrawInstances
from brickyard.parts.drawing.keypoints import DrawKeypoints
from brickyard.parts.drawing.masks import DrawSegmentation
from brickyard.parts.drawing.text import DrawText

_MAX_BARS = 12  # classes of a multi-label image
_Pixels = npt.NDArray[Any]


@final
@dataclass(frozen=True)
class _Info:
    """What is known of a label: the names of its classes, and its key points, None if they are not declared."""

    classes: tuple[str, ...]
    points: KeypointSpec | None


@final
class LabelDrawing:
    """Draw the labels of a data set.

    A mask that belongs to a class, `anomaly/mask` to `anomaly`, is drawn with it.

    Args:
        data: The data set.

    Attributes:
        names: The labels that are drawn.
    """

    def __init__(self, data: LabelledDataset) -> None:
        self._kinds, points = data.kinds, keypoints_of(data)
        self._info = {label: _Info(class_names(data, label), points.get(label)) for label in data.kinds}
        self.names = [label for label in data.kinds if not self._is_of_class(label)]

    def __call__(self, sample: Mapping[str, Any], label: str) -> Image.Image | None:
        """Draw a label of a sample, None if the sample lacks it."""
        value = sample.get(f"{TARGETS}{label}")
        if value is None:
            return None
        image = _array(sample["image"]).transpose(1, 2, 0)
        if self._is_of_class(f"{label}/mask"):
            return _draw_anomaly(image, value, sample.get(f"{TARGETS}{label}/mask"), self._info[label])
        return _DRAW[self._kinds[label]](image, value, self._info[label])

    def _is_of_class(self, label: str) -> bool:
        """Return whether a label is the mask of a class."""
        head, _, part = label.rpartition("/")
        is_mask = part == "mask" and self._kinds.get(label) is LabelKind.MASK
        return is_mask and self._kinds.get(head) is LabelKind.CLASS_INDEX


def enlarged(sample: Mapping[str, Any], kinds: Mapping[str, LabelKind]) -> dict[str, Any]:
    """Enlarge a small image with its labels by a whole factor, to a width at which drawings are readable."""
    height, width = (int(side) for side in sample["image"].shape[-2:])
    factor = ceil(MIN_WIDTH / width)
    return Augment((factor * height, factor * width), kinds, train=False)(sample) if factor > 1 else dict(sample)


def image_of(sample: Mapping[str, Any]) -> Image.Image:
    """Return the image of a sample without its labels."""
    return to_image(_array(sample["image"]).transpose(1, 2, 0))


def _draw_class(image: _Pixels, value: Any, info: _Info) -> Image.Image:
    return DrawClassification(info.classes)(image, _certain([int(value)], len(info.classes)))


def _draw_classes(image: _Pixels, value: Any, info: _Info) -> Image.Image:
    present = np.flatnonzero(np.asarray(value))
    return DrawClassification(info.classes, _MAX_BARS)(image, _certain(present, len(info.classes)))


def _draw_mask(image: _Pixels, value: Any, info: _Info) -> Image.Image:
    return DrawSegmentation(info.classes)(image, _array(value))


def _draw_anomaly(image: _Pixels, value: Any, mask: Any, info: _Info) -> Image.Image:
    pixels = np.zeros(image.shape[:2]) if mask is None else (_array(mask) == 1).astype(np.float64)
    return DrawAnomaly(info.classes)(image, pixels.T, float(value))


def _draw_objects(image: _Pixels, value: Any, info: _Info) -> Image.Image:
    """Draw boxes, and masks and key points where the label has them; those to ignore as classes of their own."""
    boxes, classes = _array(value["boxes"]), _array(value["labels"])
    if "ignore" in value:
        classes = classes + len(info.classes) * _array(value["ignore"])
    names = (*info.classes, *(f"{name} (ignored)" for name in info.classes))
    scores = np.ones(len(classes))
    masks = _array(value["masks"]).transpose(1, 2, 0) if "masks" in value else None
    if "keypoints" not in value:
        if masks is None:
            return DrawBoxes(names)(image, boxes, scores, classes)
        return DrawInstances(names)(image, boxes, scores, classes, masks)
    points = torch.as_tensor(value["keypoints"])
    known = torch.cat([points[..., :2], visible_points(points)[..., None]], dim=-1)
    skeleton = () if info.points is None else info.points.skeleton
    draw = DrawInstances(names, _point_names(info, points.shape[-2]), skeleton)
    return draw(image, boxes, scores, classes, masks, torch_to_numpy(known).transpose(1, 2, 0))


def _draw_points(image: _Pixels, value: Any, info: _Info) -> Image.Image:
    points = torch.as_tensor(value).float()
    names = _point_names(info, points.shape[-2]) * (points[..., 0].numel() // points.shape[-2])
    points = points.reshape(-1, 3)
    known = torch_to_numpy(visible_points(points).float())
    return DrawKeypoints(names)(image, torch_to_numpy(points[:, :2]).T, known)


def _draw_map(image: _Pixels, value: Any, info: _Info) -> Image.Image:
    """Draw a map (H, W), or the first channel of (C, H, W)."""
    return DrawDepth()(image, _array(value).reshape(-1, *image.shape[:2])[0, ..., None])


def _draw_text(image: _Pixels, value: Any, info: _Info) -> Image.Image:
    return DrawText(info.classes)(image, value, 1.0)


def _draw_value(image: _Pixels, value: Any, info: _Info) -> Image.Image:
    """Write numbers as text."""
    return DrawText(info.classes)(image, f"{np.asarray(value).tolist()}", 1.0)


_DRAW: Mapping[LabelKind, Callable[[_Pixels, Any, _Info], Image.Image]] = {
    LabelKind.CLASS_INDEX: _draw_class,
    LabelKind.MULTI_HOT: _draw_classes,
    LabelKind.MASK: _draw_mask,
    LabelKind.BOXES: _draw_objects,
    LabelKind.INSTANCE_MASKS: _draw_objects,
    LabelKind.INSTANCE_POINTS: _draw_objects,
    LabelKind.POINTS: _draw_points,
    LabelKind.DENSE_MAP: _draw_map,
    LabelKind.TEXT: _draw_text,
    LabelKind.ID: _draw_value,
    LabelKind.METADATA: _draw_value,
}


def _array(value: Any) -> _Pixels:
    return torch_to_numpy(torch.as_tensor(value))


def _certain(classes: Sequence[int] | _Pixels, count: int) -> npt.NDArray[np.float64]:
    """Return probabilities (K,): 1 for the classes, and -1 for all others, which are not drawn."""
    probabilities = np.full(count, -1.0)
    probabilities[classes] = 1.0
    return probabilities


def _point_names(info: _Info, count: int) -> tuple[str, ...]:
    return tuple(map(str, range(count))) if info.points is None else info.points.names
