"""`brickyard show`, on the good and the damaged folders of the tests of the readers."""

# ruff: noqa: F401, F811 - fixtures are imported

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from brickyard.cli.main import main
from brickyard.data import readers
from brickyard.data.coco import Coco
from brickyard.data.label_kinds import LabelKind
from brickyard.data.readers import register_data
from brickyard.data.transforms import Augment
from brickyard.data.yolo import Yolo
from brickyard.parts.drawing.anomaly import DrawAnomaly
from brickyard.parts.drawing.boxes import DrawBoxes
from brickyard.parts.drawing.canvas import row_height
from brickyard.parts.drawing.masks import DrawSegmentation
from tests.data import test_coco, test_depth_maps, test_hf, test_mvtec, test_voc, test_yolo
from tests.data.test_coco import folder as coco_folder
from tests.data.test_depth_maps import folder as depth_folder
from tests.data.test_image_folder import folder as image_folder
from tests.data.test_mvtec import folder as mvtec_folder
from tests.data.test_pets import folder as pets_folder
from tests.data.test_text_images import folder as text_folder
from tests.data.test_voc import folder as voc_folder
from tests.data.test_yolo import folder as yolo_folder

GAP = 8  # pixels around the images of a sheet


def cases_of(test: Any) -> list[tuple[Any, ...]]:
    """The damages that a test of a reader is parametrized with."""
    return list(test.pytestmark[0].args[1])


def show(data: str, out: Path, *arguments: object, status: int = 0) -> Result:
    command = ["show", data, "--out", out, "--image-size", 320, "--count", 2, *arguments]
    result = CliRunner().invoke(main, [str(argument) for argument in command], catch_exceptions=False)
    assert result.exit_code == status, result.output
    return result


