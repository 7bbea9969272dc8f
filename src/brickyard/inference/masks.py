"""Masks of predictions as run lengths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from brickyard.parts import run_lengths

Results = dict[str, list[dict[str, Any]]]


def with_masks(results: Results, masks: Mapping[str, npt.NDArray[Any]]) -> Results:
    """Add the pixels of its class to each result of a head with a mask.

    Args:
        results: The results of each head.
        masks: The class of each pixel, (H, W), of some heads.

    Returns:
        The results, with "segmentation": {"size": [H, W], "counts": text}, COCO's compressed run lengths, which
        `pycocotools.mask.decode` takes.
    """
    return {
        head: [{**row, "segmentation": run_lengths.encode(masks[head] == row["class"])} for row in rows]
        if head in masks
        else rows
        for head, rows in results.items()
    }


def to_mask_image(mask: npt.NDArray[Any]) -> Image.Image:
    """Convert the class of each pixel, (H, W), to a grey image whose values are the classes.

    It has 8 bits, or 16 for classes from 255 on; pixels of no class, -1, have the largest value, 255 or 65535.
    """
    dtype = np.uint8 if mask.max(initial=0) < np.iinfo(np.uint8).max else np.uint16
    return Image.fromarray(np.where(mask < 0, np.iinfo(dtype).max, mask).astype(dtype))
