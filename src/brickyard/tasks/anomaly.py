"""`anomaly`: detection of images that differ from the normal ones, and of where they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from brickyard.core.metrics import BrickMetrics
from brickyard.core.modules import BrickLoss, BrickNotTrainable, BrickTrainable
from brickyard.core.specs import BackboneSpec, HeadInfo
from brickyard.core.tags import Tag
from brickyard.core.visualization import BrickPerImageVisualization
from brickyard.data.geometry import ResizeGeometry, masks_to_original
from brickyard.data.label_kinds import LabelKind
from brickyard.errors import BrickInputError
from brickyard.parts.registry import create_part
from brickyard.tasks.metadata import Metadata
from brickyard.tasks.selection import Selection
from brickyard.tasks.task import HeadSpec, Task

_CLASSES = ("normal", "anomalous")
_THRESHOLD = 0.5  # between normal features and noise, of images and of pixels


class AnomalyDetection(Task):
    """Anomaly detection, learned from normal images only (SimpleNet); its classes are "normal" and "anomalous".

    Reads `features`, `image` (for its size) and `targets/anomaly` (B,) int64, 0 for normal and 1 for anomalous.
    Optional: `labelled/anomaly` (B,) bool; and for evaluation only, `targets/anomaly/mask` (B, H, W) int64, 1 for
    anomalous pixels, 0 for normal ones and 255 where it is unknown, with `labelled/anomaly/mask` (B,) bool. Writes
    `anomaly/logits` (B, 1, h, w), with the LOSS tag (B, 2, h, w), see `SimpleNet`; `anomaly/map` (B, H, W) and
    `anomaly/score` (B,), the maximum of the map, both in [0, 1] with 0.5 as threshold; `anomaly/loss`; and a list of
    images, `anomaly/visualization`.

    Anomalous images in a training batch are harmless: their loss and its gradient are 0. Only the statistics of the
    head's batch norms see them, as they see images without a label, so leave them out of the training data.

    The loss has no gradient for the backbone, which would learn to hide anomalies. Freeze it all the same (`--freeze
    backbone`, `model.freeze("backbone")`), unless another head trains it: in training mode its batch norms would follow
    the batches, and the head would learn other features than those that it gets in evaluation.

    The metrics are the area under the receiver operating characteristic of images, and where there are masks, that of
    pixels and the area under the per-region overlap. They are not computed in training, which has no anomalies.

    Variants: `simplenet`, two 1 x 1 convolutions on the maps of stride 8 and 16.
    """

    name: ClassVar[str] = "anomaly"
    has_classes: ClassVar[bool] = False
    variants: ClassVar[tuple[str, ...]] = ("simplenet",)
    main_output: ClassVar[str] = "map"
    label_kinds: ClassVar[Mapping[str, LabelKind]] = {"anomaly": LabelKind.CLASS_INDEX}
    optional_labels: ClassVar[Mapping[str, LabelKind]] = {"mask": LabelKind.MASK}
    is_dense: ClassVar[bool] = True

    @property
    def required_labels(self) -> set[str | Metadata]:
        return {"anomaly"}

    def bricks(self, backbone: BackboneSpec, head: HeadSpec) -> dict[str, Any]:
        if head.num_classes != len(_CLASSES):
            raise BrickInputError(f"num_classes of '{head.name}'", "2, normal and anomalous", f"{head.num_classes}")
        labels = list(head.labels or _CLASSES)
        labelled = [f"targets/{head.name}", f"labelled/{head.name}?"]
        features = backbone.features
        module = create_part("simplenet", channels=list(features.channels), strides=list(features.strides))
        bricks = {
            "noise": BrickTrainable(
                create_part("feature_noise", levels=list(module.levels)),
                input_names=["features"],
                output_names=["./noise"],
                tags=Tag.LOSS,
            ),
            "head": BrickTrainable(module, input_names=["features", "./noise?"], output_names=["./logits"]),
            "decode": BrickNotTrainable(
                create_part("anomaly_decode"),
                input_names=["./logits", "image"],
                output_names=["./map", "./score"],
                tags=Tag.INFERENCE,
                calculate_gradients=False,
            ),
            "loss": BrickLoss(
                create_part("anomaly_loss"), input_names=["./logits", *labelled], output_names=["./loss"]
            ),
            "metrics": BrickMetrics(
                create_part("anomaly_metrics"), input_names=["./score", *labelled], tags=Tag.METRIC_INFERENCE
            ),
            "map_metrics": BrickMetrics(
                create_part("anomaly_map_metrics"),
                input_names=[
                    "./map",
                    f"targets/{head.name}/mask?",
                    f"labelled/{head.name}?",
                    f"labelled/{head.name}/mask?",
                ],
                tags=Tag.METRIC_INFERENCE,
            ),
            "visualization": BrickPerImageVisualization(
                create_part("draw_anomaly", labels=labels, threshold=_THRESHOLD),
                input_names={"image": "image", "map": "./map", "score": "./score"},
                output_names=["./visualization"],
            ),
        }
        bricks["head"].head = HeadInfo(self.name, head.variant, tuple(labels))
        return bricks

    def default_num_classes(self, backbone: BackboneSpec) -> int:
        return len(_CLASSES)

    def results(self, values: Mapping[str, Any], labels: Sequence[str]) -> list[dict[str, Any]]:
        """Return the class and the anomaly score: [{"label", "class", "score" in [0, 1]}], [] if it is not selected.

        The class is "anomalous" for a score of 0.5 or more.
        """
        score = float(values["score"])
        index = _class_of(score)
        return [{"label": labels[index], "class": index, "score": score}] if score >= 0 else []

    def select(self, values: Mapping[str, Any], selection: Selection) -> dict[str, Any]:
        """Mark an image with a lower anomaly score, or of another class, by the score -1."""
        scores = np.reshape(values["score"], 1)
        kept = selection.mask(scores, np.array([_class_of(float(scores[0]))]))
        return {**values, "score": np.where(kept, scores, -1.0)[0]}

    def mask(self, values: Mapping[str, Any]) -> npt.NDArray[Any]:
        """Return 1 for the pixels of `map`, as `on_image` returns it, from 0.5 on, else 0."""
        is_anomalous: npt.NDArray[np.int64] = (values["map"].T >= _THRESHOLD).astype(np.int64)
        return is_anomalous if float(values["score"]) >= 0 else np.full_like(is_anomalous, -1)

    def on_image(self, values: Mapping[str, Any], geometry: ResizeGeometry) -> dict[str, Any]:
        """Map the `map` (H, W) to the original image, transposed, as drawing functions take it."""
        return {**values, "map": masks_to_original(torch.from_numpy(values["map"]), geometry).numpy().T}

    def labels_as_outputs(self, labels: Any, num_classes: int) -> dict[str, Any]:
        """Return the labels as `score` (B,), and a `map` (B, 1, 1) of 0: it is not known where an anomaly is."""
        return {"score": labels.float(), "map": torch.zeros(len(labels), 1, 1)}


def _class_of(score: float) -> int:
    return int(score >= _THRESHOLD)
