import os
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch.utils.data import DataLoader

import brickyard
from brickyard.data.collate import collate
from brickyard.data.yolo import Yolo
from brickyard.errors import BrickInputError
from tests.data.disk import BLUE, RED, augmented, box_around, pixels_of, save_image, scene

WIDTH, HEIGHT = 60, 40
RED_BOX, BLUE_BOX = (3, 4, 23, 34), (30, 10, 50, 30)
NAMES = "names: [cat, dog, bird]\n"


def box_line(number, box, width=WIDTH, height=HEIGHT):
    x1, y1, x2, y2 = box
    return f"{number} {(x1 + x2) / 2 / width} {(y1 + y2) / 2 / height} {(x2 - x1) / width} {(y2 - y1) / height}\n"


def polygon_line(number, box):
    x1, y1, x2, y2 = box
    corners = [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
    return " ".join([str(number), *(f"{x / WIDTH:.6f} {y / HEIGHT:.6f}" for x, y in corners)]) + "\n"


def add(images, labels, name, text=None, orientation=1):
    save_image(images / f"{name}.jpg", scene(WIDTH, HEIGHT, {RED: RED_BOX, BLUE: BLUE_BOX}), orientation)
    if text is not None:
        labels.mkdir(parents=True, exist_ok=True)
        (labels / f"{name}.txt").write_text(text)


def fill(images, labels):
    """Boxes; polygons; nothing, by an empty file; nothing, by no file."""
    add(images, labels, "a", box_line(2, RED_BOX) + box_line(0, BLUE_BOX))
    add(images, labels, "b", polygon_line(2, RED_BOX) + "\n" + polygon_line(0, BLUE_BOX))
    add(images, labels, "c", "")
    add(images, labels, "d")


@pytest.fixture
def folder(tmp_path):
    fill(tmp_path / "images" / "train", tmp_path / "labels" / "train")
    (tmp_path / "data.yaml").write_text(f"path: /datasets/other\ntrain: images/train\nval: images/val\n{NAMES}")
    return tmp_path


def test_boxes_match_the_image(folder):
    item = Yolo(folder, "train")[0]
    with Image.open(folder / "images" / "train" / "a.jpg") as opened:
        assert np.array_equal(item["image"].permute(1, 2, 0).numpy(), np.asarray(opened))
    around = [box_around(pixels_of(item["image"], color)) for color in (RED, BLUE)]
    torch.testing.assert_close(item["targets/det"]["boxes"].as_subclass(torch.Tensor), torch.tensor(around).float())
    assert item["targets/det"]["boxes"].dtype == torch.float32
    assert item["targets/det"]["labels"].tolist() == [2, 0]
    assert item["targets/det"]["labels"].dtype == torch.int64
    assert item["targets/cls"].tolist() == [1, 0, 1]
    assert "targets/seg" not in item


def test_polygons_make_masks_and_boxes(folder):
    item = Yolo(folder, "train")[1]
    for color, number, row in [(RED, 2, 0), (BLUE, 0, 1)]:
        pixels = pixels_of(item["image"], color)
        assert torch.equal(item["targets/seg"] == number + 1, pixels)
        assert item["targets/det"]["boxes"][row].tolist() == pytest.approx(box_around(pixels), abs=1e-3)
    assert item["targets/seg"].dtype == torch.int64
    assert item["targets/det"]["labels"].tolist() == [2, 0]


@pytest.mark.parametrize("index", [2, 3])
def test_an_image_without_lines_has_no_objects(folder, index):
    item = Yolo(folder, "train")[index]
    assert item["targets/det"]["boxes"].shape == (0, 4)
    assert item["targets/det"]["labels"].shape == (0,)
    assert item["targets/seg"].unique().tolist() == [0]
    assert item["targets/cls"].tolist() == [0, 0, 0]


def test_only_images_with_boxes_but_no_polygons_have_no_mask(folder):
    data = Yolo(folder, "train")
    items = [*data]
    assert ["targets/seg" in item for item in items] == [False, True, True, True]
    assert collate(items, data.kinds)["labelled/seg"].tolist() == [False, True, True, True]


def test_labels_have_masks_only_if_there_are_polygons(folder):
    names = ("cat", "dog", "bird")
    boxes = dict.fromkeys(("cls", "det", "fomo"), names)
    assert Yolo(folder, "train").labels == {**boxes, "seg": ("background", *names), "inst": names}
    (folder / "labels" / "train" / "b.txt").unlink()
    data = Yolo(folder, "train")
    assert data.labels == boxes
    assert all("targets/seg" not in item for item in data)


def test_labels_refer_to_the_upright_image(tmp_path):
    box = (10, 5, 30, 45)  # of the upright image, 40 wide and 60 high
    with Image.fromarray(scene(HEIGHT, WIDTH, {RED: box})) as upright:
        stored = np.asarray(upright.transpose(Image.Transpose.ROTATE_90))
    save_image(tmp_path / "images" / "train" / "a.jpg", stored, orientation=6)
    with Image.open(tmp_path / "images" / "train" / "a.jpg") as opened:
        assert ImageOps.exif_transpose(opened).size == (HEIGHT, WIDTH)
    (tmp_path / "labels" / "train").mkdir(parents=True)
    (tmp_path / "labels" / "train" / "a.txt").write_text(box_line(1, box, HEIGHT, WIDTH))
    (tmp_path / "data.yaml").write_text(NAMES)
    item = Yolo(tmp_path, "train")[0]
    assert item["image"].shape == (3, WIDTH, HEIGHT)
    assert item["targets/det"]["boxes"][0].tolist() == pytest.approx(
        box_around(pixels_of(item["image"], RED)), abs=1e-4
    )


@pytest.mark.parametrize(
    ("images", "labels", "settings"),
    [
        ("images/val", "labels/val", ""),
        ("images/val", "labels/val", "val: images/val\n"),
        ("images/val", "labels/val", "path: .\nval: images/val\n"),
        ("deep/images/val", "deep/labels/val", "path: deep\nval: images/val\n"),
        ("valid/images", "valid/labels", "val: ../valid/images\n"),
        ("photos", "photos", "val: [photos]\n"),
    ],
)
def test_images_are_read_from_the_folders_in_the_settings(tmp_path, images, labels, settings):
    fill(tmp_path / images, tmp_path / labels)
    (tmp_path / "data.yaml").write_text(settings + NAMES)
    data = Yolo(tmp_path, "val")
    assert [len(item["targets/det"]["labels"]) for item in data] == [2, 2, 0, 0]


def test_images_may_be_listed_in_a_file(folder):
    (folder / "train.txt").write_text("./images/train/b.jpg\n\n./images/train/c.jpg\n")
    (folder / "data.yaml").write_text("train: train.txt\n" + NAMES)
    data = Yolo(folder, "train")
    assert [len(item["targets/det"]["labels"]) for item in data] == [2, 0]


@pytest.mark.parametrize("names", ["names: {0: cat, 1: dog, 2: bird}", "names:\n  - cat\n  - dog\n  - bird"])
def test_names_may_be_numbered_or_listed(folder, names):
    (folder / "data.yaml").write_text(names)
    assert Yolo(folder, "train").labels["det"] == ("cat", "dog", "bird")


def test_a_model_trains_on_it(folder):
    data = augmented(Yolo(folder, "train"))
    model = brickyard.create_model_for(data, "test_resnet_cls-multilabel_seg_det").train()
    batch = next(iter(DataLoader(data, batch_size=4, collate_fn=partial(collate, kinds=data.kinds))))
    outputs = model(batch, tags=brickyard.Stage.TRAIN.tags)
    sum(model.extract_losses(outputs).values()).backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert sum(gradient.abs().sum() for gradient in gradients) > 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.1", r"expected 'class cx cy width height' or .* found 4 numbers"),
        ("0 0.5 0.5 0.1 0.1 0.2", "found 6 numbers"),
        ("0 0.5 0.5 0.1 0.1 0.2 0.2 0.3", "found 8 numbers"),
        ("cat 0.5 0.5 0.1 0.1", "found 'cat 0.5 0.5 0.1 0.1'"),
        ("3 0.5 0.5 0.1 0.1", "expected a class from 0 to 2, found 3"),
        ("-1 0.5 0.5 0.1 0.1", "found -1"),
        ("0.5 0.5 0.5 0.1 0.1", "found 0.5"),
        ("nan 0.5 0.5 0.1 0.1", "expected a class from 0 to 2, found nan"),
        ("0 30 20 10 10", "expected fractions of the image size, 0 to 1, found 10 to 30. Are they pixels?"),
        ("0 0.5 0.5 nan 0.1", "expected fractions of the image size"),
    ],
)
def test_a_damaged_line_is_named(folder, line, message):
    file = folder / "labels" / "train" / "a.txt"
    file.write_text(box_line(1, RED_BOX) + line + "\n")
    data = Yolo(folder, "train")
    for read in (data.check, data.__getitem__):
        with pytest.raises(BrickInputError, match=rf"a\.txt, line 2: .*{message}"):
            read(0)
    data.check(1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("names: [", "settings in YAML"),
        ("- a", "settings in YAML, found list"),
        ("train: images/train", "names: a list, .* found None"),
        ("names: {1: a, 2: b}", "names: a list"),
        ("names: []", "names: a list"),
        ("names: [[a], [b]]", "names: a list"),
        (
            "\n".join(
                ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60)), "names: *a59"]
            ),
            "names",
        ),
    ],
)
def test_damaged_settings_are_named(folder, settings, message):
    (folder / "data.yaml").write_text(settings)
    with pytest.raises(BrickInputError, match=rf"data\.yaml: .*{message}"):
        Yolo(folder, "train")


