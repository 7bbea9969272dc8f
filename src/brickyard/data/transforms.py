"""Transform an image together with its labels: random augmentation for training, one resize for evaluation."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, final

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F  # noqa: N812 - its usual name

from brickyard.core.specs import RESIZE_MODES, STRENGTHS, ResizeMode, Strength
from brickyard.data.dataset import LabelledDataset, keypoints_of
from brickyard.data.geometry import FRAME_FILL, Window, crop, horizontal_flip, resize_geometry, resize_into
from brickyard.data.label_kinds import KIND_RULES, TARGETS, LabelKind, kind_of
from brickyard.errors import BrickInputError

_ZOOM_OUT_PROBABILITY = 0.25  # otherwise the image is cropped
_MAX_ZOOM_OUT = 1.5  # the largest ratio of the frame's sides to the image's
_MAX_STRETCH = 4 / 3  # the largest ratio between the aspect ratios of a crop and its image
_MIN_BOX_SIDE = 2.0  # pixels; less of an object cannot be recognised
_WITH_BOXES = (LabelKind.BOXES, LabelKind.INSTANCE_MASKS, LabelKind.INSTANCE_POINTS)
_WITH_POINTS = (LabelKind.POINTS, LabelKind.INSTANCE_POINTS)

_Move = Callable[[Any, float], Any]


@final
class Augment:
    """Resize a sample to one size and, for training, change it at random, labels included.

    Training crops the image or pads it to a larger grey frame (as `torchvision.transforms.v2.RandomZoomOut`), flips it
    and changes its colors, drawing from torch's global generator. Labels move with the image by their kind: boxes are
    clamped, and those with a side of less than 2 pixels are dropped with their rows of the other entries; masks take
    the nearest class of each pixel, and 255 in a frame; points outside of the image become unknown; dense maps take the
    nearest value, and 0 = unknown in a frame. Labels of the whole image do not change, so a low `min_area` may crop out
    what they name. Crops keep nearly the aspect ratio of the image, so that "squash" distorts them like whole images.

    Args:
        image_size: The side of the output in pixels, or (H, W).
        kinds: The kind of each label by its name, `LabelledDataset.kinds`.
        train: Whether to change at random.
        flip: Whether half of the training images are flipped horizontally; not for text or digits.
        flip_pairs: For each label of kind points or instance points, the pairs of indices that a flip swaps, such as
            the left and the right eye; an empty sequence if there are none.
        min_area: The smallest part of an image's area that a crop keeps, in (0, 1].
        strength: "light" jitters the colors; "strong" jitters them more, and blurs, sharpens, posterizes, solarizes,
            equalizes or stretches the contrast of some images, and makes some grey.
        interpolation: How images are resized, "bilinear" or "bicubic", with antialiasing.
        resize_mode: "squash" changes the aspect ratio; "letterbox" keeps it and pads with a grey frame.

    Raises:
        BrickInputError: An argument is out of range; images with points are flipped, but their pairs are not declared.
    """

    def __init__(
        self,
        image_size: int | tuple[int, int],
        kinds: Mapping[str, LabelKind],
        *,
        train: bool,
        flip: bool = True,
        flip_pairs: Mapping[str, Sequence[tuple[int, int]]] = MappingProxyType({}),
        min_area: float = 0.5,
        strength: Strength = "light",
        interpolation: str = "bilinear",
        resize_mode: ResizeMode = "squash",
    ) -> None:
        sides = (image_size, image_size) if isinstance(image_size, int) else image_size
        _check("image_size", min(sides) >= 1, "1 or more", image_size)
        _check("min_area", 0 < min_area <= 1, "a fraction in (0, 1]", min_area)
        _check("strength", strength in STRENGTHS, " or ".join(map(repr, STRENGTHS)), strength)
        _check("interpolation", interpolation in ("bilinear", "bicubic"), "'bilinear' or 'bicubic'", interpolation)
        _check("resize_mode", resize_mode in RESIZE_MODES, " or ".join(map(repr, RESIZE_MODES)), resize_mode)
        self.size = sides
        self.resize_mode: ResizeMode = resize_mode
        self.kinds, self.train, self.flip, self.min_area = kinds, train, flip, min_area
        self.flip_pairs = dict(flip_pairs)
        self.interpolation = InterpolationMode(interpolation)
        self._colors = _COLORS[strength]()
        points = {name for name, kind in kinds.items() if kind in _WITH_POINTS}
        if train and flip and (undeclared := sorted(points - flip_pairs.keys())):
            hint = (
                "A flip swaps left and right: pass flip_pairs={'kpt': [(1, 2), ...]}, [] for no pairs, or flip=False."
            )
            raise BrickInputError("Augment, flip_pairs", f"the pairs of points of {undeclared}", "none", hint)

    def __call__(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Transform one sample; the input is not modified.

        Args:
            sample: `image` (3, H, W) uint8, any `targets/<label>` of the kind declared in `kinds`, see `LabelKind`, and
                any other values, which are passed on.

        Returns:
            The same names: `image` (3, H, W) uint8, and labels in the form that they had, for H x W pixels.

        Raises:
            BrickInputError: A label has no declared kind, or not the form of its kind.
        """
        size = (int(sample["image"].shape[-2]), int(sample["image"].shape[-1]))
        window = self._random_window(*size) if self.train else None
        is_flipped = self.train and self.flip and torch.rand(()).item() < 0.5
        geometry = resize_geometry(
            size if window is None else (window.height, window.width), self.size, self.resize_mode
        )

        def move(value: Any, fill: float) -> Any:
            value = value if window is None else crop(value, window, fill)
            value = resize_into(value, geometry, fill, self.interpolation)
            return horizontal_flip(value) if is_flipped else value

        image = move(tv_tensors.Image(sample["image"]), FRAME_FILL)
        moved = {"image": self._colors(image) if self.train else image}
        for name, value in sample.items():
            if name.startswith(TARGETS):
                moved[name] = self._label(name, value, size, move, is_flipped)
        return {name: moved.get(name, value) for name, value in sample.items()}

    def _label(self, name: str, label: Any, size: tuple[int, int], move: _Move, is_flipped: bool) -> Any:
        kind = kind_of(name, self.kinds, "Augment")
        rules = KIND_RULES[kind]
        parts = {part: move(value, rules.fill) for part, value in rules.wrap(label, size, f"Augment, '{name}'").items()}
        moved = rules.unwrap(label, parts)
        if kind in _WITH_POINTS and is_flipped:
            pairs = self.flip_pairs[name.removeprefix(TARGETS)]
            if kind is LabelKind.POINTS:
                return _swapped(moved, pairs)
            moved["keypoints"] = _swapped(moved["keypoints"], pairs)
        return _sanitized(moved, _MIN_BOX_SIDE if self.train else None) if kind in _WITH_BOXES else moved

    def _random_window(self, height: int, width: int) -> Window:
        """A frame around the whole image, or a crop of it."""
        if torch.rand(()).item() < _ZOOM_OUT_PROBABILITY:
            ratio = _uniform(1.0, _MAX_ZOOM_OUT)
            h, w = int(height * ratio), int(width * ratio)
            return Window(-int(_uniform(0, h - height)), -int(_uniform(0, w - width)), h, w)
        # Not torchvision's `RandomResizedCrop`: it distorts crops less than evaluation distorts whole images.
        area = _uniform(self.min_area, 1.0)
        bound = min(math.log(_MAX_STRETCH), -math.log(area))  # no side is longer than the image's
        stretch = math.exp(_uniform(-bound, bound))
        h, w = max(1, round(height * math.sqrt(area / stretch))), max(1, round(width * math.sqrt(area * stretch)))
        top, left = (int(torch.randint(free + 1, ())) for free in (height - h, width - w))
        return Window(top, left, h, w)


