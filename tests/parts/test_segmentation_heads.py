import itertools

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.fcn import FCNHead
from torchvision.models.segmentation.lraspp import LRASPPHead

from brickyard.parts.blocks import Residual
from brickyard.parts.segmentation_heads import (
    LRASPP,
    DeepLabV3Plus,
    FPNSegmentation,
    PooledBatchNorm2d,
    SegFormerMLP,
    TowerSegmentation,
    UNet,
    segmentation_deeplabv3,
    segmentation_fcn,
)

HEADS = [FPNSegmentation, DeepLabV3Plus, LRASPP, SegFormerMLP, TowerSegmentation, UNet]
CHANNELS, STRIDES = (8, 16, 24, 32, 40), (2, 4, 8, 16, 32)


def maps(sizes, channels=CHANNELS, batch=2):
    return [torch.randn(batch, count, *size) for count, size in zip(channels, sizes, strict=True)]


def pyramid(batch=2):
    return maps([(31, 45), (16, 23), (8, 12), (4, 6), (2, 3)], batch=batch)


def randomised(head):
    """Randomise the batch norms of a head and set it to evaluation mode."""
    for module in head.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                tensor.uniform_(0.5, 1.5)
    return head.eval()


@pytest.mark.parametrize(
    ("create", "create_reference"),
    [
        (lambda: segmentation_fcn(16, 5), lambda: FCNHead(16, 5)),
        (lambda: segmentation_deeplabv3(16, 5), lambda: DeepLabHead(16, 5)),
    ],
    ids=["fcn", "deeplabv3"],
)
@pytest.mark.parametrize("training", [True, False])
def test_heads_of_torchvision_have_its_weights_and_outputs(create, create_reference, training):
    head, reference = randomised(create()).train(training), create_reference().train(training)
    reference.load_state_dict(head.state_dict())
    features = torch.randn(2, 16, 7, 9)
    torch.manual_seed(1)  # of the dropout
    logits = head(features)
    torch.manual_seed(1)
    torch.testing.assert_close(logits, reference(features))
    for name, value in reference.state_dict().items():
        torch.testing.assert_close(head.state_dict()[name], value)


def test_lraspp_is_torchvisions_on_stride_8_and_the_last_map():
    head = randomised(LRASPP(CHANNELS, STRIDES, 5))
    reference = LRASPPHead(24, 40, 5, 128).eval()
    reference.load_state_dict(head.head.state_dict())
    features = pyramid()
    torch.testing.assert_close(head(features), reference({"low": features[2], "high": features[4]}))


@pytest.mark.parametrize("make", [lambda: segmentation_deeplabv3(40, 3), lambda: DeepLabV3Plus(CHANNELS, STRIDES, 3)])
def test_atrous_pooling_trains_with_batch_size_1(make):
    head = make().train()
    features = pyramid(batch=1)
    head(features[-1] if isinstance(head, torch.nn.Sequential) else features).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())


def test_batch_size_1_uses_and_keeps_the_running_statistics():
    norm, reference = PooledBatchNorm2d(4), torch.nn.BatchNorm2d(4).eval()
    norm(torch.randn(5, 4, 1, 1))
    reference.load_state_dict(norm.state_dict())
    single = torch.randn(1, 4, 1, 1)
    torch.testing.assert_close(norm(single), reference(single))
    for name, value in reference.state_dict().items():
        assert torch.equal(norm.state_dict()[name], value)


# Reference implementations of the other heads with functions on their weights.


