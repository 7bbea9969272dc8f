import json

import pytest
import torch

from brickyard.data.readers import open_data
from brickyard.data.text_images import TextImages
from brickyard.errors import BrickInputError
from tests.data.disk import RED, save_image, scene


def save_images(folder, names="abc"):
    for name in names:
        save_image(folder / f"{name}.jpg", scene(60, 20, {RED: (0, 0, 30, 20)}))  # red on the left


@pytest.fixture
def folder(tmp_path):
    save_images(tmp_path / "images")
    (tmp_path / "train.csv").write_text('file,text\nimages/a.jpg,no 7\nimages/b.jpg,"a, b"\n')
    (tmp_path / "val.jsonl").write_text(json.dumps({"file": "images/c.jpg", "text": "Zoë"}) + "\n\n")
    return tmp_path


def test_a_table_has_a_text_for_each_image(folder):
    data = TextImages(folder, "train")
    assert [item["targets/ocr"] for item in data] == ["no 7", "a, b"]
    assert [item["targets/ocr"] for item in TextImages(folder, "val")] == ["Zoë"]
    assert data[0]["image"].shape == (3, 20, 60)
    assert [data.check(index) for index in range(2)] == [0, 0]


def test_the_alphabet_has_the_characters_of_all_splits_or_of_its_file(folder):
    expected = tuple(sorted(set("no 7a, bZoë")))
    assert TextImages(folder, "train").labels == TextImages(folder, "val").labels == {"ocr": expected}
    (folder / "alphabet.txt").write_text("Zoë\n ban7,\n", encoding="utf-8")
    assert TextImages(folder, "val").labels == {"ocr": tuple("Zoë ban7,")}


@pytest.mark.parametrize("name", ["labels.csv", "labels.jsonl"])
def test_a_table_may_be_in_the_folder_of_its_images(tmp_path, name):
    save_images(tmp_path / "valid")
    text = "filename,label\na.jpg,7\n" if name.endswith("csv") else '{"image": "a.jpg", "transcription": "7"}'
    (tmp_path / "valid" / name).write_text(text)
    assert TextImages(tmp_path, "val")[0]["targets/ocr"] == "7"


def test_bad_rows_are_reported_together_by_line(folder):
    rows = ["images/a.jpg,", ",7", "images/b.jpg,x", "images/none.jpg,7", "images/c.jpg,77"]
    (folder / "train.csv").write_text("file,text\n" + "\n".join(rows))
    (folder / "alphabet.txt").write_text("7")
    with pytest.raises(BrickInputError) as caught:
        open_data(f"ocr:{folder}", "train")
    message = str(caught.value)
    assert "found 4 bad" in message
    for line, problem in ((2, "expected a text"), (3, "expected the file of an image"), (4, "'x' in 'x'")):
        assert f"train.csv, line {line}: " in message
        assert problem in message
    assert "none.jpg: expected an image" in message
    assert len(open_data(f"ocr:{folder}", "train", skip_bad=True)) == 1


@pytest.mark.parametrize("value", ["7", "null", '["7"]', '"a\\nb"'])
def test_a_text_in_json_is_a_string_of_one_line(folder, value):
    (folder / "val.jsonl").write_text(f'{{"file": "images/c.jpg", "text": {value}}}\n')
    with pytest.raises(BrickInputError, match=r"val\.jsonl, line 1: expected a text"):
        TextImages(folder, "val").check(0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,text\n", "expected one row or more"),
        ("a,text\nx,y\n", "expected a column file or file_name"),
        ("file,word\nx,y\n", "expected a column text or label"),
        ("file,text\na.jpg,a, b\n", "line 2: expected 2 values, as the first line has, .* quotes"),
        ("file,text\na.jpg\n", "line 2: expected 2 values"),
        ('file,text\na.jpg,"b\n', "a row in CSV"),
    ],
)
def test_a_damaged_table_is_named(folder, text, message):
    (folder / "train.csv").write_text(text)
    with pytest.raises(BrickInputError, match=rf"train\.csv.*{message}"):
        TextImages(folder, "train")


@pytest.mark.parametrize("line", ["{", "[1]", "7"])
def test_a_damaged_line_of_json_is_named(folder, line):
    (folder / "val.jsonl").write_text(f'{{"file": "images/c.jpg", "text": "a"}}\n{line}\n')
    with pytest.raises(BrickInputError, match=r"val\.jsonl, line 2: expected an object of JSON"):
        TextImages(folder, "val")


def test_errors_name_what_is_missing(folder):
    with pytest.raises(BrickInputError, match=r"expected test\.csv, test\.jsonl, test/labels\.csv or"):
        TextImages(folder, "test")
    (folder / "train.jsonl").write_text("")
    with pytest.raises(BrickInputError, match=r"expected one table, found train\.csv and train\.jsonl"):
        TextImages(folder, "train")
    (folder / "alphabet.txt").write_text("aa")
    with pytest.raises(BrickInputError, match="expected characters that differ, found 'a' twice"):
        TextImages(folder, "val")


def test_texts_are_neither_flipped_nor_cropped_in_training(folder):
    data = open_data(f"ocr:{folder}", "train", image_size=(20, 60))
    for seed in range(30):
        torch.manual_seed(seed)
        item = data[0]
        red = (item["image"][0].int() - item["image"][1].int() > 60).any(dim=0).nonzero().flatten()
        assert red[0] < 20  # on the left; a frame may be around the image
        grey = (item["image"].amax(dim=0) - item["image"].amin(dim=0) < 12).float().mean()
        assert len(red) > 60 / 2 / 1.5 - 2 if grey > 0.05 else 29 <= len(red) <= 31
