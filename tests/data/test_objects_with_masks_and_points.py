"""Masks and key points of instances from COCO's and YOLO's formats."""

import json

import numpy as np
import pytest
import torch
from faster_coco_eval import COCO

from brickyard.data.checking import checked_subset
from brickyard.data.coco import Coco
from brickyard.data.key_points import flip_pairs_of
from brickyard.data.yolo import Yolo
from brickyard.errors import BrickInputError
from tests.data.disk import BLUE, RED, augmented, pixels_of, save_image, scene
from tests.data.test_coco import (
    ANNOTATIONS,
    BLUE_BOX,
    CAR,
    CATEGORIES,
    DOG,
    HEIGHT,
    IMAGES,
    RED_BOX,
    WIDTH,
    annotation,
    image,
    polygon,
    save_images,
    write,
)

NAMES = ["nose", "left_ear", "right_ear"]
PERSON = {"id": 1, "name": "person", "keypoints": NAMES, "skeleton": [[1, 2], [1, 3]]}
POINTS = [10, 6, 2, 5, 5, 1, 0, 0, 0]  # of the red rectangle: the right ear is unknown


@pytest.fixture
def coco(tmp_path):
    write(tmp_path / "annotations" / "instances_train.json", IMAGES, ANNOTATIONS, CATEGORIES)
    save_images(tmp_path / "train")
    return tmp_path


@pytest.fixture
def people(tmp_path):
    """Image 9 with two persons, 25 with one, 30 with one whose points are unknown, and a crowd."""
    annotations = [
        annotation(1, 9, 1, RED_BOX, [polygon(*RED_BOX)]) | {"keypoints": POINTS},
        annotation(2, 9, 1, BLUE_BOX, [polygon(*BLUE_BOX)]) | {"keypoints": [31, 11, 2, 32, 12, 2, 33, 13, 2]},
        annotation(3, 25, 1, RED_BOX, [polygon(*RED_BOX)]) | {"keypoints": POINTS},
        annotation(4, 25, 3, BLUE_BOX, [polygon(*BLUE_BOX)]),
        annotation(5, 30, 1, RED_BOX, [polygon(*RED_BOX)], iscrowd=1) | {"keypoints": [0] * 9},
    ]
    write(tmp_path / "annotations" / "person_keypoints_train.json", IMAGES, annotations, [PERSON, CATEGORIES[2]])
    save_images(tmp_path / "train")
    return tmp_path


def rewrite(folder, change):
    """Change the first annotation of the key points."""
    file = folder / "annotations" / "person_keypoints_train.json"
    content = json.loads(file.read_text())
    content["annotations"][0] |= change
    file.write_text(json.dumps(content))


