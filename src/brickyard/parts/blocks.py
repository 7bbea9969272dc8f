"""Building blocks for networks: convolutions with batch norm and activation, and residual connections.

They are meant for the modules inside a brick. Connections between bricks need no blocks: several bricks may read the
same name.

Code that imports `torchlego` or `torchlego.blocks` can import `brickyard.parts.blocks` instead:

| torchlego                        | brickyard.parts.blocks |
|----------------------------------|---|
| `conv3x3`, `conv1x1`             | the same; options are those of `nn.Conv2d`, e.g. `padding=1` to keep the size |
| `conv_bn`, `conv3x3_bn_act`, ... | the same; use `bias=False`, because batch norm removes the bias |
| `act=SELU`                       | the same: a class, instantiated for each block |
| `Lambda(function)`               | the same |
| `Cat(blocks)`                    | concatenates channels, not the batch; `dim=` for another dimension |
| `Residual(block, res_func)`      | the same: `res_func(block(x), shortcut(x))`, without `res_func` `block(x, x)` |
| `Residual([block, block], ...)`  | runs the blocks in sequence, each with its input as residual |
| `Residual([down, up])`           | the same; `res_func` is applied to the output of each block of `up` |
| `ResidualAdd`                    | always adds; torchlego ignores the residual for an `nn.ModuleList` |
| `ResidualCat`                    | concatenates like `Cat` |
| `ResidualCat2d`                  | the same |

Lists may be Python lists or `nn.ModuleList`s; their modules are registered. `Cat`, `ResidualAdd`, `ResidualCat` and
`ResidualCat2d` raise BrickInputError with both shapes where these differ; a custom `res_func` is not checked.
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
    """Create a 1x1 convolution; `options` are those of `nn.Conv2d`."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=1, **options)


def conv3x3(in_channels: int, out_channels: int, **options: Any) -> nn.Conv2d:
    """Create a 3x3 convolution; `options` are those of `nn.Conv2d`. Pass `padding=1` to keep height and width."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, **options)


def conv_bn(in_channels: int, out_channels: int, kernel_size: int | tuple[int, int], **options: Any) -> nn.Sequential:
    """Create a convolution followed by batch norm; `options` are those of `nn.Conv2d`."""
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size, **options)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels))


def conv_bn_act(
    in_channels: int,
    out_channels: int,
    kernel_size: int | tuple[int, int],
    act: Callable[[], nn.Module] = nn.ReLU,
    **options: Any,
) -> nn.Sequential:
    """Create a convolution followed by batch norm and an activation.

    Args:
        in_channels: C.
        out_channels: D.
        kernel_size: Height and width of the kernel, or one number for both.
        act: The class of the activation, or a partial of it: `partial(nn.LeakyReLU, 0.1)`.
        **options: Further arguments of `nn.Conv2d`, e.g. `padding=1` or `bias=False`.

    Shape: (B, C, H, W) -> (B, D, h, w), with the output size of `nn.Conv2d`.

    Raises:
        BrickInputError: `act` is neither a class nor a partial.

    Example:
        >>> [type(layer).__name__ for layer in conv_bn_act(3, 8, 3, nn.SiLU, padding=1, bias=False)]
        ['Conv2d', 'BatchNorm2d', 'SiLU']
    """
    if not isinstance(act, (type, partial)):
        hint = "Pass arguments as partial(nn.LeakyReLU, 0.1); for no activation use conv_bn."
        raise BrickInputError("conv_bn_act", "a class such as nn.ReLU as `act`", f"{act!r}", hint)
    return conv_bn(in_channels, out_channels, kernel_size, **options).append(act())


def conv1x1_bn(in_channels: int, out_channels: int, **options: Any) -> nn.Sequential:
    """Create a `conv_bn` with kernel size 1."""
    return conv_bn(in_channels, out_channels, kernel_size=1, **options)


def conv3x3_bn(in_channels: int, out_channels: int, **options: Any) -> nn.Sequential:
    """Create a `conv_bn` with kernel size 3."""
    return conv_bn(in_channels, out_channels, kernel_size=3, **options)


def conv1x1_bn_act(in_channels: int, out_channels: int, **options: Any) -> nn.Sequential:
    """Create a `conv_bn_act` with kernel size 1; `options` include `act`."""
    return conv_bn_act(in_channels, out_channels, kernel_size=1, **options)


def conv3x3_bn_act(in_channels: int, out_channels: int, **options: Any) -> nn.Sequential:
    """Create a `conv_bn_act` with kernel size 3; `options` include `act`."""
    return conv_bn_act(in_channels, out_channels, kernel_size=3, **options)


@final
class Lambda(nn.Module):
    """Wrap a function as a module.

    Args:
        function: A function of one value or several. A module with a lambda expression cannot be pickled.

    Raises:
        BrickInputError: `function` is a class or not callable.

    Example:
        >>> Lambda(torch.sum)(torch.ones(2, 3))
        tensor(6.)
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
    """Run all blocks on the same input and concatenate their outputs.

    Args:
        blocks: At least one module.
        dim: The dimension to concatenate; by default the channels: dimension 1, or 0 for tensors of one dimension.

    Raises:
        BrickInputError: `blocks` is not a list of modules; in `forward`, if outputs differ in a dimension other than
            `dim`.

    Example:
        >>> Cat([conv1x1(3, 4), conv3x3(3, 8, padding=1)])(torch.zeros(2, 3, 5, 5)).shape
        torch.Size([2, 12, 5, 5])
    """

    def __init__(self, blocks: BlockList, dim: int | None = None) -> None:
        super().__init__()
        self.blocks = _registered(blocks, location="Cat")
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return _cat(*[block(x) for block in self.blocks], dim=self.dim, location="Cat")


