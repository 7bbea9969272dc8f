"""Draw sample predictions of a zoo model for its card: digit scenes with labels and predictions, or photos."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

import brickyard
from brickyard import Predictor, model_info, open_data
from brickyard.data.synthetic.digits import DigitScenes
from brickyard.parts.drawing.boxes import DrawBoxes
from brickyard.parts.drawing.masks import DrawSegmentation
from brickyard.storage.read import read_manifest
from brickyard.storage.sources.zoo import open_zoo

SCALE, LARGE, GAP, COLUMNS, SCENES, LINE = 2, 3, 6, 2, 8, 18
_DATA = {"det": "digits", "pose": "digits", "ocr": "digits-text", "anomaly": "digits-anomaly", "kpt": "digits-single"}
PHOTO_SIDE = 300  # pixels
INK = (24, 26, 31)


def draw_samples(name: str) -> Image.Image:
    """Draw predictions of the zoo model `name` as one image."""
    if "digits" not in name:
        return _photos(name)
    if components := combined_from(name):
        return _grid([_drawn(component, 2) for component in components], 1)
    return _scenes(name) if set(model_info(name).tasks) <= {"cls", "seg", "det"} else _drawn(name, SCENES)


def combined_from(name: str) -> list[str]:
    """Return the models that the heads of a zoo model are references to, none if it has heads of its own."""
    bricks = read_manifest(open_zoo(name))[0].bricks
    heads = [entry.at for path, entry in bricks.items() if path.endswith("/head") and entry.is_published]
    return list(dict.fromkeys(at.split("/")[2] for at in heads))


def _photos(name: str) -> Image.Image:
    samples = Path(brickyard.__file__).parent / "samples"
    images = []
    for prediction in Predictor(name).predict(samples, draw=True):
        assert prediction.visualization is not None
        images.append(prediction.visualization.resize((PHOTO_SIDE, PHOTO_SIDE), Image.Resampling.LANCZOS))
    return _grid(images, len(images))


def _drawn(name: str, count: int) -> Image.Image:
    """Draw images of the data of a model, each beside the predictions of all heads as the model draws them."""
    predictor, tasks = Predictor(name), model_info(name).tasks
    data = next(data for head, data in _DATA.items() if head in tasks)
    rows = []
    for sample in open_data(data, "test", length=count):
        pixels = _pixels(sample, LARGE)
        (prediction,) = predictor.predict([pixels], draw=True)
        assert prediction.visualization is not None
        rows.append(_grid([Image.fromarray(pixels), prediction.visualization], 2, gap=2))
    return _grid(rows, COLUMNS)


def _pixels(sample: Mapping[str, Any], factor: int) -> npt.NDArray[np.uint8]:
    """Return the image of a sample, each pixel as a square of `factor` pixels."""
    return np.kron(sample["image"].permute(1, 2, 0).numpy(), np.ones((factor, factor, 1), dtype=np.uint8))


def _scenes(name: str) -> Image.Image:
    """Draw eight scenes, each as the input image, its labels and the predictions side by side."""
    scenes = [dict(scene) for scene in DigitScenes("test", SCENES)]
    predictor = Predictor(name)
    outputs = predictor({"image": np.stack([scene["image"].numpy() for scene in scenes])})
    rows = []
    for index, scene in enumerate(scenes):
        pixels = _pixels(scene, SCALE)
        targets = {
            "cls/probabilities": scene["targets/cls"].numpy(),
            "seg/class_prediction": scene["targets/seg"].numpy(),
            "det/boxes": scene["targets/det"]["boxes"].numpy(),
            "det/labels": scene["targets/det"]["labels"].numpy(),
            "det/scores": np.ones(len(scene["targets/det"]["labels"])),
        }
        targets = {key: value for key, value in targets.items() if key.partition("/")[0] in predictor.heads}
        predictions = {key: outputs[key][index] for key in targets}
        images = [Image.fromarray(pixels), _visualize(pixels, targets), _visualize(pixels, predictions)]
        rows.append(_grid(images, 3, gap=2))
    return _grid(rows, COLUMNS)


def _visualize(pixels: npt.NDArray[np.uint8], values: dict[str, npt.NDArray[Any]]) -> Image.Image:
    """Draw masks and boxes on a scene, with the image-level classes as text below it."""
    height, width = pixels.shape[:2]
    if (mask := values.get("seg/class_prediction")) is not None:
        large = np.kron(mask, np.ones((SCALE, SCALE), dtype=np.int64))
        pixels = np.asarray(DrawSegmentation(DigitScenes.labels["seg"])(pixels, large).crop((0, 0, width, height)))
    if (boxes := values.get("det/boxes")) is not None:
        draw = DrawBoxes(DigitScenes.labels["det"])
        drawn = draw(pixels, boxes * SCALE, values["det/scores"], values["det/labels"])
        pixels = np.asarray(drawn.crop((0, 0, width, height)))
    canvas = Image.new("RGB", (width, height + LINE), "white")
    canvas.paste(Image.fromarray(pixels))
    if (probabilities := values.get("cls/probabilities")) is not None:
        classes = ", ".join(DigitScenes.labels["cls"][digit] for digit in np.flatnonzero(probabilities >= 0.5))
        font = ImageFont.load_default(size=LINE * 0.7)
        ImageDraw.Draw(canvas).text((2, height + LINE // 2), f"classes: {classes or 'none'}", INK, font, anchor="lm")
    return canvas


def _grid(images: list[Image.Image], columns: int, gap: int = GAP) -> Image.Image:
    """Arrange images in a grid, row by row, on white."""
    width, height = max(image.width for image in images) + gap, max(image.height for image in images) + gap
    rows = -(-len(images) // columns)
    grid = Image.new("RGB", (width * columns - gap, height * rows - gap), "white")
    for index, image in enumerate(images):
        grid.paste(image, (index % columns * width, index // columns * height))
    return grid


if __name__ == "__main__":
    raise SystemExit("Run make_cards.py, which imports this module.")
