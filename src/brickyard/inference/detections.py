"""Results of a head as `supervision.Detections` (the extra `supervision`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from faster_coco_eval.core import mask as coco_masks

from brickyard.errors import BrickInputError, MissingExtraError, UnknownNameError

if TYPE_CHECKING:
    import supervision as sv

_CONFIDENCES = ("score", "probability")


def to_detections(results: Mapping[str, Sequence[Mapping[str, Any]]], heads: Sequence[str]) -> sv.Detections:
    """Convert the results of one head; see `Prediction.to_supervision`.

    Args:
        results: The results of each head, whose masks are run lengths as `with_masks` adds them.
        heads: The names of the head.
    """
    try:
        import supervision as sv  # noqa: PLC0415
    except ImportError:
        raise MissingExtraError("Conversion to supervision.Detections", "supervision") from None
    if len(heads) != 1:
        hint = "Name one of them: to_supervision(head)." if heads else "Use the results of the prediction."
        raise BrickInputError("to_supervision", "one head with boxes or masks", f"{list(heads) or 'none'}", hint)
    (head,) = heads
    if head not in results:
        raise UnknownNameError("head", head, results)
    rows = results[head]
    if not rows:
        return sv.Detections.empty()
    for key in ("class", "label"):
        if missing := [row for row in rows if key not in row]:
            raise BrickInputError(f"head '{head}'", f"results with '{key}'", f"{missing[0]}")
    masks = [_pixels(row["segmentation"]) if "segmentation" in row else None for row in rows]
    boxes = [row["box"] if "box" in row else _box_around(mask) for row, mask in zip(rows, masks, strict=True)]
    if any(box is None for box in boxes):
        expected = "results with a box or a mask"
        raise BrickInputError(
            f"head '{head}'", expected, f"only {sorted(rows[0])}", "Use the results of the prediction."
        )
    scores = [next((row[key] for key in _CONFIDENCES if key in row), None) for row in rows]
    return sv.Detections(
        xyxy=np.asarray(boxes, np.float32),
        mask=None if any(mask is None for mask in masks) else np.stack([mask for mask in masks if mask is not None]),
        confidence=None if any(score is None for score in scores) else np.asarray(scores, np.float32),
        class_id=np.asarray([row["class"] for row in rows], int),
        data={"class_name": np.asarray([row["label"] for row in rows])},
    )


def _pixels(run_lengths: Mapping[str, Any]) -> npt.NDArray[np.bool_]:
    """Decode COCO's compressed run lengths to (H, W) bool."""
    return np.asarray(coco_masks.decode(run_lengths), bool)


def _box_around(mask: npt.NDArray[np.bool_] | None) -> list[int] | None:
    """Return the first and last column and row of a mask that has pixels, as supervision's `mask_to_xyxy` does."""
    if mask is None:
        return None
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])]
