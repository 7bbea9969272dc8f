"""Check that labels have the types that a task declares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from brickyard.errors import BrickInputError


@final
class CheckLabels(nn.Module):
    """Check the types of labels and return them as a dictionary.

    Args:
        kinds: The accepted types of each label, of "bool", "int", "float" and "str", in the order of the inputs.

    Shape: for each label a tensor (B, ...) or a sequence of B values -> {label: value}.

    Raises:
        BrickInputError: In `forward`, if a label has another type. Integers are not accepted as "float".

    Example:
        >>> check = CheckLabels({"age": ["int", "float"]})
        >>> check([31, 45])
        {'age': [31, 45]}
    """

    def __init__(self, kinds: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        self.kinds = {label: tuple(types) for label, types in kinds.items()}

    def forward(self, *values: Any) -> dict[str, Any]:
        labels = dict(zip(self.kinds, values, strict=True))
        for label, value in labels.items():
            unexpected = sorted(_types_of(value) - set(self.kinds[label]))
            if unexpected:
                expected = f"'{label}' of type {' or '.join(self.kinds[label])}"
                raise BrickInputError(type(self).__name__, expected, " and ".join(unexpected))
        return labels


def _types_of(value: Any) -> set[str]:
    if isinstance(value, Tensor):
        is_float = value.is_floating_point() or value.is_complex()
        return {"bool" if value.dtype == torch.bool else "float" if is_float else "int"}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return {"str" if isinstance(item, str) else type(item).__name__ for item in value}
    return {f"a single {type(value).__name__} instead of one value per image"}
