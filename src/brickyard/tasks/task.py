"""What a task is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

from brickyard.parts.backbones import BackboneSpec


@final
@dataclass(frozen=True)
class HeadSpec:
    """One head to build.

    Attributes:
        name: Where its bricks stand, "cls"; its label is read from `targets/<name>`.
        variant: One of the task's variants.
        num_classes: How many classes it tells apart.
        labels: Their names, None where nobody knows them.
    """

    name: str
    variant: str
    num_classes: int
    labels: tuple[str, ...] | None = None


class Task(ABC):
    """From features and labels to bricks. Subclass it and `register_task` an instance to add a task.

    Attributes:
        name: Its token in model names: letters and digits.
        variants: The names of its heads, the default one first.
        required_labels: What a training batch must bring, by name under `targets/`.
        main_output: The output that losses and metrics read, by name under the head's place.
        is_dense: Whether the outputs have places on the picture; the whole picture is then looked at, without a crop.
    """

    name: ClassVar[str]
    variants: ClassVar[tuple[str, ...]]
    required_labels: ClassVar[tuple[str, ...]]
    main_output: ClassVar[str]
    is_dense: ClassVar[bool] = False

    @abstractmethod
    def bricks(self, backbone: BackboneSpec, head: HeadSpec) -> dict[str, Any]:
        """The head's bricks by name, with names relative to their place (`./logits`)."""

    @abstractmethod
    def default_num_classes(self, backbone: BackboneSpec) -> int:
        """How many classes a head has where the caller names no number."""

    @abstractmethod
    def results(self, values: Mapping[str, Any], labels: Sequence[str]) -> list[dict[str, Any]]:
        """What was found on one picture, best first, as JSON values: each with its "label".

        Args:
            values: The head's outputs for that picture, as arrays without batch dimension, by the last part of their
                names.
            labels: The class names.
        """

    def on_picture(self, values: Mapping[str, Any], seen: tuple[int, int], shown: tuple[int, int]) -> dict[str, Any]:
        """The same values for a picture of another size; a dense task overrides it.

        Args:
            values: As for `results`.
            seen: (H, W) of the image that the model saw.
            shown: (H, W) of the picture.
        """
        return dict(values)
