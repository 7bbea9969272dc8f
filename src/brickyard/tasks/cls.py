"""`cls`: what is on the picture, one class of K."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import numpy as np

from brickyard.metrics import BrickMetrics
from brickyard.modules import BrickLoss, BrickNotTrainable, BrickTrainable
from brickyard.parts.backbones import BackboneSpec
from brickyard.parts.registry import create_part
from brickyard.tasks.task import HeadSpec, Task
from brickyard.visualization import BrickPerImageVisualization


@final
class Classification(Task):
    """Image classification.

    Reads `embedding` (B, E) and `targets/cls` (B,) int64. Writes `cls/logits` (B, K), `cls/probabilities` (B, K),
    `cls/class_prediction` (B,) int64, `cls/loss` and a list of pictures, `cls/picture`.

    Variants: `linear` is timm's own classifier, one linear layer on the pooled vector.
    """

    name: ClassVar[str] = "cls"
    variants: ClassVar[tuple[str, ...]] = ("linear",)
    required_labels: ClassVar[tuple[str, ...]] = ("cls",)
    main_output: ClassVar[str] = "logits"

    def bricks(self, backbone: BackboneSpec, head: HeadSpec) -> dict[str, Any]:
        target = f"targets/{head.name}"
        labels = list(head.labels or map(str, range(head.num_classes)))
        bricks = {
            "head": BrickTrainable(
                create_part("linear", in_features=backbone.embedding, out_features=head.num_classes),
                input_names=["embedding"],
                output_names=["./logits"],
            ),
            "prediction": BrickNotTrainable(
                create_part("class_prediction"),
                input_names=["./logits"],
                output_names=["./probabilities", "./class_prediction"],
            ),
            "loss": BrickLoss(
                create_part("cross_entropy"),
                input_names=["./logits", target],
                output_names=["./loss"],
            ),
            "metrics": BrickMetrics(
                create_part("classification_metrics", num_classes=head.num_classes),
                input_names=["./logits", target],
            ),
            "picture": BrickPerImageVisualization(
                create_part("draw_classification", labels=labels),
                input_names={"image": "image", "probabilities": "./probabilities"},
                output_names=["./picture"],
            ),
        }
        bricks["head"].metadata = {"task": self.name, "variant": head.variant, "labels": labels}
        return bricks

    def default_num_classes(self, backbone: BackboneSpec) -> int:
        return backbone.num_classes or 1000

    def results(self, values: Mapping[str, Any], labels: Sequence[str]) -> list[dict[str, Any]]:
        """The five most likely classes: {"label", "class", "probability"}."""
        probabilities = values["probabilities"]
        best = np.argsort(-probabilities, kind="stable")[:5]
        return [
            {"label": labels[index], "class": int(index), "probability": float(probabilities[index])} for index in best
        ]