def table(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def tile(file: Path, size: tuple[int, int]) -> np.ndarray:
    """The first image of a sheet, of (width, height)."""
    with Image.open(file) as opened:
        sheet = opened.copy()
    top = GAP + row_height(Image.new("RGB", size))
    return np.asarray(sheet.crop((GAP, top, GAP + size[0], top + size[1])))


class TestProblems:
    def test_every_damaged_file_of_labels_is_named_and_the_good_images_are_drawn(self, yolo_folder, tmp_path):
        damages = cases_of(test_yolo.test_a_damaged_line_is_named)
        images, labels = yolo_folder / "images" / "train", yolo_folder / "labels" / "train"
        for number, (line, _) in enumerate(damages):
            good = test_yolo.box_line(1, test_yolo.RED_BOX)
            test_yolo.add(images, labels, f"e{number}", good + line + "\n")
        (images / "b.jpg").write_bytes((images / "b.jpg").read_bytes()[:-900])  # its header is good
        text = show(f"yolo:{yolo_folder}", tmp_path / "out", "--count", 9, status=1).stdout
        for number, (_, message) in enumerate(damages):
            assert re.search(rf"e{number}\.txt, line 2: .*{message}", text)
        assert re.search(r"b\.jpg: expected an image, found .*truncated", text)
        assert f"{len(damages) + 1} of {len(damages) + 4} images have problems:" in text
        problems = table(tmp_path / "out" / "problems.csv")
        assert [int(row["image"]) for row in problems] == [1, *range(4, 4 + len(damages))]
        assert problems[1]["location"] == f"{labels}/e0.txt, line 2"
        with Image.open(tmp_path / "out" / "det_fomo.png") as sheet:
            assert sheet.width == 3 * (320 + GAP) + GAP

    @pytest.mark.parametrize(("change", "message"), cases_of(test_coco.test_a_damaged_annotation_is_named))
    def test_a_damaged_annotation_is_named(self, change, message, coco_folder, tmp_path):
        annotations = [test_coco.ANNOTATIONS[0] | change, *test_coco.ANNOTATIONS[1:]]
        file = coco_folder / "annotations" / "instances_train2017.json"
        test_coco.write(file, test_coco.IMAGES, annotations, test_coco.CATEGORIES)
        result = show(f"coco:{coco_folder}", tmp_path / "out", status=1)
        assert re.search(message, result.output)
        if "image_id" not in change:  # which damages the file as a whole
            assert "1 of 5 images have problems" in result.output
            assert (tmp_path / "out" / "det_fomo.png").is_file()

    @pytest.mark.parametrize(("old", "new", "message"), cases_of(test_voc.test_a_damaged_annotation_is_named))
    def test_a_damaged_xml_file_is_named(self, old, new, message, voc_folder, tmp_path):
        file = voc_folder / "Annotations" / "2007_000027.xml"
        file.write_text(file.read_text().replace(old, new))
        assert re.search(message, show(f"voc:{tmp_path}", tmp_path / "out", status=1).stdout)
        assert (tmp_path / "out" / "seg.png").is_file()

    @pytest.mark.parametrize(("kind", "message"), cases_of(test_depth_maps.test_a_bad_map_is_named_before_training))
    def test_a_damaged_depth_map_is_named(self, kind, message, depth_folder, tmp_path):
        file = depth_folder / "depth" / "train" / "a.png"
        file.unlink()
        test_depth_maps.save_bad(file, kind)
        assert re.search(message, show(f"depth:{depth_folder}", tmp_path / "out", status=1).stdout)
        assert (tmp_path / "out" / "depth.png").is_file()

    def test_the_faults_of_other_formats_are_named(
        self, pets_folder, mvtec_folder, image_folder, text_folder, tmp_path
    ):
        xml = pets_folder / "annotations" / "xmls" / "Abyssinian_100.xml"
        xml.write_text(xml.read_text().replace("<name>cat", "<name>cow"))
        test_mvtec.save_truth(mvtec_folder / "ground_truth" / "hole" / "000.png", size=(60, 41))
        (image_folder / "train" / "cat" / "a.png").write_bytes(b"no image")
        rows = ["images/a.jpg,", ",7", "images/b.jpg,no", "images/none.jpg,7"]
        (text_folder / "train.csv").write_text("file,text\n" + "\n".join(rows))
        for data, split, messages in (
            (f"pets:{tmp_path}", "trainval", [r"Abyssinian_100\.xml: .*'cow'"]),
            (f"mvtec:{mvtec_folder}", "test", [r"hole/000\.jpg: expected 60x41 pixels"]),
            (f"imagefolder:{image_folder}", "train", [r"a\.png: expected an image"]),
            (
                f"ocr:{text_folder}",
                "train",
                ["line 2: expected a text", "line 3: expected the file", r"none\.jpg: expected an image"],
            ),
        ):
            text = show(data, tmp_path / "out", "--split", split, status=1).stdout
            assert all(re.search(message, text) for message in messages)
            assert f"{len(messages)} of " in text

    def test_bad_rows_of_a_table_are_named_by_line(self, tmp_path):
        bad = [
            {"file_name": "a.jpg", "objects": {"bbox": [[70, 5, 20, 20]], "category": [0]}},
            {"file_name": "b.jpg", "objects": {"bbox": [[1, 2]], "category": [0]}},
            {"file_name": "c.jpg", "text": ""},
            {"file_name": "d.jpg", "label": -1},
            {"file_name": "e.jpg", "text": "good", "label": 0, "objects": test_hf.OBJECTS},
        ]
        test_hf.write_metadata(tmp_path, "train", bad)
        (tmp_path / "train" / "e.jpg").unlink()
        text = show(f"hf:{tmp_path}", tmp_path / "out", status=1).stdout
        for line, problem in ((1, "a box on the image"), (2, "boxes of four numbers"), (3, "a text"), (4, "one of")):
            assert f"metadata.jsonl, line {line}: expected {problem}" in text
        assert "e.jpg: expected an image" in text
        assert "5 of 5 images" in text

    @pytest.mark.parametrize(("settings", "message"), cases_of(test_yolo.test_damaged_settings_are_named))
    def test_a_folder_that_cannot_be_opened_is_an_error(self, settings, message, yolo_folder, tmp_path):
        (yolo_folder / "data.yaml").write_text(settings)
        assert re.search(message, show(f"yolo:{yolo_folder}", tmp_path / "out", status=1).output)

    def test_no_good_image_draws_nothing(self, image_folder, tmp_path):
        for file in (image_folder / "train").rglob("*.png"):
            file.write_bytes(b"no image")
        assert "Drawn: nothing" in show(f"imagefolder:{image_folder}", tmp_path / "out", status=1).stdout


class TestCounts:
    def test_they_are_those_of_a_hand_count(self, coco_folder, tmp_path):
        text = show(f"coco:{coco_folder}", tmp_path / "out").stdout
        assert "1 objects have no box" in text
        rows = {(row["label"], row["class"]): row for row in table(tmp_path / "out" / "classes.csv")}

        def counted(label: str, name: str, *columns: str) -> list[int]:
            return [int(rows[label, name][column]) for column in columns]

        # A dog of 20x20 and one of 10x5; persons of 48x36 and 20x30, and a crowd; cars of 20x30 and 60x10 pixels.
        objects = ("images", "objects", "ignored", "small", "medium", "large")
        assert counted("det", "dog", *objects) == [2, 2, 0, 2, 0, 0]
        assert counted("det", "person", *objects) == [2, 2, 1, 1, 1, 0]
        assert counted("det", "car", *objects) == [2, 2, 0, 2, 0, 0]
        assert counted("inst", "dog", "pixels") == [20 * 20 + 10 * 5]
        assert counted("cls", "person", "images") == [3]  # also the one without area
        background, dog, person, car = range(4)
        masks = np.zeros((5, 40, 60), dtype=int)  # the images 9, 25, 30, 61 and 139, painted by hand
        masks[0, 4:34, 3:23], masks[0, 10:30, 30:50] = car, dog
        masks[1, :, 10:], masks[1, 2:12, 2:20], masks[1, 20:38, 30:50], masks[1, 5:10, 5:15] = 255, person, person, dog
        masks[2, 30:] = car
        masks[4, 4:34, 3:23] = person
        for value, name in (
            (background, "background"),
            (dog, "dog"),
            (person, "person"),
            (car, "car"),
            (255, "(unknown)"),
        ):
            assert counted("seg", name, "images") == [(masks == value).any(axis=(1, 2)).sum()]
            assert counted("seg", name, "pixels") == [(masks == value).sum()]
        assert rows["det", "dog"]["pixels"] == ""

    def test_quantiles_are_those_of_numpy(self, yolo_folder, tmp_path):
        show(f"yolo:{yolo_folder}", tmp_path / "out")
        rows = {(row["label"], row["quantity"]): row for row in table(tmp_path / "out" / "quantiles.csv")}
        sides = np.array([[20, 30], [20, 20]] * 2)
        for name, values in (
            ("box width in pixels", sides[:, 0]),
            ("box height in pixels", sides[:, 1]),
            ("square root of box area in pixels", np.sqrt(sides.prod(axis=1))),
            ("box area in percent of image", sides.prod(axis=1) / 24),
        ):
            row = rows["det", name]
            assert int(row["count"]) == 4
            for quantile, share in {"minimum": 0, "25%": 0.25, "median": 0.5, "95%": 0.95, "maximum": 1}.items():
                assert float(row[quantile]) == pytest.approx(np.quantile(values, share), rel=1e-4)
        assert float(rows["", "image width in pixels"]["median"]) == 60

    def test_characters_points_identities_and_anomalies_are_counted(self, text_folder, mvtec_folder, tmp_path):
        show(f"ocr:{text_folder}", tmp_path / "out")
        rows = {row["class"]: row for row in table(tmp_path / "out" / "classes.csv")}
        assert [rows[" "][name] for name in ("images", "objects")] == ["2", "2"]
        assert [rows["Z"][name] for name in ("images", "objects")] == ["0", "0"]  # of the other split
        show(f"mvtec:{mvtec_folder}", tmp_path / "out", "--split", "test")
        rows = {(row["label"], row["class"]): row for row in table(tmp_path / "out" / "classes.csv")}
        assert rows["anomaly", "anomalous"]["images"] == "2"
        assert rows["anomaly/mask", "anomalous"]["pixels"] == str(2 * 20 * 20)
        show("digits-single", tmp_path / "out", "--length", 12, "--split", "test")
        data = readers.open_data("digits-single", "test", length=12, image_size=320)
        known = torch.stack([item["targets/kpt"][:, 2] > 0 for item in data]).sum(dim=0)
        assert [int(row["known"]) for row in table(tmp_path / "out" / "points.csv")] == known.tolist()
        assert {row["label"] for row in table(tmp_path / "out" / "classes.csv")} == {"cls"}
        identities = len({int(item["targets/emb"]) for item in data})
        rows = {row["quantity"]: row for row in table(tmp_path / "out" / "quantiles.csv")}
        assert int(rows["images of an identity"]["count"]) == identities


class TestSheets:
    def test_an_image_is_what_the_drawing_part_draws(self, yolo_folder, tmp_path):
        (yolo_folder / "labels" / "train" / "b.txt").unlink()
        show(f"yolo:{yolo_folder}", tmp_path / "out", "--augment", "none", "--count", 1)
        data = Yolo(yolo_folder, "train")
        sample = Augment(320, data.kinds, train=False)(data[0])
        target = sample["targets/det"]
        expected = DrawBoxes(data.labels["det"])(
            sample["image"].numpy().transpose(1, 2, 0), target["boxes"].numpy(), np.ones(2), target["labels"].numpy()
        )
        assert (tile(tmp_path / "out" / "det_fomo.png", expected.size) == np.asarray(expected)).all()

    def test_objects_to_ignore_are_drawn_as_such(self, coco_folder, tmp_path):
        show(f"coco:{coco_folder}", tmp_path / "out", "--augment", "none", "--count", 5)
        data = Coco(coco_folder, "train")
        target = data[1]["targets/det"]
        assert target["ignore"].tolist() == [False, False, True]
        sample = Augment(320, data.kinds, train=False)(data[1])
        names = [*data.labels["det"], *(f"{name} (ignored)" for name in data.labels["det"])]
        target = sample["targets/det"]
        expected = DrawBoxes(names)(
            sample["image"].numpy().transpose(1, 2, 0),
            target["boxes"].numpy(),
            np.ones(3),
            target["labels"].numpy() + np.array([0, 0, 3]),
        )
        with Image.open(tmp_path / "out" / "det_fomo.png") as opened:
            sheet = np.asarray(opened)
        left, top = 2 * GAP + 320, GAP + row_height(expected)
        assert (sheet[top : top + 320, left : left + 320] == np.asarray(expected)[:320]).all()

    def test_small_images_are_enlarged_with_their_masks(self, mvtec_folder, tmp_path):
        show(f"mvtec:{mvtec_folder}", tmp_path / "out", "--split", "test", "--image-size", 32, "--count", 3)
        data = readers.open_data(f"mvtec:{mvtec_folder}", "test", image_size=32)
        sample = Augment(320, data.kinds, train=False)(data[0])
        image, mask = sample["image"].numpy().transpose(1, 2, 0), sample["targets/anomaly/mask"].numpy()
        expected = DrawAnomaly(("normal", "anomalous"))(image, mask.T.astype(float), 0.0)
        assert (tile(tmp_path / "out" / "anomaly.png", expected.size) == np.asarray(expected)).all()

    def test_training_images_are_changed_at_random_but_reproducibly(self, yolo_folder, tmp_path):
        for out, options in {"a": [], "b": [], "c": ["--seed", 1], "d": ["--augment", "none"]}.items():
            show(f"yolo:{yolo_folder}", tmp_path / out, *options)
        sheets = {out: (tmp_path / out / "det_fomo.png").read_bytes() for out in "abcd"}
        assert sheets["a"] == sheets["b"]
        assert len(set(sheets.values())) == 3

    def test_images_are_taken_from_the_whole_data_set(self, image_folder, tmp_path):
        show(f"imagefolder:{image_folder}", tmp_path / "out", "--count", 2, "--augment", "none")
        with Image.open(tmp_path / "out" / "cls.png") as sheet:
            colors = [sheet.getpixel((GAP + 160 + column * (320 + GAP), 160)) for column in range(2)]
        assert colors == [(200, 0, 0), (0, 200, 0)]  # of the three, sorted by class

    @pytest.mark.parametrize(
        ("data", "files"),
        [
            ("digits", ["cls", "seg", "det_fomo", "inst", "pose", "depth"]),
            ("digits-single", ["cls", "kpt", "emb"]),
            ("digits-text", ["ocr"]),
            ("digits-anomaly", ["anomaly"]),
        ],
    )
    def test_generated_images_have_a_sheet_for_each_label(self, data, files, tmp_path):
        command = ["show", data, "--out", str(tmp_path), "--length", "4", "--count", "2"]
        assert CliRunner().invoke(main, command, catch_exceptions=False).exit_code == 0
        assert {file.stem for file in tmp_path.glob("*.png")} == set(files)


NAMES = ("nothing", "square")


class Squares:
    """A data set of a user with a label of each kind that our formats have no file for, and a bad one."""

    def __init__(self, folder: Path, split: str) -> None:
        self.labels = {"seg": NAMES, "age": ()}
        self.kinds = {"seg": LabelKind.MASK, "age": LabelKind.METADATA}
        self.bad = json.loads((folder / f"{split}.json").read_text())

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> dict[str, Any]:
        mask = torch.zeros(64, 64, dtype=torch.int64)
        mask[8:24, 8:40] = 7 if index in self.bad["class"] else 1
        if index in self.bad["size"]:
            mask = mask[1:]
        if index in self.bad["error"]:
            raise KeyError("no such file in the archive")
        label = {"targets/age": torch.tensor(30 + index)} if index else {}
        return {"image": torch.full((3, 64, 64), 0.5), "targets/seg": mask, **label}


class TestRegisteredData:
    @pytest.fixture(autouse=True)
    def _registered(self, monkeypatch):
        monkeypatch.setattr(readers, "_FORMATS", dict(readers._FORMATS))
        register_data("squares", Squares)

    def test_it_is_drawn_and_counted(self, tmp_path):
        (tmp_path / "val.json").write_text('{"class": [], "size": [], "error": []}')
        text = show(f"squares:{tmp_path}", tmp_path / "out", "--split", "val").stdout
        rows = {row["class"]: row for row in table(tmp_path / "out" / "classes.csv")}
        assert rows["square"]["pixels"] == str(6 * 16 * 32)
        assert re.search(r"age +│ metadata +│ 5 +│ 1 ", text)
        expected = DrawSegmentation(NAMES)(
            np.full((320, 320, 3), 0.5), np.kron(Squares(tmp_path, "val")[0]["targets/seg"], np.ones((5, 5), int))
        )
        assert (tile(tmp_path / "out" / "seg.png", expected.size) == np.asarray(expected)).all()

    def test_each_label_that_a_training_would_refuse_is_named(self, tmp_path):
        (tmp_path / "val.json").write_text('{"class": [1], "size": [2], "error": [4]}')
        text = show(f"squares:{tmp_path}", tmp_path / "out", "--split", "val", status=1).stdout
        assert "image 1, 'targets/seg', row 0: expected classes in [0, 2) or 255, found [7]" in text
        assert re.search(r"'targets/seg': expected a mask \(H, W\) = \(64, 64\), .* found \(63, 64\)", text)
        assert re.search(r"image 4: expected .*KeyError: 'no such file in the archive'", text)
        assert "3 of 6 images" in text
