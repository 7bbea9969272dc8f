import json
from functools import partial
from itertools import groupby

import numpy as np
import pytest
import torch
from faster_coco_eval import COCO
from faster_coco_eval.core import mask as coco_masks
from torch.utils.data import DataLoader

import brickyard
from brickyard.data.coco import Coco
from brickyard.data.collate import collate
from brickyard.errors import BrickInputError
from tests.data.disk import BLUE, RED, augmented, box_around, pixels_of, save_image, scene

WIDTH, HEIGHT = 60, 40
RED_BOX, BLUE_BOX = (3, 4, 23, 34), (30, 10, 50, 30)
CATEGORIES = [  # their ids have gaps, and are not in order
    {"supercategory": "animal", "id": 18, "name": "dog"},
    {"supercategory": "person", "id": 1, "name": "person"},
    {"supercategory": "vehicle", "id": 3, "name": "car"},
]
DOG, PERSON, CAR = range(3)


def polygon(x1, y1, x2, y2):
    return [x1, y1, x2, y1, x2, y2, x1, y2]


def in_a_box(x1, y1, x2, y2):
    pixels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    pixels[y1:y2, x1:x2] = 1
    return pixels


def compressed(pixels):
    code = coco_masks.encode(np.asfortranarray(pixels))
    return {"size": list(code["size"]), "counts": code["counts"].decode()}


def uncompressed(pixels):
    """Run lengths in column order, starting with 0."""
    runs = [(value, len([*group])) for value, group in groupby(pixels.T.ravel().tolist())]
    return {"size": [HEIGHT, WIDTH], "counts": [0] * (runs[0][0] == 1) + [length for _, length in runs]}


def annotation(number, image_id, category, box, segmentation=None, iscrowd=0):
    x1, y1, x2, y2 = box
    shape = {} if segmentation is None else {"segmentation": segmentation}
    bbox, area = [x1, y1, x2 - x1, y2 - y1], (x2 - x1) * (y2 - y1)
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category,
        "bbox": bbox,
        "area": area,
        "iscrowd": iscrowd,
    } | shape


def image(number):
    return {"id": number, "file_name": f"{number:012}.jpg", "width": WIDTH, "height": HEIGHT}


IMAGES = [image(139), image(9), image(25), image(30), image(61)]
RING = [polygon(2, 2, 20, 12), polygon(30, 20, 50, 38)]  # one object of two polygons
ANNOTATIONS = [
    annotation(1, 9, 3, RED_BOX, [polygon(*RED_BOX)]),
    annotation(2, 9, 18, BLUE_BOX, compressed(in_a_box(*BLUE_BOX))),
    annotation(3, 25, 1, (2, 2, 50, 38), RING),
    annotation(4, 25, 18, (5, 5, 15, 10), [polygon(5, 5, 15, 10)]),  # on the person, and smaller
    annotation(5, 25, 1, (10, 0, 60, 40), uncompressed(in_a_box(10, 0, 60, 40)), iscrowd=1),
    annotation(6, 30, 3, (-4, 30, 80, 44), [polygon(-4, 30, 80, 44)]),  # reaches beyond the image
    annotation(7, 30, 1, (5, 5, 5, 9), [polygon(5, 5, 5, 9)]),  # has no area
    annotation(8, 139, 1, RED_BOX, [polygon(*RED_BOX)]),
]


def write(file, images, annotations, categories):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"info": {}, "images": images, "annotations": annotations, "categories": categories}))


def save_images(folder):
    for entry in IMAGES:
        save_image(folder / entry["file_name"], scene(WIDTH, HEIGHT, {RED: RED_BOX, BLUE: BLUE_BOX}))


@pytest.fixture
def folder(tmp_path):
    """COCO's layout."""
    write(tmp_path / "annotations" / "instances_train2017.json", IMAGES, ANNOTATIONS, CATEGORIES)
    save_images(tmp_path / "train2017")
    return tmp_path


def test_categories_become_classes_in_the_order_of_the_file(folder):
    data = Coco(folder, "train2017")
    names = ("dog", "person", "car")
    assert data.labels == {"seg": ("background", *names), **dict.fromkeys(("cls", "det", "fomo", "inst"), names)}


