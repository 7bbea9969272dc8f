from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import OxfordIIITPet

import brickyard
from brickyard.data.collate import collate
from brickyard.data.pets import Pets
from brickyard.errors import BrickInputError, UnknownNameError
from tests.data.disk import BLUE, RED, augmented, box_around, pixels_of, save_image, scene

BODY, HEAD = (5, 6, 45, 36), (10, 8, 22, 20)
XML = """<annotation><folder>OXIIIT</folder><filename>{name}.jpg</filename>
<size><width>60</width><height>40</height><depth>3</depth></size><segmented>0</segmented>
<object><name>{species}</name><pose>Frontal</pose><truncated>0</truncated><occluded>0</occluded>
<bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox><difficult>0</difficult></object>
</annotation>
"""
# Name, number of the breed, 1 for a cat or 2 for a dog, and the number among its species, as in the published lists.
TRAINVAL = [("Abyssinian_100", 1, 1, 1), ("american_bulldog_7", 2, 2, 1), ("Egyptian_Mau_12", 12, 1, 5)]
TEST = [("yorkshire_terrier_3", 37, 2, 25)]


def trimap():
    """1 for the pet, 2 for background, 3 for the border between them."""
    values = np.full((40, 60), 2, dtype=np.uint8)
    values[5:37, 4:46], values[6:36, 5:45] = 3, 1
    return values


def make(folder, lists):
    for split, lines in lists.items():
        for name, _, species, _ in lines:
            save_image(folder / "images" / f"{name}.jpg", scene(60, 40, {RED: BODY, BLUE: HEAD}))
            annotations = folder / "annotations"
            (annotations / "trimaps").mkdir(parents=True, exist_ok=True)
            Image.fromarray(trimap()).save(annotations / "trimaps" / f"{name}.png")
            if split == "trainval" and name != "Egyptian_Mau_12":
                (annotations / "xmls").mkdir(exist_ok=True)
                x1, y1, x2, y2 = HEAD
                xml = XML.format(x1 + 1, y1 + 1, x2, y2, name=name, species=("cat", "dog")[species - 1])
                (annotations / "xmls" / f"{name}.xml").write_text(xml)
        text = "".join(" ".join(map(str, line)) + "\n" for line in lines)
        (folder / "annotations" / f"{split}.txt").write_text(text)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "oxford-iiit-pet"
    make(folder, {"trainval": TRAINVAL, "test": TEST})
    return folder


@pytest.mark.parametrize("split", ["trainval", "test"])
def test_images_breeds_and_trimaps_are_those_that_torchvision_reads(tmp_path, folder, split):
    data = Pets(tmp_path, split)
    reference = OxfordIIITPet(tmp_path, split, target_types=["category", "segmentation"])
    assert len(data) == len(reference) > 0
    for index in range(len(data)):
        item, (image, (breed, segmentation)) = data[index], reference[index]
        assert np.array_equal(item["image"].permute(1, 2, 0).numpy(), np.asarray(image))
        assert item["targets/cls"].item() == breed
        assert item["targets/cls"].dtype == torch.int64
        expected = np.select([np.asarray(segmentation) == value for value in (1, 2, 3)], [1, 0, 255])
        assert np.array_equal(item["targets/seg"].numpy(), expected)
        assert item["targets/seg"].dtype == torch.int64


def test_names_are_those_of_the_breeds(tmp_path, folder):
    reference = OxfordIIITPet(tmp_path, "trainval")
    named = [Pets.labels["cls"][Pets(tmp_path, "trainval")[index]["targets/cls"]] for index in range(3)]
    assert named == reference.classes == ["Abyssinian", "American Bulldog", "Egyptian Mau"]
    assert len(Pets.labels["cls"]) == 37
    assert list(Pets.labels["cls"]) == sorted(Pets.labels["cls"])


def test_the_box_is_around_the_head(tmp_path, folder):
    data = Pets(tmp_path, "trainval")
    for index, species in enumerate(["cat head", "dog head"]):
        target = data[index]["targets/det"]
        assert target["boxes"].tolist() == [box_around(pixels_of(data[index]["image"], BLUE))]
        assert [data.labels["det"][number] for number in target["labels"]] == [species]


