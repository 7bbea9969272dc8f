import numpy as np
import pytest
from PIL import Image

from brickyard import create_part
from brickyard.parts.drawing.canvas import row_height, to_image
from brickyard.parts.drawing.classification import DrawClassification

LABELS = ["cat", "dog", "espresso", "a name that is so long that it can never fit on one line of an image " * 3]


def drawn(image: np.ndarray, probabilities: list[float], **options) -> Image.Image:
    return DrawClassification(LABELS, **options)(image, np.array(probabilities, np.float32))


def bar_lengths(visualization: Image.Image, height: int, rows: int) -> list[int]:
    """Count the coloured pixels in a row of each bar above the text."""
    pixels = np.asarray(visualization)[height:].astype(int)
    colored = ((pixels.max(-1) - pixels.min(-1)) > 20).sum(1)
    row = row_height(visualization.crop((0, 0, visualization.width, height)))
    return [int(colored[row // 4 + rank * row + 2]) for rank in range(rows)]


def test_the_image_is_unchanged_above_the_bars():
    image = np.random.default_rng(0).integers(0, 256, (50, 400, 3), dtype=np.uint8)
    visualization = drawn(image, [0.1, 0.2, 0.6, 0.1])
    assert (visualization.mode, visualization.width) == ("RGB", 400)
    assert visualization.height > 50
    assert np.array_equal(np.asarray(visualization)[:50], image)


def test_bars_are_proportional_to_the_sorted_probabilities():
    visualization = drawn(np.zeros((40, 480, 3), np.uint8), [0.05, 0.25, 0.7, 0.0])
    best, second, third, last = bar_lengths(visualization, 40, 4)
    assert best > second > third > last
    assert second / best == pytest.approx(0.25 / 0.7, abs=0.05)


def test_only_the_top_classes_are_drawn():
    image = np.zeros((40, 480, 3), np.uint8)
    one, two = (drawn(image, [0.1, 0.2, 0.6, 0.1], top=top) for top in (1, 2))
    assert two.height - one.height == row_height(Image.fromarray(image))
    assert drawn(image, [0.1, 0.2, 0.6, 0.1], top=9).height == drawn(image, [0.1, 0.2, 0.6, 0.1], top=4).height


def test_a_narrow_image_is_enlarged_proportionally():
    visualization = drawn(np.full((16, 8, 3), 200, np.uint8), [0.1, 0.2, 0.6, 0.1])
    assert visualization.width == 320
    assert np.asarray(visualization)[:640].min() == 200
    assert visualization.height > 640


def test_float_and_grey_images_are_drawn_like_uint8():
    grey = np.random.default_rng(0).integers(0, 256, (30, 330, 1), dtype=np.uint8)
    as_uint8, as_floats = drawn(grey, [0.1, 0.2, 0.6, 0.1]), drawn(grey / 255, [0.1, 0.2, 0.6, 0.1])
    assert np.array_equal(np.asarray(as_uint8), np.asarray(as_floats))
    assert np.array_equal(np.asarray(as_uint8)[:30], np.repeat(grey, 3, axis=-1))


def test_drawing_is_deterministic_and_does_not_modify_the_input():
    image = np.random.default_rng(0).integers(0, 256, (30, 330, 3), dtype=np.uint8)
    before = image.copy()
    first, second = drawn(image, [0.1, 0.2, 0.3, 0.4]), drawn(image, [0.1, 0.2, 0.3, 0.4])
    assert first.tobytes() == second.tobytes()
    assert np.array_equal(image, before)


def test_labels_are_drawn():
    image = np.zeros((30, 330, 3), np.uint8)
    other = DrawClassification(["fox", *LABELS[1:]])(image, np.array([0.9, 0.1, 0.0, 0.0], np.float32))
    assert other.tobytes() != drawn(image, [0.9, 0.1, 0.0, 0.0]).tobytes()


def test_a_label_in_any_script_is_drawn():
    part = create_part("draw_classification", labels=["猫", "größer", ""])
    assert part(np.zeros((30, 330, 3), np.uint8), np.array([0.5, 0.3, 0.2])).width == 330


def test_to_image_accepts_pixelsfloats_and_grey():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(to_image(pixels)), pixels)
    assert np.array_equal(np.asarray(to_image(pixels / 255)), pixels)
    assert np.array_equal(np.asarray(to_image(pixels[..., :1])), np.repeat(pixels[..., :1], 3, axis=-1))
    assert np.asarray(to_image(np.full((2, 2, 3), 1.5))).max() == 255
