import copy
import pickle
from functools import partial

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from torch import nn
from torchvision.models.resnet import Bottleneck
from torchvision.models.squeezenet import Fire

from brickyard import BrickInputError
from brickyard.parts.blocks import (
    Cat,
    Lambda,
    Residual,
    ResidualAdd,
    ResidualCat,
    ResidualCat2d,
    conv1x1,
    conv1x1_bn,
    conv1x1_bn_act,
    conv3x3,
    conv3x3_bn,
    conv3x3_bn_act,
    conv_bn,
    conv_bn_act,
)


@pytest.fixture
def x():
    return torch.randn(2, 4, 9, 7)


def with_weights_of(reference, module):
    """Randomise the batch norms of the reference and load its weights, in order, into the module."""
    for norm in reference.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
                tensor.uniform_(0.5, 1.5)
    module.load_state_dict(dict(zip(module.state_dict(), reference.state_dict().values(), strict=True)))
    return module.train(reference.training)


@pytest.mark.parametrize(
    ("make", "size"),
    [(conv_bn, 5), (conv1x1_bn, 1), (conv3x3_bn, 3), (conv_bn_act, 5), (conv1x1_bn_act, 1), (conv3x3_bn_act, 3)],
)
@pytest.mark.parametrize(
    "options", [{}, {"stride": 2, "padding": 1, "bias": False, "groups": 2, "dilation": 1}], ids=str
)
def test_blocks_are_convolution_batch_norm_and_activation(make, size, options, x):
    has_act = make in (conv_bn_act, conv1x1_bn_act, conv3x3_bn_act)
    layers = [nn.Conv2d(4, 6, size, **options), nn.BatchNorm2d(6), *([nn.ELU()] if has_act else [])]
    reference = nn.Sequential(*layers)
    kernel = {"kernel_size": size} if make in (conv_bn, conv_bn_act) else {}
    block = with_weights_of(reference, make(4, 6, **kernel, **options, **({"act": nn.ELU} if has_act else {})))
    assert str(block) == str(reference)
    torch.testing.assert_close(block(x), reference(x))


def test_plain_convolutions_are_torchs():
    assert str(conv1x1(4, 6, bias=False)) == str(nn.Conv2d(4, 6, 1, bias=False))
    assert str(conv3x3(4, 6, padding=2, dilation=2)) == str(nn.Conv2d(4, 6, 3, padding=2, dilation=2))


def test_blocks_do_not_share_activations():
    for act in (nn.ReLU, nn.PReLU, partial(nn.LeakyReLU, 0.3)):
        first, second = (conv3x3_bn_act(4, 4, act=act)[2] for _ in range(2))
        assert first is not second
        assert str(first) == str(act())
    assert conv_bn_act(4, 4, 1)[2] is not conv_bn_act(4, 4, 1)[2]


@pytest.mark.parametrize("act", [nn.ReLU(), None, torch.relu, "relu"])
def test_an_activation_instead_of_its_class_is_refused(act):
    with pytest.raises(BrickInputError) as caught:
        conv3x3_bn_act(4, 4, act=act)
    assert f"conv_bn_act: expected a class such as nn.ReLU as `act`, found {act!r}. " in str(caught.value)


def test_a_lambda_shows_its_function_and_takes_several_values():
    assert str(Lambda(torch.add)) == "Lambda(add)"
    assert Lambda(torch.add)(torch.tensor(2), torch.tensor(3)) == 5
    assert Lambda(partial(torch.mul, 3))(torch.tensor(2)) == 6


@pytest.mark.parametrize("value", [nn.ReLU, 3, None])
def test_a_lambda_of_something_else_than_a_function_is_refused(value):
    with pytest.raises(BrickInputError, match="Lambda: expected a function, found"):
        Lambda(value)


def test_cat_of_two_branches_equals_torchvisions_fire(x):
    reference = Fire(4, 3, 5, 6)
    branches = [nn.Sequential(conv1x1(3, 5), nn.ReLU()), nn.Sequential(conv3x3(3, 6, padding=1), nn.ReLU())]
    block = with_weights_of(reference, nn.Sequential(conv1x1(4, 3), nn.ReLU(), Cat(branches)))
    torch.testing.assert_close(block(x), reference(x))


def test_cat_concatenates_channels_or_the_given_dimension():
    twice = [nn.Identity(), nn.Identity()]
    for shape, expected in (((5,), (10,)), ((3, 5), (3, 10)), ((3, 5, 2), (3, 10, 2)), ((3, 5, 2, 2), (3, 10, 2, 2))):
        assert Cat(twice)(torch.zeros(shape)).shape == expected
    assert Cat(twice, dim=-1)(torch.zeros(3, 5, 2)).shape == (3, 5, 4)
    assert Cat(nn.ModuleList(twice), dim=0)(torch.zeros(3, 5, 2)).shape == (6, 5, 2)


