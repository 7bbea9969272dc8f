from functools import partial

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision.datasets import VOCDetection, VOCSegmentation

import brickyard
from brickyard.data.collate import collate
from brickyard.data.voc import Voc
from brickyard.errors import BrickInputError, UnknownNameError
from tests.data.disk import BLUE, RED, augmented, box_around, pixels_of, save_image, save_mask, scene

BICYCLE, DOG = 1, 11  # the numbers of two classes among VOC's 20
RED_BOX, BLUE_BOX = (3, 4, 23, 34), (30, 10, 50, 30)
XML = """<annotation>
  <folder>VOC2012</folder><filename>{name}.jpg</filename><segmented>1</segmented>
  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>{objects}
</annotation>
"""
OBJECT = """
  <object>
    <name>{name}</name><pose>Left</pose><truncated>0</truncated><difficult>{difficult}</difficult>
    <bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox>
    <part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>
  </object>"""


def voc_object(name, box, difficult=0):
    x1, y1, x2, y2 = box
    return OBJECT.format(x1 + 1, y1 + 1, x2, y2, name=name, difficult=difficult)


def add(folder, name, pixels, classes, objects, orientation=1):
    height, width = classes.shape
    save_image(folder / "JPEGImages" / f"{name}.jpg", pixels, orientation)
    save_mask(folder / "SegmentationClass" / f"{name}.png", classes)
    (folder / "Annotations").mkdir(exist_ok=True)
    xml = XML.format(name=name, width=width, height=height, objects="".join(objects))
    (folder / "Annotations" / f"{name}.xml").write_text(xml)


@pytest.fixture
def folder(tmp_path):
    """VOC2012 with three images; the last one is stored rotated, and only the first is in the list of the main task."""
    folder = tmp_path / "VOCdevkit" / "VOC2012"
    pixels = scene(60, 40, {RED: RED_BOX, BLUE: BLUE_BOX})
    classes = np.zeros((40, 60))
    classes[4:34, 3:23], classes[10:30, 30:50], classes[:2] = DOG + 1, BICYCLE + 1, 255
    objects = [voc_object("dog", RED_BOX), voc_object("bicycle", BLUE_BOX)]
    add(folder, "2007_000027", pixels, classes, objects)
    add(folder, "2007_000032", pixels, classes, [objects[0], voc_object("bicycle", BLUE_BOX, difficult=1)])
    add(folder, "2008_000123", pixels, classes, objects, orientation=6)
    for kind, names in {"Segmentation": "2007_000027\n2007_000032\n2008_000123\n", "Main": "2007_000027\n"}.items():
        (folder / "ImageSets" / kind).mkdir(parents=True)
        (folder / "ImageSets" / kind / "train.txt").write_text(names)
    return folder


def test_images_and_masks_are_those_that_torchvision_reads(tmp_path, folder):
    data, reference = Voc(tmp_path, "train"), VOCSegmentation(tmp_path, image_set="train")
    assert len(data) == len(reference) == 3
    for item, (image, mask) in zip([data[0], data[1]], [reference[0], reference[1]], strict=True):
        assert item["image"].dtype == torch.uint8
        assert np.array_equal(item["image"].permute(1, 2, 0).numpy(), np.asarray(image))
        assert item["targets/seg"].dtype == torch.int64
        assert np.array_equal(item["targets/seg"].numpy(), np.asarray(mask))
    assert set(data[0]["targets/seg"].unique().tolist()) == {0, BICYCLE + 1, DOG + 1, 255}


def test_boxes_are_those_that_torchvision_reads_with_pixels_from_zero(tmp_path, folder):
    _, annotation = VOCDetection(tmp_path, image_set="train")[0]
    expected = [
        [float(entry["bndbox"][side]) - (side in ("xmin", "ymin")) for side in ("xmin", "ymin", "xmax", "ymax")]
        for entry in annotation["annotation"]["object"]
    ]
    target = Voc(tmp_path, "train")[0]["targets/det"]
    assert target["boxes"].dtype == torch.float32
    assert target["boxes"].tolist() == expected
    assert target["labels"].tolist() == [DOG, BICYCLE]


@pytest.mark.parametrize("index", [0, 2])
def test_boxes_masks_and_classes_match_the_image_also_if_it_is_rotated(tmp_path, folder, index):
    item = Voc(tmp_path, "train")[index]
    assert item["image"].shape == ((3, 40, 60) if index == 0 else (3, 60, 40))
    for row, (color, number) in enumerate([(RED, DOG), (BLUE, BICYCLE)]):
        pixels = pixels_of(item["image"], color)
        assert item["targets/det"]["boxes"][row].tolist() == box_around(pixels)
        known = item["targets/seg"] != 255
        assert torch.equal(item["targets/seg"] == number + 1, pixels & known)
    assert item["targets/cls"].nonzero().flatten().tolist() == [BICYCLE, DOG]