class ByHand:
    """Apply the weights of a head with functions."""

    def __init__(self, head):
        self.weights = head.state_dict()

    def conv(self, name, x, **options):
        return F.conv2d(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"), **options)

    def norm_relu(self, name, x):
        mean, var, weight, bias = (
            self.weights[f"{name}.{key}"][:, None, None] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return ((x - mean) / (var + 1e-5).sqrt() * weight + bias).clamp(min=0)

    def block(self, name, x, **options):
        return self.norm_relu(f"{name}.1", self.conv(f"{name}.0", x, **options))

    def separable(self, name, x):
        return self.block(f"{name}.1", self.conv(f"{name}.0", x, padding=1, groups=x.shape[1]))


def up(x, like):
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)


def test_fpn_by_hand():
    head, features = randomised(FPNSegmentation(CHANNELS, STRIDES, 5)), pyramid()
    hand = ByHand(head)
    c4, c8, c16, c32 = (hand.block(f"laterals.{level}", features[level + 1]) for level in range(4))
    p16 = c16 + up(c32, c16)
    p8 = c8 + up(p16, c8)
    p4 = c4 + up(p8, c4)
    summed = sum(up(hand.separable(f"levels.{level}", p), p4) for level, p in enumerate((p4, p8, p16, c32)))
    torch.testing.assert_close(head(features), hand.conv("classifier", summed))
    assert head(features).shape == (2, 5, 16, 23)


def test_deeplabv3plus_by_hand():
    head, features = randomised(DeepLabV3Plus(CHANNELS, STRIDES, 5)), pyramid()
    hand, last = ByHand(head), features[-1]
    branches = [hand.block("pooling.convs.0", last)]
    branches += [
        hand.block(f"pooling.convs.{index}", last, padding=rate, dilation=rate)
        for index, rate in enumerate((6, 12, 18), start=1)
    ]
    pooled = hand.norm_relu("pooling.convs.4.2", hand.conv("pooling.convs.4.1", last.mean((2, 3), keepdim=True)))
    coarse = hand.block("pooling.project", torch.cat([*branches, pooled.expand_as(branches[0])], dim=1))
    fine = hand.block("reduce", features[1])
    refined = hand.separable("refine.1", hand.separable("refine.0", torch.cat([up(coarse, fine), fine], dim=1)))
    torch.testing.assert_close(head(features), hand.conv("classifier", refined))


def test_segformer_by_hand():
    head, features = randomised(SegFormerMLP(CHANNELS, STRIDES, 5)), pyramid()
    hand = ByHand(head)
    tokens = []
    for level, x in reversed(list(enumerate(features[1:]))):  # as in the paper: a linear layer on tokens
        weight, bias = hand.weights[f"linears.{level}.weight"][:, :, 0, 0], hand.weights[f"linears.{level}.bias"]
        linear = F.linear(x.flatten(2).transpose(1, 2), weight, bias).transpose(1, 2)
        tokens.append(up(linear.unflatten(2, x.shape[2:]), features[1]))
    expected = hand.conv("classifier.1", hand.block("fuse", torch.cat(tokens, dim=1)))
    torch.testing.assert_close(head(features), expected)


def test_tower_by_hand():
    head, features = randomised(TowerSegmentation(CHANNELS, STRIDES, 5)), pyramid()
    hand = ByHand(head)
    c8, c16, c32 = (hand.conv(f"tower.laterals.{level}", features[level + 2]) for level in range(3))
    x = hand.block("tower.smooth", c8 + up(c16 + up(c32, c16), c8), padding=1)
    for block in ("tower.blocks.0", "tower.blocks.1"):
        hidden = hand.block(f"{block}.0.blocks", x, padding=1)
        normed = F.batch_norm(
            hand.conv(f"{block}.0.blocks.3", hidden, padding=1),
            *(hand.weights[f"{block}.0.blocks.4.{key}"] for key in ("running_mean", "running_var", "weight", "bias")),
        )
        x = (x + normed).clamp(min=0)
    fine = hand.block("reduce", features[1])
    merged = torch.cat([up(hand.block("narrow", x), fine), fine], dim=1)
    refined = hand.block("refine.1", hand.block("refine.0", merged, padding=1), padding=1)
    torch.testing.assert_close(head(features), hand.conv("classifier", refined))
    assert head(features).shape == (2, 5, 16, 23)


def test_unet_by_hand():
    head, features = randomised(UNet(CHANNELS, STRIDES, 5)), pyramid()
    hand, x = ByHand(head), features[-1]
    for step, skip in enumerate(features[-2::-1]):
        rows = torch.arange(skip.shape[2]) * x.shape[2] // skip.shape[2]
        columns = torch.arange(skip.shape[3]) * x.shape[3] // skip.shape[3]
        x = torch.cat([x[:, :, rows][:, :, :, columns], skip], dim=1)
        x = hand.block(f"steps.{step}.second", hand.block(f"steps.{step}.first", x, padding=1), padding=1)
    torch.testing.assert_close(head(features), hand.conv("classifier", x))
    assert head(features).shape == (2, 5, 31, 45)


def halving_stages():
    """Create the stages of a backbone with strides 2 to 32 and `CHANNELS` channels."""
    pairs = itertools.pairwise((3, *CHANNELS))
    return torch.nn.ModuleList(torch.nn.Conv2d(c, d, 3, stride=2, padding=1) for c, d in pairs)


def test_the_steps_of_unet_are_the_second_list_of_a_residual():
    head, stages, image = randomised(UNet(CHANNELS, STRIDES, 5)), halving_stages(), torch.randn(2, 3, 61, 90)
    features = list(itertools.accumulate(stages, lambda x, stage: stage(x), initial=image))[1:]
    unet = torch.nn.Sequential(Residual([stages, head.steps]), head.classifier)
    torch.testing.assert_close(unet(image), head(features))


class OnStages(torch.nn.Module):
    def __init__(self, head):
        super().__init__()
        self.stages, self.head = halving_stages(), head

    def forward(self, image):
        features = []
        for stage in self.stages:
            features.append(stage(features[-1] if features else image))
        return self.head(features)


@pytest.mark.parametrize("make", HEADS)
def test_heads_are_one_graph_and_exported_with_a_dynamic_batch_height_and_width(make):
    torch.compiler.reset()
    model, image = OnStages(randomised(make(CHANNELS, STRIDES, 5))).eval(), torch.randn(2, 3, 70, 102)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(image), model(image))
    sizes = {0: torch.export.Dim("batch"), 2: torch.export.Dim("height", min=64), 3: torch.export.Dim("width", min=64)}
    program = torch.export.export(model, (image,), dynamic_shapes=(sizes,), strict=True).module()
    for shape in ((2, 3, 70, 102), (3, 3, 128, 65), (1, 3, 97, 224)):
        image = torch.randn(shape)
        torch.testing.assert_close(program(image), model(image))
    torch.compiler.reset()


