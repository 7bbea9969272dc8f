"""A brick that draws: batched values are unpacked, and a function draws one image at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from brickyard.core.brick import InputNames, Tags
from brickyard.core.compiling import not_compiled
from brickyard.core.conversions import unpack_batched_array_to_arrays, unpack_batched_tensor_to_numpy_format
from brickyard.core.modules import BrickModule
from brickyard.core.tags import Tag
from brickyard.errors import BrickInputError, UnsafeBrickError

Unpack = Callable[[Any], Any]

UNPACK_TENSORS_TO_NDARRAYS: dict[type, Unpack | None] = {
    torch.Tensor: unpack_batched_tensor_to_numpy_format,  # (B, C, H, W) -> B arrays (H, W, C)
    np.ndarray: unpack_batched_array_to_arrays,
}
UNPACK_NO_CONVERSION: dict[type, Unpack | None] = {
    torch.Tensor: list,  # (B, C, H, W) -> B tensors (C, H, W)
    np.ndarray: unpack_batched_array_to_arrays,
}


class BrickPerImageVisualization(BrickModule):
    """Call a drawing function for each image of a batch and collect the results in lists.

    Args:
        callable: Called with the values of `input_names` for one image: the item of each value that unpacks to a list,
            and any other value (a string, a dictionary) as it is.
        input_names: See `Brick`.
        output_names: See `Brick`; each value is a list with one item per image.
        unpack_functions_for_type: {type: function from a batched value to a list, or None to pass it as it is}; by
            default `UNPACK_TENSORS_TO_NDARRAYS`.
        tags: See `Brick`.
        unpack_functions_for_input_name: The same by input name; takes precedence over the type.
        group: See `Brick`.

    Raises:
        BrickInputError: An unpack function for a name that is not an input. At the call: inputs of different batch
            sizes, or none that is a list.
    """

    style: ClassVar[dict[str, str]] = {"stroke-width": "0px", "fill": "#5C677D"}

    def __init__(
        self,
        callable: Callable[..., Any],
        input_names: InputNames,
        output_names: Sequence[str],
        unpack_functions_for_type: Mapping[type, Unpack | None] | None = None,
        tags: Tags = Tag.VISUALIZATION,
        unpack_functions_for_input_name: Mapping[str, Unpack | None] | None = None,
        group: Tags | None = None,
    ) -> None:
        super().__init__(
            callable, input_names, output_names, tags, calculate_gradients=False, trainable=False, group=group
        )
        by_type = UNPACK_TENSORS_TO_NDARRAYS if unpack_functions_for_type is None else unpack_functions_for_type
        by_name = unpack_functions_for_input_name or {}
        declared = list(input_names.values()) if isinstance(input_names, Mapping) else list(input_names)
        unknown = sorted(set(by_name) - set(declared))
        if unknown:
            raise BrickInputError(type(self).__name__, f"unpack functions for some of {declared}", f"{unknown}")
        self._unpack_by_type = dict(by_type)
        self._unpack_by_position = {index: by_name[name] for index, name in enumerate(declared) if name in by_name}

    @property
    def settings(self) -> dict[str, Any]:
        if self._unpack_by_position or self._unpack_by_type != UNPACK_TENSORS_TO_NDARRAYS:
            raise UnsafeBrickError(
                f"Brick '{self.path}' has custom unpack functions, which cannot be stored: files contain no code."
            )
        return self._names_and_tags()

    @property
    def callable(self) -> Callable[..., Any]:
        """The function that draws one image."""
        return self.model

    @not_compiled("images are drawn in Python: leave the VISUALIZATION tag out for fullgraph=True")
    @torch.no_grad()
    def forward(self, named_inputs: dict[str, Any]) -> dict[str, Any]:
        return self._named(self._call(self._draw_each, named_inputs))

    def _draw_each(self, *args: Any, **kwargs: Any) -> tuple[list[Any], ...]:
        values = [self._unpacked(index, value) for index, value in enumerate((*args, *kwargs.values()))]
        size = self._batch_size(values)
        drawn: list[list[Any]] = [[] for _ in self.writes]
        for image in range(size):
            per_image = [value[image] if isinstance(value, (list, tuple)) else value for value in values]
            outputs = self.callable(*per_image[: len(args)], **dict(zip(kwargs, per_image[len(args) :], strict=True)))
            for items, item in zip(drawn, self._named(outputs).values(), strict=True):
                items.append(item)
        return tuple(drawn)

    def _unpacked(self, index: int, value: Any) -> Any:
        unpack = self._unpack_by_position.get(index, self._unpack_by_type.get(type(value)))
        return value if unpack is None else unpack(value)

    def _batch_size(self, values: list[Any]) -> int:
        sizes = {
            name: len(value)
            for name, value in zip(self._read_names, values, strict=True)
            if isinstance(value, (list, tuple))
        }
        if not sizes:
            found = "Can not estimate batch size from these inputs: none unpacks to a list"
            raise BrickInputError(f"brick '{self.path}'", "at least one input with one item per image", found)
        if len(set(sizes.values())) > 1:
            found = f"{sizes}. Batch size is not the same for all inputs"
            raise BrickInputError(f"brick '{self.path}'", "inputs of one batch size", found)
        return next(iter(sizes.values()))