def test_the_box_of_a_difficult_object_is_ignored(tmp_path, folder):
    item = Voc(tmp_path, "train")[1]
    assert item["targets/det"]["labels"].tolist() == [DOG, BICYCLE]
    assert item["targets/det"]["boxes"].tolist() == [list(RED_BOX), list(BLUE_BOX)]
    assert item["targets/det"]["ignore"].tolist() == [False, True]
    assert item["targets/cls"].nonzero().flatten().tolist() == [BICYCLE, DOG]
    assert item["targets/cls"].shape == (20,)


def test_labels_name_the_classes_in_alphabetical_order(tmp_path, folder):
    labels = Voc(tmp_path, "train").labels
    assert len(labels["det"]) == 20
    assert labels["cls"] == labels["det"] == tuple(sorted(labels["det"]))
    assert labels["seg"] == ("background", *labels["det"])
    assert (labels["det"][BICYCLE], labels["det"][DOG]) == ("bicycle", "dog")


def test_a_model_trains_on_it(tmp_path, folder):
    data = augmented(Voc(tmp_path, "train"))
    model = brickyard.create_model_for(data, "test_resnet_cls-multilabel_seg_det").train()
    batch = next(iter(DataLoader(data, batch_size=3, collate_fn=partial(collate, kinds=data.kinds))))
    outputs = model(batch, tags=brickyard.Stage.TRAIN.tags)
    sum(model.extract_losses(outputs).values()).backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert sum(gradient.abs().sum() for gradient in gradients) > 0


def test_errors_name_what_is_missing(tmp_path, folder):
    with pytest.raises(UnknownNameError, match="split 'test'"):
        Voc(tmp_path, "test")
    with pytest.raises(UnknownNameError, match="year '2013'"):
        Voc(tmp_path, "train", year="2013")
    with pytest.raises(BrickInputError, match=r"VOCdevkit/VOC2007.*download=True"):
        Voc(tmp_path, "test", year="2007")
    with pytest.raises(UnknownNameError, match=r"split 'val'.*'train'"):
        Voc(tmp_path, "val")
    with pytest.raises(IndexError):
        Voc(tmp_path, "train")[3]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("</annotation>", "", r"2007_000027\.xml: expected an annotation"),
        ("<xmin>4</xmin>", "", r"2007_000027\.xml: .*'dog' with the box \[None"),
        ("<xmin>4</xmin>", "<xmin>four</xmin>", r"2007_000027\.xml: .*four"),
        ("<xmin>4</xmin>", "<xmin>40</xmin>", r"2007_000027\.xml: .*'dog' with the box"),
        ("<name>dog</name>", "", r"2007_000027\.xml: .*without a name"),
        ("<name>dog</name>", "<name>wolf</name>", r"2007_000027\.xml: .*'wolf'"),
    ],
)
def test_a_damaged_annotation_is_named(tmp_path, folder, old, new, message):
    file = folder / "Annotations" / "2007_000027.xml"
    content = file.read_text()
    assert old in content
    file.write_text(content.replace(old, new))
    with pytest.raises(BrickInputError, match=message):
        Voc(tmp_path, "train")[0]


@pytest.mark.parametrize(
    "name", ["Annotations/2007_000027.xml", "SegmentationClass/2007_000027.png", "JPEGImages/2007_000027.jpg"]
)
def test_an_absent_file_is_named(tmp_path, folder, name):
    (folder / name).unlink()
    with pytest.raises(BrickInputError, match=name):
        Voc(tmp_path, "train")[0]


def test_a_mask_with_an_unknown_class_is_named(tmp_path, folder):
    save_mask(folder / "SegmentationClass" / "2007_000027.png", np.full((40, 60), 21))
    with pytest.raises(BrickInputError, match=r"2007_000027\.png: expected classes 0 to 20, or 255, found \[21\]"):
        Voc(tmp_path, "train")[0]


@pytest.fixture
def own(tmp_path):
    """VOC's layout without masks, with two classes and a list of its own."""
    pixels = scene(60, 40, {RED: RED_BOX, BLUE: BLUE_BOX})
    for name in ("a b", "c", "d"):
        add(tmp_path, name, pixels, np.zeros((40, 60)), [voc_object("van", RED_BOX), voc_object("bus", BLUE_BOX)])
        (tmp_path / "SegmentationClass" / f"{name}.png").unlink()
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("\ufeffa b\nc\n", encoding="utf-8")
    (tmp_path / "ImageSets" / "Main" / "night.txt").write_text("d\n")
    return tmp_path