def test_images_are_in_the_order_of_their_ids(folder):
    reference = COCO(folder / "annotations" / "instances_train2017.json")
    data = Coco(folder, "train2017")
    assert len(data) == len(reference.imgs) == 5
    counts = [len(reference.getAnnIds(imgIds=number)) for number in sorted(reference.imgs)]
    assert counts == [2, 3, 2, 0, 1]
    assert [len(data[index]["targets/det"]["labels"]) for index in range(5)] == [2, 3, 1, 0, 1]  # one has no area


def test_shapes_and_boxes_match_the_image(folder):
    item = Coco(folder, "train2017")[0]
    assert item["image"].shape == (3, HEIGHT, WIDTH)
    assert item["image"].dtype == torch.uint8
    for row, (color, number) in enumerate([(RED, CAR), (BLUE, DOG)]):
        pixels = pixels_of(item["image"], color)
        assert torch.equal(item["targets/seg"] == number + 1, pixels)
        assert item["targets/det"]["boxes"][row].tolist() == box_around(pixels)
        assert item["targets/det"]["labels"][row] == number
    assert item["targets/seg"].dtype == item["targets/det"]["labels"].dtype == item["targets/cls"].dtype == torch.int64
    assert item["targets/det"]["boxes"].dtype == torch.float32
    assert item["targets/cls"].tolist() == [1, 0, 1]


def test_smaller_objects_are_drawn_over_larger_ones_and_crowds_below_all_as_unknown(folder):
    reference = COCO(folder / "annotations" / "instances_train2017.json")
    person, dog, crowd = (reference.annToMask(reference.anns[number]).astype(bool) for number in (3, 4, 5))
    assert (person & dog).any()
    assert (person & crowd).any()
    expected = np.select([dog, person, crowd], [DOG + 1, PERSON + 1, 255])
    item = Coco(folder, "train2017")[1]
    assert np.array_equal(item["targets/seg"].numpy(), expected)
    assert item["targets/det"]["labels"].tolist() == [PERSON, DOG, PERSON]
    assert item["targets/det"]["boxes"].tolist() == [[2, 2, 50, 38], [5, 5, 15, 10], [10, 0, 60, 40]]
    assert item["targets/det"]["ignore"].tolist() == [False, False, True]
    assert item["targets/cls"].tolist() == [1, 1, 0]


def test_boxes_are_clamped_to_the_image(folder):
    target = Coco(folder, "train2017")[2]["targets/det"]
    assert target["boxes"].tolist() == [[0, 30, 60, 40]]
    assert target["labels"].tolist() == [CAR]


def test_an_image_without_objects_is_all_background(folder):
    item = Coco(folder, "train2017")[3]
    assert item["targets/det"]["boxes"].shape == (0, 4)
    assert item["targets/det"]["labels"].shape == (0,)
    assert item["targets/det"]["labels"].dtype == torch.int64
    assert item["targets/seg"].unique().tolist() == [0]
    assert item["targets/cls"].tolist() == [0, 0, 0]


def test_a_crowd_of_an_otherwise_absent_class_counts(folder):
    write(folder / "annotations" / "instances_train2017.json", [image(25)], ANNOTATIONS[4:5], CATEGORIES)
    item = Coco(folder, "train2017")[0]
    assert item["targets/cls"].tolist() == [0, 1, 0]
    assert item["targets/det"]["ignore"].tolist() == [True]


@pytest.mark.parametrize("image_folder", ["train2017", "images/train2017"])
def test_the_year_of_a_split_may_be_left_out(tmp_path, image_folder):
    write(tmp_path / "annotations" / "instances_train2017.json", IMAGES, ANNOTATIONS, CATEGORIES)
    save_images(tmp_path / image_folder)
    assert torch.equal(Coco(tmp_path, "train")[1]["targets/seg"], Coco(tmp_path, "train2017")[1]["targets/seg"])


@pytest.mark.parametrize(
    ("split", "name"), [("train", "train"), ("val", "valid"), ("valid", "valid"), ("test", "test")]
)
def test_annotations_may_be_in_the_folder_of_the_images_as_in_roboflow(tmp_path, split, name):
    root = [{"id": 0, "name": "street", "supercategory": "none"}]
    categories = root + [
        {"id": number + 1, "name": names, "supercategory": "street"} for number, names in enumerate("ab")
    ]
    annotations = [annotation(0, 9, 2, RED_BOX, []), annotation(1, 25, 1, BLUE_BOX, [])]
    write(tmp_path / name / "_annotations.coco.json", IMAGES, annotations, categories)
    save_images(tmp_path / name)
    data = Coco(tmp_path, split)
    assert data.labels == dict.fromkeys(("cls", "det", "fomo"), ("a", "b"))
    assert set(data[0]) == {"image", "targets/cls", "targets/det", "targets/fomo"}
    assert data[0]["targets/det"]["boxes"].tolist() == [box_around(pixels_of(data[0]["image"], RED))]
    assert data[0]["targets/det"]["labels"].tolist() == [1]


