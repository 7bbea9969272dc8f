"""A task as a user writes it: this file registers the task and its parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from torch import Tensor, nn

from brickyard import (
    BackboneSpec,
    BaseMetric,
    BrickTrainable,
    HeadSpec,
    Metadata,
    MetricState,
    Task,
    attach_loss,
    attach_metric,
    create_part,
    head_arguments,
    register_part,
    register_task,
)


@register_part("age_head")
class AgeHead(nn.Module):
    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(in_channels, num_classes)

    def forward(self, embedding: Tensor) -> Tensor:
        return self.layer(embedding)[:, 0]


@register_part("age_loss")
class AgeLoss(nn.Module):
    def forward(self, predictions: Tensor, target: Tensor) -> Tensor:
        return nn.functional.l1_loss(predictions, target)


@register_part("age_error")
class AgeError(BaseMetric):
    sum: Annotated[Tensor, MetricState()]
    count: Annotated[Tensor, MetricState(default=0)]

    def update(self, predictions: Tensor, target: Tensor) -> None:
        self.sum += (predictions - target).abs().sum()
        self.count += len(target)

    def compute(self) -> Tensor:
        return self.sum / self.count


class Age(Task):
    name: ClassVar[str] = "age"
    variants: ClassVar[tuple[str, ...]] = ("linear",)

    @property
    def required_labels(self) -> set[str | Metadata]:
        return {Metadata("years", float)}

    def bricks(self, backbone: BackboneSpec, head: HeadSpec) -> dict[str, Any]:
        part = create_part("age_head", **head_arguments(AgeHead, backbone, head, "embedding"))
        bricks = {"head": BrickTrainable(part, ["embedding"], ["./age"])}
        loss = attach_loss(create_part("age_loss"), self, head.name, bricks)
        metric = attach_metric(create_part("age_error"), self, head.name, bricks)
        return {**bricks, "loss": loss, "metric": metric}

    def results(self, values: Mapping[str, Any], labels: Sequence[str]) -> list[dict[str, Any]]:
        return [{"label": "years", "years": float(values["age"])}]


register_task(Age())