@pytest.mark.parametrize("make", HEADS)
@pytest.mark.parametrize(
    ("strides", "sizes"),
    [
        ((7, 14), [(13, 18), (6, 9)]),
        ((12, 17), [(8, 10), (5, 7)]),
        ((16, 32, 64), [(6, 8), (3, 4), (1, 2)]),
        ((1, 2, 4, 8), [(40, 33), (20, 17), (10, 9), (5, 5)]),
        ((2, 4, 8), [(47, 63), (22, 30), (9, 13)]),  # as inception_v3, whose convolutions have no padding
        ((1, 2), [(9, 9), (5, 5)]),
    ],
    ids=str,
)
def test_heads_use_the_sizes_of_maps_and_train(make, strides, sizes):
    channels = CHANNELS[: len(strides)]
    head = make(channels, strides, 5)
    logits = head(maps(sizes, channels))
    assert tuple(logits.shape[2:]) in sizes[:-1]  # never at the coarsest
    logits.square().mean().backward()
    used = [parameter for parameter in head.parameters() if parameter.grad is not None]
    assert len(used) == len(list(head.parameters()))
    assert all(parameter.grad.isfinite().all() for parameter in used)


def test_the_default_head_is_light():
    head = FPNSegmentation((64, 64, 128, 256, 512), STRIDES, 21)  # on a resnet18
    assert 1e5 < sum(parameter.numel() for parameter in head.parameters()) < 3e5
