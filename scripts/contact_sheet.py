"""Write a contact sheet of digit scenes: each image next to the same image with its mask and boxes drawn.

    python scripts/contact_sheet.py [--split test] [--count 20] [--out docs/digit_scenes.png]

Scenes are enlarged by a factor of 2.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from brickyard.data.synthetic.digits import DigitScenes
from brickyard.parts.drawing.boxes import DrawBoxes
from brickyard.parts.drawing.masks import DrawSegmentation

ROOT = Path(__file__).parents[1]
SCALE, GAP, COLUMNS = 2, 4, 4


def labelled_pair(scene: dict[str, Any]) -> Image.Image:
    """Draw a scene twice, side by side: without and with its labels."""
    pixels = np.kron(scene["image"].permute(1, 2, 0).numpy(), np.ones((SCALE, SCALE, 1), dtype=np.uint8))
    height, width = pixels.shape[:2]
    classes = np.kron(scene["targets/seg"].numpy(), np.ones((SCALE, SCALE), dtype=np.int64))
    masks = DrawSegmentation(DigitScenes.labels["seg"])(pixels, classes).crop((0, 0, width, height))  # no legend
    boxes, labels = scene["targets/det"]["boxes"].numpy() * SCALE, scene["targets/det"]["labels"].numpy()
    labelled = DrawBoxes(DigitScenes.labels["det"])(np.asarray(masks), boxes, np.ones(len(boxes)), labels)
    pair = Image.new("RGB", (2 * width, height))
    pair.paste(Image.fromarray(pixels))
    pair.paste(labelled.crop((0, 0, width, height)), (width, 0))
    return pair


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a contact sheet of digit scenes with their labels.")
    parser.add_argument("--split", choices=("train", "val", "test"), default="test")
    parser.add_argument("--count", type=int, default=20, help="the number of scenes")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "digit_scenes.png")
    args = parser.parse_args()
    pairs = [labelled_pair(scene) for scene in DigitScenes(args.split, args.count)]
    width, height = (side + GAP for side in pairs[0].size)
    rows = -(-len(pairs) // COLUMNS)
    sheet = Image.new("RGB", (width * COLUMNS - GAP, height * rows - GAP), "white")
    for index, pair in enumerate(pairs):
        sheet.paste(pair, (index % COLUMNS * width, index // COLUMNS * height))
    sheet.quantize(256, dither=Image.Dither.NONE).save(
        args.out, optimize=True
    )  # a palette: a third of the RGB file size


if __name__ == "__main__":
    main()
