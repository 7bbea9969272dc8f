import numpy as np
import pytest

from brickyard.parts.drawing.boxes import DrawBoxes, color_of

BLACK = np.zeros((60, 80, 3), dtype=np.uint8)
BOXES = np.array([[20.0, 20, 70, 55], [5, 30, 15, 50], [0, 0, 0, 0]])
SCORES, LABELS = np.array([0.9, 0.2, 0.0]), np.array([1, 0, -1])


def drawn(image=BLACK, boxes=BOXES, **options):
    return np.asarray(DrawBoxes(["cat", "dog"], **options)(image, boxes, SCORES, LABELS))


def test_a_box_is_drawn_in_the_colour_of_its_class_and_the_image_keeps_its_size():
    pixels = drawn()
    assert pixels.shape == BLACK.shape
    assert tuple(pixels[54, 45]) == color_of(1)
    assert tuple(pixels[40, 69]) == color_of(1)
    assert not pixels[40, 45].any(), "only the outline"
    assert not pixels[56:].any()


def test_the_name_is_above_the_box():
    assert drawn()[10:19, 20:60].any()


def test_boxes_below_the_threshold_and_padding_are_not_drawn():
    assert not drawn()[30:50, 5:15].any()
    assert drawn(score_threshold=0.1)[30:50, 5:15].any()
    assert not drawn(score_threshold=0.0)[:5, :5].any()


def test_transposed_boxes_are_accepted():
    assert np.array_equal(drawn(boxes=BOXES.T), drawn())


@pytest.mark.parametrize("image", [np.zeros((60, 80, 3)), np.zeros((60, 80, 1), dtype=np.uint8)], ids=["float", "grey"])
def test_float_and_grey_images_are_accepted(image):
    assert np.array_equal(drawn(image), drawn())


def test_the_name_of_a_box_at_the_upper_edge_is_inside():
    boxes = np.array([[60.0, 0, 80, 40]])
    visualization = DrawBoxes(["a long name"])(BLACK, boxes, np.array([0.5]), np.array([0]))
    assert np.asarray(visualization)[1:9].any()


def test_the_input_image_is_not_modified():
    drawn()
    assert not BLACK.any()
