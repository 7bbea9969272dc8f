"""Every kind of label under every transform, against an image in which the label is drawn.

Objects are drawn as squares of one channel each, a key point as the center of a small square. Whatever a transform
does, the label must agree with what is found in the transformed image.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode

from brickyard.data.geometry import (
    Window,
    crop,
    horizontal_flip,
    resize_geometry,
    resize_into,
    transpose,
    vertical_flip,
)
from brickyard.data.label_kinds import KIND_RULES, LabelKind
from brickyard.data.transforms import Augment

HEIGHT, WIDTH = 60, 80
CANVAS = (HEIGHT, WIDTH)
BOXES = ((12, 10, 36, 34), (44, 22, 72, 50))  # of channels 0 and 1
POINTS = ((18, 16), (30, 28), (52, 30), (64, 44))  # two in each box, drawn in channel 2
SPATIAL = (
    LabelKind.MASK,
    LabelKind.BOXES,
    LabelKind.INSTANCE_MASKS,
    LabelKind.INSTANCE_POINTS,
    LabelKind.POINTS,
    LabelKind.DENSE_MAP,
)
NEAREST, SIZE = InterpolationMode.NEAREST_EXACT, (90, 120)


def drawn() -> Tensor:
    """The image (3, H, W): the two objects, and the key points."""
    image = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)
    for channel, (x1, y1, x2, y2) in enumerate(BOXES):
        image[channel, y1:y2, x1:x2] = 255
    for x, y in POINTS:
        image[2, y - 2 : y + 2, x - 2 : x + 2] = 255
    return image


def labels() -> dict[LabelKind, Any]:
    image = drawn()
    boxes = {"boxes": torch.tensor(BOXES, dtype=torch.float32), "labels": torch.tensor([3, 7])}
    points = torch.tensor([(x, y, 2.0) for x, y in POINTS])
    objects = image[:2] > 0
    return {
        LabelKind.MASK: objects[0] * 3 + objects[1] * 7,
        LabelKind.BOXES: boxes,
        LabelKind.INSTANCE_MASKS: {**boxes, "masks": objects.to(torch.uint8)},
        LabelKind.INSTANCE_POINTS: {**boxes, "keypoints": points.reshape(2, 2, 3)},
        LabelKind.POINTS: points,
        LabelKind.DENSE_MAP: 1.0 + objects[0] * 2 + objects[1] * 4,
    }


def frame(mode: str, size: tuple[int, int]) -> Callable[[Any, float], Any]:
    geometry = resize_geometry(CANVAS, size, mode)  # type: ignore[arg-type]
    return lambda value, fill: resize_into(value, geometry, fill, NEAREST)


TRANSFORMS: dict[str, Callable[[Any, float], Any]] = {
    "identity": lambda value, fill: value,
    "crop": lambda value, fill: crop(value, Window(4, 8, 50, 66), fill),
    "crop through an object": lambda value, fill: crop(value, Window(0, 24, 60, 56), fill),
    "zoom out": lambda value, fill: crop(value, Window(-6, -10, 80, 110), fill),
    "resize": frame("squash", SIZE),
    "squash": frame("squash", (90, 90)),
    "letterbox": frame("letterbox", (100, 100)),
    "horizontal flip": lambda value, fill: horizontal_flip(value),
    "vertical flip": lambda value, fill: vertical_flip(value),
    "transpose": lambda value, fill: transpose(value),
    "crop, resize and flip": lambda value, fill: horizontal_flip(
        resize_into(
            crop(value, Window(4, 8, 50, 66), fill), resize_geometry((50, 66), (100, 132), "squash"), fill, NEAREST
        )
    ),
}


def around(pixels: Tensor) -> list[float]:
    rows, columns = pixels.any(dim=1).nonzero(), pixels.any(dim=0).nonzero()
    return [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]


def check(kind: LabelKind, label: Any, image: Tensor) -> None:
    """Compare a moved label with what is drawn in the moved image."""
    objects, dots = image[:2] > 127, image[2] > 127
    if kind is LabelKind.MASK:
        assert torch.equal(torch.where(label == 255, 0, label), objects[0] * 3 + objects[1] * 7)
    elif kind is LabelKind.DENSE_MAP:
        assert torch.equal(label == 3, objects[0])
        assert torch.equal(label == 5, objects[1])
    elif kind is LabelKind.POINTS:
        check_points(label, dots)
    else:
        assert label["labels"].tolist() == [3, 7]
        for box, pixels in zip(label["boxes"].tolist(), objects, strict=True):
            assert box == pytest.approx(around(pixels), abs=1.01)
        if kind is LabelKind.INSTANCE_MASKS:
            assert torch.equal(label["masks"].bool(), objects)
        if kind is LabelKind.INSTANCE_POINTS:
            check_points(label["keypoints"].reshape(-1, 3), dots)
            for points, pixels in zip(label["keypoints"], objects, strict=True):
                for x, y, visibility in points.tolist():
                    assert visibility == 0 or pixels[int(y), int(x)]  # on its own object


def check_points(points: Tensor, dots: Tensor) -> None:
    height, width = dots.shape
    for x, y, visibility in points.tolist():
        if visibility == 0:
            assert (x, y) == (0, 0)
            continue
        inner = 4 <= x < width - 4 and 4 <= y < height - 4
        if inner:  # the center of its dot
            window = dots[int(y) - 4 : int(y) + 5, int(x) - 4 : int(x) + 5].nonzero().float() + 0.5
            center = window.mean(dim=0) + torch.tensor([int(y) - 4.0, int(x) - 4.0])
            assert (x, y) == pytest.approx((center[1].item(), center[0].item()), abs=0.8)
    assert bool(dots.any()) == bool((points[:, 2] > 0).any())


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("kind", SPATIAL)
def test_a_label_agrees_with_the_image_that_was_transformed_with_it(kind: LabelKind, transform: str) -> None:
    move, rules = TRANSFORMS[transform], KIND_RULES[kind]
    image = move(tv_tensors.Image(drawn()), 0).as_subclass(Tensor)
    parts = rules.wrap(labels()[kind], CANVAS, "test")
    label = rules.unwrap(labels()[kind], {name: move(value, rules.fill) for name, value in parts.items()})
    check(kind, label, image)


@pytest.mark.parametrize("resize_mode", ["squash", "letterbox"])
@pytest.mark.parametrize("kind", SPATIAL)
def test_a_label_agrees_with_the_image_through_random_changes(kind: LabelKind, resize_mode: str) -> None:
    """Objects are recognised by the distance between channels, since colors change; borders are interpolated."""
    augment = Augment(
        128,
        {"x": kind},
        train=True,
        flip_pairs={"x": []},
        min_area=0.6,
        resize_mode=resize_mode,  # type: ignore[arg-type]
    )
    seen = 0
    for seed in range(60):
        torch.manual_seed(seed)
        item = augment({"image": drawn(), "targets/x": labels()[kind]})
        channels = item["image"].int()
        red, green = (channels[one] - channels[other] > 60 for one, other in ((0, 1), (1, 0)))
        moved = item["targets/x"]
        for number, pixels in ((0, red), (1, green)):
            region = _region(kind, moved, number, pixels)
            if region is None or min(pixels.sum(), region.sum()) < 200:
                continue
            difference = (region != pixels) & ~_border(pixels)
            assert not difference.any()
            seen += 1
    assert seen > 40


def _region(kind: LabelKind, label: Any, number: int, pixels: Tensor) -> Tensor | None:
    """The pixels that a label says an object has; for points those of the object if they are on it."""
    if kind is LabelKind.MASK:
        return torch.as_tensor(label == (3, 7)[number])
    if kind is LabelKind.DENSE_MAP:
        return torch.as_tensor(label == (3, 5)[number])
    if kind is LabelKind.POINTS:
        points = label[2 * number : 2 * number + 2]
    else:
        rows = (label["labels"] == (3, 7)[number]).nonzero()
        if not len(rows):
            return None
        row = int(rows[0])
        if kind is LabelKind.INSTANCE_MASKS:
            return torch.as_tensor(label["masks"][row].bool())
        if kind is LabelKind.BOXES:
            x1, y1, x2, y2 = (round(side) for side in label["boxes"][row].tolist())
            region = torch.zeros_like(pixels)
            region[y1:y2, x1:x2] = True
            return region
        points = label["keypoints"][row]
    known = [(int(x), int(y)) for x, y, visibility in points.tolist() if visibility > 0]
    # A dot of the third channel is on the object, so that its color there is another: look around it.
    is_on = all(pixels[max(0, y - 8) : y + 9, max(0, x - 8) : x + 9].any() for x, y in known)
    return pixels if known and is_on else (None if not known else ~pixels)


def _border(pixels: Tensor) -> Tensor:
    """The pixels within two pixels of a border of a region."""
    inflated = torch.nn.functional.max_pool2d(pixels[None].float(), 5, 1, 2)[0]
    deflated = -torch.nn.functional.max_pool2d(-pixels[None].float(), 5, 1, 2)[0]
    return inflated != deflated
