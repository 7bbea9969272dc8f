import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from brickyard.parts.instances.mask_images import cover_window, paste_mask


def resized(mask, size):
    return interpolate(torch.from_numpy(mask)[None, None], size=size, mode="bilinear", align_corners=False)[
        0, 0
    ].numpy()


@pytest.mark.parametrize("size", [(24, 36), (6, 9), (50, 31), (3, 4)])
def test_a_mask_is_interpolated_as_torch_does(size):
    mask = np.random.default_rng(0).random((6, 9))
    found = paste_mask(mask, (0, 0, size[1], size[0]), size)
    assert np.array_equal(found, resized(mask, size) > 0.5)


def test_pixels_whose_centre_is_outside_of_the_box_are_no_part_of_the_object():
    found = paste_mask(np.ones((4, 4)), (2.4, 3.6, 10.5, 7.5), (12, 16))
    expected = np.zeros((12, 16), dtype=bool)
    expected[4:7, 2:10] = True
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("box", [(5, 5, 5, 9), (-9, -9, -1, -1), (20, 20, 30, 30), (5.6, 5, 6.4, 9)])
def test_a_box_without_pixels_has_an_empty_mask(box):
    assert not paste_mask(np.ones((4, 4)), box, (12, 16)).any()


def test_the_whole_image_as_window_changes_nothing():
    masks = np.random.default_rng(0).random((3, 6, 9))
    assert cover_window(masks, (24, 36), (0, 0, 24, 36)) is masks


def test_a_window_of_whole_cells_is_a_slice():
    masks = np.random.default_rng(0).random((3, 6, 9))
    np.testing.assert_allclose(cover_window(masks, (24, 36), (8, 4, 12, 24)), masks[:, 2:5, 1:7])


def test_a_disc_stays_where_it_is_in_a_window_of_any_size():
    y, x = np.mgrid[:40, :40] + 0.5
    disc = 1 / (1 + np.exp(np.hypot(x - 22, y - 18) - 8))  # of radius 8 cells around (88, 72) pixels of 160 x 160
    window = (31, 13, 97, 141)
    found = paste_mask(cover_window(disc[None], (160, 160), window)[0], (0, 0, 141, 97), (97, 141))
    rows, columns = np.nonzero(found)
    assert np.mean(columns + 0.5) == pytest.approx(88 - 13, abs=0.5)
    assert np.mean(rows + 0.5) == pytest.approx(72 - 31, abs=0.5)
    assert np.sqrt(found.sum() / np.pi) == pytest.approx(32, rel=0.02)
