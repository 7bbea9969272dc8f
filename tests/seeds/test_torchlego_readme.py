"""The README of torchlego, snippet by snippet, as it is printed there, but for the name of the package.

What it prints is compared as it stands; where that is of random numbers, with torchvision or a U-Net of no blocks.
"""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
import torchvision
from torch import nn
from torch.nn import SELU

from brickyard.parts.blocks import (
    Cat,
    Lambda,
    Residual,
    ResidualAdd,
    conv1x1,
    conv3x3,
    conv3x3_bn,
    conv3x3_bn_act,
    conv_bn,
)

CONV_BN = """\
Sequential(
  (0): Conv2d(32, 64, kernel_size=(3, 3), stride=(1, 1))
  (1): BatchNorm2d(64, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
)"""
CONV_BN_ACT = """\
Sequential(
  (0): Conv2d(32, 64, kernel_size=(3, 3), stride=(1, 1))
  (1): BatchNorm2d(64, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
  (2): ReLU()
)"""
CONV_BN_SELU = """\
Sequential(
  (0): Conv2d(32, 64, kernel_size=(3, 3), stride=(1, 1))
  (1): BatchNorm2d(64, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
  (2): SELU()
)"""
BASIC_BLOCK = """\
Sequential(
  (0): Residual(
    (blocks): ModuleList(
      (0): Sequential(
        (0): Sequential(
          (0): Conv2d(32, 64, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), bias=False)
          (1): BatchNorm2d(64, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
          (2): ReLU()
        )
        (1): Sequential(
          (0): Conv2d(64, 64, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)
          (1): BatchNorm2d(64, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
        )
      )
    )
    (shortcut): Sequential(
      (0): Conv2d(32, 64, kernel_size=(1, 1), stride=(2, 2), bias=False)
      (1): BatchNorm2d(64, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
    )
  )
  (1): ReLU()
)"""


def printed(module):
    """As the README's version of torch prints it; a newer one tells more of a batch norm."""
    return str(module).replace("affine=True, bias=True, track", "affine=True, track")


def test_convs():
    assert str(conv3x3(32, 64)) == "Conv2d(32, 64, kernel_size=(3, 3), stride=(1, 1))"
    assert str(conv1x1(32, 64)) == "Conv2d(32, 64, kernel_size=(1, 1), stride=(1, 1))"
    assert printed(conv3x3_bn(32, 64)) == CONV_BN
    assert printed(conv3x3_bn_act(32, 64)) == CONV_BN_ACT


def test_you_can_always_pass_your_own_activation_function():
    assert printed(conv3x3_bn_act(32, 64, act=SELU)) == CONV_BN_SELU


def test_cat():
    blocks = [Lambda(lambda x: x), Lambda(lambda x: x)]

    assert str(Cat(blocks)(torch.tensor([1]))) == "tensor([1, 1])"


def test_residual_and_shortcut():
    x = torch.tensor([1])
    block = Lambda(lambda x: x)

    res = Residual(block, res_func=lambda x, res: x + res)
    assert str(res(x)) == "tensor([2])"

    res = Residual(block, res_func=lambda x, res: x + res, shortcut=lambda x: x * 2)
    assert str(res(x)) == "tensor([3])"


def test_without_res_func_the_residual_is_passed_as_second_parameter():
    res = Residual(Lambda(lambda x, res: 10 * x + res), shortcut=lambda x: x * 2)
    assert str(res(torch.tensor([1]))) == "tensor([12])"


class A(nn.ModuleList):
    def forward(self, x):
        return x + 1


def test_multiple_level_residuals():
    class B(nn.ModuleList):
        def forward(self, x, res):
            return x + res

    x = torch.tensor([1])
    down = nn.ModuleList([A(), A()])
    up = nn.ModuleList([B(), B()])
    res = Residual([down, up])
    assert str(res(x)) == "tensor([8])"


def test_only_the_first_n_residuals_are_passed():
    class B(nn.ModuleList):
        def forward(self, x, res=None):
            x = x if res is None else x + res
            return x  # noqa: RET504

    x = torch.tensor([1])
    down = nn.ModuleList([A(), A()])
    up = nn.ModuleList([B()])
    res = Residual([down, up])
    assert str(res(x)) == "tensor([5])"


def test_addition():
    layer = ResidualAdd([Lambda(lambda x: x)])
    assert str(layer(torch.tensor([1]))) == "tensor([2])"


def test_addition_a_more_complete_example():
    x = torch.rand((1, 64, 8, 8))

    block = nn.Sequential(conv3x3_bn_act(64, 64, padding=1))

    layer = ResidualAdd([block])
    with torch.no_grad():
        torch.testing.assert_close(layer(x), block(x) + x)
    assert len(list(layer.parameters())) == 4