def test_errors_name_what_is_missing(folder, tmp_path):
    with pytest.raises(BrickInputError, match=r"images of 'val', found no 'images/val'"):
        Yolo(folder, "val")
    with pytest.raises(BrickInputError, match=r"images of 'test', found no 'images/test'"):
        Yolo(folder, "test")
    for file in (folder / "labels" / "train").iterdir():
        file.unlink()
    with pytest.raises(BrickInputError, match=r"labels/train: expected label files"):
        Yolo(folder, "train")
    (folder / "data.yaml").unlink()
    with pytest.raises(BrickInputError, match=r"data\.yaml: expected settings"):
        Yolo(folder, "train")


def test_an_absent_image_is_named_when_it_is_read(folder):
    data = Yolo(folder, "train")
    (folder / "images" / "train" / "a.jpg").unlink()
    with pytest.raises(BrickInputError, match=r"a\.jpg: expected an image"):
        data[0]


def test_labels_beside_an_image_are_read_also_if_others_are_in_a_folder_of_labels(folder):
    (folder / "images" / "train" / "d.txt").write_text(box_line(1, RED_BOX))
    assert Yolo(folder, "train")[3]["targets/det"]["labels"].tolist() == [1]


def test_two_label_files_of_an_image_must_agree(folder):
    beside = folder / "images" / "train" / "a.txt"
    beside.write_text((folder / "labels" / "train" / "a.txt").read_text())
    assert Yolo(folder, "train")[0]["targets/det"]["labels"].tolist() == [2, 0]
    beside.write_text(box_line(1, RED_BOX))
    data = Yolo(folder, "train")
    for read in (data.check, data.__getitem__):
        with pytest.raises(BrickInputError, match=r"labels/train/a\.txt: expected one label file .*images/train/a"):
            read(0)
    data.check(1)


