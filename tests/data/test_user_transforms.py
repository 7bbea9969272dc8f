"""Transforms of a user, and the strengths of ours."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from brickyard import BrickInputError, UnknownNameError, open_data
from brickyard.data.label_kinds import KIND_RULES, LabelKind
from brickyard.data.transforms import Augment, Transformed
from tests.data.test_kinds_under_transforms import CANVAS, HEIGHT, WIDTH, drawn, labels

LABELS = {kind.name.lower(): (kind, label) for kind, label in labels().items()}


class Drawn:
    """A data set of one image with a label of each kind that moves."""

    labels = dict.fromkeys(LABELS, ())
    kinds = {name: kind for name, (kind, _) in LABELS.items()} | {"class": LabelKind.CLASS_INDEX}

    def __init__(self, sample: dict[str, Any] | None = None) -> None:
        self.sample = sample

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self.sample is not None:
            return self.sample
        moving = {f"targets/{name}": copy.deepcopy(label) for name, (_, label) in LABELS.items()}
        return {"image": drawn(), **moving, "targets/class": torch.tensor(4), "file": "a.png"}


def parts(sample: dict[str, Any]) -> dict[str, Any]:
    return {
        f"{name}/{part}": value
        for name, (kind, _) in LABELS.items()
        for part, value in KIND_RULES[kind].wrap(sample[f"targets/{name}"], CANVAS, "test").items()
    }


def test_every_label_moves_with_the_image_as_torchvision_moves_it() -> None:
    before = Drawn()[0]
    after = Transformed(Drawn(), v2.RandomVerticalFlip(p=1.0))[0]
    assert torch.equal(after["image"], before["image"].flip(1))
    for (name, old), new in zip(parts(before).items(), parts(after).values(), strict=True):
        if isinstance(old, tv_tensors.BoundingBoxes):
            x1, y1, x2, y2 = old.unbind(-1)
            expected = torch.stack([x1, HEIGHT - y2, x2, HEIGHT - y1], dim=-1)
        elif isinstance(old, tv_tensors.KeyPoints):  # torchvision takes them for the indices of pixels
            x, y = old.unbind(-1)
            expected = torch.stack([x, HEIGHT - 1 - y], dim=-1)
        else:
            expected = old.flip(-2)
        torch.testing.assert_close(
            new.as_subclass(torch.Tensor), expected.as_subclass(torch.Tensor), atol=1, rtol=0, msg=name
        )
    assert (after["targets/class"], after["file"]) == (before["targets/class"], "a.png")


def test_a_transform_of_colors_leaves_labels_and_the_sample_of_the_data_set() -> None:
    sample = Drawn()[0]
    kept = copy.deepcopy(sample)
    after = Transformed(Drawn(sample), v2.ColorJitter(brightness=(0.5, 0.5)))[0]
    assert not torch.equal(after["image"], sample["image"])
    for name, old in parts(kept).items():
        assert torch.equal(parts(after)[name], old)
        assert torch.equal(parts(sample)[name], old)
    assert torch.equal(sample["image"], kept["image"])


def test_boxes_that_leave_the_image_are_dropped_with_their_rows() -> None:
    def transform(sample: dict[str, Any]) -> dict[str, Any]:
        return {
            name: {part: v2.functional.affine(each, 0, [40, 0], 1, [0]) for part, each in value.items()}
            if isinstance(value, dict)
            else v2.functional.affine(value, 0, [40, 0], 1, [0])
            for name, value in sample.items()
        }

    after = Transformed(Drawn(), transform)[0]
    assert after["targets/boxes"]["labels"].tolist() == [3]
    torch.testing.assert_close(
        after["targets/boxes"]["boxes"].as_subclass(torch.Tensor), torch.tensor([[52.0, 10.0, 76.0, 34.0]])
    )
    assert after["targets/instance_masks"]["masks"].shape == (1, HEIGHT, WIDTH)


def without(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda sample: {key: value for key, value in sample.items() if key != name}


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (v2.Resize((30, 40)), r"expected an image \(3, 60, 80\) torch.uint8, found \(3, 30, 40\) torch.uint8"),
        (v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}), r"found \(3, 60, 80\) torch.float32"),
        (lambda sample: sample["image"], "transform: expected a dictionary with the entries .* found Image"),
        (without("targets/mask"), "transform: expected a dictionary with the entries"),
        (
            lambda sample: {**sample, "targets/boxes": {"boxes": sample["targets/boxes"]["boxes"][:1]}},
            "transform, 'targets/boxes': expected 2 boxes as before, found 1",
        ),
    ],
)
def test_a_transform_that_returns_another_form_is_an_error(transform: Any, message: str) -> None:
    with pytest.raises(BrickInputError, match=message):
        Transformed(Drawn(), transform)[0]


def test_strong_changes_keep_labels_and_depend_on_the_seed_alone() -> None:
    data = Drawn()
    augment = {
        strength: Augment(64, data.kinds, train=True, flip=False, min_area=1.0, strength=strength)
        for strength in ("light", "strong")
    }
    colors: dict[str, list[float]] = {"light": [], "strong": []}
    for seed in range(12):
        for strength, transform in augment.items():
            samples = []
            for _ in range(2):
                torch.manual_seed(seed)
                samples.append(transform(data[0]))
            assert torch.equal(samples[0]["image"], samples[1]["image"])
            torch.manual_seed(seed)
            plain = Augment(64, data.kinds, train=True, flip=False, min_area=1.0)(data[0])
            assert torch.equal(samples[0]["targets/boxes"]["boxes"], plain["targets/boxes"]["boxes"])
            colors[strength].append(samples[0]["image"].float().mean().item())
    assert np.std(colors["strong"]) > np.std(colors["light"])


def test_augmentation_is_chosen_when_data_is_opened(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / split / "a").mkdir(parents=True)
        (tmp_path / split / "b").mkdir()
        pixels = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
        for name in ("a/1.png", "b/2.png"):
            Image.fromarray(pixels).save(tmp_path / split / name)
    text = f"imagefolder:{tmp_path}"
    val = open_data(text, "val", image_size=32)[0]["image"]
    assert torch.equal(open_data(text, "train", image_size=32, augment="none")[0]["image"], val)
    for augment in ("light", "strong"):
        assert not torch.equal(open_data(text, "train", image_size=32, augment=augment)[0]["image"], val)
        assert torch.equal(open_data(text, "val", image_size=32, augment=augment)[0]["image"], val)
    with pytest.raises(UnknownNameError, match=r"Unknown augmentation 'strongest'. Did you mean 'strong'"):
        open_data(text, "train", augment="strongest")
