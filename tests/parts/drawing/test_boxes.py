import numpy as np
import pytest

from brickyard.parts.drawing.boxes import DrawBoxes, color_of

BLACK = np.zeros((60, 80, 3), dtype=np.uint8)
BOXES = np.array([[20.0, 20, 70, 55], [5, 30, 15, 50], [0, 0, 0, 0]])
SCORES, LABELS = np.array([0.9, 0.2, 0.0]), np.array([1, 0, -1])


def drawn(image=BLACK, boxes=BOXES, **options):
    return np.asarray(DrawBoxes(["cat", "dog"], **options)(image, boxes, SCORES, LABELS))


def test_a_box_is_framed_in_its_classes_colour_and_the_picture_keeps_its_size():
    pixels = drawn()
    assert pixels.shape == BLACK.shape
    assert tuple(pixels[54, 45]) == color_of(1)
    assert tuple(pixels[40, 69]) == color_of(1)
    assert not pixels[40, 45].any(), "only the frame"
    assert not pixels[56:].any()


def test_a_name_stands_above_its_box():
    assert drawn()[10:19, 20:60].any()


def test_weak_boxes_and_padding_are_left_out():
    assert not drawn()[30:50, 5:15].any()
    assert drawn(score_threshold=0.1)[30:50, 5:15].any()
    assert not drawn(score_threshold=0.0)[:5, :5].any()


def test_boxes_that_a_brick_has_turned_are_the_same():
    assert np.array_equal(drawn(boxes=BOXES.T), drawn())


@pytest.mark.parametrize("image", [np.zeros((60, 80, 3)), np.zeros((60, 80, 1), dtype=np.uint8)], ids=["float", "grey"])
def test_every_kind_of_picture_is_drawn_on(image):
    assert np.array_equal(drawn(image), drawn())


def test_a_box_at_the_edge_has_its_name_inside():
    boxes = np.array([[60.0, 0, 80, 40]])
    picture = DrawBoxes(["a long name"])(BLACK, boxes, np.array([0.5]), np.array([0]))
    assert np.asarray(picture)[1:9].any()


def test_the_given_picture_stays_as_it_is():
    drawn()
    assert not BLACK.any()
