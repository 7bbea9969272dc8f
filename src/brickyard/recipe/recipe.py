"""The frozen description of a model, before anything is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self, final

from brickyard.core.specs import KeypointSpec


@final
@dataclass(frozen=True)
class HeadRecipe:
    """One head of a model.

    Attributes:
        name: The prefix of its bricks.
        task: The task's name.
        variant: The head's name, None for the task's default.
        num_classes: None for the task's default.
        labels: The class names, None if unknown.
        keypoints: The key points of each object, None for the task's default.
    """

    name: str
    task: str
    variant: str | None = None
    num_classes: int | None = None
    labels: tuple[str, ...] | None = None
    keypoints: KeypointSpec | None = None


@final
@dataclass(frozen=True)
class Recipe:
    """The description of a model, before anything is built.

    Attributes:
        backbone: timm's name, without a weights tag; "" for a backbone that is not timm's.
        heads: In the order of their names.
        weights: The weights tag, None for the default.
        in_chans: Channels of the image.
        loss_weights: How the heads' losses are added to one, `loss`: {head: weight}, "learned", or None to leave them.
        options: Further arguments of `timm.create_model`; JSON values.
    """

    backbone: str
    heads: tuple[HeadRecipe, ...]
    weights: str | None = None
    in_chans: int = 3
    loss_weights: Mapping[str, float] | str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The model name that this recipe has, with its tasks in order."""
        return f"{self.stem}.{self.weights}" if self.weights else self.stem

    @property
    def stem(self) -> str:
        """The model name without the weights tag."""
        tokens = [f"{head.task}-{head.variant}" if head.variant else head.task for head in self.heads]
        return "_".join([self.backbone, *tokens])

    def to_json(self) -> dict[str, Any]:
        """Return JSON values, without class names and key points, which are in the file of each head."""
        values = asdict(self)
        for head in values["heads"]:
            del head["labels"], head["keypoints"]
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The recipe that `to_json` wrote; fields it does not know are left out."""
        heads = [
            HeadRecipe(
                name=head["name"],
                task=head["task"],
                variant=head.get("variant"),
                num_classes=head.get("num_classes"),
            )
            for head in values["heads"]
        ]
        return cls(
            backbone=values["backbone"],
            heads=tuple(heads),
            weights=values.get("weights"),
            in_chans=values.get("in_chans", 3),
            loss_weights=values.get("loss_weights"),
            options=dict(values.get("options", {})),
        )
