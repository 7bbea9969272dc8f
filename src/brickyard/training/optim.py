"""Parameter groups for an optimizer."""

from __future__ import annotations

from typing import Any

from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn

from brickyard.collection import BrickCollection
from brickyard.core.backbone import BrickBackbone


def parameter_groups(
    model: BrickCollection, *, lr: float, weight_decay: float = 0.05, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Group the trainable parameters of a collection by learning rate and weight decay, for any torch optimizer.

    Args:
        model: The collection. Frozen parameters are left out; a module shared by two bricks is counted once.
        lr: Learning rate of the heads and of the last layer of the backbone.
        weight_decay: Weight decay of weights; biases, norms and the parameters that timm excludes get 0.
        layer_decay: Factor of the learning rate from each layer of the backbone to the layer before it, by timm's layer
            groups (BEiT, Bao et al. 2021, https://arxiv.org/abs/2106.08254). 1 is the same rate for all layers.

    Returns:
        Groups with `params`, `lr` and `weight_decay`.
    """
    seen: set[int] = set()
    by_setting: dict[tuple[float, float], list[nn.Parameter]] = {}  # few groups: each one costs time in an optimizer
    for brick in model.bricks().values():
        if brick.module is None:
            continue
        if isinstance(brick, BrickBackbone):
            excluded: set[str] = getattr(brick.module, "no_weight_decay", set)()
            groups = param_groups_layer_decay(brick.module, weight_decay, excluded, layer_decay=layer_decay)
        else:
            groups = param_groups_weight_decay(brick.module, weight_decay)
        for group in groups:
            setting = (lr * group.get("lr_scale", 1.0), group["weight_decay"])
            params = [param for param in group["params"] if id(param) not in seen]
            seen.update(map(id, params))
            if params:
                by_setting.setdefault(setting, []).extend(params)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in by_setting.items()]