@final
class Augmented(Dataset[dict[str, Any]]):
    """A data set whose samples are transformed when they are read.

    Args:
        data: The data set; its labels and their kinds are kept.
        augment: The transform.
    """

    def __init__(self, data: LabelledDataset, augment: Augment) -> None:
        self.data, self.augment = data, augment
        self.labels, self.kinds, self.keypoints = data.labels, data.kinds, keypoints_of(data)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.augment(self.data[index])


@final
class Transformed(Dataset[dict[str, Any]]):
    """A data set whose samples a transform of the user changes when they are read, labels included.

    The transform gets `image` and, for each label that moves with it, a dictionary of `tv_tensors`: "boxes", "masks",
    "mask", "map" (a dense map), "points" or "keypoints". Boxes are clamped afterwards, and those with a side of less
    than 2 pixels are dropped with their rows of the other entries.

    Args:
        data: The data set; its labels and their kinds are kept.
        transform: A transform of `torchvision.transforms.v2`, or any function of that dictionary. It must keep the size
            and dtype of the image and the number of boxes, and draw random numbers from torch's global generator.
    """

    def __init__(self, data: LabelledDataset, transform: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
        self.data, self.transform = data, transform
        self.labels, self.kinds, self.keypoints = data.labels, data.kinds, keypoints_of(data)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Transform one sample; the sample of the data set is not modified.

        Raises:
            BrickInputError: The transform returns another form, or a label does not have the form of its kind.
        """
        sample = self.data[index]
        image = sample["image"]
        size = (int(image.shape[-2]), int(image.shape[-1]))
        rules = {
            name: KIND_RULES[kind_of(name, self.kinds, "transform")] for name in sample if name.startswith(TARGETS)
        }
        parts = {name: rule.wrap(sample[name], size, f"transform, '{name}'") for name, rule in rules.items()}
        moving = {name: part for name, part in parts.items() if part}
        moved = self.transform({"image": tv_tensors.Image(image.clone()), **copy.deepcopy(moving)})
        _check_moved(moved, {"image": image, **moving})
        result = {**sample, "image": moved["image"]}
        for name in moving:
            label = rules[name].unwrap(sample[name], moved[name])
            has_boxes = self.kinds[name.removeprefix(TARGETS)] in _WITH_BOXES
            result[name] = _sanitized(label, _MIN_BOX_SIDE) if has_boxes else label
        return result


def _check_moved(moved: Any, before: Mapping[str, Any]) -> None:
    """Check that a transform has returned what `Transformed` expects of it."""
    if not isinstance(moved, Mapping) or moved.keys() != before.keys():
        found = sorted(moved) if isinstance(moved, Mapping) else type(moved).__name__
        raise BrickInputError("transform", f"a dictionary with the entries that it got, {sorted(before)}", f"{found}")
    image, expected = moved["image"], before["image"]
    if not isinstance(image, Tensor) or (image.shape, image.dtype) != (expected.shape, expected.dtype):
        found = f"{tuple(image.shape)} {image.dtype}" if isinstance(image, Tensor) else type(image).__name__
        hint = "Resize with the image size of the data; the model itself converts and normalizes its images."
        raise BrickInputError("transform", f"an image {tuple(expected.shape)} {expected.dtype}", found, hint)
    for name, part in before.items():
        for entry in ("boxes", "masks", "keypoints") if name != "image" else ():
            if entry in part and len(moved[name][entry]) != len(part[entry]):
                hint = "Leave out SanitizeBoundingBoxes: small boxes are dropped afterwards."
                found = f"{len(moved[name][entry])}"
                raise BrickInputError(f"transform, '{name}'", f"{len(part[entry])} {entry} as before", found, hint)


def _light_colors() -> v2.Transform:
    return v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.03)


def _strong_colors() -> v2.Transform:
    """Change the colors of an image, as RandAugment does (Cubuk et al. 2020, https://arxiv.org/abs/1909.13719)."""
    jitter = v2.ColorJitter(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.1)
    operations = [
        v2.Identity(),
        v2.GaussianBlur(3),
        v2.RandomAdjustSharpness(2.0, p=1.0),
        v2.RandomAutocontrast(p=1.0),
        v2.RandomEqualize(p=1.0),
        v2.RandomPosterize(4, p=1.0),
        v2.RandomSolarize(192, p=1.0),
    ]
    return v2.Compose([jitter, v2.RandomGrayscale(0.1), v2.RandomChoice(operations)])


_COLORS: dict[Strength, Callable[[], v2.Transform]] = {"light": _light_colors, "strong": _strong_colors}


def _sanitized(label: dict[str, Any], min_side: float | None) -> dict[str, Any]:
    """Clamp boxes to the image and drop the rows of those that are too small; None keeps all."""
    boxes = F.clamp_bounding_boxes(label["boxes"])
    if min_side is None:
        return {**label, "boxes": boxes}
    boxes, kept = F.sanitize_bounding_boxes(boxes, min_size=min_side)
    return {name: boxes if name == "boxes" else entry[kept] for name, entry in label.items()}


def _swapped(points: Tensor, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """Swap pairs of points (..., K, 3)."""
    order = list(range(points.shape[-2]))
    for left, right in pairs:
        order[left], order[right] = right, left
    return points[..., order, :]


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * torch.rand(()).item()


def _check(name: str, valid: bool, expected: str, value: object) -> None:
    if not valid:
        raise BrickInputError(f"Augment, {name}", expected, repr(value))
