import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from brickyard import BrickInputError, UnknownNameError
from brickyard.data.dataset import LabelledDataset
from brickyard.data.readers import open_data, scene_size
from brickyard.data.synthetic.digits import DigitScenes


@pytest.fixture
def coco(tmp_path: Path) -> str:
    """Three grey images of 40x20 pixels, each with a box in its left half."""
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        for number in range(3):
            Image.new("RGB", (40, 20), (50 * number,) * 3).save(tmp_path / split / f"{number}.png")
        content = {
            "images": [{"id": n, "file_name": f"{n}.png", "width": 40, "height": 20} for n in range(3)],
            "annotations": [
                {"id": n, "image_id": n, "category_id": 7, "bbox": [0, 5, 20, 10], "area": 200, "iscrowd": 0}
                for n in range(3)
            ],
            "categories": [{"id": 7, "name": "cat"}],
        }
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return str(tmp_path)


@pytest.mark.parametrize(
    ("name", "size"),
    [("digits", (96, 96)), ("digits-single", (96, 96)), ("digits-text", (64, 192)), ("digits-anomaly", (96, 96))],
)
def test_generated_data_sets_have_an_image_size_of_their_own(name: str, size: tuple[int, int]) -> None:
    assert open_data(name, "val", length=1)[0]["image"].shape == (3, *size)
    assert scene_size(name) == size
    assert open_data(name, "val", length=1, image_size=128)[0]["image"].shape == (3, 128, 128)


def test_images_of_text_may_be_wide_and_others_are_square() -> None:
    assert open_data("digits-text", "val", length=1, image_size=(48, 200))[0]["image"].shape == (3, 48, 200)
    with pytest.raises(BrickInputError, match=r"image_size: expected one side: scenes are square, found \(64, 192\)"):
        open_data("digits", "val", image_size=(64, 192))


def test_digits_are_digit_scenes() -> None:
    data = open_data("digits", "val", length=3, image_size=64, seed=5)
    expected = DigitScenes("val", 3, image_size=64, seed=5)
    assert isinstance(data, LabelledDataset)
    assert len(data) == 3
    assert torch.equal(data[2]["image"], expected[2]["image"])
    assert data.labels == DigitScenes.labels


@pytest.mark.parametrize(("split", "length"), [("train", 1_000_000), ("val", 500), ("test", 1000)])
def test_digit_scenes_have_a_default_length_by_split(split: str, length: int) -> None:
    data = open_data("digits", split)
    assert len(data) == length
    assert data[0]["image"].shape == (3, 96, 96)


def test_images_of_a_folder_are_squashed_to_a_square_with_their_boxes(coco: str) -> None:
    data = open_data(f"coco:{coco}", "val", image_size=80)
    assert data.labels["det"] == ("cat",)
    assert len(data) == 3
    assert data[1]["image"].shape == (3, 80, 80)
    assert torch.unique(data[1]["image"]).tolist() == [50]
    torch.testing.assert_close(
        torch.as_tensor(data[1]["targets/det"]["boxes"]), torch.tensor([[0.0, 20.0, 40.0, 60.0]])
    )


def test_images_of_a_folder_have_224_pixels_where_none_is_given(coco: str) -> None:
    assert open_data(f"coco:{coco}", "val")[0]["image"].shape == (3, 224, 224)


def test_training_images_are_changed_at_random_and_others_are_not(coco: str) -> None:
    train, val = open_data(f"coco:{coco}", "train", image_size=32), open_data(f"coco:{coco}", "val", image_size=32)
    assert len({train[1]["image"].float().mean().item() for _ in range(5)}) > 1
    assert torch.equal(val[1]["image"], val[1]["image"])


def test_a_length_takes_the_first_images(coco: str) -> None:
    data = open_data(f"coco:{coco}", "val", length=2, image_size=32)
    assert len(data) == 2
    assert [int(data[index]["image"].max()) for index in (0, 1, -1)] == [0, 50, 50]
    with pytest.raises(IndexError):
        data[2]
    with pytest.raises(BrickInputError, match="length: expected 0 to 3, the length of the data set, found 4"):
        open_data(f"coco:{coco}", "val", length=4)


@pytest.mark.parametrize("text", ["digit", "coco", "coco:", "digits:folder", ""])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(UnknownNameError, match=f"Unknown data '{text}'"):
        open_data(text, "train")


@pytest.mark.parametrize("kind", ["coco", "yolo", "pets", "voc", "imagefolder"])
def test_a_folder_without_the_data_is_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(BrickInputError, match=str(tmp_path)):
        open_data(f"{kind}:{tmp_path}", "train")


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown split 'validation'.*'val'"):
        open_data("digits", "validation")  # type: ignore[arg-type]


@pytest.mark.parametrize("flip", [True, False])
def test_training_images_are_flipped_only_if_asked(flip: bool, tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / "images" / split).mkdir(parents=True)
        (tmp_path / "labels" / split).mkdir(parents=True)
        image = Image.new("RGB", (40, 40), (200,) * 3)
        image.paste((50,) * 3, (0, 0, 20, 40))  # dark on the left
        image.save(tmp_path / "images" / split / "0.png")
        (tmp_path / "labels" / split / "0.txt").write_text("0 0.5 0.5 1 1")
    (tmp_path / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames: [object]\n")
    data = open_data(f"yolo:{tmp_path}", "train", image_size=32, flip=flip)
    torch.manual_seed(0)
    columns = [data[0]["image"].float().mean((0, 1)) for _ in range(20)]
    mirrored = [bool(column[0] > column[-1] + 30) for column in columns]
    assert any(mirrored) == flip
    assert any(column[-1] > column[0] + 30 for column in columns)


def test_a_home_folder_is_expanded(coco: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(Path(coco).parent))
    assert len(open_data(f"coco:~/{Path(coco).name}", "val")) == 3


def test_any_split_of_a_folder_is_opened(coco: str) -> None:
    (Path(coco) / "val").rename(Path(coco) / "night")
    annotations = Path(coco) / "annotations"
    (annotations / "instances_val.json").rename(annotations / "instances_night.json")
    data = open_data(f"coco:{coco}", "night", image_size=32)
    assert torch.equal(data[1]["image"], data[1]["image"])
    with pytest.raises(BrickInputError, match="the split 'dusk'"):
        open_data(f"coco:{coco}", "dusk")


def test_letterboxed_images_keep_their_aspect_ratio_with_their_boxes(coco: str) -> None:
    data = open_data(f"coco:{coco}", "val", image_size=80, resize_mode="letterbox")
    item = data[1]
    assert torch.unique(item["image"][:, 20:60]).tolist() == [50]
    assert torch.unique(item["image"][:, :20]).tolist() == torch.unique(item["image"][:, 60:]).tolist() == [128]
    torch.testing.assert_close(torch.as_tensor(item["targets/det"]["boxes"]), torch.tensor([[0.0, 30.0, 40.0, 50.0]]))


def test_bad_samples_are_reported_together_or_left_out(coco: str) -> None:
    for number in (0, 2):
        (Path(coco) / "val" / f"{number}.png").write_bytes(b"no image")
    with pytest.raises(BrickInputError, match=r"(?s)found 2 bad:.*0\.png: expected an image.*2\.png: .*--skip-bad"):
        open_data(f"coco:{coco}", "val")
    data = open_data(f"coco:{coco}", "val", image_size=32, skip_bad=True)
    assert len(data) == 1
    assert torch.unique(data[0]["image"]).tolist() == [50]
