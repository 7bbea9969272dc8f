import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from brickyard.data.orientation import read_class_map, read_oriented
from brickyard.errors import BrickInputError
from tests.data.disk import RED, box_around, pixels_of, save_image, save_mask, scene

BOX = (5, 8, 17, 30)  # of the stored image, 40 wide and 32 high
PIXELS = scene(40, 32, {RED: BOX})
STORED = torch.from_numpy((PIXELS == RED).all(axis=2).astype(np.int64))


@pytest.mark.parametrize("labelled_size", [None, (32, 40)])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_labels_of_the_stored_image_are_oriented_with_it(tmp_path, orientation, labelled_size):
    save_image(tmp_path / "a.jpg", PIXELS, orientation)
    oriented = read_oriented(tmp_path / "a.jpg", labelled_size)
    with Image.open(tmp_path / "a.jpg") as opened:
        upright = np.asarray(ImageOps.exif_transpose(opened))
    assert np.array_equal(oriented.image.permute(1, 2, 0).numpy(), upright)
    red = pixels_of(oriented.image, RED)
    assert torch.equal(oriented.mask(STORED).bool(), red)
    assert oriented.boxes(torch.tensor([BOX])).tolist() == [box_around(red)]
    assert oriented.boxes(torch.empty(0, 4)).shape == (0, 4)
    assert oriented.size == (32, 40)


def test_labels_of_the_size_of_the_upright_image_stay(tmp_path):
    save_image(tmp_path / "a.jpg", PIXELS, orientation=6)
    oriented = read_oriented(tmp_path / "a.jpg", (40, 32))
    assert oriented.image.shape == (3, 40, 32)
    red = pixels_of(oriented.image, RED)
    assert torch.equal(oriented.mask(red.long()).bool(), red)
    assert oriented.boxes(torch.tensor([[1, 2, 3, 4]])).tolist() == [[1, 2, 3, 4]]


def test_labels_of_another_size_are_refused(tmp_path):
    save_image(tmp_path / "a.jpg", PIXELS)
    with pytest.raises(BrickInputError, match=r"a\.jpg: expected 41x32 pixels, .* found 40x32"):
        read_oriented(tmp_path / "a.jpg", (32, 41))


def test_an_image_that_is_absent_or_cut_short_is_named(tmp_path):
    with pytest.raises(BrickInputError, match=r"none\.jpg: expected an image"):
        read_oriented(tmp_path / "none.jpg")
    save_image(tmp_path / "a.jpg", PIXELS)
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(BrickInputError, match=r"a\.jpg: expected an image"):
        read_oriented(tmp_path / "a.jpg")


@pytest.mark.parametrize("palette", [True, False])
def test_a_class_map_has_the_index_of_each_pixel(tmp_path, palette):
    classes = np.random.default_rng(0).integers(0, 256, size=(9, 11)).astype(np.uint8)
    if palette:
        save_mask(tmp_path / "a.png", classes)
    else:
        Image.fromarray(classes).save(tmp_path / "a.png")
    read = read_class_map(tmp_path / "a.png")
    assert read.dtype == torch.int64
    assert np.array_equal(read.numpy(), classes)


def test_a_damaged_class_map_is_named(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "colors.png")
    with pytest.raises(BrickInputError, match=r"colors\.png: .* found 3 channels"):
        read_class_map(tmp_path / "colors.png")
    (tmp_path / "damaged.png").write_bytes((tmp_path / "colors.png").read_bytes()[:60])
    with pytest.raises(BrickInputError, match=r"damaged\.png: expected a mask"):
        read_class_map(tmp_path / "damaged.png")
    with pytest.raises(BrickInputError, match=r"none\.png: expected a mask"):
        read_class_map(tmp_path / "none.png")