class TestCoco:
    def test_masks_of_instances_are_those_of_the_coco_api(self, coco):
        reference = COCO(coco / "annotations" / "instances_train.json")
        data = Coco(coco, "train")
        for index, numbers in enumerate([(1, 2), (3, 4, 5), (6,), (), (8,)]):  # 7 has no area
            target = data[index]["targets/inst"]
            assert target["masks"].dtype == torch.uint8
            assert target["masks"].shape == (len(numbers), HEIGHT, WIDTH)
            expected = [reference.annToMask(reference.anns[number]) for number in numbers]
            assert all(np.array_equal(mask, other) for mask, other in zip(target["masks"], expected, strict=True))
            for name in ("boxes", "labels", "ignore"):
                assert torch.equal(target[name], data[index]["targets/det"][name])
                assert torch.equal(target[name], data[index]["targets/fomo"][name])
        assert data[1]["targets/inst"]["ignore"].tolist() == [False, False, True]

    def test_an_object_without_a_shape_leaves_its_image_without_masks_which_is_told(self, coco, caplog):
        annotations = [*ANNOTATIONS[:2], annotation(10, 25, 1, RED_BOX)]
        write(coco / "annotations" / "instances_train.json", [image(9), image(25)], annotations, CATEGORIES)
        assert ["targets/inst" in item for item in Coco(coco, "train")] == [True, False]
        assert "1 of 2 images have no label for 'seg' and 'inst', since an object has no shape: annotation 10" in (
            caplog.text
        )

    def test_masks_follow_an_image_that_is_stored_rotated(self, coco):
        save_image(coco / "train" / image(9)["file_name"], scene(WIDTH, HEIGHT, {RED: RED_BOX}), orientation=8)
        item = Coco(coco, "train")[0]
        assert torch.equal(item["targets/inst"]["masks"][0].bool(), pixels_of(item["image"], RED))

    def test_key_points_are_coordinates_not_indices_of_pixels(self, people):
        data = Coco(people, "train")
        target = data[0]["targets/pose"]
        assert target["keypoints"].tolist()[0] == [[10.5, 6.5, 2], [5.5, 5.5, 1], [0, 0, 0]]
        assert target["keypoints"].shape == (2, 3, 3)
        assert torch.equal(target["boxes"], data[0]["targets/det"]["boxes"])
        assert data.labels["pose"] == ("person", "car")
        assert data.labels["kpt"] == tuple(NAMES)
        spec = data.keypoints["pose"]
        assert (spec.names, spec.flip_pairs, spec.skeleton) == (tuple(NAMES), ((1, 2),), ((0, 1), (0, 2)))

    def test_poses_have_the_masks_of_their_objects_where_all_have_a_shape(self, people):
        file = people / "annotations" / "person_keypoints_train.json"
        content = json.loads(file.read_text())
        for each in content["annotations"]:
            x, y, width, height = each["bbox"]
            each["segmentation"] = [[x, y, x + width, y, x + width, y + height, x, y + height]]
        del content["annotations"][0]["segmentation"]
        file.write_text(json.dumps(content))
        data = Coco(people, "train")
        assert "masks" not in data[0]["targets/pose"]
        masks = data[1]["targets/pose"]["masks"]
        assert len(masks) == len(data[1]["targets/pose"]["keypoints"]) > 0
        assert torch.equal(masks, data[1]["targets/inst"]["masks"])

    def test_objects_without_key_points_have_unknown_ones_and_crowds_are_ignored(self, people):
        data = Coco(people, "train")
        assert (data[1]["targets/pose"]["keypoints"][1] == 0).all()
        assert data[2]["targets/pose"]["ignore"].tolist() == [True]

    def test_points_of_the_whole_image_are_those_of_its_only_object_with_some(self, people):
        data = Coco(people, "train")
        assert ["targets/kpt" in item for item in data] == [False, True, False, False, False]
        assert data[1]["targets/kpt"].tolist() == [[10.5, 6.5, 2], [5.5, 5.5, 1], [0, 0, 0]]

    def test_points_follow_an_image_that_is_stored_rotated(self, people):
        red_pixel = (10, 6, 11, 7)
        file = people / "train" / image(25)["file_name"]
        save_image(file, scene(WIDTH, HEIGHT, {RED: (8, 4, 13, 9), BLUE: red_pixel}), orientation=6)
        item = Coco(people, "train")[1]
        rows, columns = pixels_of(item["image"], RED).nonzero(as_tuple=True)
        center = [(columns.min() + columns.max() + 1).item() / 2, (rows.min() + rows.max() + 1).item() / 2]
        assert item["targets/kpt"][0].tolist() == [*center, 2]

    def test_official_files_of_key_points_are_read_where_both_are_there(self, people):
        write(people / "annotations" / "instances_train.json", IMAGES, ANNOTATIONS, CATEGORIES)
        assert "pose" not in Coco(people, "train").labels
        assert "pose" in Coco(people, "train", prefixes=("person_keypoints",)).labels

    @pytest.mark.parametrize(
        ("keypoints", "message"),
        [
            ([10, 6, 2], r"annotation 1: expected keypoints: x, y and visibility of 3 points, found 3 values"),
            ([10, 6, 3, 5, 5, 1, 0, 0, 0], r"annotation 1: expected a visibility of 0 .*, found 3"),
            ([70, 6, 2, 5, 5, 1, 0, 0, 0], r"annotation 1: expected key points on the image of 60x40 .*\[70.5, 6.5\]"),
            ([10, -6, 2, 5, 5, 1, 0, 0, 0], r"expected key points on the image"),
            ([float("nan"), 6, 2, 5, 5, 1, 0, 0, 0], r"expected key points on the image"),
            ([10, 6, float("nan"), 5, 5, 1, 0, 0, 0], r"expected a visibility"),
            (["a"] * 9, r"expected keypoints"),
            (3, r"expected keypoints"),
        ],
    )
    def test_damaged_key_points_are_named(self, people, keypoints, message):
        rewrite(people, {"keypoints": keypoints})
        data = Coco(people, "train")
        for read in (data.check, data.__getitem__):
            with pytest.raises(BrickInputError, match=rf"'000000000009\.jpg', annotation 1.*{message}|{message}"):
                read(0)
        data.check(1)

    def test_all_bad_annotations_are_reported_together(self, people):
        file = people / "annotations" / "person_keypoints_train.json"
        content = json.loads(file.read_text())
        content["annotations"][0]["keypoints"] = [70] * 9
        content["annotations"][2]["segmentation"] = [[1, 2]]
        file.write_text(json.dumps(content))
        with pytest.raises(
            BrickInputError, match=r"(?s)found 2 bad:.*annotation 1: .*annotation 3: expected a polygon"
        ):
            checked_subset(Coco(people, "train"), None, "coco", skip_bad=False)

    @pytest.mark.parametrize(
        ("categories", "message"),
        [
            ([PERSON, CATEGORIES[2] | {"keypoints": ["a"]}], "the same key points in all categories"),
            ([PERSON | {"skeleton": [[0, 1]]}, CATEGORIES[2]], "skeleton: pairs of 1 to 3"),
            ([PERSON | {"keypoints": ["a", "a", "b"]}, CATEGORIES[2]], "names that differ"),
        ],
    )
    def test_damaged_categories_are_named(self, people, categories, message):
        write(people / "annotations" / "person_keypoints_train.json", IMAGES, [], categories)
        with pytest.raises(BrickInputError, match=f"category 'person': expected .*{message}"):
            Coco(people, "train")


