import json

import numpy as np
import pytest
import torch
from PIL import Image

from brickyard.data.depth_maps import DepthMaps
from brickyard.data.readers import open_data
from brickyard.errors import BrickInputError
from tests.data.disk import RED, pixels_of, save_image, scene

WIDTH, HEIGHT = 60, 40
BOX = (10, 5, 30, 25)


def depths(near=1500, far=4000, dtype=np.uint16):
    """The red rectangle is near; the first column is unknown."""
    values = np.full((HEIGHT, WIDTH), far, dtype=dtype)
    values[BOX[1] : BOX[3], BOX[0] : BOX[2]] = near
    values[:, 0] = 0
    return values


@pytest.fixture
def folder(tmp_path):
    for name in "ab":
        save_image(tmp_path / "images" / "train" / f"{name}.jpg", scene(WIDTH, HEIGHT, {RED: BOX}))
    (tmp_path / "depth" / "train").mkdir(parents=True)
    Image.fromarray(depths()).save(tmp_path / "depth" / "train" / "a.png")
    np.save(tmp_path / "depth" / "train" / "b.npy", depths(1.5, 4, np.float32))
    return tmp_path


def test_integers_are_millimetres_and_floats_are_taken_as_they_are(folder):
    data = DepthMaps(folder, "train")
    with Image.open(folder / "depth" / "train" / "a.png") as opened:
        assert opened.mode.startswith("I")
    for index, item in enumerate(data):
        depth = item["targets/depth"]
        assert depth.dtype == torch.float32
        torch.testing.assert_close(depth, torch.from_numpy(depths(1.5, 4, np.float32)))
        assert torch.equal(depth == depth[BOX[1], BOX[0]], pixels_of(item["image"], RED))
        assert data.check(index) == 0


def test_the_scale_of_integers_may_be_set(folder):
    (folder / "depth.json").write_text('{"scale": 0.0002}')
    data = DepthMaps(folder, "train")
    assert data[0]["targets/depth"].max().item() == pytest.approx(0.8)
    assert data[1]["targets/depth"].max().item() == 4
    np.save(folder / "depth" / "train" / "b.npy", depths())
    assert data[1]["targets/depth"].max().item() == pytest.approx(0.8)


@pytest.mark.parametrize("scale", ["{", "[]", "{}", '{"scale": 0}', '{"scale": "1"}', '{"scale": true}'])
def test_a_damaged_scale_is_refused(folder, scale):
    (folder / "depth.json").write_text(scale)
    with pytest.raises(BrickInputError, match=r"depth\.json: expected \{\"scale\": number above 0\}"):
        DepthMaps(folder, "train")


def test_values_that_are_not_finite_or_not_above_0_are_unknown(folder):
    values = depths(1.5, 4, np.float32)
    values[0, 1:4] = [np.nan, np.inf, -1]
    np.save(folder / "depth" / "train" / "b.npy", values)
    assert DepthMaps(folder, "train")[1]["targets/depth"][0, :5].tolist() == [0, 0, 0, 0, 4]
    np.save(folder / "depth" / "train" / "b.npy", np.zeros_like(values))
    assert "targets/depth" not in DepthMaps(folder, "train")[1]  # nothing is known: not labelled


def test_folders_may_be_in_the_folder_of_the_split(folder):
    for kind in ("images", "depth"):
        (folder / "valid").mkdir(exist_ok=True)
        (folder / kind / "train").rename(folder / "valid" / kind)
    assert len(DepthMaps(folder, "val")) == 2


def save_bad(file, kind):
    if kind == "array":
        np.save(file.with_suffix(".npy"), np.zeros((HEIGHT, WIDTH, 2), dtype=np.float32))
    elif kind == "objects":
        np.save(file.with_suffix(".npy"), np.array([{}], dtype=object), allow_pickle=True)
    elif kind == "size":
        Image.fromarray(depths()[:-1]).save(file)
    elif kind == "colors":
        Image.new("RGB", (WIDTH, HEIGHT)).save(file)
    elif kind == "damage":
        file.write_bytes(b"no image")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("absent", r"a\.png: expected a depth map: 16-bit grey PNG.*Is there a map for each image"),
        ("array", r"a\.npy: expected a depth map.* found \(40, 60, 2\) of float32"),
        ("objects", r"a\.npy: expected a depth map"),
        ("size", r"a\.jpg: expected 60x39 pixels, as its labels say, found 60x40"),
        ("colors", r"a\.png: expected a depth map.* found an image of the mode RGB"),
        ("damage", r"a\.png: expected a depth map"),
    ],
)
def test_a_bad_map_is_named_before_training(folder, kind, message):
    file = folder / "depth" / "train" / "a.png"
    file.unlink()
    save_bad(file, kind)
    data = DepthMaps(folder, "train")
    for read in (data.check, data.__getitem__):
        with pytest.raises(BrickInputError, match=message):
            read(0)


def test_errors_name_what_is_missing(folder):
    with pytest.raises(BrickInputError, match=r"expected images/val/ or val/images/, found none"):
        DepthMaps(folder, "val")
    (folder / "depth").rename(folder / "other")
    with pytest.raises(BrickInputError, match=r"expected depth maps in depth/train/, found no such folder"):
        DepthMaps(folder, "train")


def test_depth_stays_aligned_with_the_image_through_the_transforms(folder):
    data = open_data(f"depth:{folder}", "train", image_size=32)
    for seed in range(20):
        torch.manual_seed(seed)
        item = data[0]
        red = item["image"][0].int() - item["image"][1].int() > 60
        near = (item["targets/depth"] > 0) & (item["targets/depth"] < 2)
        assert (red != near).float().mean() < 0.12  # only at the border, which is interpolated
    assert json.dumps(data.labels) == '{"depth": []}'