def test_cat_of_different_sizes_names_both_shapes(x):
    cat = Cat([nn.Identity(), conv3x3(4, 8)])
    expected = r"Cat: expected values of the same shape except for dimension 1, found \(2, 4, 9, 7\) and \(2, 8, 7, 5\)"
    with pytest.raises(BrickInputError, match=expected):
        cat(x)
    with pytest.raises(BrickInputError, match=r"\(2, 4, 9, 7\) and \(2, 4, 9\)"):
        Cat([nn.Identity(), Lambda(lambda x: x[..., 0])])(x)


@pytest.mark.parametrize("training", [True, False])
def test_a_residual_with_a_shortcut_equals_torchvisions_bottleneck(training, x):
    downsample = nn.Sequential(nn.Conv2d(4, 12, 1, stride=2, bias=False), nn.BatchNorm2d(12))
    reference = Bottleneck(4, 3, stride=2, downsample=downsample).train(training)
    bare = Bottleneck(12, 3).train(training)
    first, second = (
        nn.Sequential(
            conv1x1_bn_act(channels, 3, bias=False),
            conv3x3_bn_act(3, 3, stride=stride, padding=1, bias=False),
            conv1x1_bn(3, 12, bias=False),
        )
        for channels, stride in ((4, 2), (12, 1))
    )
    with_shortcut = with_weights_of(reference, ResidualAdd(first, shortcut=conv1x1_bn(4, 12, stride=2, bias=False)))
    without = with_weights_of(bare, ResidualAdd([second]))
    # Bottleneck's expansion is 4: 3 -> 12.
    block = nn.Sequential(with_shortcut, nn.ReLU(), without, nn.ReLU())
    torch.testing.assert_close(block(x), bare(reference(x)))


def test_a_list_runs_in_sequence_with_inputs_as_residuals(x):
    one, two = conv3x3(4, 4, padding=1), conv3x3(4, 4, padding=1)
    halfway = one(x) - x / 2
    expected = two(halfway) - halfway / 2
    for blocks in ([one, two], (one, two), nn.ModuleList([one, two])):
        torch.testing.assert_close(Residual(blocks, torch.sub, shortcut=lambda x: x / 2)(x), expected)


def test_without_res_func_blocks_are_called_with_input_and_residual(x):
    block = nn.Bilinear(7, 7, 7)
    torch.testing.assert_close(
        Residual([block, block], shortcut=torch.relu)(x), block(b := block(x, x.relu()), b.relu())
    )


def test_output_and_residual_are_concatenated_in_this_order(x):
    block = conv3x3(4, 6, padding=1)
    expected = torch.cat([block(x), x], dim=1)
    torch.testing.assert_close(ResidualCat2d(block)(x), expected)
    torch.testing.assert_close(ResidualCat(block)(x), expected)
    torch.testing.assert_close(ResidualCat(nn.Tanh(), dim=-1)(x), torch.cat([x.tanh(), x], dim=3))
    torch.testing.assert_close(ResidualCat([nn.Tanh(), nn.Tanh()])(x[0, 0, 0]).shape, torch.Size([28]))


def test_the_second_list_has_the_outputs_of_the_first_in_reverse():
    pool, grow, x = nn.AvgPool2d(2), nn.Upsample(scale_factor=2), torch.randn(2, 4, 16, 24)
    half, quarter, eighth = pool(x), pool(pool(x)), pool(pool(pool(x)))
    hourglass = ResidualAdd([[pool, pool, pool], [grow, grow]], shortcut=torch.tanh)
    torch.testing.assert_close(hourglass(x), grow(grow(eighth) + quarter.tanh()) + half.tanh())


def test_a_third_list_has_the_outputs_of_the_second():
    plus, join = Lambda(lambda x: x + 1), Lambda(lambda x, residual: 10 * x + residual)
    assert Residual([[plus, plus], [join, join]])(torch.tensor(1)) == 332  # 2, 3; 33 with 3, 332 with 2
    assert Residual([[plus, plus], [join, join], [join]])(torch.tensor(1)) == 3353  # with 33


def test_modules_of_lists_are_registered_and_the_lists_unchanged():
    down, up = [conv3x3(4, 4), conv3x3(4, 4)], [conv3x3(4, 4)]
    blocks = [down, up]
    for make in (lambda: Residual(blocks), lambda: ResidualAdd([*down, *up]), lambda: Cat((*down, *up))):
        module = make()
        assert {id(parameter) for parameter in module.parameters()} == {
            id(parameter) for conv in (*down, *up) for parameter in conv.parameters()
        }
        assert all(name.startswith("blocks.") for name in module.state_dict())
    assert blocks == [down, up]
    assert (len(down), len(up)) == (2, 1)


def test_shortcuts_are_not_shared():
    first, second = Residual(nn.Tanh()), ResidualAdd(nn.Tanh())
    assert first.shortcut is not second.shortcut


