"""Every registered task has data: a generated data set, and a format on disk."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

import brickyard
from brickyard.data import readers
from brickyard.data.batches import evaluation_batches
from brickyard.data.checking import WithoutMasks
from brickyard.data.dataset import LabelledDataset
from brickyard.data.label_kinds import LabelKind
from brickyard.data.readers import data_names, open_data
from brickyard.data.transforms import Augmented
from brickyard.errors import BrickInputError, UnknownNameError
from brickyard.tasks.registry import TASKS, get_task
from brickyard.training.matching import check_labels, without_unread_masks
from tests.data.disk import RED, save_image, scene

WIDTH, HEIGHT = 40, 30
BOX = (5, 5, 25, 25)
PIXELS = scene(WIDTH, HEIGHT, {RED: BOX})
POLYGON = [5, 5, 25, 5, 25, 25, 5, 25]


def coco(folder: Path) -> None:
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 20], "segmentation": [POLYGON]}
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT}],
        "annotations": [annotation | {"iscrowd": 0, "keypoints": [6, 6, 2, 20, 20, 2]}],
        "categories": [{"id": 1, "name": "cat", "keypoints": ["left_ear", "right_ear"]}],
    }
    save_image(folder / "train" / "a.jpg", PIXELS)
    (folder / "annotations").mkdir()
    for prefix in ("instances", "person_keypoints"):
        (folder / "annotations" / f"{prefix}_train.json").write_text(json.dumps(content))


def yolo(folder: Path) -> None:
    save_image(folder / "images" / "train" / "a.jpg", PIXELS)
    (folder / "labels" / "train").mkdir(parents=True)
    (folder / "labels" / "train" / "a.txt").write_text("0 0.1 0.1 0.5 0.1 0.5 0.8")
    (folder / "data.yaml").write_text("names: [cat]")


def imagefolder(folder: Path) -> None:
    for name in ("cat", "dog"):
        save_image(folder / "train" / name / "a.jpg", PIXELS)


def mvtec(folder: Path) -> None:
    save_image(folder / "train" / "good" / "a.jpg", PIXELS)


def ocr(folder: Path) -> None:
    save_image(folder / "a.jpg", PIXELS)
    (folder / "train.csv").write_text("file,text\na.jpg,7\n")


def depth(folder: Path) -> None:
    save_image(folder / "images" / "train" / "a.jpg", PIXELS)
    (folder / "depth" / "train").mkdir(parents=True)
    Image.fromarray(np.full((HEIGHT, WIDTH), 1000, dtype=np.uint16)).save(folder / "depth" / "train" / "a.png")


def hf(folder: Path) -> None:
    save_image(folder / "train" / "a.jpg", PIXELS)
    objects = {"bbox": [[5, 5, 20, 20]], "category": ["cat"]}
    row = {"file_name": "a.jpg", "label": "cat", "text": "7", "objects": objects}
    (folder / "train" / "metadata.jsonl").write_text(json.dumps(row))


WRITERS: dict[str, Callable[[Path], None]] = {
    "coco": coco,
    "coco-keypoints": coco,
    "yolo": yolo,
    "imagefolder": imagefolder,
    "mvtec": mvtec,
    "ocr": ocr,
    "depth": depth,
    "hf": hf,
}
# Other tests register tasks of their own.
BUILT_IN = [name for name, task in TASKS.items() if type(task).__module__.startswith("brickyard.")]
GENERATED = [name for name in data_names() if not name.endswith(":FOLDER")]


def kinds_read(name: str) -> list[LabelKind]:
    """The kinds that the variants of a task read as their main label."""
    task = get_task(name)
    return [task.kinds(name, variant)[f"targets/{name}"] for variant in task.variants]


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LabelledDataset]:
    opened = {}
    for name, write in WRITERS.items():
        folder = tmp_path_factory.mktemp(name)
        write(folder)
        opened[name] = open_data(f"{name}:{folder}", "train", image_size=32)
    return opened


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_registered_task_has_a_generated_data_set_and_a_format_on_disk(
    name: str, on_disk: dict[str, LabelledDataset]
) -> None:
    generated = {text: open_data(text, "val", length=1) for text in GENERATED}
    for data in (generated, on_disk):
        fitting = [text for text, each in data.items() if each.kinds.get(name) in kinds_read(name)]
        assert fitting
        for text in fitting:
            assert f"targets/{name}" in data[text][0]
            assert name in data[text].labels


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_model_of_every_task_is_created_for_its_data(name: str) -> None:
    """For some variant, as `cls-multilabel`; classes, or none, are those of the data."""
    fitting = [
        (text, variant)
        for text in GENERATED
        for variant in get_task(name).variants
        if open_data(text, "val", length=1).kinds.get(name) == get_task(name).kinds(name, variant)[f"targets/{name}"]
    ]
    text, variant = fitting[0]
    data = open_data(text, "val", length=1)
    model = brickyard.create_model_for(data, f"test_resnet_{name}-{variant}")
    check_labels(model, data)
    model.check_labels(next(iter(evaluation_batches(data, 1))))


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_labels_of_a_format_are_of_the_kinds_that_it_declares(name: str, on_disk: dict[str, LabelledDataset]) -> None:
    data = on_disk[name]
    assert {f"targets/{label}" for label in data.kinds} == data[0].keys() - {"image"}


class Squares:
    """A user's data set, in a folder that its name says."""

    labels: ClassVar = {"cls": ("a", "b")}
    kinds: ClassVar = {"cls": LabelKind.CLASS_INDEX}

    def __init__(self, folder: Path, split: str) -> None:
        self.folder, self.split = folder, split

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"image": torch.full((3, 20, 30), index, dtype=torch.uint8), "targets/cls": torch.tensor(index % 2)}


