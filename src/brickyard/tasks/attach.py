"""Losses, metrics and visualisers as bricks of a head, wired by their arguments' names (see `tasks/wiring.py`).

head = {"head": BrickTrainable(MyHead(512, num_classes=3), ["features[-1]"], ["./logits"])}
head["loss"] = attach_loss(MyLoss(), Segmentation(), "parts", head)  # reads ./logits and targets/parts
model["parts"] = head
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from torchmetrics import Metric

from brickyard.core.brick import Brick
from brickyard.core.metrics import BrickMetricSingle
from brickyard.core.modules import BrickLoss, BrickNotTrainable
from brickyard.core.tags import Tag
from brickyard.parts.registry import wrapped_part
from brickyard.tasks.task import Task


def attach_loss(
    loss: nn.Module,
    task: Task,
    head: str,
    bricks: Mapping[str, Brick],
    *,
    sub_losses: Sequence[str] = (),
    output: str = "loss",
) -> BrickLoss:
    """A loss of a head.

    Args:
        loss: Its `forward` returns a scalar, or with `sub_losses` a tuple (scalar, {name: scalar}).
        task: The head's.
        head: Its place, "seg".
        bricks: Its bricks so far, by name.
        sub_losses: The names of the sub-losses: each is written as `./<output>_<name>` and logged, but not summed.
        output: The loss is written as `./<output>`.

    Raises:
        BrickGraphError, BrickMismatchError: It does not fit, see `Task.wire`.
    """
    names = task.wire(loss, head, bricks)
    model = wrapped_part("sub_losses", loss, names=list(sub_losses)) if sub_losses else loss
    main = f"./{output}"
    return BrickLoss(model, names, [main, *(f"{main}_{name}" for name in sub_losses)], loss_output_names=[main])


def attach_metric(
    metric: Metric, task: Task, head: str, bricks: Mapping[str, Brick], *, tags: str = Tag.METRIC
) -> BrickMetricSingle:
    """A metric of a head, reported under the head's place and the name of its class.

    Args:
        metric: Of torchmetrics, or a `BaseMetric`; one that computes a dictionary reports each of its values.
        task: The head's.
        head: Its place, "seg".
        bricks: Its bricks so far, by name.
        tags: `Tag.METRIC_INFERENCE` for one that reads what only an `INFERENCE` brick writes, or that is not for
            training.

    Raises:
        BrickGraphError, BrickMismatchError: It does not fit, see `Task.wire`.
    """
    return BrickMetricSingle(metric, task.wire(metric, head, bricks), tags=tags)


def attach_visualizer(
    visualizer: nn.Module | Callable[..., Any], task: Task, head: str, bricks: Mapping[str, Brick]
) -> BrickNotTrainable:
    """A visualiser of a head, called with the whole batch; `BrickPerImageVisualization` calls one image by image.

    Args:
        visualizer: Returns one picture (B, 3, H, W), or a tuple of two: of the targets and of the predictions. Its
            target should be optional; canvases are copies, to be drawn on.
        task: The head's.
        head: Its place, "seg".
        bricks: Its bricks so far, by name.

    Returns:
        A brick that writes `./visualization` and `./target_visualization`, the second None without a target.

    Raises:
        BrickGraphError, BrickMismatchError: It does not fit, see `Task.wire`.
    """
    return BrickNotTrainable(
        wrapped_part("image_pair", visualizer),
        task.wire(visualizer, head, bricks),
        ["./visualization", "./target_visualization"],
        tags=Tag.VISUALIZATION,
        calculate_gradients=False,
    )
