import pytest
import torch
from PIL import Image
from torchvision import datasets

from brickyard import BrickInputError, LabelKind
from brickyard.data.image_folder import ImageFolder

COLORS = {"cat": (200, 0, 0), "dog": (0, 200, 0), "emu": (0, 0, 200)}


def add(folder, color=(9, 9, 9)):
    folder.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 10), color).save(folder)


@pytest.fixture
def folder(tmp_path):
    for name in ("train/dog/b.png", "train/cat/a.png", "train/dog/deep/c.png", "val/cat/d.png", "val/emu/e.png"):
        add(tmp_path / name, COLORS[name.split("/")[1]])
    add(tmp_path / "train" / ".ipynb_checkpoints" / "a-checkpoint.png")
    return tmp_path


def test_samples_are_those_of_torchvision(folder):
    for split in ("train", "val"):
        data = ImageFolder(folder, split)
        reference = datasets.ImageFolder(str(folder / split), allow_empty=True)
        expected = [(path, reference.classes[index]) for path, index in reference.samples if "checkpoint" not in path]
        assert len(data) == len(expected)
        for index, (path, name) in enumerate(expected):
            item = data[index]
            with Image.open(path) as opened:
                assert tuple(item["image"][:, 0, 0].tolist()) == opened.getpixel((0, 0)) == COLORS[name]
            assert data.labels["cls"][item["targets/cls"]] == name
            assert item["image"].dtype == torch.uint8
            assert item["targets/cls"].shape == ()


def test_classes_are_those_of_all_splits(folder):
    expected = {"cls": ("cat", "dog", "emu"), "emb": ()}
    assert ImageFolder(folder, "train").labels == ImageFolder(folder, "val").labels == expected


def test_the_class_is_the_identity_for_embeddings(folder):
    for item in ImageFolder(folder, "train"):
        assert torch.equal(item["targets/emb"], item["targets/cls"])
    assert ImageFolder(folder, "train").kinds == {"cls": LabelKind.CLASS_INDEX, "emb": LabelKind.ID}


@pytest.mark.parametrize("name", ["valid", "validation"])
def test_the_validation_split_has_several_names(folder, name):
    (folder / "val").rename(folder / name)
    assert len(ImageFolder(folder, "val")) == 2
    assert ImageFolder(folder, "train").labels["cls"] == ("cat", "dog", "emu")


def test_errors_name_what_is_missing(folder):
    with pytest.raises(BrickInputError, match=r"expected a folder test, found none\. Layout: <split>/<class>/"):
        ImageFolder(folder, "test")
    add(folder / "train" / "x.png")
    with pytest.raises(BrickInputError, match=r"x\.png: expected an image in the folder of its class"):
        ImageFolder(folder, "train")


def test_an_image_is_checked_by_its_header(folder):
    (folder / "train" / "cat" / "a.png").write_bytes(b"no image")
    data = ImageFolder(folder, "train")
    with pytest.raises(BrickInputError, match=r"a\.png: expected an image"):
        data.check(0)
    data.check(1)
