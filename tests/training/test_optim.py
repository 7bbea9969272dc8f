import torch
from timm.optim import param_groups_layer_decay

import brickyard


def _rates(groups: list[dict]) -> dict[int, float]:
    return {id(parameter): group["lr"] for group in groups for parameter in group["params"]}


def test_layer_decay_gives_the_backbone_the_learning_rates_of_timm() -> None:
    model = brickyard.create_model("test_vit_cls", num_classes=3)
    backbone = model["backbone"].model
    rates = _rates(brickyard.parameter_groups(model, lr=0.1, layer_decay=0.5))
    for group in param_groups_layer_decay(backbone, layer_decay=0.5):
        for parameter in group["params"]:
            assert rates[id(parameter)] == 0.1 * group["lr_scale"]
    assert rates[id(backbone.patch_embed.proj.weight)] < rates[id(backbone.blocks[-1].mlp.fc1.weight)] <= 0.1
    assert rates[id(model["cls/head"].model.weight)] == 0.1


def test_every_trainable_parameter_is_in_one_group_and_frozen_ones_in_none() -> None:
    model = brickyard.create_model("test_resnet_cls", num_classes=3)
    model.freeze("backbone")
    groups = brickyard.parameter_groups(model, lr=0.1)
    assert set(_rates(groups)) == {id(parameter) for parameter in model["cls/head"].parameters()}
    torch.optim.AdamW(groups).step()


def test_biases_and_norms_are_not_decayed() -> None:
    model = brickyard.create_model("test_resnet_cls", num_classes=3)
    for group in brickyard.parameter_groups(model, lr=0.1, weight_decay=0.2):
        assert all((group["weight_decay"] == 0) == (parameter.ndim <= 1) for parameter in group["params"])


def test_a_module_that_two_bricks_share_is_counted_once() -> None:
    layer = torch.nn.Linear(2, 2)
    bricks = {name: brickyard.BrickTrainable(layer, ["x"], [name]) for name in ("a", "b")}
    groups = brickyard.parameter_groups(brickyard.BrickCollection(bricks), lr=0.1)
    assert sum(len(group["params"]) for group in groups) == 2


def test_each_setting_has_one_group() -> None:
    model = brickyard.create_model("test_resnet_cls_seg", num_classes={"cls": 3, "seg": 3})
    groups = brickyard.parameter_groups(model, lr=0.1, weight_decay=0.2)
    assert sorted((group["lr"], group["weight_decay"]) for group in groups) == [(0.1, 0.0), (0.1, 0.2)]
    decayed = brickyard.parameter_groups(model, lr=0.1, weight_decay=0.2, layer_decay=0.5)
    settings = [(group["lr"], group["weight_decay"]) for group in decayed]
    assert len(settings) == len(set(settings)) > 2