def test_a_supercategory_is_kept_if_it_has_objects(tmp_path):
    categories = [
        {"id": 1, "name": "vehicle", "supercategory": "none"},
        {"id": 2, "name": "car", "supercategory": "vehicle"},
    ]
    write(tmp_path / "train" / "_annotations.coco.json", IMAGES, [annotation(1, 9, 1, RED_BOX)], categories)
    assert Coco(tmp_path, "train").labels["det"] == ("vehicle", "car")


@pytest.mark.parametrize("none", [None, [], [[]]])
def test_an_image_with_an_object_without_shape_has_no_mask(folder, none):
    annotations = [
        *ANNOTATIONS[:2],
        annotation(10, 25, 1, RED_BOX, none),
        annotation(11, 25, 1, BLUE_BOX, [polygon(*BLUE_BOX)]),
    ]
    write(folder / "annotations" / "instances_train2017.json", [image(9), image(25)], annotations, CATEGORIES)
    data = Coco(folder, "train2017")
    items = [*data]
    assert ["targets/seg" in item for item in items] == [True, False]
    assert items[1]["targets/det"]["boxes"].tolist() == [list(map(float, RED_BOX)), list(map(float, BLUE_BOX))]
    assert collate(items, data.kinds)["labelled/seg"].tolist() == [True, False]


@pytest.mark.parametrize("labelled_upright", [True, False])
def test_the_labels_of_a_rotated_image_match_it(folder, labelled_upright):
    """Stored rotated by 90 degrees; the annotated size says whether labels refer to the stored or the upright image."""
    save_image(folder / "train2017" / image(9)["file_name"], scene(WIDTH, HEIGHT, {RED: RED_BOX}), orientation=8)
    x1, y1, x2, y2 = RED_BOX
    box = (y1, WIDTH - x2, y2, WIDTH - x1) if labelled_upright else RED_BOX
    entry = image(9) | ({"width": HEIGHT, "height": WIDTH} if labelled_upright else {})
    annotations = [annotation(1, 9, 18, box, [polygon(*box)])]
    write(folder / "annotations" / "instances_train2017.json", [entry], annotations, CATEGORIES)
    item = Coco(folder, "train2017")[0]
    red = pixels_of(item["image"], RED)
    assert red.shape == (WIDTH, HEIGHT)
    assert item["targets/det"]["boxes"].tolist() == [box_around(red)]
    assert torch.equal(item["targets/seg"] == DOG + 1, red)


def test_a_model_trains_on_it(folder):
    data = augmented(Coco(folder, "train"))
    model = brickyard.create_model_for(data, "test_resnet_cls-multilabel_seg_det").train()
    batch = next(iter(DataLoader(data, batch_size=5, collate_fn=partial(collate, kinds=data.kinds))))
    outputs = model(batch, tags=brickyard.Stage.TRAIN.tags)
    sum(model.extract_losses(outputs).values()).backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert sum(gradient.abs().sum() for gradient in gradients) > 0


