import copy
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from torch.nn.functional import max_pool2d
from torch.utils.data import DataLoader
from torchvision import tv_tensors

from brickyard import LabelKind
from brickyard.data.collate import collate
from brickyard.data.synthetic.digits import DigitScenes
from brickyard.data.transforms import Augment, Augmented
from brickyard.errors import BrickInputError
from tests.data.disk import BLUE, RED, box_around, scene

WIDTH, HEIGHT, SIZE = 90, 60, 48
RED_BOX, BLUE_BOX = (6, 10, 36, 50), (50, 20, 80, 44)
KINDS = {"cls": LabelKind.MULTI_HOT, "seg": LabelKind.MASK, "det": LabelKind.BOXES}
OBJECTS = {4: (0, RED_BOX), 7: (2, BLUE_BOX)}  # label: channel of its color, box


def sample(objects=(4, 7)):
    colors = {4: RED, 7: BLUE}
    pixels = scene(WIDTH, HEIGHT, {colors[label]: OBJECTS[label][1] for label in objects})
    mask = torch.zeros(HEIGHT, WIDTH, dtype=torch.int64)
    for label in objects:
        x1, y1, x2, y2 = OBJECTS[label][1]
        mask[y1:y2, x1:x2] = label
    boxes = torch.tensor([OBJECTS[label][1] for label in objects], dtype=torch.float32).reshape(-1, 4)
    return {
        "image": torch.from_numpy(pixels.transpose(2, 0, 1).copy()),
        "targets/cls": torch.tensor([0, 1, 0]),
        "targets/seg": mask,
        "targets/det": {"boxes": boxes, "labels": torch.tensor(objects, dtype=torch.int64)},
    }


def pixels_of_channel(image, channel):
    """The pixels where a channel exceeds green, also after color jitter."""
    difference = image[channel].int() - image[1].int()
    return difference > 60


def dilated(pixels):
    return max_pool2d(pixels[None].float(), 3, 1, 1)[0].bool()


def nearly_equal(one, other):
    """Whether two regions (H, W) bool are equal except at their borders."""
    return not (one & ~dilated(other)).any() and not (other & ~dilated(one)).any()


def seeded(augment, item, count):
    for seed in range(count):
        torch.manual_seed(seed)
        yield augment(item)


def test_boxes_and_masks_follow_the_objects_through_every_random_change():
    augment = Augment(SIZE, KINDS, train=True)
    seen = {4: 0, 7: 0}
    for changed in seeded(augment, sample(), 200):
        image, mask, target = changed["image"], changed["targets/seg"], changed["targets/det"]
        assert image.shape == (3, SIZE, SIZE)
        assert image.dtype == torch.uint8
        assert mask.shape == (SIZE, SIZE)
        assert mask.dtype == target["labels"].dtype == torch.int64
        assert target["boxes"].dtype == torch.float32
        boxes = dict(zip(target["labels"].tolist(), target["boxes"], strict=True))
        for label, (channel, _) in OBJECTS.items():
            pixels = pixels_of_channel(image, channel)
            assert nearly_equal(pixels, mask == label)
            if label in boxes:
                assert boxes[label].tolist() == pytest.approx(box_around(pixels), abs=1.01)
                seen[label] += 1
            else:  # nothing of it is visible, or too little
                assert min(pixels.any(dim=0).sum(), pixels.any(dim=1).sum()) <= 3
    assert min(seen.values()) > 150


def test_masks_are_not_shifted_against_their_image():
    """Averaged over many transforms, the centers of an object in the image and in the mask are the same."""
    shifts = []
    for changed in seeded(Augment(17, KINDS, train=True, flip=False), sample(), 300):
        pixels, classes = pixels_of_channel(changed["image"], 0), changed["targets/seg"] == 4
        if min(len(region.nonzero()) for region in (pixels, classes)) >= 20:
            shifts.append(pixels.nonzero().float().mean(dim=0) - classes.nonzero().float().mean(dim=0))
    assert len(shifts) > 200
    assert torch.stack(shifts).mean(dim=0).abs().max() < 0.05


