"""What a task is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

from brickyard.core.brick import Brick
from brickyard.core.names import join
from brickyard.core.specs import BackboneSpec
from brickyard.errors import BrickGraphError, BrickMismatchError
from brickyard.tasks.metadata import Label, Metadata, labels_of
from brickyard.tasks.wiring import input_names


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

    @property
    def class_names(self) -> list[str]:
        """The names of its classes, "0", "1", ... where nobody knows them."""
        return list(self.labels or map(str, range(self.num_classes)))


class Task(ABC):
    """From features and labels to bricks. Subclass it to add a task, or to add to one.

    `name` and `required_labels` are enough to attach losses, metrics and visualisers to a head that you build yourself.
    For a task that model names, files and the command line know, override the rest, too, and `register_task` an
    instance.

    Attributes:
        name: Its token in model names: letters and digits.
        variants: The names of its heads, the default one first.
        hub_task: What the Hub calls such a task, None where it has no name for it.
        is_dense: Whether the outputs have places on the picture; the whole picture is then looked at, without a crop.

    Example:
        >>> class Age(Task):
        ...     name = "age"
        ...     variants = ("linear",)
        ...     required_labels = frozenset({Metadata("years", float)})
        ...
        ...     def bricks(self, backbone, head):
        ...         part = create_part("linear", in_features=backbone.embedding, out_features=1)
        ...         bricks = {"head": BrickTrainable(part, ["embedding"], ["./age"])}
        ...         loss = attach_loss(create_part("age_loss"), self, head.name, bricks)  # see `register_part`
        ...         return {**bricks, "loss": loss}
        >>> age = register_task(Age())
        >>> model = create_model("resnet18_age")  # reads targets/age/years, writes age/age and age/loss
    """

    name: ClassVar[str]
    variants: ClassVar[tuple[str, ...]] = ()
    hub_task: ClassVar[str | None] = None
    is_dense: ClassVar[bool] = False

    @property
    @abstractmethod
    def required_labels(self) -> Collection[str | Metadata]:
        """What a training batch must bring for a head: names, and `Metadata` where the type is checked."""

    @property
    def main_output(self) -> str:
        """The output that losses and metrics read, by name under the head's place; by default the task's name."""
        return self.name

    def bricks(self, backbone: BackboneSpec, head: HeadSpec) -> dict[str, Any]:
        """The head's bricks.

        Args:
            backbone: What the head can read.
            head: Which head to build.

        Returns:
            Bricks by name, which read and write names relative to their place (`./logits`). The one with the weights is
            `head`; to its metadata are added its "task", its "variant" and its "labels", which files, cards and
            predictors know it by.
        """
        raise BrickGraphError(f"The task '{self.name}' builds no heads: give it `variants` and `bricks`.")

    def default_num_classes(self, backbone: BackboneSpec) -> int:
        """How many classes a head has where the caller names no number."""
        return 1

    def results(self, values: Mapping[str, Any], labels: Sequence[str]) -> list[dict[str, Any]]:
        """What was found on one picture, best first, as JSON values: each with its "label".

        Args:
            values: The head's outputs for that picture, as arrays without batch dimension, by the last part of their
                names.
            labels: The class names.
        """
        return []

    def on_image(self, values: Mapping[str, Any], seen: tuple[int, int], shown: tuple[int, int]) -> dict[str, Any]:
        """The same values for a picture of another size; a dense task overrides it.

        Args:
            values: As for `results`.
            seen: (H, W) of the image that the model saw.
            shown: (H, W) of the picture.
        """
        return dict(values)

    def labels(self, head: str) -> dict[str, Label]:
        """The labels of a head of this task by their name in `required_labels`, see `labels_of`."""
        return labels_of(self.required_labels, head)

    def wire(self, part: Any, head: str, bricks: Mapping[str, Brick]) -> dict[str, str]:
        """What a loss, a metric or a visualiser of a head reads, by its arguments' names; see `tasks/wiring.py`.

        Args:
            part: A module, a metric, or any callable. It may say what it can be attached to: `supported_tasks`, classes
                of tasks, and `supported_heads`, classes of modules.
            head: The head's place, "seg".
            bricks: The head's bricks so far, by name: what `part` can read.

        Returns:
            {argument: name}, for the `input_names` of a brick. The signature is read here, and never again.

        Raises:
            BrickGraphError: An argument that nothing provides, or that is annotated for another type than its label.
            BrickMismatchError: It supports neither this task nor a subclass of it, or none of the head's modules.
        """
        what = getattr(part, "__name__", type(part).__name__)
        location = f"Brick '{join(head, what)}'"
        modules = [brick.wrapped for brick in bricks.values()]
        _check_supported(location, "task", getattr(part, "supported_tasks", None), [self])
        _check_supported(location, "head", getattr(part, "supported_heads", None), modules)
        outputs = {name.rpartition("/")[2]: name for brick in bricks.values() for name in brick.output_names}
        return input_names(part, location, main_output=self.main_output, outputs=outputs, labels=self.labels(head))


def _check_supported(location: str, kind: str, supported: Sequence[type] | None, there: Sequence[object]) -> None:
    if any(not isinstance(each, type) for each in supported or ()):
        raise BrickMismatchError(f"{location} cannot be attached", [f"supported_{kind}s are no classes: {supported}"])
    if supported is not None and not any(isinstance(each, tuple(supported)) for each in there):
        expected = ", ".join(sorted(each.__name__ for each in supported))
        found = ", ".join(type(each).__name__ for each in there)
        raise BrickMismatchError(f"{location} cannot be attached", [f"supported {kind}s: {expected}; found: {found}"])
