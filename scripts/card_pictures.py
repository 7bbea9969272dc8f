"""Samples of a zoo model's predictions: digit scenes beside their labels, or photos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

import brickyard
from brickyard import Predictor
from brickyard.data.synthetic.digits import DigitScenes
from brickyard.parts.drawing.boxes import DrawBoxes
from brickyard.parts.drawing.masks import DrawSegmentation

SCALE, GAP, COLUMNS, SCENES, LINE = 2, 6, 2, 8, 18
PHOTO_SIDE = 300  # pixels
INK = (24, 26, 31)


def draw_samples(name: str) -> Image.Image:
    return _scenes(name) if "digits" in name else _photos(name)


def _photos(name: str) -> Image.Image:
    samples = Path(brickyard.__file__).parent / "samples"
    pictures = []
    for prediction in Predictor(name).predict(samples, draw=True):
        assert prediction.visualization is not None
        pictures.append(prediction.visualization.resize((PHOTO_SIDE, PHOTO_SIDE), Image.Resampling.LANCZOS))
    return _sheet(pictures, len(pictures))


def _scenes(name: str) -> Image.Image:
    """Rows of: the scene; its labels; what the model found."""
    scenes = [dict(scene) for scene in DigitScenes("test", SCENES)]
    predictor = Predictor(name)
    outputs = predictor({"image": np.stack([scene["image"].numpy() for scene in scenes])})
    rows = []
    for index, scene in enumerate(scenes):
        pixels = np.kron(scene["image"].permute(1, 2, 0).numpy(), np.ones((SCALE, SCALE, 1), dtype=np.uint8))
        truth = {
            "cls/probabilities": scene["targets/cls"].numpy(),
            "seg/class_prediction": scene["targets/seg"].numpy(),
            "det/boxes": scene["targets/det"]["boxes"].numpy(),
            "det/labels": scene["targets/det"]["labels"].numpy(),
            "det/scores": np.ones(len(scene["targets/det"]["labels"])),
        }
        known = {key: value for key, value in truth.items() if key.partition("/")[0] in predictor.heads}
        found = {key: outputs[key][index] for key in known}
        rows.append(_sheet([Image.fromarray(pixels), _labelled(pixels, known), _labelled(pixels, found)], 3, gap=2))
    return _sheet(rows, COLUMNS)


def _labelled(pixels: npt.NDArray[np.uint8], values: dict[str, npt.NDArray[Any]]) -> Image.Image:
    """The scene with masks and boxes, and the digits that are said to be there under it."""
    height, width = pixels.shape[:2]
    if (classes := values.get("seg/class_prediction")) is not None:
        large = np.kron(classes, np.ones((SCALE, SCALE), dtype=np.int64))
        pixels = np.asarray(DrawSegmentation(DigitScenes.labels["seg"])(pixels, large).crop((0, 0, width, height)))
    if (boxes := values.get("det/boxes")) is not None:
        draw = DrawBoxes(DigitScenes.labels["det"])
        pixels = np.asarray(draw(pixels, boxes * SCALE, values["det/scores"], values["det/labels"]))
    picture = Image.new("RGB", (width, height + LINE), "white")
    picture.paste(Image.fromarray(pixels))
    if (shares := values.get("cls/probabilities")) is not None:
        told = ", ".join(DigitScenes.labels["cls"][digit] for digit in np.flatnonzero(shares >= 0.5))
        font = ImageFont.load_default(size=LINE * 0.7)
        ImageDraw.Draw(picture).text((2, height + LINE // 2), f"there: {told or 'none'}", INK, font, anchor="lm")
    return picture


def _sheet(pictures: list[Image.Image], columns: int, gap: int = GAP) -> Image.Image:
    width, height = max(p.width for p in pictures) + gap, max(p.height for p in pictures) + gap
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (width * columns - gap, height * rows - gap), "white")
    for place, picture in enumerate(pictures):
        sheet.paste(picture, (place % columns * width, place // columns * height))
    return sheet


if __name__ == "__main__":
    raise SystemExit("This is a part of make_cards.py.")
