"""The base class of tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, final

import numpy.typing as npt

from brickyard.core.brick import Brick
from brickyard.core.names import join
from brickyard.core.specs import BackboneSpec, KeypointSpec
from brickyard.data.geometry import ResizeGeometry
from brickyard.data.label_kinds import TARGETS, LabelKind
from brickyard.errors import BrickGraphError, BrickInputError, BrickMismatchError
from brickyard.tasks.metadata import Label, Metadata, labels_of
from brickyard.tasks.selection import Selection
from brickyard.tasks.wiring import input_names


@final
@dataclass(frozen=True)
class HeadSpec:
    """The specification of a head to build.

    Attributes:
        name: The prefix of its bricks, "cls"; its label is read from `targets/<name>`.
        variant: One of the task's variants.
        num_classes: The number of its classes.
        labels: The names of the classes, None if they are unknown.
        keypoints: The key points of each object, None for the task's default.
    """

    name: str
    variant: str
    num_classes: int
    labels: tuple[str, ...] | None = None
    keypoints: KeypointSpec | None = None

    @property
    def class_names(self) -> list[str]:
        """The names of the classes, "0", "1", ... if they are unknown."""
        return list(self.labels or map(str, range(self.num_classes)))


class Task(ABC):
    """Builds the bricks of a head from features and labels. Subclass it to add a task, or to extend one.

    `name` and `required_labels` are enough to attach losses, metrics and visualizers to a head that you build yourself.
    For a task that model names, files and the command line support, override the rest, too, and pass an instance to
    `register_task`.

    Attributes:
        name: The token of the task in model names: letters and digits.
        variants: The names of its heads, the default first.
        label_kinds: The kind of each plain label in `required_labels`; those of `Metadata` follow from their types.
            Transforms, `collate` and the counting of labelled rows depend on the kind.
        variant_label_kinds: The kinds that differ from `label_kinds`, by variant.
        optional_labels: The kinds of labels that a batch may lack, `targets/<head>/<name>` by name, such as those that
            only a metric reads. Their classes are those of the head.
        hub_task: The Hub's name for the task, None if the Hub has none.
        has_classes: Whether a head predicts named classes, of which some can be kept alone.
        is_dense: Whether outputs refer to positions in the image; prediction then resizes the whole image, uncropped.

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
    label_kinds: ClassVar[Mapping[str, LabelKind]] = MappingProxyType({})
    variant_label_kinds: ClassVar[Mapping[str, Mapping[str, LabelKind]]] = MappingProxyType({})
    optional_labels: ClassVar[Mapping[str, LabelKind]] = MappingProxyType({})
    hub_task: ClassVar[str | None] = None
    has_classes: ClassVar[bool] = True
    is_dense: ClassVar[bool] = False

    @property
    @abstractmethod
    def required_labels(self) -> Collection[str | Metadata]:
        """The labels that a training batch must have for a head: names, and `Metadata` where the type is checked."""

    @property
    def main_output(self) -> str:
        """The output that losses and metrics read, by its name under the head's prefix; by default the task's name."""
        return self.name

    def bricks(self, backbone: BackboneSpec, head: HeadSpec) -> dict[str, Any]:
        """Build the bricks of a head.

        Args:
            backbone: What the backbone provides.
            head: The head to build.

        Returns:
            Bricks by name, which read and write names relative to the head's prefix (`./logits`). The brick with the
            weights is `head`; its `head` attribute is set to task, variant and labels, by which files, cards and
            predictors identify the head.
        """
        raise BrickGraphError(f"The task '{self.name}' builds no heads: give it `variants` and `bricks`.")

    def default_num_classes(self, backbone: BackboneSpec) -> int:
        """Return the number of classes of a head where the caller does not pass one."""
        return 1

    def results(self, values: Mapping[str, Any], labels: Sequence[str]) -> list[dict[str, Any]]:
        """Convert the outputs for one image to results, best first, as JSON values, each with its "label".

        Args:
            values: The head's outputs for the image, as arrays without batch dimension, by the last part of their
                names.
            labels: The class names.
        """
        return []

    def select(self, values: Mapping[str, Any], selection: Selection) -> dict[str, Any]:
        """Mark the outputs that a selection leaves out, so that `results` and the visualization pass over them.

        Args:
            values: See `results`.
            selection: The limits; heads whose results have no scores ignore the threshold.
        """
        return dict(values)

    def mask(self, values: Mapping[str, Any]) -> npt.NDArray[Any] | None:
        """Return the class of each pixel, (H, W) integers, -1 where it was not selected; None without a mask."""
        return None

    def on_image(self, values: Mapping[str, Any], geometry: ResizeGeometry) -> dict[str, Any]:
        """Map outputs back to the original image; tasks whose outputs have pixels or coordinates override it.

        Args:
            values: See `results`.
            geometry: How the image was resized to the model's input.
        """
        return dict(values)

    def labels_as_outputs(self, labels: Any, num_classes: int) -> dict[str, Any]:
        """Return the outputs of a head that would be correct for a batch, to draw labels like predictions.

        Args:
            labels: The labels of a batch, `targets/<head>`.
            num_classes: The number of classes of the head.

        Returns:
            Batched values by the last part of the names of the outputs; {} if the task cannot draw its labels.
        """
        return {}

    def labels(self, head: str) -> dict[str, Label]:
        """Return the labels of a head of this task by their names in `required_labels`, see `labels_of`."""
        return labels_of(self.required_labels, head)

    def kinds(self, head: str, variant: str | None = None) -> dict[str, LabelKind]:
        """Return the kind of each label of a head, by the name of its value: {"targets/seg": LabelKind.MASK}.

        Those of optional labels are included.

        Args:
            head: The prefix of the head, "seg".
            variant: One of the task's variants, None for the default.

        Raises:
            BrickInputError: A label has no kind.
        """
        typed = {label.name: label.kind for label in self.required_labels if isinstance(label, Metadata)}
        variant = variant or next(iter(self.variants), "")
        kinds = {**typed, **self.label_kinds, **self.variant_label_kinds.get(variant, {})}
        labels = self.labels(head)
        if missing := sorted(labels.keys() - {name for name, kind in kinds.items() if isinstance(kind, LabelKind)}):
            expected = "a LabelKind for each label in `label_kinds`"
            hint = f"Set label_kinds = {{'{missing[0]}': LabelKind.X}}, X one of {', '.join(LabelKind.__members__)}."
            raise BrickInputError(f"Task '{self.name}'", expected, f"none for {missing}", hint)
        optional = {f"{TARGETS}{head}/{name}": kind for name, kind in self.optional_labels.items()}
        return {label.value: kinds[name] for name, label in labels.items()} | optional

    def wire(self, part: Any, head: str, bricks: Mapping[str, Brick]) -> dict[str, str]:
        """Return the input names of a loss, a metric or a visualizer of a head, by its arguments' names.

        See `tasks/wiring.py` for the rules.

        Args:
            part: A module, a metric, or any callable. It may restrict what it can be attached to by `supported_tasks`,
                classes of tasks, and `supported_heads`, classes of modules.
            head: The prefix of the head, "seg".
            bricks: The bricks of the head so far, by name: `part` can read their outputs.

        Returns:
            {argument: name}, for the `input_names` of a brick. The signature is read once, by this call.

        Raises:
            BrickGraphError: Nothing provides an argument, or it is annotated with another type than its label has.
            BrickMismatchError: `part` supports neither this task nor a base class of it, or no module of the head.
        """
        name = getattr(part, "__name__", type(part).__name__)
        location = f"Brick '{join(head, name)}'"
        modules = [brick.wrapped for brick in bricks.values()]
        _check_supported(location, "task", getattr(part, "supported_tasks", None), [self])
        _check_supported(location, "head", getattr(part, "supported_heads", None), modules)
        outputs = {name.rpartition("/")[2]: name for brick in bricks.values() for name in brick.output_names}
        return input_names(part, location, main_output=self.main_output, outputs=outputs, labels=self.labels(head))


def _check_supported(location: str, kind: str, supported: Sequence[type] | None, given: Sequence[object]) -> None:
    if any(not isinstance(each, type) for each in supported or ()):
        problem = f"supported_{kind}s: expected classes, found {supported}"
        raise BrickMismatchError(f"{location} cannot be attached", [problem])
    if supported is not None and not any(isinstance(each, tuple(supported)) for each in given):
        expected = ", ".join(sorted(each.__name__ for each in supported))
        actual = ", ".join(type(each).__name__ for each in given)
        raise BrickMismatchError(f"{location} cannot be attached", [f"supported {kind}s: {expected}; found: {actual}"])