def test_images_without_a_label_file_and_label_files_without_an_image_are_counted(folder, caplog):
    (folder / "labels" / "train" / "x.txt").write_text(box_line(1, RED_BOX))
    (folder / "labels" / "train" / "classes.txt").write_text("cat\ndog\nbird\n")
    assert len(Yolo(folder, "train")) == 4
    missing, orphans = (record.getMessage() for record in caplog.records)
    assert "1 of 4 images have no label file" in missing
    assert missing.endswith("images/train/d.jpg")
    assert orphans == f"1 label files have no image, and are left out: {folder / 'labels' / 'train' / 'x.txt'}"


def test_labels_of_other_splits_in_the_same_folder_are_no_orphans(folder, caplog):
    (folder / "train.txt").write_text("./images/train/b.jpg\n")
    (folder / "data.yaml").write_text("train: train.txt\n" + NAMES)
    assert len(Yolo(folder, "train")) == 1
    assert not caplog.records


@pytest.mark.parametrize(("shape", "points"), [("[2, 3]", " 0.1 0.2 2 0 0 0"), ("[2, 2]", " 0.1 0.2 0.5 0.5")])
def test_the_settings_decide_that_lines_have_key_points(folder, shape, points):
    (folder / "data.yaml").write_text(f"kpt_shape: {shape}\n{NAMES}")
    lines = [line + points for line in (box_line(2, RED_BOX).strip(), box_line(0, BLUE_BOX).strip())]
    (folder / "labels" / "train" / "a.txt").write_text("\n".join(lines))
    (folder / "labels" / "train" / "b.txt").write_text("")
    data = Yolo(folder, "train")
    target = data[0]["targets/det"]
    torch.testing.assert_close(
        target["boxes"].as_subclass(torch.Tensor), torch.tensor([RED_BOX, BLUE_BOX], dtype=torch.float32)
    )
    assert target["labels"].tolist() == [2, 0]
    assert data.labels.keys() == {"cls", "det", "fomo", "pose", "kpt"}
    (folder / "labels" / "train" / "b.txt").write_text(box_line(2, RED_BOX))
    with pytest.raises(BrickInputError, match=r"b\.txt, line 1: .*key points, as kpt_shape says, found 5 numbers"):
        Yolo(folder, "train")[1]


