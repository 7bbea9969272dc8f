"""`emb`: image embeddings for retrieval; images of one identity have similar vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from brickyard.core.metrics import BrickMetrics
from brickyard.core.modules import BrickLoss, BrickTrainable
from brickyard.core.specs import BackboneSpec
from brickyard.core.tags import Tag
from brickyard.core.visualization import BrickPerImageVisualization
from brickyard.data.label_kinds import LabelKind
from brickyard.parts.registry import create_part
from brickyard.tasks.metadata import Metadata
from brickyard.tasks.task import HeadSpec, Task


class Embedding(Task):
    """Embeddings for retrieval; its "classes" are the D dimensions of a vector.

    Reads `embedding`, `targets/emb` (B,) int64, the identity of what an image shows, any integer, and optionally
    `labelled/emb` (B,) bool, the rows that have a label. Writes `emb/vector` (B, D) of norm 1, `emb/loss` and a list
    of images, `emb/visualization`. Its metrics, recall at 1 and 5, are not computed in training.

    Variants:
        linear: One linear layer.
        mlp: Two linear layers, as in the projection heads of SupCon and SimCLR.
    """

    name: ClassVar[str] = "emb"
    hub_task: ClassVar[str] = "image-feature-extraction"
    has_classes: ClassVar[bool] = False
    variants: ClassVar[tuple[str, ...]] = ("linear", "mlp")
    main_output: ClassVar[str] = "vector"
    label_kinds: ClassVar[Mapping[str, LabelKind]] = {"emb": LabelKind.ID}

    @property
    def required_labels(self) -> set[str | Metadata]:
        return {"emb"}

    def bricks(self, backbone: BackboneSpec, head: HeadSpec) -> dict[str, Any]:
        scored_inputs = ["./vector", f"targets/{head.name}", f"labelled/{head.name}?"]
        part = create_part(
            "unit_vector",
            in_features=backbone.embedding,
            out_features=head.num_classes,
            hidden=backbone.embedding if head.variant == "mlp" else None,
        )
        return {
            "head": BrickTrainable(part, input_names=["embedding"], output_names=["./vector"]),
            "loss": BrickLoss(
                create_part("supervised_contrastive"), input_names=scored_inputs, output_names=["./loss"]
            ),
            "metrics": BrickMetrics(
                create_part("embedding_metrics"), input_names=scored_inputs, tags=Tag.METRIC_INFERENCE
            ),
            "visualization": BrickPerImageVisualization(
                create_part("draw_embedding"),
                input_names={"image": "image", "vector": "./vector"},
                output_names=["./visualization"],
            ),
        }

    def default_num_classes(self, backbone: BackboneSpec) -> int:
        return 128  # as in SupCon and SimCLR

    def results(self, values: Mapping[str, Any], labels: Sequence[str]) -> list[dict[str, Any]]:
        """Return the vector: [{"label": "vector", "vector": D numbers}]."""
        return [{"label": "vector", "vector": values["vector"].astype(float).tolist()}]
