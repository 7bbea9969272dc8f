"""Data sets in the form of Hugging Face `datasets`, written by hand as its files are."""

import io
import json
import sys

import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from huggingface_hub.errors import RepositoryNotFoundError
from PIL import Image

from brickyard import LabelKind
from brickyard.data.hf import HfDataset
from brickyard.data.readers import open_data
from brickyard.errors import BrickInputError, MissingExtraError
from tests.data.disk import RED, box_around, pixels_of, save_image, scene

WIDTH, HEIGHT = 60, 40
BOX = (10, 5, 30, 25)
OBJECTS = {"bbox": [[10, 5, 20, 20]], "category": [1]}


def encoded():
    """A JPEG of a red rectangle."""
    file = io.BytesIO()
    pixels = scene(WIDTH, HEIGHT, {RED: BOX})
    Image.fromarray(pixels).save(file, "JPEG", quality=100, subsampling=0)
    return file.getvalue()


def write_parquet(file, columns, features=None):
    file.parent.mkdir(parents=True, exist_ok=True)
    count = len(next(iter(columns.values())))
    images = [{"bytes": encoded(), "path": f"{number}.jpg"} for number in range(count)]
    table = pa.table({"image": images, **columns})
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pyarrow.parquet.write_table(table, file)
    return file


def write_metadata(folder, split, rows, name="metadata.jsonl"):
    for row in rows:
        save_image(folder / split / row["file_name"], scene(WIDTH, HEIGHT, {RED: BOX}))
    (folder / split / name).write_text("\n".join(map(json.dumps, rows)))


CLASSES = {"_type": "ClassLabel", "names": ["cat", "dog"]}


class TestMetadata:
    def test_columns_are_labels(self, tmp_path):
        rows = [
            {
                "file_name": "a.jpg",
                "label": "dog",
                "text": "ab",
                "objects": {"bbox": [[10, 5, 20, 20]], "category": ["x"]},
            },
            {"file_name": "b.jpg", "label": "cat", "text": "b", "objects": {"bbox": [], "category": []}},
        ]
        write_metadata(tmp_path, "train", rows)
        data = HfDataset(tmp_path, "train")
        assert data.labels == {"cls": ("cat", "dog"), "emb": (), "det": ("x",), "fomo": ("x",), "ocr": ("a", "b")}
        assert data.kinds["cls"] is LabelKind.CLASS_INDEX
        item = data[0]
        assert (int(item["targets/cls"]), int(item["targets/emb"]), item["targets/ocr"]) == (1, 1, "ab")
        assert item["targets/det"]["boxes"].tolist() == [box_around(pixels_of(item["image"], RED))]
        assert item["targets/fomo"]["labels"].tolist() == [0]
        assert data[1]["targets/det"]["boxes"].shape == (0, 4)
        assert [data.check(index) for index in range(2)] == [0, 0]

    def test_the_classes_are_those_of_all_splits(self, tmp_path):
        write_metadata(tmp_path, "train", [{"file_name": "a.jpg", "label": "b"}])
        write_metadata(tmp_path, "validation", [{"file_name": "a.jpg", "label": "a"}])
        assert (
            HfDataset(tmp_path, "train").labels == HfDataset(tmp_path, "val").labels == {"cls": ("a", "b"), "emb": ()}
        )

    def test_a_table_in_csv_is_read(self, tmp_path):
        write_metadata(tmp_path, "train", [{"file_name": "a.jpg", "text": "x"}])
        (tmp_path / "train" / "metadata.jsonl").unlink()
        (tmp_path / "train" / "metadata.csv").write_text("file_name,text\na.jpg,x\n")
        assert HfDataset(tmp_path, "train")[0]["targets/ocr"] == "x"

    def test_a_row_may_lack_a_label(self, tmp_path):
        rows = [{"file_name": "a.jpg", "label": 1}, {"file_name": "b.jpg", "label": None}]
        write_metadata(tmp_path, "train", rows)
        data = HfDataset(tmp_path, "train")
        assert ["targets/cls" in item for item in data] == [True, False]
        assert data.labels["cls"] == ("0", "1")

    def test_bad_rows_are_reported_together_by_line(self, tmp_path):
        bad = [
            {"file_name": "a.jpg", "objects": {"bbox": [[70, 5, 20, 20]], "category": [0]}},
            {"file_name": "b.jpg", "objects": {"bbox": [[1, 2]], "category": [0]}},
            {"file_name": "c.jpg", "text": ""},
            {"file_name": "d.jpg", "label": -1},
            {"file_name": "e.jpg", "text": "good", "label": 0, "objects": OBJECTS},
        ]
        write_metadata(tmp_path, "train", bad)
        (tmp_path / "train" / "e.jpg").unlink()
        with pytest.raises(BrickInputError) as caught:
            open_data(f"hf:{tmp_path}", "train")
        message = str(caught.value)
        assert "found 5 bad" in message
        for line, problem in ((1, "a box on the image"), (2, "boxes of four numbers"), (3, "a text"), (4, "one of")):
            assert f"metadata.jsonl, line {line}: expected {problem}" in message
        assert "e.jpg: expected an image" in message

    @pytest.mark.parametrize(
        ("objects", "message"),
        [
            ({"bbox": [[1, 2, 3, 4]], "category": []}, "a category for each bbox"),
            ({"bbox": [[1, 2, 3, 4]]}, "bbox and category"),
            ("x", "bbox and category"),
        ],
    )
    def test_damaged_objects_are_named(self, tmp_path, objects, message):
        write_metadata(tmp_path, "train", [{"file_name": "a.jpg", "objects": objects}])
        with pytest.raises(BrickInputError, match=rf"metadata\.jsonl, line 1: expected objects: {message}"):
            HfDataset(tmp_path, "train")

    def test_errors_name_what_is_missing(self, tmp_path):
        write_metadata(tmp_path, "train", [{"file_name": "a.jpg", "size": 3}])
        with pytest.raises(
            BrickInputError, match=r"expected a column label, labels, text, objects, found \['file_name'"
        ):
            HfDataset(tmp_path, "train")
        with pytest.raises(BrickInputError, match="the split 'val', found none"):
            HfDataset(tmp_path, "val")
        (tmp_path / "train" / "metadata.jsonl").write_text('{"image": "a.jpg", "label": 1}')
        with pytest.raises(BrickInputError, match="expected a column file_name"):
            HfDataset(tmp_path, "train")


