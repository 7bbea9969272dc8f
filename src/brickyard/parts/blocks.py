"""Blocks to build networks of: convolutions with what follows them, and residual connections.

They are for the inside of a brick. Between bricks no block is needed: a name that two bricks read is such a connection.

Coming from torchlego, `torchlego` and `torchlego.blocks` become `brickyard.parts.blocks`:

| torchlego                        | here |
|----------------------------------|---|
| `conv3x3`, `conv1x1`             | the same; options are those of `nn.Conv2d`, `padding=1` keeps the size |
| `conv_bn`, `conv3x3_bn_act`, ... | the same; `bias=False` leaves out a bias that batch norm takes away again |
| `act=SELU`                       | the same: a class, and each block makes an activation of its own |
| `Lambda(function)`               | the same |
| `Cat(blocks)`                    | joins channels, not the pictures of a batch; `dim=` for any other dimension |
| `Residual(block, res_func)`      | the same: `res_func(block(x), shortcut(x))`, without `res_func` `block(x, x)` |
| `Residual([block, block], ...)`  | one block after the other, each with its input as the residual |
| `Residual([down, up])`           | the same; a `res_func` is applied to the output of each layer of `up` |
| `ResidualAdd`                    | always adds; torchlego leaves the residual out of an `nn.ModuleList` |
| `ResidualCat`                    | joins like `Cat` |
| `ResidualCat2d`                  | the same |

A list may be a Python list or an `nn.ModuleList`, its modules are registered. `Cat`, `ResidualAdd`, `ResidualCat` and
`ResidualCat2d` raise BrickInputError with both shapes where these do not fit; a `res_func` of your own does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeAlias, final

import torch
from torch import Tensor, nn

from brickyard.errors import BrickInputError

BlockList: TypeAlias = Sequence[nn.Module] | nn.ModuleList
Blocks: TypeAlias = nn.Module | BlockList | Sequence[BlockList]
Shortcut: TypeAlias = nn.Module | Callable[[Tensor], Tensor]


def conv1x1(in_channels: int, out_channels: int, **options: Any) -> nn.Conv2d:
    """A 1x1 convolution; `options` are those of `nn.Conv2d`."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=1, **options)


def conv3x3(in_channels: int, out_channels: int, **options: Any) -> nn.Conv2d:
    """A 3x3 convolution; `options` are those of `nn.Conv2d`, without `padding=1` the map shrinks by 2."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, **options)


def conv_bn(in_channels: int, out_channels: int, kernel_size: int | tuple[int, int], **options: Any) -> nn.Sequential:
    """A convolution and batch norm; `options` are those of `nn.Conv2d`."""
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size, **options)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels))


def conv_bn_act(
    in_channels: int,
    out_channels: int,
    kernel_size: int | tuple[int, int],
    act: Callable[[], nn.Module] = nn.ReLU,
    **options: Any,
) -> nn.Sequential:
    """A convolution, batch norm and an activation; `options` are those of `nn.Conv2d`.

    Args:
        in_channels: C.
        out_channels: D.
        kernel_size: Of the convolution: height and width, or one number for both.
        act: The activation's class, or with arguments `partial(nn.LeakyReLU, 0.1)`: each block makes its own.
        **options: As `padding=1` or `bias=False`.

    Shape: (B, C, H, W) -> (B, D, h, w), sizes as `nn.Conv2d` has them.

    Raises:
        BrickInputError: `act` is none of these.
    """
    if not isinstance(act, (type, partial)):
        hint = "With arguments it is partial(nn.LeakyReLU, 0.1); a block without activation is conv_bn."
        raise BrickInputError("conv_bn_act", "as `act` a class such as nn.ReLU", f"{act!r}", hint)
    return conv_bn(in_channels, out_channels, kernel_size, **options).append(act())


def conv1x1_bn(in_channels: int, out_channels: int, **options: Any) -> nn.Sequential:
    """`conv_bn` of kernel size 1, with its options."""
    return conv_bn(in_channels, out_channels, kernel_size=1, **options)


def conv3x3_bn(in_channels: int, out_channels: int, **options: Any) -> nn.Sequential:
    """`conv_bn` of kernel size 3, with its options."""
    return conv_bn(in_channels, out_channels, kernel_size=3, **options)


def conv1x1_bn_act(in_channels: int, out_channels: int, **options: Any) -> nn.Sequential:
    """`conv_bn_act` of kernel size 1, with its options and its `act`."""
    return conv_bn_act(in_channels, out_channels, kernel_size=1, **options)


def conv3x3_bn_act(in_channels: int, out_channels: int, **options: Any) -> nn.Sequential:
    """`conv_bn_act` of kernel size 3, with its options and its `act`."""
    return conv_bn_act(in_channels, out_channels, kernel_size=3, **options)


@final
class Lambda(nn.Module):
    """A function as a module.

    Args:
        function: Of one value or several. With a lambda the module works, but cannot be pickled.

    Raises:
        BrickInputError: It is no function.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        if isinstance(function, type) or not callable(function):
            raise BrickInputError("Lambda", "a function", f"{function!r}")
        self.function = function

    def forward(self, *values: Any) -> Any:
        return self.function(*values)

    def extra_repr(self) -> str:
        return str(getattr(self.function, "__name__", self.function))


@final
class Cat(nn.Module):
    """Gives its input to every block and joins what they make.

    Args:
        blocks: At least one.
        dim: Where to join; by default the channels: dimension 1, or 0 of values that have no other.

    Raises:
        BrickInputError: `blocks` is no list of modules; in a call, two outputs differ in another dimension than `dim`.
    """

    def __init__(self, blocks: BlockList, dim: int | None = None) -> None:
        super().__init__()
        self.blocks = _registered(blocks, location="Cat")
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return _cat(*[block(x) for block in self.blocks], dim=self.dim, location="Cat")