def test_adding_different_shapes_is_refused(x):
    expected = r"expected a block's output and its residual of the same shape, found \(2, 6, 9, 7\) and \(2, 4, 9, 7\)"
    expected = f"ResidualAdd: {expected}"
    with pytest.raises(BrickInputError, match=expected):
        ResidualAdd(conv1x1(4, 6))(x)
    with pytest.raises(BrickInputError, match=r"found \(2, 4, 1, 1\) and \(2, 4, 9, 7\)"):
        ResidualAdd([nn.Tanh(), nn.AdaptiveAvgPool2d(1)])(x)


@pytest.mark.parametrize(("make", "name"), [(ResidualCat, "ResidualCat"), (ResidualCat2d, "ResidualCat2d")])
def test_concatenating_different_sizes_is_refused(make, name, x):
    expected = (
        rf"{name}: expected values of the same shape except for dimension 1, found \(2, 6, 7, 5\) and \(2, 4, 9, 7\)"
    )
    with pytest.raises(BrickInputError, match=expected):
        make(conv3x3(4, 6))(x)


@pytest.mark.parametrize(
    ("blocks", "found"),
    [
        (torch.tanh, "['builtin_function_or_method']"),
        (nn.Tanh, "['type']"),
        ([], "[]"),
        ([nn.Tanh(), None], "['Tanh', 'NoneType']"),
        ([[nn.Tanh()], nn.Tanh()], "Tanh"),
        ([[nn.Tanh()], []], "[]"),
        ([[nn.Tanh()], [[nn.Tanh()]]], "['list']"),
    ],
)
def test_other_values_than_blocks_are_refused(blocks, found):
    with pytest.raises(BrickInputError) as caught:
        Residual(blocks)
    assert f"Residual: expected one module or more, found {found}. " in str(caught.value)


@pytest.mark.parametrize("blocks", [nn.Tanh(), [], [torch.tanh]])
def test_cat_of_something_else_than_a_list_of_modules_is_refused(blocks):
    with pytest.raises(BrickInputError, match="Cat: expected one module or more, found"):
        Cat(blocks)


@pytest.mark.parametrize("lengths", [(1,), (1, 2), (2, 1, 2)])
def test_a_list_longer_than_the_one_before_is_refused(lengths):
    with pytest.raises(BrickInputError) as caught:
        Residual([[nn.Tanh() for _ in range(length)] for length in lengths])
    assert f"none longer than the one before, found lengths {[*lengths]}" in str(caught.value)


class Up(nn.Module):
    """A step of a U-Net's decoder, for any size."""

    def __init__(self, channels):
        super().__init__()
        self.conv = conv3x3_bn_act(3 * channels, channels, padding=1)

    def forward(self, x, residual):
        return self.conv(torch.cat([F.interpolate(x, residual.shape[2:]), residual], dim=1))


def network():
    """Create a network with every kind of block: a stem of two branches, residual blocks, a small U-Net."""
    down = [
        conv3x3_bn_act(8, 4, padding=1),
        nn.Sequential(nn.MaxPool2d(2), conv3x3_bn_act(4, 8, padding=1)),
        nn.Sequential(nn.MaxPool2d(2), conv3x3_bn_act(8, 16, padding=1)),
    ]
    return nn.Sequential(
        Cat([conv1x1_bn(3, 2), conv3x3_bn(3, 2, padding=1)]),
        ResidualAdd(conv3x3_bn(4, 4, stride=2, padding=1), shortcut=conv1x1_bn(4, 4, stride=2)),
        ResidualCat2d([conv3x3_bn_act(4, 4, padding=1, act=nn.SiLU)]),
        Residual([down, nn.ModuleList([Up(8), Up(4)])]),
        ResidualCat([conv1x1(4, 2)], dim=-3),
    ).eval()


def test_blocks_are_copied_and_pickled():
    model, image = network(), torch.randn(2, 3, 21, 30)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(image), model(image))


def test_blocks_are_one_graph():
    torch.compiler.reset()
    model, image = network(), torch.randn(2, 3, 21, 30)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(image), model(image))
    torch.compiler.reset()


@pytest.mark.parametrize("strict", [True, False])
def test_blocks_are_exported_with_a_dynamic_batch_height_and_width(strict):
    model = network()
    # Before 2.13 torch derives too narrow a range for a named height or width and refuses it; DYNAMIC states none, and
    # still fails where a size becomes a constant.
    sizes = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    program = torch.export.export(model, (torch.randn(2, 3, 21, 30),), dynamic_shapes=(sizes,), strict=strict).module()
    for shape in ((2, 3, 21, 30), (3, 3, 24, 19), (1, 3, 65, 32)):
        image = torch.randn(shape)
        torch.testing.assert_close(program(image), model(image))
