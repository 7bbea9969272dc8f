import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision.ops import masks_to_boxes

import brickyard.data.synthetic.digits
from brickyard.data.synthetic.backgrounds import photos_of
from brickyard.data.synthetic.digits import DigitScenes
from brickyard.data.synthetic.glyphs import digits_of
from brickyard.errors import BrickInputError, MissingExtraError, UnknownNameError

SPLITS = ("train", "val", "test")


def boxes_around(masks):
    """Boxes (M, 4) around masks (M, H, W), up to the far side of the last pixel."""
    return masks_to_boxes(masks) + torch.tensor([0, 0, 1, 1])


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, dict):
            assert_same(value, other[name])
        else:
            assert torch.equal(value, other[name])


def stripped(sample):
    """A batch of one sample without the batch dimension."""
    return {name: stripped(value) if isinstance(value, dict) else value[0] for name, value in sample.items()}


@pytest.fixture(scope="module")
def scenes():
    return DigitScenes("train", 60)


def test_a_scene_has_an_image_and_labels_of_seven_tasks(scenes):
    for scene in scenes:
        tasks = ("cls", "seg", "det", "fomo", "inst", "pose", "depth")
        assert list(scene) == ["image", *(f"targets/{task}" for task in tasks)]
        assert scene["image"].shape == (3, 96, 96)
        assert scene["image"].dtype == torch.uint8
        assert scene["image"].is_contiguous()
        assert scene["targets/cls"].shape == (10,)
        assert scene["targets/cls"].dtype == torch.int64
        assert scene["targets/seg"].shape == (96, 96)
        assert scene["targets/seg"].dtype == torch.int64
        boxes, labels = scene["targets/det"]["boxes"], scene["targets/det"]["labels"]
        assert boxes.dtype == torch.float32
        assert labels.dtype == torch.int64
        assert boxes.shape == (len(labels), 4)
        assert 1 <= len(labels) <= 5
        assert boxes.min() >= 0
        assert boxes.max() <= 96


def test_the_three_tasks_agree(scenes):
    for scene in scenes:
        present = set(scene["targets/det"]["labels"].tolist())
        assert set(scene["targets/cls"].nonzero().flatten().tolist()) == present
        assert set(scene["targets/cls"].tolist()) <= {0, 1}
        assert set(scene["targets/seg"].unique().tolist()) == {0, *(digit + 1 for digit in present)}


def test_labels_name_the_classes():
    digits = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
    assert DigitScenes.labels == {
        "cls": digits,
        "seg": ("background", *digits),
        **dict.fromkeys(("det", "fomo", "inst", "pose"), digits),
        "depth": (),
    }
    assert DigitScenes.kinds.keys() == DigitScenes.labels.keys()


def test_instance_masks_are_the_visible_pixels_of_each_digit(scenes):
    for scene in scenes:
        target = scene["targets/inst"]
        assert target["masks"].dtype == torch.uint8
        assert torch.equal(target["boxes"], boxes_around(target["masks"]))
        classes = ((target["labels"] + 1)[:, None, None] * target["masks"]).sum(dim=0)
        assert torch.equal(classes, scene["targets/seg"])  # each pixel is of one digit
        for other in ("det", "fomo", "pose"):
            assert torch.equal(scene[f"targets/{other}"]["boxes"], target["boxes"])
            assert torch.equal(scene[f"targets/{other}"]["labels"], target["labels"])


def test_corners_enclose_the_digit_and_follow_its_turn():
    """A digit lies in the quadrilateral of its corners, which is listed clockwise from the top left and tight."""
    seen = 0
    for scene in DigitScenes("train", 60, digits=(1, 1)):
        corners = scene["targets/pose"]["keypoints"][0]
        if (corners[:, 2] == 0).any():
            continue
        points = corners[:, :2]
        top_left, top_right, bottom_right, bottom_left = points
        assert (top_right - top_left)[0] > abs((top_right - top_left)[1])
        assert (bottom_left - top_left)[1] > abs((bottom_left - top_left)[0])
        torch.testing.assert_close(top_left + bottom_right, top_right + bottom_left)  # a parallelogram
        # In the coordinates of the parallelogram, the pixels of the digit fill the unit square.
        edges = torch.stack([top_right - top_left, bottom_left - top_left], dim=1)
        pixels = scene["targets/inst"]["masks"][0].nonzero().flip(1) + 0.5
        shares = torch.linalg.solve(edges, (pixels - top_left).T)
        tolerance = 1.5 / torch.linalg.vector_norm(edges, dim=0)[:, None]
        assert (shares > -tolerance).all()
        assert (shares < 1 + tolerance).all()
        assert (shares.amin(dim=1, keepdim=True) < 2 * tolerance).all()
        assert (shares.amax(dim=1, keepdim=True) > 1 - 2 * tolerance).all()
        seen += 1
    assert seen > 40


