"""Attach losses, metrics and visualizers to a head, wired by the names of their arguments (see `tasks/wiring.py`).

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
    """Make the brick of a loss.

    Args:
        loss: A module whose `forward` returns a scalar, or with `sub_losses` a tuple (scalar, {name: scalar}).
        task: The task of the head.
        head: The prefix of the head, "seg".
        bricks: The bricks of the head so far, by name.
        sub_losses: The names of the sub-losses: each is written as `./<output>_<name>` and logged, but not summed.
        output: The name of the loss, written as `./<output>`.

    Raises:
        BrickGraphError, BrickMismatchError: The loss cannot be attached, see `Task.wire`.
    """
    names = task.wire(loss, head, bricks)
    model = wrapped_part("sub_losses", loss, names=list(sub_losses)) if sub_losses else loss
    main = f"./{output}"
    return BrickLoss(model, names, [main, *(f"{main}_{name}" for name in sub_losses)], loss_output_names=[main])


def attach_metric(
    metric: Metric, task: Task, head: str, bricks: Mapping[str, Brick], *, tags: str = Tag.METRIC
) -> BrickMetricSingle:
    """Make the brick of a metric, reported under the head's prefix and the name of the metric's class.

    Args:
        metric: A metric of torchmetrics, or a `BaseMetric`; one that computes a dictionary reports each of its values.
        task: The task of the head.
        head: The prefix of the head, "seg".
        bricks: The bricks of the head so far, by name.
        tags: `Tag.METRIC_INFERENCE` for a metric that reads what only an `INFERENCE` brick writes, or that is not
            computed in training.

    Raises:
        BrickGraphError, BrickMismatchError: The metric cannot be attached, see `Task.wire`.
    """
    return BrickMetricSingle(metric, task.wire(metric, head, bricks), tags=tags)


def attach_visualizer(
    visualizer: nn.Module | Callable[..., Any], task: Task, head: str, bricks: Mapping[str, Brick]
) -> BrickNotTrainable:
    """Make the brick of a visualizer that takes a whole batch; for one that takes single images, see
    `BrickPerImageVisualization`.

    Args:
        visualizer: Returns images (B, 3, H, W), or a tuple of two: of the targets and of the predictions. Its target
            should be optional; canvases are copies, to be drawn on.
        task: The task of the head.
        head: The prefix of the head, "seg".
        bricks: The bricks of the head so far, by name.

    Returns:
        A brick that writes `./visualization` and `./target_visualization`, the second None without a target.

    Raises:
        BrickGraphError, BrickMismatchError: The visualizer cannot be attached, see `Task.wire`.
    """
    return BrickNotTrainable(
        wrapped_part("image_pair", visualizer),
        task.wire(visualizer, head, bricks),
        ["./visualization", "./target_visualization"],
        tags=Tag.VISUALIZATION,
        calculate_gradients=False,
    )