def test_errors_name_what_is_missing(folder):
    with pytest.raises(BrickInputError, match=r"the split 'val'.*instances_<split>.*_annotations\.coco\.json"):
        Coco(folder, "val")
    write(folder / "annotations" / "instances_train2014.json", IMAGES, ANNOTATIONS, CATEGORIES)
    with pytest.raises(BrickInputError, match="one split 'train', found train2014, train2017"):
        Coco(folder, "train")
    with pytest.raises(BrickInputError, match="train2014/ or images/train2014/"):
        Coco(folder, "train2014")
    (folder / "train2017" / image(9)["file_name"]).unlink()
    with pytest.raises(BrickInputError, match=r"train2017/000000000009\.jpg: expected an image"):
        Coco(folder, "train2017")[0]
    with pytest.raises(IndexError):
        Coco(folder, "train2017")[5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category_id": 2}, "annotation 1: expected a known category_id, found 2"),
        ({"image_id": 10}, "annotation 1: expected a known image_id, found 10"),
        ({"bbox": [1, 2, 3]}, r"'000000000009\.jpg', annotation 1: expected a box of four numbers"),
        ({"bbox": None, "segmentation": None}, r"'000000000009\.jpg', annotation 1: expected a box of four numbers"),
        ({"bbox": [1, 2, -3, 4]}, r"'000000000009\.jpg', annotation 1: expected a box \(x, y, width, height\)"),
        ({"bbox": [1, 2, float("nan"), 4]}, r"annotation 1: expected finite coordinates, found nan"),
        ({"bbox": [1, float("inf"), 3, 4]}, r"annotation 1: expected finite coordinates, found inf"),
        ({"bbox": [1, 2, 1e9, 4]}, r"annotation 1: expected coordinates within 600 pixels.* found 1e\+09"),
        ({"bbox": [1e300, 2, 3, 4]}, r"annotation 1: expected coordinates within 600 pixels.* found 1e\+300"),
        ({"bbox": [70, 2, 3, 4]}, r"annotation 1: expected a box on the image of 60x40 pixels"),
        ({"segmentation": [[float("nan")] * 6]}, r"annotation 1: expected finite coordinates, found nan"),
        ({"segmentation": [[1, 2, 3, float("-inf"), 5, 6]]}, r"annotation 1: expected finite coordinates, found -inf"),
        ({"segmentation": [[1, 2, 1e9, 2, 5, 6]]}, r"annotation 1: expected coordinates within 600 pixels"),
        ({"segmentation": [[1, 2, 3, 2, 5, -1e18]]}, r"annotation 1: expected coordinates within 600 pixels"),
        ({"segmentation": [[10**400, 2, 3, 2, 5, 6]]}, r"annotation 1: expected polygons"),
        ({"segmentation": [3, 4]}, r"annotation 1: expected polygons"),
        (
            {"segmentation": [[0, 0, 590, 590] * 1000]},
            r"annotation 1: expected polygons with a perimeter",
        ),
        ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, r"'000000000009\.jpg', annotation 1: expected polygons .* odd"),
        ({"segmentation": [[1, "a", 3, 4, 5, 6]]}, r"'000000000009\.jpg', annotation 1: expected polygons"),
        (
            {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [5, 5]}},
            r"'000000000009\.jpg', annotation 1: expected polygons",
        ),
        (
            {"segmentation": {"size": [HEIGHT, WIDTH], "counts": "71"}},
            r"'000000000009\.jpg', annotation 1: expected polygons",
        ),
        ({"segmentation": {"counts": "71"}}, r"'000000000009\.jpg', annotation 1: expected polygons"),
        ({"segmentation": [[1, 2, 3, 4]]}, "annotation 1: expected a polygon of three points or more, found fewer"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}}, "expected a shape with pixels"),
        (
            {"segmentation": compressed(np.ones((4, 5)).astype(np.uint8))},
            r"expected a shape on 60x40 pixels, found 5x4",
        ),
    ],
)
def test_a_damaged_annotation_is_named(folder, change, message):
    annotations = [ANNOTATIONS[0] | change, *ANNOTATIONS[1:]]
    write(folder / "annotations" / "instances_train2017.json", IMAGES, annotations, CATEGORIES)
    with pytest.raises(BrickInputError, match=message):
        Coco(folder, "train2017")[0]
    with pytest.raises(BrickInputError, match=message):
        Coco(folder, "train2017").check(0)


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"images": []}', '{"images": [{"id": 1}], "annotations": [], "categories": []}']
)
def test_a_damaged_file_is_named(folder, content):
    (folder / "annotations" / "instances_train2017.json").write_text(content)
    with pytest.raises(
        BrickInputError, match=r"instances_train2017\.json: expected images, annotations and categories"
    ):
        Coco(folder, "train2017")


@pytest.mark.parametrize("bbox", [{}, {"bbox": None}, {"bbox": []}])
def test_an_object_without_a_box_gets_the_one_around_its_shape(folder, bbox):
    shapes = [[polygon(*RED_BOX)], compressed(in_a_box(*BLUE_BOX)), RING]
    annotations = [annotation(n, 9, 3, RED_BOX, shape) | {"bbox": None} | bbox for n, shape in enumerate(shapes)]
    for entry in annotations:
        if not bbox:
            del entry["bbox"]
    write(folder / "annotations" / "instances_train2017.json", [image(9)], annotations, CATEGORIES)
    boxes = Coco(folder, "train2017")[0]["targets/det"]["boxes"]
    assert boxes.tolist() == [list(RED_BOX), list(BLUE_BOX), [2, 2, 50, 38]]


