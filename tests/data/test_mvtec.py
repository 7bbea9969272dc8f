import numpy as np
import pytest
import torch
from PIL import Image

from brickyard.data.mvtec import MvtecAd
from brickyard.data.readers import open_data
from brickyard.errors import BrickInputError
from tests.data.disk import RED, pixels_of, save_image, scene

WIDTH, HEIGHT = 60, 40
BOX = (10, 5, 30, 25)


def save_truth(file, box=BOX, size=(WIDTH, HEIGHT)):
    file.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros(size[::-1], dtype=np.uint8)
    mask[box[1] : box[3], box[0] : box[2]] = 255
    Image.fromarray(mask).save(file)


@pytest.fixture
def folder(tmp_path):
    """Two normal images for training; one normal image, a scratch and a hole for the test."""
    for name in ("train/good/000", "train/good/001", "test/good/000"):
        save_image(tmp_path / f"{name}.jpg", scene(WIDTH, HEIGHT, {}))
    for defect, suffix in (("scratch", "_mask"), ("hole", "")):
        save_image(tmp_path / "test" / defect / "000.jpg", scene(WIDTH, HEIGHT, {RED: BOX}))
        save_truth(tmp_path / "ground_truth" / defect / f"000{suffix}.png")
    return tmp_path


def test_anomalous_images_have_their_masks_and_normal_ones_empty_masks(folder):
    data = MvtecAd(folder, "test")
    assert data.labels == {"anomaly": ("normal", "anomalous")}
    assert [int(item["targets/anomaly"]) for item in data] == [0, 1, 1]
    for index, item in enumerate(data):
        assert data.check(index) == 0
        assert item["targets/anomaly/mask"].dtype == torch.int64
        assert torch.equal(item["targets/anomaly/mask"].bool(), pixels_of(item["image"], RED))


def test_training_has_normal_images_only(folder):
    assert [int(item["targets/anomaly"]) for item in MvtecAd(folder, "train")] == [0, 0]
    save_image(folder / "train" / "scratch" / "000.jpg", scene(WIDTH, HEIGHT, {}))
    with pytest.raises(BrickInputError, match=r"train: expected normal images only, in good/, found 1 others, such as"):
        MvtecAd(folder, "train")


def test_training_images_are_not_changed_at_random(folder):
    data = open_data(f"mvtec:{folder}", "train", image_size=32)
    assert torch.equal(data[0]["image"], data[0]["image"])
    assert torch.equal(data[0]["targets/anomaly/mask"], torch.zeros(32, 32))


def test_the_test_split_is_the_validation_split_where_there_is_none(folder, caplog):
    assert len(MvtecAd(folder, "val")) == 3
    assert "'val' is the test split" in caplog.text
    save_image(folder / "validation" / "good" / "000.jpg", scene(WIDTH, HEIGHT, {}))
    assert len(MvtecAd(folder, "val")) == 1


def test_without_a_folder_of_masks_anomalous_images_have_none(folder):
    for file in (folder / "ground_truth").rglob("*.png"):
        file.unlink()
    with pytest.raises(
        BrickInputError, match=r"ground_truth/hole/000_mask\.png: expected an image, found no such file"
    ):
        MvtecAd(folder, "test").check(1)
    (folder / "ground_truth").rename(folder / "elsewhere")
    assert ["targets/anomaly/mask" in item for item in MvtecAd(folder, "test")] == [True, False, False]


def test_a_mask_of_another_size_is_refused(folder):
    save_truth(folder / "ground_truth" / "hole" / "000.png", size=(WIDTH, HEIGHT + 1))
    data = MvtecAd(folder, "test")
    for read in (data.check, data.__getitem__):
        with pytest.raises(
            BrickInputError, match=r"hole/000\.jpg: expected 60x41 pixels, as its labels say, found 60x40"
        ):
            read(1)


def test_errors_name_what_is_missing(folder, tmp_path):
    with pytest.raises(BrickInputError, match="expected a folder night/, found none"):
        MvtecAd(folder, "night")
    save_image(folder / "test" / "000.jpg", scene(WIDTH, HEIGHT, {}))
    with pytest.raises(BrickInputError, match="expected an image in good/ or in the folder of a defect"):
        MvtecAd(folder, "test")
