"""`cls`: classification of images, single-label or multi-label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
from torch.nn.functional import one_hot

from brickyard.core.metrics import BrickMetrics
from brickyard.core.modules import BrickLoss, BrickNotTrainable, BrickTrainable
from brickyard.core.specs import NORMED_CLASS_TOKENS, NORMED_FEATURES, BackboneSpec
from brickyard.core.visualization import BrickPerImageVisualization
from brickyard.data.label_kinds import LabelKind
from brickyard.errors import BrickInputError
from brickyard.parts.classification import FINEST
from brickyard.parts.detection.points import levels_from
from brickyard.parts.registry import create_part
from brickyard.tasks.blocks import last_blocks
from brickyard.tasks.metadata import Metadata
from brickyard.tasks.pyramid import pyramid_of
from brickyard.tasks.selection import Selection
from brickyard.tasks.task import HeadSpec, Task

_BLOCKS = {"linear1": 1, "linear4": 4}  # the number of blocks that DINOv2's classifiers read


class Classification(Task):
    """Image classification.

    Reads `embedding` (B, E), `features` or values of transformer blocks, `targets/cls` (B,) int64, and optionally
    `labelled/cls` (B,) bool, the rows that have a label. Writes `cls/logits` (B, K), `cls/probabilities` (B, K),
    `cls/class_prediction` (B,) int64, `cls/loss` (cross-entropy; of `multilabel`, binary cross-entropy) and a list of
    images, `cls/visualization`.

    Variants:
        linear: timm's classifier, one linear layer on the pooled vector.
        attention: A learned query over the last feature map instead of pooling.
        multilabel: Any number of classes per image: `targets/cls` is (B, K) of 0 and 1, `cls/class_prediction`
            (B, K) bool. Takes the highest score of each class over a fine map, so that small objects count.
            Backbones of one stride get a `cls/pyramid`.
        linear1: DINOv2's classifier, one linear layer on the class token and the mean of the last map, both normed;
            for transformers with a class token.
        linear4: The same on the class tokens of the last four blocks.
    """

    name: ClassVar[str] = "cls"
    hub_task: ClassVar[str] = "image-classification"
    variants: ClassVar[tuple[str, ...]] = ("linear", "attention", "multilabel", "linear1", "linear4")
    main_output: ClassVar[str] = "logits"
    label_kinds: ClassVar[Mapping[str, LabelKind]] = {"cls": LabelKind.CLASS_INDEX}
    variant_label_kinds: ClassVar[Mapping[str, Mapping[str, LabelKind]]] = {"multilabel": {"cls": LabelKind.MULTI_HOT}}

    @property
    def required_labels(self) -> set[str | Metadata]:
        return {"cls"}

    def bricks(self, backbone: BackboneSpec, head: HeadSpec) -> dict[str, Any]:
        scored_inputs = ["./logits", f"targets/{head.name}", f"labelled/{head.name}?"]
        is_multilabel = head.variant == "multilabel"
        if head.num_classes < 2 and not is_multilabel:
            hint = "Use the head cls-multilabel for a single class that is present or absent."
            raise BrickInputError(f"num_classes of '{head.name}'", "2 or more", f"{head.num_classes}", hint)
        labels = head.class_names
        return {
            **_head(backbone, head),
            "prediction": BrickNotTrainable(
                create_part("multilabel_prediction" if is_multilabel else "class_prediction"),
                input_names=["./logits"],
                output_names=["./probabilities", "./class_prediction"],
            ),
            "loss": BrickLoss(
                create_part("binary_cross_entropy" if is_multilabel else "cross_entropy"),
                input_names=scored_inputs,
                output_names=["./loss"],
            ),
            "metrics": BrickMetrics(
                create_part(
                    "multilabel_metrics" if is_multilabel else "classification_metrics", num_classes=head.num_classes
                ),
                input_names=scored_inputs,
            ),
            "visualization": BrickPerImageVisualization(
                create_part("draw_classification", labels=labels),
                input_names={"image": "image", "probabilities": "./probabilities"},
                output_names=["./visualization"],
            ),
        }

    def default_num_classes(self, backbone: BackboneSpec) -> int:
        return backbone.num_classes or 1000

    def results(self, values: Mapping[str, Any], labels: Sequence[str]) -> list[dict[str, Any]]:
        """Return the selected classes, the most likely first: {"label", "class", "probability"}."""
        probabilities = values["probabilities"]
        best = np.argsort(-probabilities, kind="stable")[: np.count_nonzero(probabilities >= 0)]
        return [
            {"label": labels[index], "class": int(index), "probability": float(probabilities[index])} for index in best
        ]

    def select(self, values: Mapping[str, Any], selection: Selection) -> dict[str, Any]:
        probabilities = values["probabilities"]
        kept = selection.mask(probabilities, np.arange(len(probabilities)))
        return {**values, "probabilities": np.where(kept, probabilities, -1.0)}

    def labels_as_outputs(self, labels: Any, num_classes: int) -> dict[str, Any]:
        """Return `probabilities` (B, K) of 0 and 1."""
        return {"probabilities": (labels if labels.ndim == 2 else one_hot(labels, num_classes)).float()}


def _head(backbone: BackboneSpec, head: HeadSpec) -> dict[str, Any]:
    """Build the bricks up to the logits."""
    if head.variant in _BLOCKS:
        return _token_head(backbone, head, _BLOCKS[head.variant])
    pyramid: dict[str, Any] = {}
    if head.variant == "multilabel":
        pyramid, read, spec = pyramid_of(backbone.features, partial(levels_from, finest=FINEST))
        sizes = {"channels": list(spec.channels), "strides": list(spec.strides)}
        part = create_part("spatial_max_classifier", **sizes, num_classes=head.num_classes)
    elif head.variant == "attention":
        read, channels = "features[-1]", backbone.features.channels[-1]
        part = create_part("attention_classifier", in_channels=channels, num_classes=head.num_classes)
    else:
        read = "embedding"
        part = create_part("linear", in_features=backbone.embedding, out_features=head.num_classes)
    return {**pyramid, "head": BrickTrainable(part, input_names=[read], output_names=["./logits"])}


def _token_head(backbone: BackboneSpec, head: HeadSpec, blocks: int) -> dict[str, Any]:
    """Build DINOv2's classifier on the last blocks."""
    tokens = f"{NORMED_CLASS_TOKENS}{last_blocks(backbone, head, blocks)}"
    channels = backbone.features.channels[-1]
    part = create_part("token_classifier", in_channels=channels, num_classes=head.num_classes, blocks=blocks)
    reads = [tokens, f"{NORMED_FEATURES}[-1]"]
    return {"head": BrickTrainable(part, input_names=reads, output_names=["./logits"])}
