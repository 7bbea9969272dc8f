import numpy as np
import pytest

from brickyard.parts.drawing.canvas import class_colors
from brickyard.parts.drawing.instances import DrawInstances

LABELS, NAMES = ["cat", "dog"], ["nose", "tail"]
COLORS, POINT_COLORS = class_colors(LABELS), class_colors(NAMES)
BLACK = np.zeros((80, 120, 3), dtype=np.uint8)
BOXES = np.array([[20.0, 20, 60, 60], [80, 8, 110, 30], [0, 0, 0, 0]])
SCORES, CLASSES = np.array([0.9, 0.2, 0.0]), np.array([1, 0, -1])


def masks():
    """The left half of the first box, the second box, and nothing, on cells of 4 pixels."""
    made = np.zeros((20, 30, 3))
    made[5:15, 5:10, 0] = made[2:8, 20:28, 1] = 1
    return made


def test_a_mask_is_tinted_inside_its_box_and_has_a_border_in_the_colour_of_its_class():
    pixels = np.asarray(DrawInstances(LABELS)(BLACK, BOXES, SCORES, CLASSES, masks=masks()))
    half = np.rint(np.array(COLORS[1]) * 0.5)
    assert np.abs(pixels[40, 30].astype(int) - half).max() <= 1, "inside"
    assert tuple(pixels[40, 39]) == COLORS[1], "the right border of the mask"
    assert not pixels[40, 45:58].any(), "inside the box, outside of the mask"
    assert not pixels[10:28, 82:108].any(), "the score is too low"
    assert (pixels[80:] == COLORS[1]).all(axis=-1).any(), "the legend"


def test_key_points_are_drawn_at_their_places_and_joined():
    points = np.zeros((2, 3, 3))
    points[:, :, 0] = [[25, 30, 0.9], [55, 30, 0.8]]
    points[:, :, 1] = [[90, 20, 0.9], [100, 20, 0.9]]
    draw = DrawInstances(LABELS, keypoints=NAMES, skeleton=[[0, 1]])
    pixels = np.asarray(draw(BLACK, BOXES, SCORES, CLASSES, keypoints=points))
    assert tuple(pixels[30, 25]) == POINT_COLORS[0]
    assert tuple(pixels[30, 55]) == POINT_COLORS[1]
    assert tuple(pixels[30, 40]) == POINT_COLORS[1], "the line has the colour of its end"
    assert not pixels[20, 90:100].any(), "the score of the object is too low"
    points[1, 2, 0] = 0.1  # the tail is not visible
    pixels = np.asarray(draw(BLACK, BOXES, SCORES, CLASSES, keypoints=points))
    assert tuple(pixels[30, 25]) == POINT_COLORS[0]
    assert not pixels[30, 40:57].any()


def test_names_of_the_key_points_are_in_a_legend_below():
    points = np.zeros((2, 3, 3))
    with_points = DrawInstances(LABELS, keypoints=NAMES)(BLACK, BOXES, SCORES, CLASSES, keypoints=points)
    without = DrawInstances(LABELS)(BLACK, BOXES, SCORES, CLASSES)
    assert with_points.height > without.height
    legend = np.asarray(with_points)[without.height :]
    for color in POINT_COLORS:
        assert (legend == color).all(axis=-1).any()


def test_an_image_without_objects_is_unchanged():
    draw = DrawInstances(LABELS, keypoints=NAMES, score_threshold=0.95)
    pixels = draw(BLACK, BOXES, SCORES, CLASSES, masks=masks(), keypoints=np.ones((2, 3, 3)))
    assert np.array_equal(np.asarray(pixels), BLACK)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_values_that_are_not_finite_are_not_drawn(value):
    draw = DrawInstances(LABELS, keypoints=NAMES)
    nothing = draw(BLACK, np.full((1, 4), value), SCORES[:1], CLASSES[:1], masks=masks()[..., :1])
    assert not np.asarray(nothing)[:80, :120].any()
    points = np.full((2, 3, 1), value)
    points[:, 2] = 0.9
    drawn = np.asarray(draw(BLACK, BOXES[:1], SCORES[:1], CLASSES[:1], keypoints=points))
    without = np.asarray(draw(BLACK, BOXES[:1], SCORES[:1], CLASSES[:1]))
    assert np.array_equal(drawn, without)


def test_the_threshold_is_that_of_the_boxes():
    draw = DrawInstances(LABELS)
    draw.score_threshold = 0.1
    assert draw.score_threshold == 0.1
    pixels = np.asarray(draw(BLACK, BOXES, SCORES, CLASSES, masks=masks()))
    assert pixels[10:28, 82:108].any()


def test_transposed_boxes_and_float_images_are_accepted_and_not_modified():
    draw = DrawInstances(LABELS)
    expected = np.asarray(draw(BLACK, BOXES, SCORES, CLASSES, masks=masks()))
    assert np.array_equal(np.asarray(draw(BLACK / 255, BOXES.T, SCORES, CLASSES, masks=masks())), expected)
    assert not BLACK.any()
