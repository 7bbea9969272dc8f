"""Whether labels are of the type that a task asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from brickyard.errors import BrickInputError


@final
class CheckLabels(nn.Module):
    """Refuse labels of another type than was declared.

    Args:
        kinds: For each label the names of its types, of "bool", "int", "float" and "str"; in the order of the inputs.

    Shape: one value a label, a tensor (B, ...) of numbers or a sequence of B -> all of them as {label: value}.

    Raises:
        BrickInputError: At the call: a label of another type; a whole number is no float unless "int" is there too.
    """

    def __init__(self, kinds: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        self.kinds = {label: tuple(each) for label, each in kinds.items()}

    def forward(self, *values: Any) -> dict[str, Any]:
        labels = dict(zip(self.kinds, values, strict=True))
        for label, value in labels.items():
            found = sorted(_kinds_of(value) - set(self.kinds[label]))
            if found:
                expected = f"'{label}' of type {' or '.join(self.kinds[label])}"
                raise BrickInputError(type(self).__name__, expected, " and ".join(found))
        return labels


def _kinds_of(value: Any) -> set[str]:
    if isinstance(value, Tensor):
        is_number = value.is_floating_point() or value.is_complex()
        return {"bool" if value.dtype == torch.bool else "float" if is_number else "int"}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return {"str" if isinstance(item, str) else type(item).__name__ for item in value}
    return {f"one {type(value).__name__} for all pictures"}
