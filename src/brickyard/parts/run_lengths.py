"""Masks as COCO's compressed run lengths."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from faster_coco_eval.core import mask as coco_masks


def encode(pixels: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Encode a mask (H, W) as {"size": [H, W], "counts": text}, which `pycocotools.mask.decode` takes.

    Example:
        >>> encode(np.eye(3, dtype=bool))
        {'size': [3, 3], 'counts': '013000'}
    """
    encoded = coco_masks.encode(np.asfortranarray(pixels, dtype=np.uint8))
    counts = encoded["counts"]
    return {"size": list(pixels.shape), "counts": counts.decode() if isinstance(counts, bytes) else counts}


def decode(run_lengths: dict[str, Any]) -> npt.NDArray[np.bool_]:
    """Decode what `encode` returned to a mask (H, W).

    Example:
        >>> decode(encode(np.eye(3, dtype=bool))).astype(int).tolist()
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    """
    pixels: npt.NDArray[np.bool_] = coco_masks.decode(run_lengths).astype(bool)
    return pixels
