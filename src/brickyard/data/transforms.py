"""Random changes of a picture together with its masks and boxes, and the one resize of evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F  # noqa: N812 - its name everywhere

from brickyard.data.dataset import LabelledDataset
from brickyard.errors import BrickInputError
from brickyard.parts.segmentation import IGNORED

_TARGETS = "targets/"
_FRAMED = 0.25  # of the pictures get a frame; the others are cropped
_FRAME = 1.5  # times the picture, at most, is the picture with its frame
_GREY = 128
_STRETCH = 4 / 3  # a crop is so much wider or higher than the picture's own shape, at most
_LEAST_BOX = 2.0  # pixels: what a crop leaves of a box may be a sliver that nobody could tell


@final
class Augment:
    """Make a sample ready for a model: all parts of it to one size and, for training, changed at random.

    Training takes a crop, or puts a grey frame around the whole, flips and changes colours, drawing from torch's global
    generator. Boxes follow: what a crop leaves of them is cut to it, and slivers of less than two pixels go with their
    labels. Masks follow with the nearest class of each pixel, and have 255 in a frame. Labels of the whole picture stay
    what they are, so a low `kept` may crop away what they name. Evaluation squashes, as prediction does for dense
    tasks; so crops have nearly the picture's own shape and are squashed alike.

    Args:
        image_size: Pixels of the side of the square that comes out.
        train: Whether to change at random.
        flip: Whether half of the training pictures are mirrored left to right; not for text or digits.
        kept: The least part of a picture's area that a crop keeps, in (0, 1].
        interpolation: Of the picture's resize, "bilinear" or "bicubic", with antialias.

    Raises:
        BrickInputError: A number is out of its range, or there is no such interpolation.
    """

    def __init__(
        self, image_size: int, *, train: bool, flip: bool = True, kept: float = 0.5, interpolation: str = "bilinear"
    ) -> None:
        _check("image_size", image_size >= 1, "1 or more", image_size)
        _check("kept", 0 < kept <= 1, "a part in (0, 1]", kept)
        _check("interpolation", interpolation in ("bilinear", "bicubic"), "'bilinear' or 'bicubic'", interpolation)
        self.size = [image_size, image_size]
        self.train = train
        self.interpolation = v2.InterpolationMode(interpolation)
        self._frame = v2.RandomZoomOut(
            fill={tv_tensors.Image: _GREY, tv_tensors.Mask: IGNORED, "others": 0}, side_range=(1.0, _FRAME), p=1.0
        )
        self.kept = kept
        colours = v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.03)
        self._look = v2.Compose([v2.RandomHorizontalFlip(), colours] if flip else [colours])

    def __call__(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Change one sample; what was passed in stays as it is.

        Args:
            sample: `image` (3, H, W) uint8, and any `targets/<head>`: dictionaries with `boxes` (M, 4), (x1, y1, x2,
                y2) in pixels, whose other values have M rows too; masks (H, W) of integers. All else is passed on.

        Returns:
            The same names: `image` (3, S, S) uint8, masks (S, S), boxes within the S x S pixels.

        Raises:
            BrickInputError: A mask has another size than the image.
        """
        canvas = (int(sample["image"].shape[-2]), int(sample["image"].shape[-1]))
        values = {name: value for name, raw in sample.items() if (value := _wrapped(name, raw, canvas)) is not None}
        if self.train:
            values = self._frame(values) if torch.rand(()) < _FRAMED else self._cropped(values)
        values = {name: self._resized(value) for name, value in values.items()}
        if self.train:
            values = self._look(values)
        return {name: self._unwrapped(values[name], raw) if name in values else raw for name, raw in sample.items()}

    def _cropped(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        # Not torchvision's `RandomResizedCrop`: it stretches crops towards a square, evaluation only whole pictures.
        height, width = values["image"].shape[-2:]
        area = _uniform(self.kept, 1.0)
        bound = min(math.log(_STRETCH), -math.log(area))  # no side is longer than the picture's
        stretch = math.exp(_uniform(-bound, bound))
        h, w = max(1, round(height * math.sqrt(area / stretch))), max(1, round(width * math.sqrt(area * stretch)))
        top, left = (int(torch.randint(free + 1, ())) for free in (height - h, width - w))
        return {name: F.crop(value, top, left, h, w) for name, value in values.items()}

    def _resized(self, value: Tensor) -> Tensor:
        if not isinstance(value, tv_tensors.Mask):
            resized: Tensor = F.resize(value, self.size, interpolation=self.interpolation, antialias=True)
            return resized
        # Of the pixels that become one, v2 takes a corner, which moves a mask against its picture; this, the middle.
        classes = F.resize_image(value.as_subclass(Tensor)[None], self.size, v2.InterpolationMode.NEAREST_EXACT)[0]
        return tv_tensors.Mask(classes)  # type: ignore[no-any-return]

    def _unwrapped(self, value: Tensor, raw: Any) -> Any:
        """A changed value in the form that it had."""
        if not isinstance(value, tv_tensors.BoundingBoxes):
            return value
        boxes = F.clamp_bounding_boxes(value)  # against rounding
        if not self.train:
            return {**raw, "boxes": boxes}
        boxes, kept = F.sanitize_bounding_boxes(boxes, min_size=_LEAST_BOX)
        return {**{name: entry[kept] for name, entry in raw.items() if name != "boxes"}, "boxes": boxes}


@final
class Augmented(Dataset[dict[str, Any]]):
    """A data set whose samples are changed when they are read.

    Args:
        data: The data set; its labels are kept.
        augment: The change.
    """

    def __init__(self, data: LabelledDataset, augment: Augment) -> None:
        self.data, self.augment = data, augment
        self.labels = data.labels

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.augment(self.data[index])


def _wrapped(name: str, value: Any, canvas: tuple[int, int]) -> Tensor | None:
    """What torchvision's transforms know a value by; None for what they shall not touch."""
    if name == "image":
        return tv_tensors.Image(value)  # type: ignore[no-any-return]
    if not name.startswith(_TARGETS):
        return None
    if isinstance(value, Mapping) and "boxes" in value:
        return tv_tensors.BoundingBoxes(value["boxes"], format="XYXY", canvas_size=canvas)  # type: ignore[no-any-return]
    if not isinstance(value, Tensor) or value.ndim != 2 or value.is_floating_point() or value.dtype == torch.bool:
        return None
    if value.shape != canvas:
        expected = f"a mask (H, W) = {canvas}, the size of the image"
        raise BrickInputError(f"Augment, '{name}'", expected, f"{tuple(value.shape)}")
    return tv_tensors.Mask(value)  # type: ignore[no-any-return]


def _uniform(least: float, most: float) -> float:
    return least + (most - least) * torch.rand(()).item()


def _check(name: str, valid: bool, expected: str, found: object) -> None:
    if not valid:
        raise BrickInputError(f"Augment, {name}", expected, repr(found))