@pytest.mark.parametrize("shape", ["17", "[0, 3]", "[5, 4]", "[a, b]", "[5]"])
def test_a_damaged_kpt_shape_is_refused(folder, shape):
    (folder / "data.yaml").write_text(f"kpt_shape: {shape}\n{NAMES}")
    with pytest.raises(BrickInputError, match=r"data\.yaml: expected kpt_shape"):
        Yolo(folder, "train")


@pytest.mark.parametrize("name", ["data.yaml", "other.yml"])
def test_the_file_of_the_settings_may_be_named(folder, name):
    (folder / "data.yaml").rename(folder / name)
    assert len(Yolo(folder / name, "train")) == 4


@pytest.mark.parametrize("names", ["[yes, no, null]", "{0: yes, 1: no, 2: null}", "[on, off, 1.0]"])
def test_names_are_the_words_of_the_settings(folder, names):
    (folder / "data.yaml").write_text(f"names: {names}\ntest:\nval: null")
    expected = ("yes", "no", "null") if "yes" in names else ("on", "off", "1.0")
    assert Yolo(folder, "train").labels["det"] == expected


def test_byte_order_marks_are_read(folder):
    (folder / "train.txt").write_text("\ufeff./images/train/a.jpg\n", encoding="utf-8")
    (folder / "data.yaml").write_text("\ufefftrain: train.txt\n" + NAMES, encoding="utf-8")
    (folder / "labels" / "train" / "a.txt").write_text("\ufeff" + box_line(1, RED_BOX), encoding="utf-8")
    assert Yolo(folder, "train")[0]["targets/det"]["labels"].tolist() == [1]


def test_an_empty_list_of_images_is_refused(folder):
    (folder / "train.txt").write_text("\n\n")
    (folder / "data.yaml").write_text("train: train.txt\n" + NAMES)
    with pytest.raises(BrickInputError, match=r"train\.txt: expected a list of one image or more, found an empty file"):
        Yolo(folder, "train")


@pytest.mark.parametrize("number", ["inf", "-inf", "1e9", "nan"])
def test_coordinates_that_are_not_on_the_image_are_refused(folder, number):
    (folder / "labels" / "train" / "b.txt").write_text(f"0 0.1 0.1 0.5 {number} 0.3 0.9\n")
    with pytest.raises(BrickInputError, match=r"b\.txt, line 1: expected fractions"):
        Yolo(folder, "train")[1]


def test_a_label_file_that_is_a_pipe_does_not_block(folder):
    (folder / "labels" / "train" / "a.txt").unlink()
    os.mkfifo(folder / "labels" / "train" / "a.txt")
    with pytest.raises(BrickInputError, match=r"a\.txt: expected labels as text, found no regular file"):
        Yolo(folder, "train")[0]


def test_an_outline_without_end_is_refused(folder):
    (folder / "labels" / "train" / "b.txt").write_text("0 " + "0 0 1 1 " * 1000)
    with pytest.raises(BrickInputError, match=r"b\.txt, line 1: expected polygons with a perimeter"):
        Yolo(folder, "train").check(1)


def test_objects_that_are_too_small_for_a_box_are_counted(folder):
    data = Yolo(folder, "train")
    assert [data.check(index) for index in range(4)] == [0, 0, 0, 0]
    lines = "0 0.5 0.5 0 0\n0 0.5 0.5 0.01 0.9\n0 0.5 0.5 0.02 0.9\n0 0 0.5 0.02 0.9\n"  # 0, 0.6, 1.2, 0.6 wide inside
    (folder / "labels" / "train" / "a.txt").write_text(lines)
    data = Yolo(folder, "train")
    assert data.check(0) == 3
    assert len(data[0]["targets/det"]["boxes"]) == 1


@pytest.mark.parametrize("settings", ["train: {a: b}", "train: [[x]]", "train: x\npath: [x]", "path: {a: b}"])
def test_sources_that_are_no_texts_are_refused(folder, settings):
    (folder / "data.yaml").write_text(f"{settings}\n{NAMES}")
    with pytest.raises(BrickInputError, match="expected 'path' as a text, and 'train' as a text or a list of texts"):
        Yolo(folder, "train")