def test_what_a_flip_exchanges_follows_from_names_with_sides():
    assert flip_pairs_of(["nose", "left_eye", "right_eye", "RightHand", "LeftHand"]) == ((1, 2), (4, 3))
    assert flip_pairs_of(["a", "b"]) is None
    assert flip_pairs_of(["left_eye", "nose"]) is None


LINE = "1 0.5 0.5 0.5 0.5"


@pytest.fixture
def yolo(tmp_path):
    """Three images: two objects with key points, one, and one whose points are unknown."""
    lines = [
        f"{LINE} 0.25 0.5 2 0.5 0.25 1 0 0 0\n0 0.25 0.25 0.25 0.25 0.25 0.25 2 0.5 0.5 2 0.125 0.125 2\n",
        f"{LINE} 0.25 0.5 2 0.5 0.25 1 0 0 0\n",
        f"{LINE} 0 0 0 0 0 0 0 0 0\n",
    ]
    for name, text in zip("abc", lines, strict=True):
        save_image(tmp_path / "images" / "train" / f"{name}.jpg", scene(WIDTH, HEIGHT, {RED: RED_BOX}))
        (tmp_path / "labels" / "train").mkdir(parents=True, exist_ok=True)
        (tmp_path / "labels" / "train" / f"{name}.txt").write_text(text)
    settings = "names: [cat, dog]\nkpt_shape: [3, 3]\nflip_idx: [0, 2, 1]\nkpt_names: {0: [nose, l, r]}\n"
    (tmp_path / "data.yaml").write_text(settings)
    return tmp_path