@final
class Residual(nn.Module):
    """Combine the output of a block with a residual: its input, or the output of an earlier block.

    Args:
        blocks: One of
            - a block: the residual is its input;
            - a list of blocks, run in sequence: the residual of each is its input;
            - a list of lists of blocks, as in a U-Net: the blocks of the first list run in sequence, then those of the
              second list, with the outputs of the first as residuals, in reverse order. If the second list is shorter,
              the last outputs are not used (in a U-Net the deepest one, which is the second list's input). A third list
              has the outputs of the second as residuals, and so on.
        res_func: (output of a block, residual) -> output. If None, each block is called with (input, residual).
        shortcut: A module or function applied to all residuals; None for the identity.

    Raises:
        BrickInputError: `blocks` is none of these, or a list is longer than the one before.

    Example:
        >>> block = Residual(conv3x3(8, 8, padding=1), res_func=torch.add)
        >>> block(torch.zeros(1, 8, 4, 4)).shape
        torch.Size([1, 8, 4, 4])
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

    def _levels(self, x: Tensor, first: Iterable[nn.Module], *following: nn.ModuleList) -> Tensor:
        outputs = []
        for block in first:
            x = block(x)
            outputs.append(x)
        for blocks in following:
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
    """Create a `Residual` that adds; it never broadcasts, but raises BrickInputError for different shapes."""
    return Residual(blocks, _add, shortcut)


def ResidualCat(blocks: Blocks, shortcut: Shortcut | None = None, dim: int | None = None) -> Residual:  # noqa: N802
    """Create a `Residual` that concatenates a block's output and the residual as `Cat` does, with the same errors."""
    return Residual(blocks, partial(_cat, dim=dim, location="ResidualCat"), shortcut)


def ResidualCat2d(blocks: Blocks, shortcut: Shortcut | None = None) -> Residual:  # noqa: N802
    """Create a `ResidualCat` for the channels of feature maps (B, C, H, W)."""
    return Residual(blocks, partial(_cat, dim=1, location="ResidualCat2d"), shortcut)


def _add(output: Tensor, residual: Tensor) -> Tensor:
    if output.shape != residual.shape:
        raise _shape_error("ResidualAdd", "a block's output and its residual of the same shape", output, residual)
    return output + residual


def _cat(*values: Tensor, dim: int | None, location: str) -> Tensor:
    axis = min(1, values[0].ndim - 1) if dim is None else dim
    other_sizes = [[size for d, size in enumerate(value.shape) if d != axis % value.ndim] for value in values]
    for value, sizes in zip(values, other_sizes, strict=True):
        if sizes != other_sizes[0]:
            raise _shape_error(location, f"values of the same shape except for dimension {axis}", values[0], value)
    return torch.cat(values, axis)


def _shape_error(location: str, expected: str, first: Tensor, second: Tensor) -> BrickInputError:
    hint = "Check the channels, strides and padding of the blocks and the shortcut."
    return BrickInputError(location, expected, f"{tuple(first.shape)} and {tuple(second.shape)}", hint)


def _is_list(blocks: object) -> bool:
    """Whether this is a list of blocks. A subclass of ModuleList, which may define `forward`, is a block."""
    return isinstance(blocks, (list, tuple)) or type(blocks) is nn.ModuleList


def _registered(blocks: Any, location: str) -> nn.ModuleList:
    """Convert a list of modules to a ModuleList."""
    if not (
        _is_list(blocks) and blocks and all(isinstance(block, nn.Module) and not _is_list(block) for block in blocks)
    ):
        found = [type(block).__name__ for block in blocks] if _is_list(blocks) else type(blocks).__name__
        hint = "Wrap a function in Lambda(function), and a nested list in nn.Sequential(*list)."
        raise BrickInputError(location, "one module or more", f"{found}", hint)
    return nn.ModuleList(blocks)


def _registered_levels(blocks: Any) -> nn.Module:
    """Convert a list, or a list of lists, to (nested) ModuleLists; return a single block unchanged."""
    if not _is_list(blocks):
        return _registered([blocks], location="Residual")[0]
    if not any(_is_list(block) for block in blocks):
        return _registered(blocks, location="Residual")
    levels = [_registered(layers, location="Residual") for layers in blocks]
    lengths = [len(layers) for layers in levels]
    if len(levels) < 2 or lengths != sorted(lengths, reverse=True):
        expected = "at least two lists, none longer than the one before"
        raise BrickInputError(
            "Residual", expected, f"lengths {lengths}", "The outputs of a list are the residuals of the next."
        )
    return nn.ModuleList(levels)