class TestParquet:
    @pytest.mark.parametrize("name", ["data/train-00000-of-00001.parquet", "train/0000.parquet", "train.parquet"])
    def test_images_are_in_the_table_and_classes_in_its_description(self, tmp_path, name):
        write_parquet(tmp_path / name, {"label": [1, 0, None]}, {"image": {"_type": "Image"}, "label": CLASSES})
        data = HfDataset(tmp_path, "train")
        assert data.labels["cls"] == ("cat", "dog")
        assert [int(data[index]["targets/cls"]) for index in range(2)] == [1, 0]
        assert "targets/cls" not in data[2]
        assert box_around(pixels_of(data[0]["image"], RED)) == [*map(float, BOX)]
        assert data.check(0) == 0

    @pytest.mark.parametrize(
        "feature",
        [
            {"feature": {"bbox": {"_type": "Sequence"}, "category": CLASSES}, "_type": "Sequence"},
            {"bbox": {"_type": "List"}, "category": {"feature": CLASSES, "_type": "List"}},
            [{"bbox": {"_type": "List"}, "category": CLASSES}],
        ],
    )
    def test_objects_have_described_classes(self, tmp_path, feature):
        objects = [[{"bbox": [10, 5, 20, 20], "category": 1}]] if isinstance(feature, list) else [OBJECTS]
        write_parquet(tmp_path / "data" / "train-0.parquet", {"objects": objects}, {"objects": feature})
        data = HfDataset(tmp_path, "train")
        assert data.labels == dict.fromkeys(("det", "fomo", "cls"), ("cat", "dog"))
        assert data.kinds["cls"] is LabelKind.MULTI_HOT
        assert data[0]["targets/det"]["boxes"].tolist() == [[*map(float, BOX)]]
        assert data[0]["targets/cls"].tolist() == [0, 1]

    def test_a_damaged_image_or_table_is_named(self, tmp_path):
        file = write_parquet(tmp_path / "train.parquet", {"label": [0, 1]}, {"label": CLASSES})
        table = pyarrow.parquet.read_table(file)
        images = [{"bytes": b"no image", "path": ""}, {"bytes": encoded(), "path": ""}]
        pyarrow.parquet.write_table(table.set_column(0, "image", pa.array(images)), file)
        data = HfDataset(tmp_path, "train")
        for read in (data.check, data.__getitem__):
            with pytest.raises(BrickInputError, match=r"train\.parquet, row 0: expected an image"):
                read(0)
        assert len(open_data(f"hf:{tmp_path}", "train", skip_bad=True)) == 1
        file.write_bytes(b"PAR1")
        with pytest.raises(BrickInputError, match=r"train\.parquet: expected a parquet file"):
            HfDataset(tmp_path, "train")

    def test_several_configurations_are_an_error(self, tmp_path):
        for name in ("one", "two"):
            write_parquet(tmp_path / name / "train-0.parquet", {"label": [0]})
        with pytest.raises(BrickInputError, match="expected one configuration, found one, two"):
            HfDataset(tmp_path, "train")
        assert len(HfDataset(tmp_path / "one", "train")) == 1

    def test_without_pyarrow_the_extra_is_named(self, tmp_path, monkeypatch):
        write_parquet(tmp_path / "train.parquet", {"label": [0]})
        monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
        with pytest.raises(MissingExtraError, match=r"brickyard\[scale\]"):
            HfDataset(tmp_path, "train")