def test_corners_outside_of_the_image_are_unknown():
    points = torch.cat([scene["targets/pose"]["keypoints"].flatten(0, 1) for scene in DigitScenes("train", 100)])
    unknown = points[:, 2] == 0
    assert 0 < unknown.sum() < 0.1 * len(points)
    assert (points[unknown] == 0).all()
    assert (points[~unknown, 2] == 2).all()
    assert points[:, :2].min() >= 0
    assert points[:, :2].max() <= 96


def test_the_depth_of_a_digit_is_inverse_to_its_height():
    overlaps = 0
    for scene in DigitScenes("train", 60):
        depth, target = scene["targets/depth"], scene["targets/inst"]
        assert depth.dtype == torch.float32
        assert (depth[scene["targets/seg"] == 0] == 0).all()
        for mask, keypoints in zip(target["masks"].bool(), scene["targets/pose"]["keypoints"], strict=True):
            (distance,) = depth[mask & (depth > 0)].unique().tolist()
            assert 2 <= distance <= 6
            overlaps += int((depth[mask] == 0).sum())
            if (keypoints[:, 2] > 0).all():
                # The digit's rectangle before stretch and slant is as high as 8 cells; ink fills most of them.
                height = (keypoints[3] - keypoints[0])[:2].norm().item()
                assert 0.55 < height * distance / 96 < 1.35
    assert 0 < overlaps < 2000


def test_the_first_scenes_are_those_that_figures_were_measured_on():
    expected = [[3, 6, 8], [6, 6], [1, 1, 6, 3]]
    assert [scene["targets/det"]["labels"].tolist() for scene in DigitScenes("test", 3)] == expected


def test_boxes_are_tight_around_the_mask_of_a_digit(scenes):
    checked = 0
    for scene in scenes:
        labels = scene["targets/det"]["labels"]
        alone = (labels[:, None] == labels).sum(dim=1) == 1
        masks = scene["targets/seg"] == labels[alone, None, None] + 1
        if len(masks):
            assert torch.equal(scene["targets/det"]["boxes"][alone], boxes_around(masks))
        checked += len(masks)
    assert checked > 100


def test_a_box_is_around_the_visible_part_of_a_digit_which_is_most_of_it():
    """A scene of n digits is one of n - 1 with a digit more, so the masks show each digit before it was covered."""
    by_count = [DigitScenes("train", 40, digits=(count, count)) for count in range(6)]
    covered = 0
    for index in range(40):
        steps = [dataset[index] for dataset in by_count]
        labels = steps[-1]["targets/det"]["labels"]
        if len(labels.unique()) < 5:
            continue  # the masks of two equal digits cannot be told apart; of four digits, one did not fit
        new = [one["targets/seg"] != other["targets/seg"] for one, other in pairwise(steps)]
        for number, mask in enumerate(new):
            left = mask & ~torch.stack([*new[number + 1 :], torch.zeros_like(mask)]).any(dim=0)
            assert left.sum() >= 0.8 * mask.sum()
            assert torch.equal(steps[-1]["targets/det"]["boxes"][number], boxes_around(left[None])[0])
            covered += int((left != mask).any())
    assert covered > 5


def test_digits_have_a_legible_size_and_differ_from_the_background():
    heights = []
    empty, single = DigitScenes("test", 100, digits=(0, 0)), DigitScenes("test", 100, digits=(1, 1))
    for background, scene in zip(empty, single, strict=True):
        mask = scene["targets/seg"] > 0
        luma = torch.tensor([0.299, 0.587, 0.114])
        change = torch.einsum("chw,c->hw", scene["image"].float() - background["image"].float(), luma)[mask]
        assert change.mean().abs() > 25
        (box,) = scene["targets/det"]["boxes"]
        heights.append((box[3] - box[1]).item())
        outside = torch.nn.functional.max_pool2d(mask[None].float(), 13, 1, 6)[0] == 0
        assert torch.equal(scene["image"][:, outside], background["image"][:, outside])
    assert min(heights) >= 11
    assert max(heights) <= 72
    assert max(heights) > 40


def test_a_scene_may_be_empty():
    scenes = DigitScenes("train", 30, digits=(0, 1))
    counts = [len(scene["targets/det"]["labels"]) for scene in scenes]
    assert set(counts) == {0, 1}
    scene = scenes[counts.index(0)]
    assert scene["targets/det"]["boxes"].shape == (0, 4)
    assert scene["targets/det"]["boxes"].dtype == torch.float32
    assert scene["targets/det"]["labels"].dtype == torch.int64
    assert scene["targets/cls"].sum() == 0
    assert scene["targets/seg"].sum() == 0


