r"""Input names of a loss, a metric or a visualizer, from the names of its arguments.

| argument                                      | value |
|-----------------------------------------------|---|
| `predictions`, `prediction`, `preds`, `pred`  | the task's main output, `./<main_output>` |
| `target`, `targets`                           | the task's label; an error if the task has several |
| `target_<label>`                              | the label of that name, see `labels_of` |
| `labelled`, `labelled_<label>`                | (B,) bool, which rows have that label: `labelled/...` |
| `prediction_canvas`, `target_canvas`, `image` | the input image; a canvas is a copy |
| any other                                     | the head's output of that name |

An argument that may be None (`Tensor | None`, or a default of None) is None where its value is absent. An argument
with another default keeps it if nothing provides a value.

In luxonis-train, modules are attached to nodes and get their inputs by the same names. Its terms and their equivalents:

| luxonis-train                          | brickyard |
|----------------------------------------|---|
| `BaseNode`, `BaseHead`                 | any `nn.Module` in a `BrickTrainable`; no base class, no `**kwargs` |
| a packet, `wrap`, `unwrap`             | the collection's dictionary; a brick's `output_names` and `input_names` |
| train, eval and export calls           | bricks with other tags: `Tag.INFERENCE` for a decoder not run in training |
| `attach_index` -1, (1, 3), "all"       | `input_names=["features[-1]"]`, `["features[1:3]"]`, `["features"]` |
| properties, `in_channels: int`         | arguments of the head's class, filled and checked by `tasks.head_arguments` |
| `in_channels`, `in_height`, `in_width` | the same |
| `n_classes`, `n_keypoints`             | `num_classes` |
| `class_names`, `original_in_shape`     | `labels`, `image_size` |
| `parser`, `get_custom_head_config()`   | `brick.metadata = {"parser": ..., ...}`, also in the exported file |
| `Tasks.SEGMENTATION`, `CLASSIFICATION` | the classes `tasks.seg.Segmentation`, `tasks.cls.Classification` |
| `Tasks.BOUNDINGBOX`, `KEYPOINTS`       | `tasks.det.Detection`, `tasks.kpt.Keypoints` |
| `Tasks.INSTANCE_SEGMENTATION`          | `tasks.inst.InstanceSegmentation` |
| `Tasks.INSTANCE_KEYPOINTS`             | `tasks.pose.InstanceKeypoints` |
| `Tasks.INSTANCE_SEGMENTATION_KEYPOINTS` | the same with the head `masks`: `pose-masks` |
| `Tasks.EMBEDDINGS`, `FOMO`             | `tasks.emb.Embedding`, `tasks.fomo.PointDetection` |
| `Tasks.ANOMALY_DETECTION`, `OCR`       | `tasks.anomaly.AnomalyDetection`, `tasks.ocr.TextRecognition` |
| any other of `Tasks`                   | a subclass of `Task` |
| `task = Tasks.X` in a head's class     | `attach_loss(loss, X(), ...)`, or the head is built by `X.bricks` |
| `super().__init__("distance")`         | `name = "distance"` in the task's class |
| `required_labels`, `main_output`       | the same; the main output has the task's name by default |
| `Metadata("distance", float \| int)`   | the same; the label is `targets/<head>/distance`, checked in each batch |
| `BaseLoss`, `BaseVisualizer`           | any `nn.Module`: `attach_loss`, `attach_visualizer` of `tasks.attach` |
| `BaseMetric`, `MetricState`            | the same, in `parts.metric_state`, or any of torchmetrics: `attach_metric` |
| `supported_tasks = [Tasks.X]`          | `supported_tasks = [X]`, classes; subclasses are supported |
| `node: SomeHead`                       | `supported_heads = [SomeHead]` |
| a loss with sub-losses                 | the same, and `attach_loss(..., sub_losses=["name"])` |
| a loss's weight                        | `create_model(..., loss_weights={"seg": 2.0})` |
| overriding `run`, `run_update`         | explicit `input_names`; `["__all__"]` is every value, as a dictionary |
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from brickyard.errors import BrickGraphError, nearest
from brickyard.tasks.metadata import Label

_PREDICTIONS = ("predictions", "prediction", "preds", "pred")
_TARGETS = ("target", "targets")
_CANVASES = ("prediction_canvas", "target_canvas")


def input_names(
    part: Any, location: str, *, main_output: str, outputs: Mapping[str, str], labels: Mapping[str, Label]
) -> dict[str, str]:
    """Return the name that each argument reads, see the table above.

    Args:
        part: A module, a metric, or any callable.
        location: The location that an error names.
        main_output: The output that `predictions` reads.
        outputs: The names of the head's outputs, and their names among the collection's values.
        labels: The head's labels.

    Returns:
        {argument: name}, for the `input_names` of a brick.

    Raises:
        BrickGraphError: Nothing provides an argument, or it is annotated with another type than its label has.
    """
    targets = {f"target_{name}": label for name, label in labels.items()}
    labelled = {f"labelled_{name}": _labelled(label) for name, label in labels.items()}
    if len(labels) == 1:
        (only,) = labels.values()
        targets |= dict.fromkeys(_TARGETS, only)
        labelled["labelled"] = _labelled(only)
    known = {
        **outputs,
        **{name: outputs[main_output] for name in _PREDICTIONS if main_output in outputs},
        **{name: label.value for name, label in targets.items()},
        **labelled,
        **dict.fromkeys(("image", *_CANVASES), "image"),
    }
    names = {}
    for name, parameter in _parameters(part, location).items():
        optional = parameter.default is None or _may_be_none(parameter.annotation)
        if name in known:
            if name in targets:
                _check_annotation(location, parameter, targets[name])
            names[name] = f"{known[name]}?" if optional else known[name]
        elif parameter.default is parameter.empty:
            if not optional:
                raise _missing_argument(location, name, main_output, outputs, labels)
            names[name] = f"./{name}?"
    return names


def _labelled(label: Label) -> str:
    return label.value.replace("targets/", "labelled/", 1)


def _parameters(part: Any, location: str) -> dict[str, inspect.Parameter]:
    """Return the parameters that can be passed by name."""
    functions = [_called(part)]
    if isinstance(part, MetricCollection) and type(part).update is MetricCollection.update:
        functions = [metric.update for metric in part.values()]
    parameters = {
        name: parameter
        for function in functions
        for name, parameter in signature_of(function).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    if not parameters:
        raise BrickGraphError(f"{location} has no named arguments: pass explicit `input_names` to its brick.")
    return parameters


def _called(part: Any) -> Callable[..., Any]:
    if isinstance(part, (Metric, MetricCollection)):
        return part.update
    function: Callable[..., Any] = part.forward if isinstance(part, nn.Module) else part
    return function


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """Return the signature of a function or class, with annotations evaluated where possible, else as text."""
    try:
        return inspect.signature(function, eval_str=True)
    except (NameError, AttributeError, TypeError, SyntaxError):  # an annotation that cannot be evaluated at run time
        return inspect.signature(function)


def _may_be_none(annotation: Any) -> bool:
    if isinstance(annotation, str):
        return "None" in annotation or "Optional" in annotation
    return get_origin(annotation) in (Union, UnionType) and NoneType in get_args(annotation)


def _check_annotation(location: str, parameter: inspect.Parameter, label: Label) -> None:
    """Refuse the annotation `Tensor` for texts, and `list` for numbers."""
    if label.types is None:
        return
    annotated = {get_origin(each) or each for each in get_args(parameter.annotation) or [parameter.annotation]}
    if get_origin(parameter.annotation) is list:
        annotated = {list}
    if (annotated & {Tensor, list}) and (list if label.types == ("str",) else Tensor) not in annotated:
        types = " or ".join(label.types)
        raise BrickGraphError(
            f"{location}: its argument '{parameter.name}' is annotated {parameter.annotation}, but the label "
            f"'{label.value}' has values of type {types}: "
            + ("a list of texts." if label.types == ("str",) else "a tensor of numbers.")
        )


def _missing_argument(
    location: str, name: str, main_output: str, outputs: Mapping[str, str], labels: Mapping[str, Label]
) -> BrickGraphError:
    known = [*outputs, *(f"target_{label}" for label in labels), *(["target"] if len(labels) == 1 else []), "image"]
    reason = nearest(name, known)
    if name in _TARGETS:
        reason = f"The task has {len(labels) or 'no'} labels: {', '.join(f'target_{label}' for label in labels)}."
    elif name in _PREDICTIONS:
        reason = f"It reads the task's main output, '{main_output}', which the head does not write."
    return BrickGraphError(
        f"{location}: nothing provides its argument '{name}'. {reason} The head writes {list(outputs)}, its labels are "
        f"{list(labels)}. Rename the argument, or pass explicit `input_names` to its brick."
    )
