"""Parameters in groups for an optimizer."""

from __future__ import annotations

from typing import Any

from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn

from brickyard.collection import BrickCollection
from brickyard.core.backbone import BrickBackbone


def parameter_groups(
    model: BrickCollection, *, lr: float, weight_decay: float = 0.05, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """The trainable parameters of a collection, as any torch optimizer takes them.

    Args:
        model: Frozen parameters are left out; a module that two bricks share is counted once.
        lr: The learning rate of the heads and of the backbone's last layer.
        weight_decay: For weights; biases, norms and what timm excludes get none.
        layer_decay: Each layer of the backbone further from the heads gets the learning rate times this once more, by
            timm's grouping (BEiT, Bao et al. 2021, https://arxiv.org/abs/2106.08254). 1 is the same rate for all.

    Returns:
        Groups with `params`, `lr` and `weight_decay`.
    """
    seen: set[int] = set()
    by_setting: dict[tuple[float, float], list[nn.Parameter]] = {}  # few groups: an optimizer pays for each of them
    for brick in model.bricks().values():
        if brick.module is None:
            continue
        if isinstance(brick, BrickBackbone):
            excluded: set[str] = getattr(brick.module, "no_weight_decay", set)()
            found = param_groups_layer_decay(brick.module, weight_decay, excluded, layer_decay=layer_decay)
        else:
            found = param_groups_weight_decay(brick.module, weight_decay)
        for group in found:
            setting = (lr * group.get("lr_scale", 1.0), group["weight_decay"])
            params = [param for param in group["params"] if id(param) not in seen]
            seen.update(map(id, params))
            if params:
                by_setting.setdefault(setting, []).extend(params)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in by_setting.items()]