def test_classes_are_collected_from_the_annotations_of_all_splits(own):
    (own / "Annotations" / "d.xml").write_text(
        XML.format(name="d", width=60, height=40, objects=voc_object("ambulance", RED_BOX))
    )
    data, other = Voc(own, "train"), Voc(own, "night")
    names = ("ambulance", "bus", "van")
    assert data.labels == other.labels == dict.fromkeys(("cls", "det", "fomo"), names)
    assert [len(each) for each in (data, other)] == [2, 1]
    assert data[0]["targets/det"]["labels"].tolist() == [2, 1]
    assert data[0]["targets/det"]["boxes"].tolist() == [list(RED_BOX), list(BLUE_BOX)]
    assert data[0]["targets/cls"].tolist() == [0, 1, 1]
    assert "targets/seg" not in data[0]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("classes.txt", "van\ntram\nbus\n"),
        ("labels.txt", "\ufeffvan\n\ntram\nbus"),
        ("labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\nvan:1,2,3::\ntram:::\nbus:::\n"),
    ],
)
def test_classes_are_those_of_a_file_in_its_order(own, file, text):
    (own / file).write_text(text, encoding="utf-8")
    data = Voc(own, "train")
    assert data.labels["det"] == ("van", "tram", "bus")
    assert data[0]["targets/det"]["labels"].tolist() == [0, 2]
    (own / file).write_text("van\nvan\n")
    with pytest.raises(BrickInputError, match=f"{file}: expected one class name per line, all different"):
        Voc(own, "train")
    (own / file).write_text("van\n")
    with pytest.raises(BrickInputError, match=r"a b\.xml: expected objects of the 1 classes van, found 'bus'"):
        Voc(own, "train").check(0)


def test_masks_are_read_where_the_order_of_their_classes_is_known(own, caplog):
    classes = np.zeros((40, 60))
    classes[4:34, 3:23] = 1
    save_mask(own / "SegmentationClass" / "c.png", classes)
    assert "seg" not in Voc(own, "train").labels
    assert "masks are not read" in caplog.text
    (own / "classes.txt").write_text("van\nbus\n")
    data = Voc(own, "train")
    assert data.labels["seg"] == ("background", "van", "bus")
    assert ["targets/seg" in item for item in data] == [False, True]
    assert torch.equal(data[1]["targets/seg"] == 1, pixels_of(data[1]["image"], RED))
    assert collate([*data], data.kinds)["labelled/seg"].tolist() == [False, True]


@pytest.mark.parametrize("name", ["train", "valid"])
def test_annotations_may_be_beside_the_images_as_in_roboflow(tmp_path, name):
    save_image(tmp_path / name / "a.jpg", scene(60, 40, {RED: RED_BOX}))
    xml = XML.format(name="a", width=60, height=40, objects=voc_object("van", RED_BOX))
    (tmp_path / name / "a.xml").write_text(xml)
    data = Voc(tmp_path, "val" if name == "valid" else name)
    assert data.labels == dict.fromkeys(("cls", "det", "fomo"), ("van",))
    assert data[0]["targets/det"]["boxes"].tolist() == [list(RED_BOX)]
    with pytest.raises(BrickInputError, match="Layout: JPEGImages/"):
        Voc(tmp_path, "test")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("1e9", "expected coordinates within 600 pixels"),
        ("inf", "'dog' with the box"),
        ("nan", "'dog' with the box"),
    ],
)
def test_coordinates_that_are_not_near_the_image_are_refused(tmp_path, folder, value, message):
    file = folder / "Annotations" / "2007_000027.xml"
    file.write_text(file.read_text().replace("<xmax>23</xmax>", f"<xmax>{value}</xmax>"))
    data = Voc(tmp_path, "train")
    for read in (data.check, data.__getitem__):
        with pytest.raises(BrickInputError, match=rf"2007_000027\.xml.*{message}"):
            read(0)
    data.check(1)


def test_boxes_that_are_fractions_of_the_image_size_are_refused(own):
    box = "<xmin>0.1</xmin><ymin>0.2</ymin><xmax>0.5</xmax><ymax>0.7</ymax>"
    fraction = f"<object><name>van</name><bndbox>{box}</bndbox></object>"
    text = XML.format(name="c", width=60, height=40, objects=fraction)
    (own / "Annotations" / "c.xml").write_text(text)
    with pytest.raises(BrickInputError, match=r"c\.xml: expected boxes in pixels, .* fractions"):
        Voc(own, "train").check(1)


def test_an_empty_list_is_refused(own):
    (own / "ImageSets" / "Main" / "night.txt").write_text("")
    with pytest.raises(BrickInputError, match=r"night\.txt: expected a list of one image or more"):
        Voc(own, "night")


def test_a_damaged_annotation_is_named_also_if_no_other_has_objects(own):
    for name in ("a b", "c", "d"):
        (own / "Annotations" / f"{name}.xml").write_text("<annotation>")
    with pytest.raises(BrickInputError, match=r"\.xml: expected an annotation in VOC's XML format"):
        Voc(own, "train")
    for name in ("a b", "c", "d"):
        (own / "Annotations" / f"{name}.xml").write_text("<annotation/>")
    with pytest.raises(BrickInputError, match="expected annotations with objects, found none"):
        Voc(own, "train")
