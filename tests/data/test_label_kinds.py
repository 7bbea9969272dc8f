"""Every kind of label under every transform, against `torchvision.transforms.v2` on `tv_tensors`."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F  # noqa: N812

from brickyard import BrickInputError, LabelKind
from brickyard.data.collate import collate
from brickyard.data.geometry import Window, crop, horizontal_flip, resize, transpose, vertical_flip
from brickyard.data.label_kinds import KIND_RULES
from brickyard.data.orientation import read_oriented
from brickyard.data.transforms import Augment
from brickyard.tasks.registry import TASKS

HEIGHT, WIDTH, SIZE = 30, 40, 20
CANVAS = (HEIGHT, WIDTH)
WINDOW = Window(6, 10, 18, 24)
FRAME = Window(-5, -8, 45, 60)
SPATIAL = [
    LabelKind.MASK,
    LabelKind.BOXES,
    LabelKind.INSTANCE_MASKS,
    LabelKind.INSTANCE_POINTS,
    LabelKind.POINTS,
    LabelKind.DENSE_MAP,
]
WITH_BOXES = [LabelKind.BOXES, LabelKind.INSTANCE_MASKS, LabelKind.INSTANCE_POINTS]
NEAREST = v2.InterpolationMode.NEAREST_EXACT


def rectangles():
    """Two instances: boxes (2, 4) and masks (2, H, W)."""
    boxes = torch.tensor([[12.0, 8.0, 28.0, 20.0], [2.0, 2.0, 9.0, 5.0]])
    masks = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.uint8)
    for mask, box in zip(masks, boxes.int().tolist(), strict=True):
        mask[box[1] : box[3], box[0] : box[2]] = 1
    return boxes, masks


def label_of(kind):
    torch.manual_seed(0)
    boxes, masks = rectangles()
    points = torch.tensor([[11.0, 7.5, 2.0], [30.25, 21.0, 1.0], [2.0, 29.0, 2.0], [15.0, 15.0, 0.0]])
    instances = {"boxes": boxes, "labels": torch.tensor([4, 7])}
    return {
        LabelKind.CLASS_INDEX: torch.tensor(3),
        LabelKind.MULTI_HOT: torch.tensor([0, 1, 1]),
        LabelKind.MASK: torch.randint(0, 5, CANVAS),
        LabelKind.BOXES: instances,
        LabelKind.INSTANCE_MASKS: {**instances, "masks": masks},
        LabelKind.INSTANCE_POINTS: {**instances, "keypoints": points.reshape(2, 2, 3)},
        LabelKind.POINTS: points,
        LabelKind.DENSE_MAP: torch.rand(CANVAS) + 1,
        LabelKind.TEXT: "red",
        LabelKind.ID: torch.tensor(12345),
        LabelKind.METADATA: 3.5,
    }[kind]


def moved(kind, label, move):
    """The label after a function of its parts and fill."""
    rules = KIND_RULES[kind]
    parts = rules.wrap(label, CANVAS, "test")
    return rules.unwrap(label, {name: move(value, rules.fill) for name, value in parts.items()})


def expected_points(label, matrix_x, matrix_y, size):
    """Points after x -> a x + b and y -> c y + d, (0, 0, 0) where they are unknown or outside."""
    x, y = label[:, 0] * matrix_x[0] + matrix_x[1], label[:, 1] * matrix_y[0] + matrix_y[1]
    inside = (x >= 0) & (x <= size[1]) & (y >= 0) & (y <= size[0]) & (label[:, 2] > 0)
    return torch.where(inside[:, None], torch.stack([x, y, label[:, 2]], dim=1), 0)


def test_every_kind_has_rules():
    assert set(KIND_RULES) == set(LabelKind)


@pytest.mark.parametrize("kind", [kind for kind in LabelKind if kind not in SPATIAL])
def test_labels_of_the_whole_image_do_not_change(kind):
    label = label_of(kind)
    assert moved(kind, label, lambda value, fill: 1 / 0) is label
    sample = {"image": torch.zeros(3, *CANVAS, dtype=torch.uint8), "targets/x": label}
    for train in (True, False):
        assert Augment(SIZE, {"x": kind}, train=train)(sample)["targets/x"] is label


class TestCrop:
    def test_mask(self):
        label = label_of(LabelKind.MASK)
        reference = F.crop(tv_tensors.Mask(label), *WINDOW)
        assert torch.equal(moved(LabelKind.MASK, label, lambda value, fill: crop(value, WINDOW, fill)), reference)

    def test_boxes(self):
        label = label_of(LabelKind.BOXES)
        reference = F.crop(tv_tensors.BoundingBoxes(label["boxes"], format="XYXY", canvas_size=CANVAS), *WINDOW)
        result = moved(LabelKind.BOXES, label, lambda value, fill: crop(value, WINDOW, fill))
        assert torch.equal(result["boxes"], reference)
        assert result["boxes"].canvas_size == (WINDOW.height, WINDOW.width)
        assert result["labels"] is label["labels"]

    def test_instance_masks(self):
        label = label_of(LabelKind.INSTANCE_MASKS)
        result = moved(LabelKind.INSTANCE_MASKS, label, lambda value, fill: crop(value, WINDOW, fill))
        assert torch.equal(result["masks"], F.crop(tv_tensors.Mask(label["masks"]), *WINDOW))

    def test_points(self):
        label = label_of(LabelKind.POINTS)
        result = moved(LabelKind.POINTS, label, lambda value, fill: crop(value, WINDOW, fill))
        assert torch.equal(result, expected_points(label, (1, -WINDOW.left), (1, -WINDOW.top), WINDOW[2:]))
        reference = F.crop(tv_tensors.KeyPoints(label[:, :2], canvas_size=CANVAS), *WINDOW)
        visible = result[:, 2] > 0
        assert visible.tolist() == [True, True, False, False]
        assert torch.equal(result[visible, :2], reference.as_subclass(torch.Tensor)[visible])

    def test_dense_map(self):
        label = label_of(LabelKind.DENSE_MAP)
        result = moved(LabelKind.DENSE_MAP, label, lambda value, fill: crop(value, WINDOW, fill))
        assert torch.equal(result, F.crop(tv_tensors.Mask(label), *WINDOW))
        assert type(result) is torch.Tensor


class TestZoomOut:
    """`torchvision.transforms.v2.RandomZoomOut` pads."""

    padding = (8, 5, 12, 10)  # left, top, right, bottom, of FRAME around the canvas

    @pytest.mark.parametrize(("kind", "fill"), [(LabelKind.MASK, 255), (LabelKind.DENSE_MAP, 0)])
    def test_masks_and_dense_maps(self, kind, fill):
        label = label_of(kind)
        reference = F.pad(tv_tensors.Mask(label), list(self.padding), fill=fill)
        result = moved(kind, label, lambda value, fill: crop(value, FRAME, fill))
        assert torch.equal(result, reference)
        assert (result == fill).sum() == FRAME.height * FRAME.width - HEIGHT * WIDTH

    def test_boxes_and_instance_masks(self):
        label = label_of(LabelKind.INSTANCE_MASKS)
        result = moved(LabelKind.INSTANCE_MASKS, label, lambda value, fill: crop(value, FRAME, fill))
        boxes = tv_tensors.BoundingBoxes(label["boxes"], format="XYXY", canvas_size=CANVAS)
        assert torch.equal(result["boxes"], F.pad(boxes, list(self.padding)))
        assert torch.equal(result["masks"], F.pad(tv_tensors.Mask(label["masks"]), list(self.padding), fill=0))

    def test_points(self):
        label = label_of(LabelKind.POINTS)
        result = moved(LabelKind.POINTS, label, lambda value, fill: crop(value, FRAME, fill))
        reference = F.pad(tv_tensors.KeyPoints(label[:, :2], canvas_size=CANVAS), list(self.padding))
        assert torch.equal(result[:3, :2], reference.as_subclass(torch.Tensor)[:3])
        assert result[:, 2].tolist() == [2, 1, 2, 0]


class TestResize:
    size = (15, 50)

    def resized(self, kind, label):
        size = list(self.size)
        return moved(kind, label, lambda value, fill: resize(value, size, v2.InterpolationMode.BILINEAR))

    @pytest.mark.parametrize("kind", [LabelKind.MASK, LabelKind.DENSE_MAP])
    def test_masks_and_dense_maps_take_the_nearest_pixel(self, kind):
        label = label_of(kind)
        reference = F.resize(tv_tensors.Image(label[None]), list(self.size), interpolation=NEAREST)[0]
        result = self.resized(kind, label)
        assert torch.equal(result, reference.as_subclass(torch.Tensor))
        assert result.dtype == label.dtype

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.int64])
    def test_instance_masks(self, dtype):
        label = label_of(LabelKind.INSTANCE_MASKS)
        label["masks"] = label["masks"].to(dtype)
        result = self.resized(LabelKind.INSTANCE_MASKS, label)
        reference = F.resize(tv_tensors.Image(label["masks"].float()), list(self.size), interpolation=NEAREST)
        assert torch.equal(result["masks"].as_subclass(torch.Tensor), reference.as_subclass(torch.Tensor).to(dtype))
        boxes = tv_tensors.BoundingBoxes(label["boxes"], format="XYXY", canvas_size=CANVAS)
        assert torch.equal(result["boxes"], F.resize(boxes, list(self.size)))

    def test_no_instances(self):
        empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0)}
        result = self.resized(LabelKind.INSTANCE_MASKS, {**empty, "masks": torch.zeros(0, *CANVAS)})
        assert result["masks"].shape == (0, *self.size)
        assert result["boxes"].shape == (0, 4)
        result = self.resized(LabelKind.INSTANCE_POINTS, {**empty, "keypoints": torch.zeros(0, 5, 3)})
        assert result["keypoints"].shape == (0, 5, 3)
        assert result["boxes"].shape == (0, 4)

    def test_points(self):
        label = label_of(LabelKind.POINTS)
        reference = F.resize(tv_tensors.KeyPoints(label[:, :2], canvas_size=CANVAS), list(self.size))
        result = self.resized(LabelKind.POINTS, label)
        torch.testing.assert_close(result[:3, :2], reference.as_subclass(torch.Tensor)[:3])
        assert result[3].tolist() == [0, 0, 0]


class TestFlip:
    @pytest.mark.parametrize("flip", [(horizontal_flip, F.horizontal_flip), (vertical_flip, F.vertical_flip)])
    @pytest.mark.parametrize("kind", SPATIAL)
    def test_labels_flip_as_in_torchvision(self, kind, flip):
        ours, theirs = flip
        label = label_of(kind)
        result = moved(kind, label, lambda value, fill: ours(value))
        if kind is LabelKind.POINTS:
            # torchvision flips indices of pixels, W - 1 - x, so the centers of pixels must be at 0, 1, ...
            indices = tv_tensors.KeyPoints(label[:, :2] - 0.5, canvas_size=CANVAS)
            assert torch.equal(result[:3, :2], theirs(indices).as_subclass(torch.Tensor)[:3] + 0.5)
        elif kind in (LabelKind.MASK, LabelKind.DENSE_MAP):
            assert torch.equal(result, theirs(tv_tensors.Mask(label)))
        else:
            boxes = tv_tensors.BoundingBoxes(label["boxes"], format="XYXY", canvas_size=CANVAS)
            assert torch.equal(result["boxes"], theirs(boxes))
            if kind is LabelKind.INSTANCE_MASKS:
                assert torch.equal(result["masks"], theirs(tv_tensors.Mask(label["masks"])))
            if kind is LabelKind.INSTANCE_POINTS:
                points = moved(LabelKind.POINTS, label_of(LabelKind.POINTS), lambda value, fill: ours(value))
                assert torch.equal(result["keypoints"], points.reshape(2, 2, 3))

    def test_points_at_the_borders_stay_inside(self):
        label = torch.tensor([[0.0, 0.0, 1.0], [WIDTH, HEIGHT, 1.0]])
        result = moved(LabelKind.POINTS, label, lambda value, fill: horizontal_flip(value))
        assert result.tolist() == [[WIDTH, 0, 1], [0, HEIGHT, 1]]

    def test_left_and_right_points_are_swapped(self):
        label = torch.tensor([[20.0, 5.0, 2.0], [10.0, 4.0, 2.0], [30.0, 4.0, 1.0]])  # nose, left eye, right eye
        sample = {"image": torch.zeros(3, *CANVAS, dtype=torch.uint8), "targets/kpt": label}
        augment = Augment(SIZE, {"kpt": LabelKind.POINTS}, train=True, flip_pairs={"kpt": [(1, 2)]}, min_area=1.0)
        flipped = unflipped = 0
        for seed in range(40):
            torch.manual_seed(seed)
            points = augment(sample)["targets/kpt"]
            # The left eye is on the left side in the image, whether it is flipped or not.
            assert points[1, 0] < points[0, 0] < points[2, 0]
            flipped += points[1, 2].item() == 1
            unflipped += points[1, 2].item() == 2
        assert min(flipped, unflipped) > 5

    def test_left_and_right_points_of_each_instance_are_swapped(self):
        points = torch.tensor([[10.0, 4.0, 2.0], [30.0, 4.0, 1.0]])  # left, right
        label = {**label_of(LabelKind.BOXES), "keypoints": torch.stack([points, points + torch.tensor([2, 9, 0])])}
        sample = {"image": torch.zeros(3, *CANVAS, dtype=torch.uint8), "targets/pose": label}
        kinds = {"pose": LabelKind.INSTANCE_POINTS}
        augment = Augment(SIZE, kinds, train=True, flip_pairs={"pose": [(0, 1)]}, min_area=1.0)
        visibility = []
        for seed in range(40):
            torch.manual_seed(seed)
            moved = augment(sample)["targets/pose"]["keypoints"]
            assert (moved[:, 0, 0] < moved[:, 1, 0]).all()
            visibility.append(tuple(moved[0, :, 2].tolist()))
        assert set(visibility) == {(2, 1), (1, 2)}

    @pytest.mark.parametrize("kind", [LabelKind.POINTS, LabelKind.INSTANCE_POINTS])
    def test_a_flip_of_points_without_declared_pairs_is_refused(self, kind):
        with pytest.raises(BrickInputError, match=r"flip_pairs: expected the pairs of points of \['kpt'\]"):
            Augment(SIZE, {"kpt": kind}, train=True)
        Augment(SIZE, {"kpt": kind}, train=False)
        Augment(SIZE, {"kpt": kind}, train=True, flip=False)
        Augment(SIZE, {"kpt": kind}, train=True, flip_pairs={"kpt": []})


@pytest.mark.parametrize("kind", SPATIAL)
def test_a_transpose_swaps_rows_and_columns(kind):
    label = label_of(kind)
    result = moved(kind, label, lambda value, fill: transpose(value))
    if kind is LabelKind.POINTS:
        assert torch.equal(result[:3], label[:3, [1, 0, 2]])
    elif kind in (LabelKind.MASK, LabelKind.DENSE_MAP):
        assert torch.equal(result, label.T)
    else:
        assert torch.equal(result["boxes"], label["boxes"][:, [1, 0, 3, 2]])
        assert result["boxes"].canvas_size == (WIDTH, HEIGHT)
    if kind is LabelKind.INSTANCE_MASKS:
        assert torch.equal(result["masks"], label["masks"].mT)
    if kind is LabelKind.INSTANCE_POINTS:
        assert torch.equal(result["keypoints"][0], label["keypoints"][0][:, [1, 0, 2]])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_labels_of_every_kind_follow_the_exif_orientation(tmp_path, orientation):
    """Each spatial label marks one pixel of the stored image, which Pillow turns upright."""
    row, column = 4, 11
    stored = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    stored[row, column] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    oriented = read_oriented(tmp_path / "a.png")
    marked = torch.as_tensor(oriented.image[0] > 0)
    ((y, x),) = marked.nonzero().tolist()
    pixel = torch.zeros(CANVAS, dtype=torch.int64)
    pixel[row, column] = 1
    box = torch.tensor([[column, row, column + 1, row + 1]]).float()
    assert torch.equal(oriented.label(LabelKind.MASK, pixel).bool(), marked)
    assert torch.equal(oriented.label(LabelKind.DENSE_MAP, pixel * 2.5) == 2.5, marked)
    assert oriented.label(LabelKind.BOXES, {"boxes": box})["boxes"].tolist() == [[x, y, x + 1, y + 1]]
    instances = oriented.label(LabelKind.INSTANCE_MASKS, {"boxes": box, "masks": pixel[None].bool()})
    assert instances["boxes"].tolist() == [[x, y, x + 1, y + 1]]
    assert torch.equal(instances["masks"][0], marked)
    point = torch.tensor([[column + 0.5, row + 0.5, 2.0]])
    assert oriented.label(LabelKind.POINTS, point).tolist() == [[x + 0.5, y + 0.5, 2.0]]
    poses = oriented.label(LabelKind.INSTANCE_POINTS, {"boxes": box, "keypoints": point[None]})
    assert poses["boxes"].tolist() == [[x, y, x + 1, y + 1]]
    assert poses["keypoints"].tolist() == [[[x + 0.5, y + 0.5, 2.0]]]
    for kind in set(LabelKind) - set(SPATIAL):
        assert oriented.label(kind, value := label_of(kind)) is value


@pytest.mark.parametrize("train", [True, False])
def test_all_kinds_stay_aligned_with_the_image_through_the_transforms(train):
    """A bright square is a class of the mask, an instance, a box, a depth; and a point is at its center."""
    image = torch.zeros(3, 60, 80, dtype=torch.uint8)
    image[:, 20:40, 30:60] = 255
    square = image[0] > 0
    boxes = torch.tensor([[30.0, 20.0, 60.0, 40.0]])
    sample = {
        "image": image,
        "targets/mask": square.long(),
        "targets/depth": square * 2.0 + 1,
        "targets/boxes": {"boxes": boxes, "labels": torch.tensor([1])},
        "targets/instances": {"boxes": boxes, "labels": torch.tensor([1]), "masks": square[None]},
        "targets/points": torch.tensor([[45.0, 30.0, 2.0]]),
    }
    kinds = {
        "mask": LabelKind.MASK,
        "depth": LabelKind.DENSE_MAP,
        "boxes": LabelKind.BOXES,
        "instances": LabelKind.INSTANCE_MASKS,
        "points": LabelKind.POINTS,
    }
    augment = Augment(64, kinds, train=train, flip_pairs={"points": []})
    for seed in range(50):
        torch.manual_seed(seed)
        changed = augment(sample)
        mask = changed["targets/mask"] == 1
        assert torch.equal(changed["targets/depth"] == 3, mask)
        assert torch.equal(changed["targets/depth"] == 0, changed["targets/mask"] == 255)
        for instances in (changed["targets/boxes"], changed["targets/instances"]):
            assert len(instances["boxes"]) == len(instances["labels"]) == 1
        assert torch.equal(changed["targets/instances"]["masks"][0].bool(), mask)
        rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
        around = [columns.min().item(), rows.min().item(), columns.max().item() + 1, rows.max().item() + 1]
        assert changed["targets/boxes"]["boxes"][0].tolist() == pytest.approx(around, abs=1.01)
        x, y, visible = changed["targets/points"][0].tolist()
        x1, y1, x2, y2 = around
        cut = x1 == 0 or y1 == 0 or x2 == 64 or y2 == 64
        if visible and not cut:
            assert (x, y) == pytest.approx(((x1 + x2) / 2, (y1 + y2) / 2), abs=1.01)
        assert visible or cut


@pytest.mark.parametrize(
    ("kind", "entry"), [(LabelKind.INSTANCE_MASKS, "masks"), (LabelKind.INSTANCE_POINTS, "keypoints")]
)
def test_dropped_boxes_drop_their_instances(kind, entry):
    label = label_of(kind)
    sample = {"image": torch.zeros(3, *CANVAS, dtype=torch.uint8), "targets/x": label}
    augment = Augment(SIZE, {"x": kind}, train=True, min_area=0.1, flip_pairs={"x": []})
    counts = set()
    for seed in range(60):
        torch.manual_seed(seed)
        changed = augment(sample)["targets/x"]
        assert len(changed["boxes"]) == len(changed["labels"]) == len(changed[entry])
        counts.add(len(changed["boxes"]))
    assert counts >= {1, 2}


@pytest.mark.parametrize("kind", LabelKind)
def test_a_missing_label_of_any_kind_is_collated_as_a_neutral_one(kind):
    image = torch.zeros(3, 4, 4)
    label = label_of(kind)
    batch = collate([{"image": image, "targets/x": label}, {"image": image}], {"x": kind})
    assert batch["labelled/x"].tolist() == [True, False]
    neutral = batch["targets/x"][1]
    if kind in WITH_BOXES:
        assert neutral.keys() == label.keys()
        assert all(len(entry) == 0 for entry in neutral.values())
    elif kind is LabelKind.TEXT:
        assert batch["targets/x"] == ["red", ""]
    else:
        assert torch.equal(neutral, torch.full_like(neutral, 255 if kind is LabelKind.MASK else 0))
        assert neutral.dtype == batch["targets/x"][0].dtype


@pytest.mark.parametrize("kind", LabelKind)
def test_labelled_items_are_counted_by_kind(kind):
    rows = torch.tensor([True, False, True])
    points = label_of(LabelKind.POINTS).repeat(3, 1, 1)
    mask = torch.full((3, 4, 4), 2)
    mask[0, :2] = 255
    depth = torch.ones(3, 4, 4)
    depth[2] = torch.nan
    labels = {LabelKind.POINTS: points, LabelKind.MASK: mask, LabelKind.DENSE_MAP: depth}.get(kind, [None] * 3)
    expected = {LabelKind.POINTS: 2 * 3, LabelKind.MASK: 8 + 16, LabelKind.DENSE_MAP: 1}.get(kind, 2)
    assert KIND_RULES[kind].count(labels, rows) == expected


def test_a_label_without_a_declared_kind_is_an_error_that_names_it():
    sample = {"image": torch.zeros(3, 8, 8, dtype=torch.uint8), "targets/depth": torch.ones(8, 8)}
    message = r"'targets/depth': expected a kind in the data set's `kinds`, found kinds for \['cls'\] only.*DENSE_MAP"
    with pytest.raises(BrickInputError, match=f"Augment, {message}"):
        Augment(SIZE, {"cls": LabelKind.CLASS_INDEX}, train=False)(sample)
    with pytest.raises(BrickInputError, match=f"collate, {message}"):
        collate([sample], {"cls": LabelKind.CLASS_INDEX})


@pytest.mark.parametrize(
    ("kind", "label", "message"),
    [
        (LabelKind.MASK, torch.zeros(30, 41), r"a mask \(H, W\) = \(30, 40\).* found \(30, 41\)"),
        (LabelKind.DENSE_MAP, torch.zeros(30), r"a dense map .* found \(30,\)"),
        (LabelKind.BOXES, torch.zeros(2, 4), r'a dictionary with "boxes"'),
        (
            LabelKind.INSTANCE_MASKS,
            {"boxes": torch.zeros(2, 4)},
            r'"masks" \(M, H, W\) = \(2, 30, 40\), found NoneType',
        ),
        (
            LabelKind.INSTANCE_POINTS,
            {"boxes": torch.zeros(2, 4), "keypoints": torch.zeros(1, 5, 3)},
            r'"keypoints" \(M, K, 3\) = \(2, K, 3\) of x, y and visibility, found \(1, 5, 3\)',
        ),
        (LabelKind.POINTS, torch.zeros(3, 2), r"points \(..., K, 3\) .* found \(3, 2\)"),
    ],
)
def test_a_label_that_has_not_the_form_of_its_kind_is_an_error_that_names_it(kind, label, message):
    sample = {"image": torch.zeros(3, *CANVAS, dtype=torch.uint8), "targets/x": label}
    with pytest.raises(BrickInputError, match=f"Augment, 'targets/x': expected {message}"):
        Augment(SIZE, {"x": kind}, train=False)(sample)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("train", [True, False])
def test_the_labels_of_every_registered_task_are_transformed_and_collated(name, train):
    task = TASKS[name]
    for variant in task.variants:
        kinds = {value.removeprefix("targets/"): kind for value, kind in task.kinds("head", variant).items()}
        assert next(iter(kinds)) == "head"
        sample = {
            "image": torch.zeros(3, *CANVAS, dtype=torch.uint8),
            **{f"targets/{label}": label_of(kind) for label, kind in kinds.items()},
        }
        changed = Augment(SIZE, kinds, train=train, flip_pairs=dict.fromkeys(kinds, ()))(sample)
        assert list(changed) == list(sample)
        assert len(collate([changed, changed], kinds)["targets/head"]) == 2