class CheckedSquares(Squares):
    """One that checks its samples."""

    def check(self, index: int) -> int:
        if index == 1:
            raise BrickInputError("square 1", "a square", "a circle")
        return 0


class TestRegisterData:
    @pytest.fixture(autouse=True)
    def _formats(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(readers, "_FORMATS", {**readers._FORMATS})

    def test_a_registered_format_is_opened_by_its_name(self) -> None:
        brickyard.register_data("squares", Squares)
        brickyard.register_data("squares", Squares)
        assert "squares:FOLDER" in data_names()
        data = open_data("squares:some/folder", "val", image_size=16)
        assert isinstance(data, Augmented)
        assert data.data.folder == Path("some/folder")
        assert data[2]["image"].shape == (3, 16, 16)
        assert len(open_data("squares:some/folder", "val", length=2)) == 2

    def test_training_images_are_changed_at_random_unless_told_otherwise(self) -> None:
        brickyard.register_data("squares", Squares)
        brickyard.register_data("plain-squares", Squares, augment=False)
        changed, plain = (open_data(f"{name}:x", "train", image_size=64)[0] for name in ("squares", "plain-squares"))
        assert changed["image"].shape == plain["image"].shape
        assert plain["image"].max() == 0
        assert max(open_data("squares:x", "train", image_size=64)[0]["image"].max() for _ in range(20)) > 0  # a frame

    def test_samples_are_checked_if_the_data_set_can(self) -> None:
        brickyard.register_data("checked", CheckedSquares)
        with pytest.raises(BrickInputError, match="square 1: expected a square, found a circle"):
            open_data("checked:x", "val")
        assert len(open_data("checked:x", "val", skip_bad=True)) == 2

    @pytest.mark.parametrize("name", ["coco", "digits", "digits-text"])
    def test_the_names_of_brickyard_are_taken(self, name: str) -> None:
        with pytest.raises(ValueError, match=f"'{name}' is registered already"):
            brickyard.register_data(name, Squares)
        brickyard.register_data("mine", Squares)
        with pytest.raises(ValueError, match="'mine' is registered already"):
            brickyard.register_data("mine", CheckedSquares)

    @pytest.mark.parametrize("name", ["", "a:b", "A", "a b", "-"])
    def test_a_name_is_a_word(self, name: str) -> None:
        with pytest.raises(ValueError, match="cannot name data"):
            brickyard.register_data(name, Squares)
        with pytest.raises(UnknownNameError):
            open_data(f"{name}:x", "val")


def test_images_are_not_flipped_where_it_is_unknown_which_points_a_flip_exchanges(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    yolo(tmp_path)
    (tmp_path / "data.yaml").write_text("names: [cat]\nkpt_shape: [1, 2]\n")
    (tmp_path / "labels" / "train" / "a.txt").write_text("0 0.375 0.5 0.5 0.66 0.3 0.3")
    data = open_data(f"yolo:{tmp_path}", "train", image_size=40)
    assert "images are not flipped" in caplog.text
    assert isinstance(data, Augmented)
    assert not data.augment.flip
    (tmp_path / "data.yaml").write_text("names: [cat]\nkpt_shape: [1, 2]\nflip_idx: [0]\n")
    assert open_data(f"yolo:{tmp_path}", "train", image_size=40).augment.flip


class TestUnreadMasks:
    def test_masks_of_instances_that_no_brick_reads_are_left_out(self, on_disk: dict[str, LabelledDataset]) -> None:
        data = on_disk["coco"]
        smaller = without_unread_masks(data, brickyard.create_model_for(data, "test_resnet_det"))
        torch.manual_seed(0)
        whole = data[0]
        torch.manual_seed(0)
        item = smaller[0]
        assert whole.keys() - item.keys() == {"targets/inst"}
        assert torch.equal(whole["image"], item["image"])
        assert isinstance(smaller, Augmented)
        assert (smaller.labels, smaller.kinds, smaller.keypoints) == (data.labels, data.kinds, data.keypoints)
        generated = open_data("digits", "val", length=2)
        smaller = without_unread_masks(generated, brickyard.create_model_for(generated, "test_resnet_det"))
        assert isinstance(smaller, WithoutMasks)
        assert len(smaller) == 2
        assert generated[0].keys() - smaller[0].keys() == {"targets/inst"}

    @pytest.mark.parametrize("token", ["pose", "pose-masks"])
    def test_masks_of_poses_are_kept_for_the_head_that_reads_them(self, token: str) -> None:
        data = open_data("digits", "val", length=2)
        smaller = without_unread_masks(data, brickyard.create_model_for(data, f"test_resnet_{token}"))
        assert "masks" in data[0]["targets/pose"]
        assert ("masks" in smaller[0]["targets/pose"]) == (token == "pose-masks")
        assert "targets/inst" not in smaller[0]

    def test_data_without_masks_stays_as_it_is(self, on_disk: dict[str, LabelledDataset]) -> None:
        data = on_disk["imagefolder"]
        assert without_unread_masks(data, brickyard.create_model_for(data, "test_resnet_cls")) is data