@final
class Residual(nn.Module):
    """Puts together what a block makes and the residual: its input, or what was made further up.

    Args:
        blocks: One of
            - a block: the residual is its input;
            - a list of blocks, which run one after the other: the residual of each is its input;
            - a list of lists of blocks: those of the first list run one after the other, then those of the second, with
              the outputs of the first as residuals, in reverse. If the second list is shorter, the last outputs are
              left out, in a U-Net the deepest, which is its input. A third list has the second's outputs, and so on.
        res_func: (output of a block, residual) -> output. None to call each block with (input, residual) instead.
        shortcut: What residuals go through before, one module or function for all; None for nothing.

    Raises:
        BrickInputError: `blocks` is none of these, or has a list longer than the one before.
    """

    def __init__(
        self,
        blocks: Blocks,
        res_func: Callable[[Any, Any], Any] | None = None,
        shortcut: Shortcut | None = None,
    ) -> None:
        super().__init__()
        self.blocks = _registered_levels(blocks)
        self.res_func = res_func
        if shortcut is None:
            shortcut = nn.Identity()
        self.shortcut = shortcut if isinstance(shortcut, nn.Module) else Lambda(shortcut)

    def forward(self, x: Tensor) -> Tensor:
        if type(self.blocks) is not nn.ModuleList:
            return self._step(self.blocks, x, x)
        if type(self.blocks[0]) is nn.ModuleList:
            return self._levels(x, *self.blocks)
        for block in self.blocks:
            x = self._step(block, x, x)
        return x

    def _levels(self, x: Tensor, first: Iterable[nn.Module], *others: nn.ModuleList) -> Tensor:
        outputs = []
        for block in first:
            x = block(x)
            outputs.append(x)
        for blocks in others:
            residuals, outputs = outputs[: len(blocks)], []
            for block, residual in zip(blocks, reversed(residuals), strict=True):
                x = self._step(block, x, residual)
                outputs.append(x)
        return x

    def _step(self, block: nn.Module, x: Tensor, residual: Tensor) -> Tensor:
        residual = self.shortcut(residual)
        output: Tensor = block(x, residual) if self.res_func is None else self.res_func(block(x), residual)
        return output


def ResidualAdd(blocks: Blocks, shortcut: Shortcut | None = None) -> Residual:  # noqa: N802 - used like a class
    """A `Residual` that adds; in a call it raises BrickInputError for two shapes that differ, it never broadcasts."""
    return Residual(blocks, _add, shortcut)


def ResidualCat(blocks: Blocks, shortcut: Shortcut | None = None, dim: int | None = None) -> Residual:  # noqa: N802
    """A `Residual` that joins a block's output and the residual as `Cat` does, with the same errors."""
    return Residual(blocks, partial(_cat, dim=dim, location="ResidualCat"), shortcut)


def ResidualCat2d(blocks: Blocks, shortcut: Shortcut | None = None) -> Residual:  # noqa: N802
    """A `ResidualCat` of the channels of maps (B, C, H, W)."""
    return Residual(blocks, partial(_cat, dim=1, location="ResidualCat2d"), shortcut)


def _add(output: Tensor, residual: Tensor) -> Tensor:
    if output.shape != residual.shape:
        raise _misfit("ResidualAdd", "a block's output and its residual of one shape", output, residual)
    return output + residual


def _cat(*values: Tensor, dim: int | None, location: str) -> Tensor:
    axis = min(1, values[0].ndim - 1) if dim is None else dim
    others = [[size for at, size in enumerate(value.shape) if at != axis % value.ndim] for value in values]
    for value, sizes in zip(values, others, strict=True):
        if sizes != others[0]:
            raise _misfit(location, f"values of one shape but for dimension {axis}", values[0], value)
    return torch.cat(values, axis)


def _misfit(location: str, expected: str, first: Tensor, second: Tensor) -> BrickInputError:
    found = f"{tuple(first.shape)} and {tuple(second.shape)}"
    return BrickInputError(
        location, expected, found, "See to the blocks' channels, strides and padding, or the shortcut."
    )


def _is_list(blocks: object) -> bool:
    """Whether these are blocks, not one; a class made from ModuleList with a `forward` is one."""
    return isinstance(blocks, (list, tuple)) or type(blocks) is nn.ModuleList


def _registered(blocks: Any, location: str) -> nn.ModuleList:
    """The modules of a list."""
    if not (
        _is_list(blocks) and blocks and all(isinstance(block, nn.Module) and not _is_list(block) for block in blocks)
    ):
        found = [type(block).__name__ for block in blocks] if _is_list(blocks) else type(blocks).__name__
        hint = "A function becomes a module by Lambda(function), a list by nn.Sequential(*list)."
        raise BrickInputError(location, "at least one module, and modules only", f"{found}", hint)
    return nn.ModuleList(blocks)


def _registered_levels(blocks: Any) -> nn.Module:
    """A block as it is, a list or a list of lists as ModuleLists."""
    if not _is_list(blocks):
        return _registered([blocks], location="Residual")[0]
    if not any(_is_list(block) for block in blocks):
        return _registered(blocks, location="Residual")
    levels = [_registered(layers, location="Residual") for layers in blocks]
    lengths = [len(layers) for layers in levels]
    if len(levels) < 2 or lengths != sorted(lengths, reverse=True):
        expected = "at least two lists, none longer than the one before"
        raise BrickInputError("Residual", expected, f"lengths {lengths}", "A list's outputs are the next's residuals.")
    return nn.ModuleList(levels)