@pytest.mark.parametrize("size", [48, 131])
def test_images_have_the_requested_size(size):
    for scene in DigitScenes("val", 5, image_size=size):
        assert scene["image"].shape == (3, size, size)
        assert scene["targets/seg"].shape == (size, size)
        assert scene["targets/det"]["boxes"].max() <= size


def test_every_digit_and_every_number_of_them_comes_about_equally_often():
    scenes = list(DigitScenes("test", 300))
    labels = torch.cat([scene["targets/det"]["labels"] for scene in scenes])
    assert torch.bincount(labels, minlength=10).min() > 0.06 * len(labels)
    counts = torch.bincount(torch.tensor([len(scene["targets/det"]["labels"]) for scene in scenes]), minlength=6)
    assert counts[0] == 0
    assert counts[1:].min() > 0.12 * len(scenes)


def test_a_scene_depends_on_seed_split_and_index_only():
    forward = [DigitScenes("val", 20)[index] for index in range(20)]
    dataset = DigitScenes("val", 500)
    for index in reversed(range(20)):
        assert_same(dataset[index], forward[index])
    others = [DigitScenes("val", 20, seed=1)[3], DigitScenes("test", 20)[3], forward[4]]
    assert not any(torch.equal(forward[3]["image"], other["image"]) for other in others)


@pytest.mark.slow
def test_workers_of_a_loader_generate_the_same_scenes_in_any_order():
    dataset = DigitScenes("train", 12)
    order = [11, 3, 0, 7, 8]
    loader = DataLoader(dataset, batch_size=1, sampler=order, num_workers=2, multiprocessing_context="spawn")
    for index, sample in zip(order, loader, strict=True):
        assert_same(stripped(sample), dataset[index])


def test_no_digit_is_in_two_splits():
    images = {split: {image.tobytes() for image in digits_of(split)[0]} for split in SPLITS}
    assert not images["train"] & images["val"]
    assert not images["train"] & images["test"]
    assert not images["val"] & images["test"]
    assert sum(len(digits_of(split)[0]) for split in SPLITS) == 1797  # all images of the data set
    for split in SPLITS:
        assert np.bincount(digits_of(split)[1]).min() > 0.08 * len(digits_of(split)[1])


def test_no_similar_photos_are_in_two_splits():
    small = {
        split: np.array([np.asarray(photo.convert("L").resize((24, 24)), float).ravel() for photo in photos_of(split)])
        for split in SPLITS
    }
    for one, other in [("train", "val"), ("train", "test"), ("val", "test")]:
        count = len(small[one])
        alike = np.corrcoef(np.concatenate([small[one], small[other]]))[:count, count:]
        assert alike.max() < 0.9


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_reads_the_digits_and_photos_of_that_split(split, monkeypatch):
    read_splits = []
    for name, read in [("photos_of", photos_of), ("digits_of", digits_of)]:
        monkeypatch.setattr(
            brickyard.data.synthetic.digits, name, lambda split, read=read: read_splits.append(split) or read(split)
        )
    DigitScenes(split, 1)[0]
    assert read_splits == [split, split]


def test_the_length_bounds_the_index():
    scenes = DigitScenes("test", 3)
    assert len(scenes) == 3
    assert len(list(scenes)) == 3
    assert_same(scenes[-1], scenes[2])
    assert_same(scenes[torch.tensor(1)], scenes[1])
    for index in (3, -4):
        with pytest.raises(IndexError, match=f"{index} is out of range for 3 scenes"):
            scenes[index]
    assert list(DigitScenes("test", 0)) == []


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"length": -1}, "length"),
        ({"image_size": 47}, "image_size"),
        ({"seed": -1}, "seed"),
        ({"digits": (3, 2)}, "digits"),
        ({"digits": (-1, 2)}, "digits"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments, named):
    with pytest.raises(BrickInputError, match=f"DigitScenes, {named}: expected .*, found"):
        DigitScenes(**{"split": "train", "length": 1, **arguments})


def test_an_unknown_split_is_refused_with_the_known_ones():
    with pytest.raises(UnknownNameError, match=r"'validation'.*'val'"):
        DigitScenes("validation", 1)


@pytest.mark.parametrize("module", ["skimage", "sklearn.datasets"])
def test_without_the_libraries_the_extra_is_named(module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"brickyard\[train\]"):
        DigitScenes("train", 1)