def test_a_frame_is_unknown_in_the_mask_and_grey():
    framed = 0
    for changed in seeded(Augment(SIZE, KINDS, train=True), sample([]), 100):
        spread = changed["image"].int().amax(dim=0) - changed["image"].int().amin(dim=0)
        background = spread[SIZE // 2, SIZE // 2]
        unknown = changed["targets/seg"] == 255
        assert (spread[unknown] < 0.9 * background).all()  # grey and background are interpolated at the border
        assert unknown[spread < 0.1 * background].all()
        framed += unknown.any().item()
    assert 10 < framed < 45


def test_images_are_flipped_half_of_the_time_or_never():
    def flipped(flip):
        order = []
        for changed in seeded(Augment(SIZE, KINDS, train=True, flip=flip), sample(), 100):
            target = changed["targets/det"]
            if len(target["labels"]) == 2:
                order.append((target["boxes"][0, 0] > target["boxes"][1, 0]).item())
        assert len(order) > 60
        return np.mean(order)

    assert flipped(flip=False) == 0
    assert 0.3 < flipped(flip=True) < 0.7


@pytest.mark.parametrize("min_area", [0.2, 0.5, 1.0])
def test_crops_keep_a_minimal_area_and_nearly_the_aspect_ratio(min_area):
    area, shape = [], []
    for changed in seeded(Augment(120, KINDS, train=True, min_area=min_area), sample(), 200):
        red = changed["targets/seg"] == 4
        whole = red.any() and not (red[0].any() or red[-1].any() or red[:, 0].any() or red[:, -1].any())
        if whole and not (changed["targets/seg"] == 255).any():
            x1, y1, x2, y2 = box_around(red)
            x_scale = (x2 - x1) / (RED_BOX[2] - RED_BOX[0]) * WIDTH / 120
            y_scale = (y2 - y1) / (RED_BOX[3] - RED_BOX[1]) * HEIGHT / 120
            area.append(1 / (x_scale * y_scale))
            shape.append(x_scale / y_scale)
    assert len(area) > 40
    assert min(area) > min_area - 0.05
    assert max(area) < 1.05
    assert 3 / 4 - 0.05 < min(shape) <= max(shape) < 4 / 3 + 0.08
    if min_area < 1:
        assert max(shape) - min(shape) > 0.3


def test_colors_change_in_training_only():
    looks = {
        tuple(changed["image"][:, 0, 0].tolist()) for changed in seeded(Augment(SIZE, KINDS, train=True), sample(), 20)
    }
    assert len(looks) > 15
    still = {
        tuple(changed["image"][:, 0, 0].tolist()) for changed in seeded(Augment(SIZE, KINDS, train=False), sample(), 20)
    }
    assert len(still) == 1


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_evaluation_resizes_as_prediction_does(interpolation):
    pixels = np.random.default_rng(0).integers(0, 256, size=(70, 110, 3), dtype=np.uint8)
    resize = create_transform(
        (3, SIZE, SIZE), interpolation=interpolation, crop_pct=1.0, crop_mode="squash", normalize=False
    )
    expected = resize(Image.fromarray(pixels)).int()
    augment = Augment(SIZE, KINDS, train=False, interpolation=interpolation)
    changed = augment({"image": torch.from_numpy(pixels.transpose(2, 0, 1).copy())})
    assert (changed["image"].int() - expected).abs().max() <= 1


def test_evaluation_keeps_every_box_and_takes_the_nearest_class():
    item = sample()
    tiny = torch.tensor([[3.0, 3.0, 3.5, 3.5]])
    item["targets/det"] = {
        "boxes": torch.cat([item["targets/det"]["boxes"], tiny]),
        "labels": torch.tensor([4, 7, 1]),
    }
    changed = Augment(SIZE, KINDS, train=False)(item)
    scale = torch.tensor([SIZE / WIDTH, SIZE / HEIGHT] * 2)
    torch.testing.assert_close(
        changed["targets/det"]["boxes"].as_subclass(torch.Tensor), item["targets/det"]["boxes"] * scale
    )
    assert changed["targets/det"]["labels"].tolist() == [4, 7, 1]
    mask = Image.fromarray(item["targets/seg"].numpy().astype(np.uint8))
    nearest = np.asarray(mask.resize((SIZE, SIZE), Image.Resampling.NEAREST))
    assert np.array_equal(changed["targets/seg"].numpy(), nearest)


def test_other_entries_of_a_box_are_dropped_with_it():
    item = sample()
    boxes = item["targets/det"]["boxes"].repeat(30, 1)
    item["targets/det"] = {"boxes": boxes, "labels": torch.arange(60), "areas": torch.arange(60) * 10.0}
    fewer = 0
    for changed in seeded(Augment(SIZE, KINDS, train=True, min_area=0.05), item, 60):
        target = changed["targets/det"]
        assert len(target["boxes"]) == len(target["labels"]) == len(target["areas"])
        assert torch.equal(target["areas"], target["labels"] * 10.0)
        for label, box in zip(target["labels"][:2].tolist(), target["boxes"], strict=False):
            pixels = pixels_of_channel(changed["image"], (0, 2)[label % 2])  # every other box is blue
            assert box.tolist() == pytest.approx(box_around(pixels), abs=1.01)
        assert changed["targets/seg"].shape == (SIZE, SIZE)  # 60 boxes, as many as the mask has rows: not mixed up
        fewer += len(target["boxes"]) < 60
    assert fewer > 5


def test_any_number_of_labels_is_transformed_and_other_values_are_passed_on():
    kinds = {
        "age": LabelKind.METADATA,
        "breed": LabelKind.CLASS_INDEX,
        "parts": LabelKind.MASK,
        "seg": LabelKind.MASK,
        "heads": LabelKind.BOXES,
        "tails": LabelKind.BOXES,
        "words": LabelKind.TEXT,
    }
    item = {
        "image": sample()["image"],
        "file": "a.jpg",
        "targets/age": 3.5,
        "targets/breed": torch.tensor(7),
        "targets/parts": sample()["targets/seg"].to(torch.uint8),
        "targets/seg": sample()["targets/seg"],
        "targets/heads": sample([7])["targets/det"],
        "targets/tails": sample([])["targets/det"],
        "targets/words": "red",
        "depth": torch.zeros(3, 3),
    }
    for train in (True, False):
        changed = Augment(SIZE, kinds, train=train)(item)
        assert list(changed) == list(item)
        for name in ("file", "targets/age", "targets/breed", "targets/words", "depth"):
            assert changed[name] is item[name]
        assert torch.equal(changed["targets/parts"].long(), changed["targets/seg"])
        assert changed["targets/parts"].dtype == torch.uint8
        assert changed["targets/tails"]["boxes"].shape == (0, 4)
        assert changed["targets/tails"]["labels"].shape == (0,)
        assert set(changed["targets/heads"]["labels"].tolist()) <= {7}


def test_outputs_are_tv_tensors_as_those_of_torchvision():
    changed = Augment(SIZE, KINDS, train=True)(sample())
    assert isinstance(changed["image"], tv_tensors.Image)
    assert isinstance(changed["targets/seg"], tv_tensors.Mask)
    assert isinstance(changed["targets/det"]["boxes"], tv_tensors.BoundingBoxes)
    assert changed["targets/det"]["boxes"].canvas_size == (SIZE, SIZE)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("size", [SIZE, 60])
def test_the_input_is_not_modified(train, size):
    item = sample()
    item["image"] = item["image"][:, :, :60].contiguous()  # one of the sizes needs no resize
    item["targets/seg"] = item["targets/seg"][:, :60].contiguous()
    before = copy.deepcopy(item)
    for changed in seeded(Augment(size, KINDS, train=train), item, 10):
        changed["targets/det"].clear()
    assert list(item) == list(before)
    assert all(torch.equal(item[name], before[name]) for name in before if name != "targets/det")
    assert all(torch.equal(item["targets/det"][name], value) for name, value in before["targets/det"].items())


def test_a_change_depends_on_the_seed_alone():
    augment = Augment(SIZE, KINDS, train=True)
    one, again = ([*seeded(augment, sample(), 10)] for _ in range(2))
    for first, second in zip(one, again, strict=True):
        assert torch.equal(first["image"], second["image"])
        assert torch.equal(first["targets/seg"], second["targets/seg"])
        assert torch.equal(first["targets/det"]["boxes"], second["targets/det"]["boxes"])


def test_a_transformed_data_set_keeps_its_labels_and_loads_in_workers():
    scenes = DigitScenes("val", 5)
    data = Augmented(scenes, Augment(64, scenes.kinds, train=False))
    assert data.labels == scenes.labels
    assert data.kinds == scenes.kinds
    assert len(data) == 5
    batches = [*DataLoader(data, batch_size=3, collate_fn=partial(collate, kinds=data.kinds), num_workers=1)]
    assert [batch["image"].shape for batch in batches] == [(3, 3, 64, 64), (2, 3, 64, 64)]
    assert [batch["targets/seg"].shape for batch in batches] == [(3, 64, 64), (2, 64, 64)]
    boxes = [target["boxes"] for batch in batches for target in batch["targets/det"]]
    for index, scaled in enumerate(boxes):
        torch.testing.assert_close(
            scaled.as_subclass(torch.Tensor), scenes[index]["targets/det"]["boxes"] * 64 / 96, rtol=0, atol=1e-4
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 0}, "image_size: expected 1 or more, found 0"),
        ({"min_area": 0.0}, r"min_area: expected a fraction in \(0, 1\], found 0.0"),
        ({"min_area": 1.5}, "min_area"),
        ({"interpolation": "nearest"}, "interpolation: .* found 'nearest'"),
    ],
)
def test_an_argument_out_of_range_is_refused(arguments, message):
    with pytest.raises(BrickInputError, match=message):
        Augment(**{"image_size": SIZE, "kinds": KINDS, "train": True, **arguments})