def test_an_image_without_a_box_has_no_label(tmp_path, folder):
    items = [*Pets(tmp_path, "trainval"), *Pets(tmp_path, "test")]
    assert ["targets/det" in item for item in items] == [True, True, False, False]
    batch = collate(items, Pets.kinds)
    assert batch["labelled/det"].tolist() == [True, True, False, False]


def test_train_and_val_split_the_published_images_of_each_breed(tmp_path):
    lines = [(f"Abyssinian_{number}", 1, 1, 1) for number in range(20)]
    lines += [(f"beagle_{number}", 5, 2, 4) for number in range(30)]
    make(tmp_path / "oxford-iiit-pet", {"trainval": lines})
    breeds = {
        split: [data[index]["targets/cls"].item() for index in range(len(data))]
        for split in ("train", "val")
        if (data := Pets(tmp_path, split))
    }
    assert sorted(breeds["val"]) == [0] * 2 + [4] * 3
    assert sorted(breeds["train"]) == [0] * 18 + [4] * 27


def test_a_model_trains_on_it(tmp_path, folder):
    data = augmented(Pets(tmp_path, "trainval"))
    model = brickyard.create_model("test_resnet_cls_seg_det", labels=data.labels).train()
    batch = next(iter(DataLoader(data, batch_size=3, collate_fn=partial(collate, kinds=data.kinds))))
    outputs = model(batch, tags=brickyard.Stage.TRAIN.tags)
    sum(model.extract_losses(outputs).values()).backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert sum(gradient.abs().sum() for gradient in gradients) > 0


def test_errors_name_what_is_missing(tmp_path, folder):
    with pytest.raises(UnknownNameError, match="split 'all'"):
        Pets(tmp_path, "all")
    with pytest.raises(BrickInputError, match=r"elsewhere/oxford-iiit-pet/annotations/test\.txt: .*download=True"):
        Pets(tmp_path / "elsewhere", "test")
    (folder / "annotations" / "test.txt").unlink()
    with pytest.raises(BrickInputError, match=r"test\.txt"):
        Pets(tmp_path, "test")


@pytest.mark.parametrize(
    "line", ["Abyssinian_100 2 1 1", "Abyssinian_100", "Abyssinian_100 one 1 1", "Beagle_1 99 1 1"]
)
def test_a_damaged_list_is_named(tmp_path, folder, line):
    (folder / "annotations" / "trainval.txt").write_text(f"{line}\n{line}\n")
    with pytest.raises(BrickInputError, match=rf"trainval\.txt: .*'{line}'"):
        Pets(tmp_path, "trainval")


@pytest.mark.parametrize("name", ["annotations/trimaps/Abyssinian_100.png", "images/Abyssinian_100.jpg"])
def test_an_absent_file_is_named(tmp_path, folder, name):
    (folder / name).unlink()
    with pytest.raises(BrickInputError, match=name):
        Pets(tmp_path, "trainval")[0]


def test_damaged_labels_are_named(tmp_path, folder):
    xml = folder / "annotations" / "xmls" / "Abyssinian_100.xml"
    xml.write_text(xml.read_text().replace("<name>cat", "<name>cow"))
    with pytest.raises(BrickInputError, match=r"Abyssinian_100\.xml: .*'cow'"):
        Pets(tmp_path, "trainval")[0]
    file = folder / "annotations" / "trimaps" / "american_bulldog_7.png"
    Image.fromarray(trimap() - 1).save(file)
    with pytest.raises(BrickInputError, match=r"american_bulldog_7\.png: expected values 1 to 3, found 0 to 2"):
        Pets(tmp_path, "trainval")[1]
    Image.fromarray(trimap()[1:]).save(file)
    with pytest.raises(BrickInputError, match=r"american_bulldog_7\.jpg: expected 60x39 pixels"):
        Pets(tmp_path, "trainval")[1]