class TestYolo:
    def test_polygons_are_masks_of_instances(self, tmp_path):
        boxes = {RED: RED_BOX, BLUE: BLUE_BOX}
        save_image(tmp_path / "images" / "train" / "a.jpg", scene(WIDTH, HEIGHT, boxes))
        (tmp_path / "data.yaml").write_text("names: [cat, dog]")
        lines = []
        for number, (x1, y1, x2, y2) in enumerate(boxes.values()):
            corners = [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
            lines.append(f"{number} " + " ".join(f"{x / WIDTH:.6f} {y / HEIGHT:.6f}" for x, y in corners))
        (tmp_path / "labels" / "train").mkdir(parents=True)
        (tmp_path / "labels" / "train" / "a.txt").write_text("\n".join(lines))
        item = Yolo(tmp_path, "train")[0]
        for mask, color in zip(item["targets/inst"]["masks"], boxes, strict=True):
            assert torch.equal(mask.bool(), pixels_of(item["image"], color))
        assert torch.equal(item["targets/inst"]["boxes"], item["targets/det"]["boxes"])

    def test_key_points_are_in_pixels(self, yolo):
        data = Yolo(yolo, "train")
        points = data[0]["targets/pose"]["keypoints"]
        assert points.tolist()[0] == [[15, 20, 2], [30, 10, 1], [0, 0, 0]]
        assert points.tolist()[1] == [[15, 10, 2], [30, 20, 2], [7.5, 5, 2]]
        assert data.labels["pose"] == ("cat", "dog")
        assert data.labels["kpt"] == ("nose", "l", "r") == data.keypoints["kpt"].names
        assert data.keypoints["pose"].flip_pairs == ((1, 2),)
        assert ["targets/kpt" in item for item in data] == [False, True, False]

    def test_key_points_without_visibility_are_unknown_at_the_origin(self, yolo):
        (yolo / "data.yaml").write_text("names: [cat, dog]\nkpt_shape: [3, 2]\n")
        for name in "abc":
            (yolo / "labels" / "train" / f"{name}.txt").write_text(f"{LINE} 0.25 0.5 0.5 0.25 0 0\n")
        data = Yolo(yolo, "train")
        assert data[0]["targets/kpt"].tolist() == [[15, 20, 2], [30, 10, 2], [0, 0, 0]]
        assert data.keypoints["kpt"].flip_pairs is None

    @pytest.mark.parametrize(
        ("points", "message"),
        [
            ("0.25 1.5 2 0 0 0 0 0 0", "expected fractions of the image size, 0 to 1, found 0.25 to 1.5"),
            ("0.25 0.5 4 0 0 0 0 0 0", "expected a visibility of 0"),
            ("0.25 nan 2 0 0 0 0 0 0", "expected fractions"),
            ("0.25 0.5 2 0 0 0 0 0", "and 9 numbers of key points, as kpt_shape says, found 13 numbers"),
        ],
    )
    def test_damaged_key_points_are_named_by_file_and_line(self, yolo, points, message):
        (yolo / "labels" / "train" / "a.txt").write_text(f"\n{LINE} {points}\n")
        data = Yolo(yolo, "train")
        for read in (data.check, data.__getitem__):
            with pytest.raises(BrickInputError, match=rf"a\.txt, line 2: .*{message}"):
                read(0)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ("flip_idx: [0, 1]", "flip_idx: the index of each of 3"),
            ("flip_idx: [1, 2, 0]", "flip_idx"),
            ("flip_idx: x", "flip_idx"),
            ("kpt_names: [a]", "kpt_names: 3 names"),
        ],
    )
    def test_damaged_settings_are_named(self, yolo, settings, message):
        (yolo / "data.yaml").write_text(f"names: [cat, dog]\nkpt_shape: [3, 3]\n{settings}")
        with pytest.raises(BrickInputError, match=rf"data\.yaml: expected {message}"):
            Yolo(yolo, "train")


def test_masks_of_instances_stay_aligned_through_the_transforms(coco):
    data = augmented(Coco(coco, "train"))
    for seed in range(20):
        torch.manual_seed(seed)
        item = data[0]
        target = item["targets/inst"]
        for mask, label in zip(target["masks"], target["labels"], strict=True):
            assert torch.equal(item["targets/seg"] == label + 1, mask.bool())
            assert label in (DOG, CAR)
