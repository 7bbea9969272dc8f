"""Scenes of one digit, lines of digits, and digits with and without a foreign object."""

import sys

import numpy as np
import pytest
import torch

from brickyard.data.synthetic.anomalies import DigitAnomalies
from brickyard.data.synthetic.digits import DigitScenes
from brickyard.data.synthetic.single import SingleDigits
from brickyard.data.synthetic.text import DigitText
from brickyard.errors import BrickInputError, MissingExtraError, UnknownNameError

CLASSES = [DigitScenes, SingleDigits, DigitText, DigitAnomalies]


def equal(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(value, other[name]) for name, value in one.items())
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


@pytest.mark.parametrize("scenes", CLASSES)
def test_a_scene_depends_on_seed_split_and_index_only(scenes):
    assert all(map(equal, scenes("val", 4), scenes("val", 40)))
    first = scenes("val", 1)[0]["image"]
    for other in (scenes("val", 1, seed=1), scenes("test", 1)):
        assert not torch.equal(first, other[0]["image"])


@pytest.mark.parametrize("scenes", CLASSES)
def test_bad_arguments_are_refused(scenes):
    with pytest.raises(UnknownNameError, match="'all'"):
        scenes("all", 1)
    for arguments, named in [({"length": -1}, "length"), ({"image_size": 47}, "image_size"), ({"seed": -1}, "seed")]:
        with pytest.raises(BrickInputError, match=f"{scenes.__name__}, {named}: expected"):
            scenes(**{"split": "val", "length": 1, **arguments})


@pytest.mark.parametrize("scenes", CLASSES)
def test_without_the_libraries_the_extra_is_named(scenes, monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(MissingExtraError, match=r"brickyard\[train\]"):
        scenes("train", 1)


@pytest.mark.parametrize("scenes", CLASSES)
def test_every_label_has_a_kind_and_every_head_a_label(scenes):
    item = scenes("val", 1)[0]
    assert {f"targets/{name}" for name in scenes.kinds} == item.keys() - {"image"}
    assert scenes.labels.keys() <= scenes.kinds.keys()
    assert item["image"].dtype == torch.uint8


def test_a_single_digit_has_its_class_its_identity_and_its_corners():
    digits = []
    for scene in SingleDigits("train", 100):
        assert scene["targets/cls"] == scene["targets/emb"]
        digits.append(int(scene["targets/cls"]))
        corners = scene["targets/kpt"]
        assert corners.shape == (4, 3)
        known = corners[:, 2] > 0
        assert known.sum() >= 2
        if known.all():
            height = (corners[3] - corners[0])[:2].norm()
            assert 0.2 * 96 < height < 0.75 * 96
    assert set(digits) == set(range(10))


def test_pairs_of_corners_keep_their_sides_under_a_flip():
    spec = SingleDigits.keypoints["kpt"]
    assert spec.names == ("top left", "top right", "bottom right", "bottom left") == SingleDigits.labels["kpt"]
    for one, other in spec.flip_pairs:
        assert spec.names[one].replace("left", "right") == spec.names[other].replace("left", "right")


@pytest.mark.parametrize("size", [(64, 192), (96, 96), (48, 300), (120, 60)])
def test_a_line_has_the_digits_of_its_text_from_left_to_right(size):
    lines = DigitText("train", 60, image_size=size)
    assert lines[0]["image"].shape == (3, *size)
    texts = [line["targets/ocr"] for line in lines]
    assert all(text.isdigit() and 1 <= len(text) <= 6 for text in texts)
    assert len({len(text) for text in texts}) >= 4
    assert set("".join(texts)) == set("0123456789")


def test_the_ink_of_a_line_grows_with_its_text():
    """A line of n digits starts with the line of fewer digits: both draw the same random numbers first."""
    widths = {}
    for count in (1, 3, 6):
        lines = DigitText("test", 40, image_size=(64, 256), digits=(count, count))
        assert {len(line["targets/ocr"]) for line in lines} <= {count, count - 1}
        rng = np.random.default_rng(0)
        ink = [lines._line([lines._glyphs(rng) for _ in range(count)], rng)[0] for _ in range(20)]
        widths[count] = np.mean([each.shape[1] for each in ink])
        assert all(each.any(axis=1).all() and each[:, [0, -1]].any() for each in ink)
    assert widths[1] < 0.5 * widths[3] < 0.5 * widths[6]


def test_training_images_for_anomalies_are_normal_and_half_of_the_others_are():
    assert not any(scene["targets/anomaly"] for scene in DigitAnomalies("train", 60))
    flags = [int(scene["targets/anomaly"]) for scene in DigitAnomalies("test", 100)]
    assert 30 < sum(flags) < 70


def test_a_foreign_object_is_where_its_mask_is_and_differs_from_paper():
    for scene in DigitAnomalies("val", 40):
        mask = scene["targets/anomaly/mask"] == 1
        assert mask.any() == (scene["targets/anomaly"] == 1)
        if mask.any():
            rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
            assert min(len(rows), len(columns)) >= 3
            assert max(len(rows), len(columns)) <= 0.33 * 96
            around = torch.nn.functional.max_pool2d(mask[None].float(), 9, 1, 4)[0].bool() & ~mask
            image = scene["image"].float()
            assert (image[:, mask].mean(dim=1) - image[:, around].mean(dim=1)).abs().max() > 4


def test_a_normal_scene_is_dark_ink_on_light_paper():
    for scene in DigitAnomalies("train", 20):
        assert scene["image"].float().median() > 170
        assert scene["image"].min() < 120