def test_a_mask_of_another_size_is_refused():
    item = sample() | {"targets/parts": torch.zeros(HEIGHT, WIDTH - 1, dtype=torch.int64)}
    with pytest.raises(BrickInputError, match=r"'targets/parts': .* \(60, 90\).* found \(60, 89\)"):
        Augment(SIZE, {**KINDS, "parts": LabelKind.MASK}, train=True)(item)


def test_boxes_that_are_fractions_of_the_image_size_are_refused():
    item = sample()
    scale = torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])
    item["targets/det"]["boxes"] = item["targets/det"]["boxes"] / scale
    with pytest.raises(BrickInputError, match=r"'targets/det': expected boxes in pixels, found boxes in \[0, 1\] only"):
        Augment(SIZE, KINDS, train=False)(item)
    for box in ([0, 0, 1, 1], [0, 0, 0, 0], [0.2, 0.2, 1.5, 0.4]):  # a pixel, padding, a thin object
        item["targets/det"] = {"boxes": torch.tensor([box], dtype=torch.float32), "labels": torch.tensor([4])}
        assert len(Augment(SIZE, KINDS, train=False)(item)["targets/det"]["boxes"]) == 1


def test_ignored_boxes_stay_marked():
    item = sample()
    item["targets/det"]["ignore"] = torch.tensor([False, True])
    for changed in seeded(Augment(SIZE, KINDS, train=True, min_area=0.1), item, 40):
        target = changed["targets/det"]
        assert target["ignore"].tolist() == [label == 7 for label in target["labels"].tolist()]
        assert target["ignore"].dtype == torch.bool


def test_a_boolean_mask_is_moved_and_a_frame_around_it_is_unknown():
    item = sample() | {"targets/parts": sample()["targets/seg"] == 4}
    kinds = {**KINDS, "parts": LabelKind.MASK}
    values = set()
    for changed in seeded(Augment(SIZE, kinds, train=True), item, 20):
        assert torch.equal(changed["targets/parts"] == 1, changed["targets/seg"] == 4)
        assert torch.equal(changed["targets/parts"] == 255, changed["targets/seg"] == 255)
        values |= set(changed["targets/parts"].unique().tolist())
    assert values == {0, 1, 255}


def test_a_mask_with_a_channel_is_refused():
    item = sample() | {"targets/parts": sample()["targets/seg"][None]}
    with pytest.raises(BrickInputError, match=r"'targets/parts': .* \(60, 90\).* found \(1, 60, 90\)"):
        Augment(SIZE, {**KINDS, "parts": LabelKind.MASK}, train=True)(item)
