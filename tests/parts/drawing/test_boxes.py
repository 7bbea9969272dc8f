import numpy as np
import pytest

from brickyard.parts.drawing.boxes import DrawBoxes
from brickyard.parts.drawing.canvas import class_colors
from brickyard.parts.drawing.tags import free_spot

COLORS = class_colors(["cat", "dog"])
BLACK = np.zeros((60, 80, 3), dtype=np.uint8)
BOXES = np.array([[20.0, 20, 70, 55], [5, 30, 15, 50], [0, 0, 0, 0]])
SCORES, LABELS = np.array([0.9, 0.2, 0.0]), np.array([1, 0, -1])


def drawn(image=BLACK, boxes=BOXES, **options):
    return np.asarray(DrawBoxes(["cat", "dog"], **options)(image, boxes, SCORES, LABELS))


def test_a_box_is_drawn_in_the_colour_of_its_class_with_a_legend_below_the_image():
    pixels = drawn()
    assert pixels.shape[0] > 60
    assert pixels.shape[1] == 320
    assert (pixels[60:] == COLORS[1]).all(axis=-1).any()
    assert not (pixels[60:] == COLORS[0]).all(axis=-1).any(), "no cat is shown"
    assert tuple(pixels[54, 45]) == COLORS[1]
    assert tuple(pixels[40, 69]) == COLORS[1]
    assert not pixels[40, 45].any(), "only the outline"
    assert not pixels[56:60, :80].any()


def test_an_image_without_boxes_is_unchanged():
    assert np.array_equal(drawn(score_threshold=0.95), BLACK)


def test_a_tag_is_next_to_its_box_where_it_covers_no_object():
    image = np.zeros((400, 600, 3), dtype=np.uint8)
    boxes = np.array([[100.0, 100, 200, 200], [210, 100, 300, 200]])
    draw = DrawBoxes(["cat", "dog"])
    pixels = np.asarray(draw(image, boxes, np.array([0.9, 0.8]), np.array([0, 1])))
    tag = (pixels[:100, 100:200] == COLORS[0]).all(axis=-1)
    assert tag.any(), "above the box"
    assert not pixels[105:195, 105:195].any(), "nothing in the box but its outline"
    everywhere = np.array([[0.0, 0, 600, 400], [100, 100, 200, 200]])
    pixels = np.asarray(draw(image, everywhere, np.array([0.9, 0.8]), np.array([0, 1])))
    assert not pixels[5:95, 5:595].any(), "no tag on an object that fills the image"
    assert (pixels[400:] == COLORS[1]).all(axis=-1).any(), "the legend has its class"


@pytest.mark.parametrize(
    ("box", "taken", "expected"),
    [
        ((10, 50, 40, 90), [], (10, 40, 30, 50)),  # above
        ((10, 5, 40, 90), [], (40, 5, 60, 15)),  # at the upper edge: to the right
        ((10, 50, 40, 90), [(0, 30, 19, 45)], (20, 40, 40, 50)),  # above, at the other end
        ((0, 0, 100, 100), [], None),  # fills the image
        ((0, 0, 100, 50), [], None),  # nothing is placed below the lowest object
    ],
)
def test_the_place_of_a_tag(box, taken, expected):
    assert free_spot(box, (20, 10), [box, *taken], 100) == expected


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_boxes_and_scores_that_are_not_finite_are_not_drawn(value):
    draw = DrawBoxes(["cat"])
    boxes = np.array([[0.0, 0, value, 20]])
    assert np.array_equal(np.asarray(draw(BLACK, boxes, np.array([0.9]), np.array([0]))), BLACK)
    nan = np.array([np.nan])
    assert np.array_equal(np.asarray(draw(BLACK, BOXES[:1], nan, np.array([0]))), BLACK)


def test_boxes_below_the_threshold_and_padding_are_not_drawn():
    assert not drawn()[30:50, 5:15].any()
    assert drawn(score_threshold=0.1)[30:50, 5:15].any()
    assert not drawn(score_threshold=0.0)[:5, :5].any()


def test_transposed_boxes_are_accepted():
    assert np.array_equal(drawn(boxes=BOXES.T), drawn())


@pytest.mark.parametrize("image", [np.zeros((60, 80, 3)), np.zeros((60, 80, 1), dtype=np.uint8)], ids=["float", "grey"])
def test_float_and_grey_images_are_accepted(image):
    assert np.array_equal(drawn(image), drawn())


def test_the_input_image_is_not_modified():
    drawn()
    assert not BLACK.any()