def test_whether_a_supercategory_is_a_class_is_decided_over_all_splits(tmp_path):
    """`vehicle` has an object in `val` only, `street` in no split, and is not even a category in `val`."""
    vehicle, car = ({"id": n, "name": name, "supercategory": "street"} for n, name in ((1, "vehicle"), (2, "car")))
    street = {"id": 0, "name": "street", "supercategory": "none"}
    car["supercategory"] = "vehicle"
    write(tmp_path / "train" / "_annotations.coco.json", IMAGES, [annotation(1, 9, 2, RED_BOX)], [street, vehicle, car])
    write(tmp_path / "valid" / "_annotations.coco.json", IMAGES, [annotation(1, 9, 1, RED_BOX)], [vehicle, car])
    assert Coco(tmp_path, "train").labels == Coco(tmp_path, "val").labels
    assert Coco(tmp_path, "train").labels["det"] == ("vehicle", "car")


@pytest.mark.parametrize("name", ["valid", "validation"])
def test_the_validation_split_has_several_names(folder, name):
    write(folder / "annotations" / f"instances_{name}.json", IMAGES, ANNOTATIONS, CATEGORIES)
    save_images(folder / name)
    assert len(Coco(folder, "val")) == 5


def test_boxes_that_are_fractions_of_the_image_size_are_refused(folder):
    annotations = [entry | {"bbox": [0.1, 0.2, 0.3, 0.4]} for entry in ANNOTATIONS]
    write(folder / "annotations" / "instances_train2017.json", IMAGES, annotations, CATEGORIES)
    data = Coco(folder, "train2017")
    for read in (data.check, data.__getitem__):
        with pytest.raises(BrickInputError, match=r"000000000009\.jpg': expected boxes in pixels, .* fractions"):
            read(0)


def test_a_check_finds_what_reading_would_and_decodes_no_image(folder):
    data = Coco(folder, "train2017")
    assert [data.check(index) for index in range(5)] == [0, 0, 1, 0, 0]  # an object without area
    file = folder / "train2017" / image(9)["file_name"]
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    data.check(0)
    with pytest.raises(BrickInputError, match="truncated"):
        data[0]
    file.write_bytes(b"no image")
    with pytest.raises(BrickInputError, match=r"000000000009\.jpg: expected an image"):
        data.check(0)
    save_image(file, scene(WIDTH, HEIGHT + 1, {}))
    with pytest.raises(BrickInputError, match="expected 60x40 pixels, as its labels say, found 60x41"):
        data.check(0)


def test_annotations_of_unknown_images_are_counted(folder):
    annotations = [ANNOTATIONS[0] | {"image_id": 777}, ANNOTATIONS[1] | {"image_id": 778}]
    write(folder / "annotations" / "instances_train2017.json", IMAGES, annotations, CATEGORIES)
    with pytest.raises(BrickInputError, match="annotation 1: expected a known image_id, found 777, and 1 more"):
        Coco(folder, "train2017")


def test_a_byte_order_mark_is_read(folder):
    file = folder / "annotations" / "instances_train2017.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert len(Coco(folder, "train2017")) == 5


@pytest.mark.parametrize("size", [{}, {"width": None, "height": None}, {"width": 60.0, "height": 40.0}])
def test_the_size_of_an_image_may_be_absent(folder, size):
    entry = {"id": 9, "file_name": image(9)["file_name"]} | size
    write(folder / "annotations" / "instances_train2017.json", [entry], ANNOTATIONS[:2], CATEGORIES)
    data = Coco(folder, "train2017")
    data.check(0)
    assert data[0]["targets/det"]["boxes"].tolist() == [list(RED_BOX), list(BLUE_BOX)]


def test_a_size_that_is_not_a_number_is_refused(folder):
    write(folder / "annotations" / "instances_train2017.json", [image(9) | {"width": "60"}], [], CATEGORIES)
    with pytest.raises(BrickInputError, match=r"000000000009\.jpg': expected height and width as numbers"):
        Coco(folder, "train2017").check(0)
