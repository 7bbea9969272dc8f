"""Every kind of label under every transform, and the way back from a resized image, against hand-computed values."""

import inspect

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode

from brickyard import LabelKind, UnknownNameError
from brickyard.data import geometry
from brickyard.data.geometry import (
    Window,
    boxes_to_original,
    masks_to_original,
    points_to_original,
    resize_geometry,
    resize_into,
)
from brickyard.data.label_kinds import KIND_RULES
from brickyard.data.orientation import _BY_EXIF, read_oriented
from brickyard.data.transforms import Augment

HEIGHT, WIDTH = 60, 80
BOX = (24, 16, 56, 40)  # x1, y1, x2, y2: even numbers, so that halves are exact
BILINEAR = InterpolationMode.BILINEAR
BOXES = torch.tensor([BOX], dtype=torch.float32)
POINTS = torch.tensor([[24.0, 16.0, 2.0], [56.0, 40.0, 1.0]])  # two corners of the box
INSIDE = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
INSIDE[16:40, 24:56] = True


def around(pixels):
    """The box around pixels (H, W) bool."""
    rows, columns = pixels.any(dim=1).nonzero().flatten(), pixels.any(dim=0).nonzero().flatten()
    return [columns[0].item(), rows[0].item(), columns[-1].item() + 1, rows[-1].item() + 1]


def corners(points):
    return [*points[:, :2].amin(dim=0).tolist(), *points[:, :2].amax(dim=0).tolist()]


# For each kind that refers to pixels: a label of the rectangle, and the box that a moved label is around.
LOCATED = {
    LabelKind.MASK: (INSIDE.long(), lambda label: around(label == 1)),
    LabelKind.BOXES: ({"boxes": BOXES, "labels": torch.tensor([3])}, lambda label: label["boxes"][0].tolist()),
    LabelKind.INSTANCE_MASKS: (
        {"boxes": BOXES, "labels": torch.tensor([3]), "masks": INSIDE[None]},
        lambda label: np.mean([around(label["masks"][0]), label["boxes"][0].tolist()], axis=0).tolist(),
    ),
    LabelKind.INSTANCE_POINTS: (
        {
            "boxes": BOXES,
            "labels": torch.tensor([3]),
            "keypoints": torch.tensor([[[24.0, 16.0, 2.0], [56.0, 40.0, 1.0]]]),
        },
        lambda label: np.mean([corners(label["keypoints"][0]), label["boxes"][0].tolist()], axis=0).tolist(),
    ),
    LabelKind.POINTS: (POINTS, corners),
    LabelKind.DENSE_MAP: (INSIDE + 1.0, lambda label: around(label == 2)),
}
# Of kinds that do not refer to pixels: a label, which no transform changes.
UNMOVED = {
    LabelKind.CLASS_INDEX: torch.tensor(3),
    LabelKind.MULTI_HOT: torch.tensor([0, 1, 1]),
    LabelKind.TEXT: "red",
    LabelKind.ID: torch.tensor(12345),
    LabelKind.METADATA: 3.5,
}
LETTERBOX = resize_geometry((HEIGHT, WIDTH), (80, 80), "letterbox")
# For each transform of `geometry`: a call, and the box that it moves BOX to, computed by hand.
TRANSFORMS = {
    "crop": (lambda value, fill: geometry.crop(value, Window(6, 10, 50, 60), fill), (14, 10, 46, 34)),
    "resize": (lambda value, fill: geometry.resize(value, [30, 160], BILINEAR), (48, 8, 112, 20)),
    "resize_into": (lambda value, fill: resize_into(value, LETTERBOX, fill, BILINEAR), (24, 26, 56, 50)),
    "horizontal_flip": (lambda value, fill: geometry.horizontal_flip(value), (24, 16, 56, 40)),
    "vertical_flip": (lambda value, fill: geometry.vertical_flip(value), (24, 20, 56, 44)),
    "transpose": (lambda value, fill: geometry.transpose(value), (16, 24, 40, 56)),
}


