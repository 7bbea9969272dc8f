"""`emb`: a vector for each picture, near those of pictures of the same thing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, final

from brickyard.metrics import BrickMetrics
from brickyard.modules import BrickLoss, BrickTrainable
from brickyard.parts.backbones import BackboneSpec
from brickyard.parts.registry import create_part
from brickyard.tags import Tag
from brickyard.tasks.metadata import Metadata
from brickyard.tasks.task import HeadSpec, Task
from brickyard.visualization import BrickPerImageVisualization


@final
class Embedding(Task):
    """Vectors to search by; its "classes" are the D numbers of a vector.

    Reads `embedding`, `targets/emb` (B,) int64, which thing a picture shows, of any number of things, and optionally
    `labelled/emb` (B,) bool: the rows that have a label. Writes `emb/vector` (B, D) of length 1, `emb/loss` and a list
    of pictures, `emb/picture`. Its metric, recall at 1 and 5, is over the whole of a validation, not of a training.

    Variants:
        linear: One linear layer.
        mlp: Two, as SupCon's and SimCLR's projection has.
    """

    name: ClassVar[str] = "emb"
    variants: ClassVar[tuple[str, ...]] = ("linear", "mlp")
    required_labels: ClassVar[Collection[str | Metadata]] = frozenset({"emb"})
    main_output: ClassVar[str] = "vector"

    def bricks(self, backbone: BackboneSpec, head: HeadSpec) -> dict[str, Any]:
        part = create_part(
            "unit_vector",
            in_features=backbone.embedding,
            out_features=head.num_classes,
            hidden=backbone.embedding if head.variant == "mlp" else None,
        )
        bricks = {"head": BrickTrainable(part, input_names=["embedding"], output_names=["./vector"])}
        loss, metrics, draw = (
            create_part(name) for name in ("supervised_contrastive", "embedding_metrics", "draw_embedding")
        )
        attached = {
            "loss": BrickLoss(loss, self.wire(loss, head.name, bricks), ["./loss"]),
            "metrics": BrickMetrics(metrics, self.wire(metrics, head.name, bricks), tags=Tag.METRIC_INFERENCE),
            "picture": BrickPerImageVisualization(draw, self.wire(draw, head.name, bricks), ["./picture"]),
        }
        bricks["head"].metadata = {"task": self.name, "variant": head.variant, "labels": head.class_names}
        return {**bricks, **attached}

    def default_num_classes(self, backbone: BackboneSpec) -> int:
        return 128  # as SupCon and SimCLR have it

    def results(self, values: Mapping[str, Any], labels: Sequence[str]) -> list[dict[str, Any]]:
        """The vector: [{"label": "vector", "vector": D numbers}]."""
        return [{"label": "vector", "vector": values["vector"].astype(float).tolist()}]
