"""A data set with one of its labels, under the name of the head that reads it."""

from __future__ import annotations

from typing import Any, final

from torch.utils.data import Dataset

from brickyard.data.dataset import LabelledDataset
from brickyard.data.label_kinds import TARGETS
from brickyard.errors import UnknownNameError


@final
class OneLabel(Dataset[dict[str, Any]]):
    """A data set whose samples have one label only.

    Args:
        data: The data set.
        label: The label to keep.
        head: The name that it gets: `targets/<label>` becomes `targets/<head>`.

    Raises:
        UnknownNameError: The data has no such label.
    """

    def __init__(self, data: LabelledDataset, label: str, head: str) -> None:
        if label not in data.labels:
            raise UnknownNameError("label", label, data.labels)
        self.data, self._label, self._head = data, label, head
        self.labels = {head: data.labels[label]}
        self.kinds = {new: kind for name, kind in data.kinds.items() if (new := self._renamed(name)) is not None}

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = {}
        for name, value in self.data[index].items():
            if not name.startswith(TARGETS):
                sample[name] = value
            elif (new := self._renamed(name.removeprefix(TARGETS))) is not None:
                sample[f"{TARGETS}{new}"] = value
        return sample

    def _renamed(self, name: str) -> str | None:
        """Return the name of the label, or of a part of it such as `age/years`, under the head; None for another."""
        first, slash, rest = name.partition("/")
        return f"{self._head}{slash}{rest}" if first == self._label else None
