import numpy as np
import pytest
from PIL import Image

from brickyard.parts.drawing.boxes import DrawBoxes
from brickyard.parts.drawing.canvas import Entry, class_colors, side_by_side, with_legend
from brickyard.parts.drawing.classification import DrawClassification
from brickyard.parts.drawing.depth import DrawDepth
from brickyard.parts.drawing.embedding import DrawEmbedding
from brickyard.parts.drawing.keypoints import DrawKeypoints
from brickyard.parts.drawing.masks import DrawSegmentation

IMAGE = np.full((100, 400, 3), 50, dtype=np.uint8)


@pytest.mark.parametrize("count", [1, 21, 150])
def test_the_colours_of_classes_differ(count):
    assert len(set(class_colors([str(index) for index in range(count)]))) == count


def test_a_class_has_one_colour_in_every_task():
    classes = ["cat", "dog", "fox"]
    color = class_colors(classes)[1]
    assert class_colors(["background", *classes])[2] == color

    def has(visualization):
        return (np.asarray(visualization) == color).all(axis=-1).any()

    mask = np.full((100, 400), 2)
    mask[:, :200] = 0
    assert has(DrawSegmentation(["background", *classes])(IMAGE, mask))
    assert has(DrawBoxes(classes)(IMAGE, np.array([[5.0, 5, 50, 50]]), np.array([0.9]), np.array([1])))
    assert has(DrawClassification(classes)(IMAGE, np.array([0.1, 0.8, 0.1])))
    assert has(DrawKeypoints(classes)(IMAGE, np.full((2, 3), 40.0), np.array([0.0, 0.9, 0.0])))


@pytest.mark.parametrize("size", [(4000, 3000), (3000, 4000), (500, 4000)])
def test_a_legend_of_a_large_photo_is_as_large_as_that_of_a_small_one_on_a_screen(size):
    def share(width, height):  # of the height of the legend in the longer side
        image = Image.new("RGB", (width, height))
        return (with_legend(image, [Entry("cat")]).height - height) / max(width, height)

    assert share(*size) >= 0.9 * share(800, 600)


def test_a_legend_fits_the_width_of_the_image():
    legend = with_legend(Image.new("RGB", (500, 4000)), [Entry("a name " * 40, "12.5%")] * 5)
    assert legend.width == 500


def test_images_are_arranged_side_by_side_below_captions():
    red, blue = Image.new("RGB", (30, 20), (255, 0, 0)), Image.new("RGB", (40, 50), (0, 0, 255))
    pixels = np.asarray(side_by_side({"prediction": red, "label": blue}))
    assert (pixels == (255, 0, 0)).all(axis=-1).sum() == 30 * 20
    assert (pixels == (0, 0, 255)).all(axis=-1).sum() == 40 * 50
    assert (pixels == (0, 0, 255)).all(axis=-1).any(axis=0).nonzero()[0].min() > 30


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_values_that_are_not_finite_are_drawn_or_left_out(value, dtype):
    def full(*shape):
        return np.full(shape, value, dtype=dtype)

    assert DrawClassification(["cat", "dog"])(IMAGE, full(2)).height > 100
    assert DrawBoxes(["cat"])(IMAGE, full(1, 4), full(1), np.array([0])).height == 100
    assert DrawKeypoints(["nose"])(IMAGE, full(2, 1), full(1)).height == 100
    assert DrawDepth()(IMAGE, full(100, 400, 1)).height > 100
    assert DrawEmbedding()(IMAGE, full(8)).height > 100