def test_you_can_pass_multiple_blocks():
    blocks = [Lambda(lambda x: x), Lambda(lambda x: x)]
    layer = ResidualAdd(blocks)
    assert str(layer(torch.tensor(1))) == "tensor(4)"


def resnet_basic_block(in_features, out_features):
    shortbut = (
        conv_bn(in_features, out_features, kernel_size=1, stride=2, bias=False)
        if in_features != out_features
        else nn.Identity()
    )
    stride = 2 if in_features != out_features else 1
    return nn.Sequential(
        ResidualAdd(
            nn.ModuleList(
                [
                    nn.Sequential(
                        conv3x3_bn_act(in_features, out_features, stride=stride, padding=1, bias=False),
                        conv3x3_bn(out_features, out_features, padding=1, bias=False),
                    )
                ]
            ),
            shortcut=shortbut,
        ),
        nn.ReLU(),
    )


def test_a_basic_resnet_block():
    assert printed(resnet_basic_block(32, 64)) == BASIC_BLOCK


def resnet(in_features, n_classes, sizes):
    return nn.Sequential(
        nn.Conv2d(in_features, 64, kernel_size=7, stride=2, padding=3),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
        nn.Sequential(*[resnet_basic_block(64, 64) for _ in range(sizes[0])]),
        resnet_basic_block(64, 128),
        nn.Sequential(*[resnet_basic_block(128, 128) for _ in range(sizes[1] - 1)]),
        resnet_basic_block(128, 256),
        nn.Sequential(*[resnet_basic_block(256, 256) for _ in range(sizes[2] - 1)]),
        resnet_basic_block(256, 512),
        nn.Sequential(*[resnet_basic_block(512, 512) for _ in range(sizes[3] - 1)]),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(512, n_classes),
    )


@pytest.mark.parametrize("training", [True, False])
def test_the_resnet34_is_torchvisions(training):
    x = torch.rand((1, 3, 224, 244))

    resnet34 = resnet(3, 1000, [3, 4, 6, 3]).train(training)
    with torch.no_grad():
        resnet34[0].bias.zero_()  # torchvision has none
        assert str(resnet34(x).shape) == "torch.Size([1, 1000])"

    reference = torchvision.models.resnet34(weights=None).train(training)
    weights = [value for name, value in resnet34.state_dict().items() if name != "0.bias"]
    reference.load_state_dict(dict(zip(reference.state_dict(), weights, strict=True)))
    with torch.no_grad():
        torch.testing.assert_close(resnet34(x), reference(x))


down = lambda in_features, out_features: nn.Sequential(  # noqa: E731
    nn.MaxPool2d(kernel_size=2, stride=2),
    conv3x3_bn_act(in_features, out_features, padding=1),
    conv3x3_bn_act(out_features, out_features, padding=1),
)


class up(nn.Module):  # noqa: N801
    def __init__(self, in_features, out_features, should_up=True, *args, **kwargs):
        super().__init__()
        self.up = nn.ConvTranspose2d(in_features, out_features, kernel_size=2, stride=2)
        self.should_up = should_up
        self.blocks = nn.Sequential(
            conv3x3(out_features * 2, out_features, padding=1),
            conv3x3(out_features, out_features, padding=1),
        )

    def forward(self, x, res):
        if self.should_up:
            x = self.up(x)

        diffX = x.size()[2] - res.size()[2]
        diffY = x.size()[3] - res.size()[3]
        pad = (diffX // 2, int(diffX / 2), diffY // 2, int(diffY / 2))
        res = F.pad(res, pad)

        x = torch.cat([res, x], dim=1)
        out = self.blocks(x)
        return out  # noqa: RET504


def test_unet():
    unet = nn.Sequential(
        Residual(
            [
                nn.ModuleList(
                    [
                        nn.Sequential(conv3x3_bn_act(3, 64), conv3x3_bn_act(64, 64)),
                        down(64, 128),
                        down(128, 256),
                        down(256, 512),
                        down(512, 1024),
                    ]
                ),
                nn.ModuleList(
                    [
                        up(512 * 2, 512),
                        up(256 * 2, 256),
                        up(128 * 2, 128),
                        up(64 * 2, 64),
                    ]
                ),
            ]
        ),
        conv1x1(64, 2),
    )

    x = torch.rand((1, 3, 256, 256))

    with torch.no_grad():
        found = unet.eval()(x)
    # 256 - 2 - 2 without padding, halved to 126, 63, 31 and 15, then 15 doubled four times.
    assert found.shape == (1, 2, 240, 240)

    (d1, d2, d3, d4, d5), (u4, u3, u2, u1) = unet[0].blocks
    with torch.no_grad():
        x1 = d1(x)
        x2 = d2(x1)
        x3 = d3(x2)
        x4 = d4(x3)
        expected = unet[1](u1(u2(u3(u4(d5(x4), x4), x3), x2), x1))
    torch.testing.assert_close(found, expected)
