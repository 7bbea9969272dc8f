"""`ocr`: reading a line of text in an image."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch

from brickyard.core.metrics import BrickMetrics
from brickyard.core.modules import BrickLoss, BrickNotTrainable, BrickTrainable
from brickyard.core.specs import BackboneSpec, HeadInfo
from brickyard.core.tags import Tag
from brickyard.core.visualization import BrickPerImageVisualization
from brickyard.data.label_kinds import LabelKind
from brickyard.errors import BrickInputError
from brickyard.parts import text
from brickyard.parts.detection.points import levels_from
from brickyard.parts.registry import create_part
from brickyard.tasks.metadata import Metadata
from brickyard.tasks.pyramid import pyramid_of
from brickyard.tasks.selection import Selection
from brickyard.tasks.task import HeadSpec, Task

_KNOWN = string.digits + string.ascii_letters + string.punctuation
_FURTHER = range(0x4E00, 0xA000)  # the Unicode block of Chinese characters


class TextRecognition(Task):
    """Recognition of a line of text (OCR); its "classes" are the K characters of an alphabet.

    Reads `features`, `targets/ocr`, a list with a text for each image, "" for no text, and optionally `labelled/ocr`
    (B,) bool, the rows that have a label. Writes `ocr/logits` (B, T, 1 + K), for each column of 4 pixels no character
    and the K characters; `ocr/text` (B, T) int64, the characters that are read, padded with -1; `ocr/score` (B,) in
    [0, 1], the probability that every column is read right; `ocr/loss` and a list of images, `ocr/visualization`.
    Its metrics are the character error rate and the fraction of texts without an error.

    The labels of the head are the characters, of length one; by default digits, letters and punctuation, of which the
    first 36 are used, as in CRNN, unless `num_classes` is another number. Texts are compared with them as they are:
    case matters, and a character that is not in the alphabet is an error. A text needs a column for each character,
    and one more between two equal ones, so the longest text has about a quarter as many characters as the image is
    wide.

    Variants: `svtr`, a feature pyramid whose columns are mixed by a convolution and attention.
    """

    name: ClassVar[str] = "ocr"
    has_classes: ClassVar[bool] = False
    hub_task: ClassVar[str] = "image-to-text"
    variants: ClassVar[tuple[str, ...]] = ("svtr",)
    main_output: ClassVar[str] = "text"
    label_kinds: ClassVar[Mapping[str, LabelKind]] = {"ocr": LabelKind.TEXT}
    is_dense: ClassVar[bool] = True  # the whole line is to be seen

    @property
    def required_labels(self) -> set[str | Metadata]:
        return {"ocr"}

    def bricks(self, backbone: BackboneSpec, head: HeadSpec) -> dict[str, Any]:
        alphabet = _alphabet(head)
        labelled = f"labelled/{head.name}?"
        pyramid, maps, spec = pyramid_of(backbone.features, partial(levels_from, finest=text.FINEST))
        module = create_part(
            "text_recognizer", channels=list(spec.channels), strides=list(spec.strides), num_classes=len(alphabet)
        )
        bricks = {
            **pyramid,
            "head": BrickTrainable(module, input_names=[maps], output_names=["./logits"]),
            "decode": BrickNotTrainable(
                create_part("text_decode"),
                input_names=["./logits"],
                output_names=["./text", "./score"],
                tags=Tag.INFERENCE,
                calculate_gradients=False,
            ),
            "targets": BrickNotTrainable(
                create_part("encode_text", labels=alphabet),
                input_names=[f"targets/{head.name}", "./logits", labelled],
                output_names=["./target_text"],
                tags={Tag.LOSS, Tag.METRIC_INFERENCE},
                calculate_gradients=False,
            ),
            "loss": BrickLoss(
                create_part("text_loss"),
                input_names=["./logits", "./target_text", labelled],
                output_names=["./loss"],
            ),
            "metrics": BrickMetrics(
                create_part("text_metrics"),
                input_names=["./text", "./target_text", labelled],
                tags=Tag.METRIC_INFERENCE,
            ),
            "visualization": BrickPerImageVisualization(
                create_part("draw_text", labels=alphabet),
                input_names={"image": "image", "text": "./text", "score": "./score"},
                output_names=["./visualization"],
            ),
        }
        bricks["head"].head = HeadInfo(self.name, head.variant, tuple(alphabet))
        return bricks

    def default_num_classes(self, backbone: BackboneSpec) -> int:
        return 36  # digits and lower-case letters, as in CRNN

    def results(self, values: Mapping[str, Any], labels: Sequence[str]) -> list[dict[str, Any]]:
        """Return the text: [{"label": the text, "score": its probability in [0, 1]}], [] below the threshold."""
        score = float(values["score"])
        read = "".join(labels[index] for index in values["text"] if index >= 0)
        return [{"label": read, "score": score}] if score >= 0 else []

    def select(self, values: Mapping[str, Any], selection: Selection) -> dict[str, Any]:
        """Mark a text below the threshold by the score -1; a text is of no class, and there is only one."""
        score = values["score"]
        return {**values, "score": np.where(score >= selection.threshold, score, -1.0)}

    def labels_as_outputs(self, labels: Any, num_classes: int) -> dict[str, Any]:
        """Return `text`, a list of strings or encoded (B, L), and `score` (B,) of 1."""
        return {"text": labels, "score": torch.ones(len(labels))}


def _alphabet(head: HeadSpec) -> list[str]:
    """Return the characters of a head."""
    if head.labels is None:
        further = max(head.num_classes - len(_KNOWN), 0)
        if further > len(_FURTHER):
            known = len(_KNOWN) + len(_FURTHER)
            raise BrickInputError(
                f"num_classes of '{head.name}'", f"{known} or less without labels", f"{head.num_classes}"
            )
        return [*_KNOWN[: head.num_classes], *map(chr, _FURTHER[:further])]
    if long := [label for label in head.labels if len(label) != 1]:
        raise BrickInputError(f"labels of '{head.name}'", "characters, of length 1", repr(long[0])[:100])
    return list(head.labels)