def image():
    """A red rectangle on black, (3, H, W) uint8."""
    return torch.stack([INSIDE.to(torch.uint8) * 255, *torch.zeros(2, HEIGHT, WIDTH, dtype=torch.uint8)])


def red(pixels):
    """The box around the red pixels, also on a grey frame and with other colors."""
    return around(pixels[0].int() - pixels[1].int() > 80)


def test_every_kind_and_every_transform_has_its_case():
    assert LOCATED.keys() | UNMOVED.keys() == set(LabelKind)
    moves = {
        name
        for name, function in inspect.getmembers(geometry, inspect.isfunction)
        if function.__module__ == geometry.__name__
        and not name.startswith("_")
        and next(iter(inspect.signature(function).parameters)) == "value"
    }
    assert TRANSFORMS.keys() == moves


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("kind", LabelKind)
def test_a_label_of_every_kind_moves_by_every_transform_as_its_image_does(kind, name):
    transform, expected = TRANSFORMS[name]
    moved_image = transform(tv_tensors.Image(image()), 128)
    assert red(moved_image) == list(expected)
    label = UNMOVED[kind] if kind in UNMOVED else LOCATED[kind][0]
    rules = KIND_RULES[kind]
    parts = rules.wrap(label, (HEIGHT, WIDTH), "test")
    moved = rules.unwrap(label, {part: transform(value, rules.fill) for part, value in parts.items()})
    if kind in UNMOVED:
        assert moved is label
        assert parts == {}
    else:
        assert LOCATED[kind][1](moved) == list(expected)


