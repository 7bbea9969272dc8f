import numpy as np
import pytest

from brickyard import BrickInputError
from brickyard.parts.drawing.canvas import class_colors
from brickyard.parts.drawing.masks import DrawSegmentation

LABELS = ["background", "road", "sky"]
COLORS = np.array(class_colors(LABELS), dtype=np.uint8)


def drawn(image, classes, **options):
    visualization = DrawSegmentation(LABELS, **options)(image, classes)
    assert visualization.mode == "RGB"
    return np.asarray(visualization)


@pytest.fixture
def grey():
    return np.full((200, 400, 3), 100, dtype=np.uint8)


def test_classes_are_blended_and_the_background_is_unchanged(grey):
    classes = np.zeros((200, 400), dtype=np.int64)
    classes[:, 200:] = 2
    pixels = drawn(grey, classes)
    assert (pixels[:200, :199] == 100).all()
    region = pixels[:200, 201:]
    assert (region == region[0, 0]).all()
    assert np.abs(region[0, 0].astype(float) - (100 + COLORS[2].astype(float)) / 2).max() <= 0.5


def test_borders_have_the_full_colour(grey):
    classes = np.ones((200, 400), dtype=np.int64)
    classes[:, 200:] = 2
    pixels = drawn(grey, classes)
    assert (pixels[:200, 199] == COLORS[1]).all()


def test_the_legend_is_below_the_image_and_grows_with_the_classes(grey):
    one, three = np.zeros((200, 400), dtype=np.int64), np.arange(400)[None].repeat(200, axis=0) // 134
    small, large = drawn(grey, one), drawn(grey, three)
    assert small.shape[1] == large.shape[1] == 400
    assert 200 < small.shape[0] < large.shape[0]

    def has(pixels, index):
        return (pixels[200:] == COLORS[index]).all(axis=-1).any()

    assert has(large, 1)
    assert has(large, 2)
    assert not has(small, 1)
    assert not has(drawn(grey, three, top=1), 2)


def test_only_the_region_of_the_mask_is_coloured(grey):
    small = np.full((150, 300), 2)
    pixels = drawn(grey, small)
    np.testing.assert_array_equal(pixels[:150, :300], drawn(grey, np.full((200, 400), 2))[:150, :300])
    assert (pixels[150:200] == 100).all()
    assert (pixels[:200, 300:] == 100).all()


def test_a_mask_larger_than_the_image_is_refused(grey):
    with pytest.raises(BrickInputError, match=r"within \(200, 400\), found \(400, 200\)"):
        drawn(grey, np.zeros((400, 200), dtype=np.int64))


def test_ignored_pixels_are_not_coloured(grey):
    pixels = drawn(grey, np.full((200, 400), 255))
    assert (pixels[:200] == 100).all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_narrow_grey_and_float_images_are_drawn(channels, dtype):
    pixels = drawn(np.ones((20, 30, channels), dtype=dtype), np.zeros((20, 30), dtype=np.int64))
    assert pixels.shape[1] == 320
    assert (pixels[:20, :30] == (1 if dtype == np.uint8 else 255)).all()


def test_the_image_is_not_changed(grey):
    drawn(grey, np.ones((200, 400), dtype=np.int64))
    assert (grey == 100).all()


def test_long_names_are_shortened_and_further_classes_counted(grey):
    draw = DrawSegmentation([f"class {index} of a name that does not fit in its column" for index in range(30)])
    assert draw(grey, np.arange(400)[None] // 14).width == 400