class TestHub:
    def put(self, hub, tmp_path, names, revision="main"):
        file = write_parquet(tmp_path / "a.parquet", {"label": [1, 0]}, {"label": CLASSES})
        hub.put("owner/animals", dict.fromkeys(names, file.read_bytes()), revision)

    def test_the_tables_of_a_split_are_downloaded(self, hub, tmp_path):
        self.put(hub, tmp_path, ["data/train-0.parquet", "data/validation-0.parquet", "README.md"])
        data = open_data("hf:owner/animals", "val", image_size=32)
        assert data.labels["cls"] == ("cat", "dog")
        assert [int(item["targets/cls"]) for item in data] == [1, 0]
        assert data[0]["image"].shape == (3, 32, 32)
        assert not list(tmp_path.rglob("train-0.parquet"))

    def test_one_of_several_configurations_is_named(self, hub, tmp_path):
        self.put(hub, tmp_path, ["one/train/0000.parquet", "two/train/0000.parquet"])
        with pytest.raises(BrickInputError, match=r"expected one configuration, found one, two\. Name one"):
            open_data("hf:owner/animals", "train")
        assert len(open_data("hf:owner/animals/two", "train", image_size=32)) == 2

    def test_the_files_that_the_hub_converted_are_read_where_the_data_set_has_others(self, hub, tmp_path):
        hub.put("owner/animals", {"data.zip": b"zip"})
        refs = hub.repos["owner/animals"].refs
        refs["refs/convert/parquet"] = refs["refs/heads/main"]
        self.put(hub, tmp_path, ["default/train/0000.parquet"], "refs/convert/parquet")
        assert len(open_data("hf:owner/animals", "train", image_size=32)) == 2
        with pytest.raises(BrickInputError, match="the split 'test', found none"):
            open_data("hf:owner/animals", "test")

    def test_what_is_not_there_is_an_error(self, hub, tmp_path):
        hub.put("owner/animals", {"data.zip": b"zip"})
        with pytest.raises(
            BrickInputError, match=r"hf:owner/animals: expected files that end with \.parquet, found none"
        ):
            open_data("hf:owner/animals", "train")
        with pytest.raises(RepositoryNotFoundError):
            open_data("hf:owner/none", "train")
        with pytest.raises(BrickInputError, match="expected a folder, or user/name"):
            open_data(f"hf:{tmp_path}/none", "train")


def test_images_of_text_are_not_cropped(tmp_path):
    write_metadata(tmp_path, "train", [{"file_name": "a.jpg", "text": "x"}])
    data = open_data(f"hf:{tmp_path}", "train", image_size=(HEIGHT, WIDTH))
    assert not data.augment.flip
    assert data.augment.min_area == 1
    assert torch.is_tensor(data[0]["image"])