@pytest.mark.parametrize("orientation", [1, *_BY_EXIF])
@pytest.mark.parametrize("kind", LOCATED)
def test_a_label_of_every_kind_turns_upright_with_its_image(kind, orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(image().permute(1, 2, 0).numpy()).save(tmp_path / "a.png", exif=exif)
    oriented = read_oriented(tmp_path / "a.png")
    label, locate = LOCATED[kind]
    assert locate(oriented.label(kind, label)) == red(oriented.image)


@pytest.mark.parametrize("resize_mode", ["squash", "letterbox"])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("kind", LabelKind)
def test_a_label_of_every_kind_moves_with_its_image_through_the_transforms_of_training(kind, train, resize_mode):
    label = UNMOVED[kind] if kind in UNMOVED else LOCATED[kind][0]
    augment = Augment(96, {"x": kind}, train=train, flip_pairs={"x": []}, resize_mode=resize_mode)
    for seed in range(20):
        torch.manual_seed(seed)
        changed = augment({"image": image(), "targets/x": label})
        assert changed["image"].shape == (3, 96, 96)
        if kind in UNMOVED:
            assert changed["targets/x"] is label
            continue
        x1, y1, x2, y2 = box = red(changed["image"])
        if min(x1, y1) > 0 and max(x2, y2) < 96:  # otherwise a point may have left the image
            assert LOCATED[kind][1](changed["targets/x"]) == pytest.approx(box, abs=1.5)


def test_a_squashed_image_fills_the_frame():
    assert resize_geometry((50, 100), (64, 32), "squash") == ((50, 100), (64, 32), (0, 0, 64, 32))


@pytest.mark.parametrize(
    ("original", "size", "content"),
    [
        ((100, 200), (64, 64), (16, 0, 32, 64)),
        ((200, 100), (64, 64), (0, 16, 64, 32)),
        ((64, 64), (64, 64), (0, 0, 64, 64)),
        ((10, 20), (64, 64), (16, 0, 32, 64)),  # enlarged
        ((480, 640), (320, 320), (40, 0, 240, 320)),
        ((375, 500), (224, 224), (28, 0, 168, 224)),
        ((333, 500), (224, 224), (37, 0, 149, 224)),  # 149.184 rows; the extra row of padding is at the bottom
        ((1080, 1920), (384, 640), (12, 0, 360, 640)),
        ((1, 1000), (32, 32), (15, 0, 1, 32)),  # at least one row
    ],
)
def test_a_letterboxed_image_keeps_its_aspect_ratio_in_the_middle(original, size, content):
    assert resize_geometry(original, size, "letterbox").content == content


def test_letterboxed_pixels_are_those_of_pillow_and_the_frame_is_grey():
    pixels = np.random.default_rng(0).integers(0, 256, (50, 100, 3), dtype=np.uint8)
    geometry_ = resize_geometry((50, 100), (64, 64), "letterbox")
    framed = resize_into(tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1)), geometry_, 128, BILINEAR)
    resized = np.asarray(Image.fromarray(pixels).resize((64, 32), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(framed[:, 16:48].permute(1, 2, 0).numpy() - resized).max() <= 1
    assert (framed[:, :16] == 128).all()
    assert (framed[:, 48:] == 128).all()


def test_boxes_and_points_return_to_the_original_image():
    letterbox = resize_geometry((100, 200), (64, 64), "letterbox")  # scale 0.32, 16 rows of padding
    boxes = torch.tensor([[[0.0, 16.0, 64.0, 48.0], [32.0, 24.0, 48.0, 32.0], [-3.0, 0.0, 16.0, 60.0]]])
    expected = torch.tensor([[[0.0, 0.0, 200.0, 100.0], [100.0, 25.0, 150.0, 50.0], [0.0, 0.0, 50.0, 100.0]]])
    torch.testing.assert_close(boxes_to_original(boxes, letterbox), expected)
    points = torch.tensor([[32.0, 32.0], [16.0, 8.0]])
    torch.testing.assert_close(points_to_original(points, letterbox), torch.tensor([[100.0, 50.0], [50.0, -25.0]]))
    squash = resize_geometry((100, 200), (64, 64), "squash")
    torch.testing.assert_close(
        boxes_to_original(torch.tensor([[16.0, 16.0, 32.0, 64.0]]), squash), torch.tensor([[50.0, 25.0, 100.0, 100.0]])
    )


def test_masks_return_to_the_original_image():
    letterbox = resize_geometry((4, 8), (4, 4), "letterbox")  # half the size, one row of padding above and below
    mask = torch.tensor([[9, 9, 9, 9], [1, 2, 3, 4], [5, 6, 7, 8], [9, 9, 9, 9]])
    expected = torch.tensor([[1, 1, 2, 2, 3, 3, 4, 4]] * 2 + [[5, 5, 6, 6, 7, 7, 8, 8]] * 2)
    assert torch.equal(masks_to_original(mask, letterbox), expected)
    batch = torch.stack([mask == 9, mask == 1])[None]
    result = masks_to_original(batch, letterbox)
    assert result.shape == (1, 2, 4, 8)
    assert result.dtype == torch.bool
    assert not result[0, 0].any()
    assert torch.equal(result[0, 1], expected == 1)
    squash = resize_geometry((2, 8), (4, 4), "squash")
    assert masks_to_original(mask, squash).tolist() == [[1, 1, 2, 2, 3, 3, 4, 4], [9] * 8]


@pytest.mark.parametrize("mode", ["squash", "letterbox"])
@pytest.mark.parametrize("original", [(375, 500), (500, 333), (97, 31)])
def test_the_way_there_and_back_changes_nothing(original, mode):
    there = resize_geometry(original, (224, 160), mode)
    boxes = tv_tensors.BoundingBoxes([[3.0, 5.0, 21.0, 90.0]], format="XYXY", canvas_size=original)
    moved = resize_into(boxes, there, 0, BILINEAR)
    back = boxes_to_original(moved.as_subclass(torch.Tensor), there)
    torch.testing.assert_close(back, boxes.as_subclass(torch.Tensor), atol=1e-3, rtol=0)


def test_an_unknown_mode_is_refused():
    with pytest.raises(UnknownNameError, match=r"resize mode 'crop'.*'letterbox'"):
        resize_geometry((4, 4), (2, 2), "crop")
