"""The stored form that a brick came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

import torch


@final
@dataclass(frozen=True)
class Provenance:
    """The stored form that a brick was loaded from or last written as.

    Attributes:
        config: The JSON values.
        sha256: The hash of the JSON file.
        uri: Where it is published, pinned: `hf://user/repo@<commit>/seg/head` or `zoo://<model>/seg/head`; None for a
            folder.
        dtypes: The stored dtypes of tensors that the module holds in another, such as float16.
        before: The last published form, if the brick was changed and saved in a folder since.
    """

    config: Mapping[str, Any]
    sha256: str
    uri: str | None = None
    dtypes: Mapping[str, torch.dtype] = field(default_factory=dict)
    before: Provenance | None = None

    @property
    def weights(self) -> str | None:
        """The sha256 of the weights, None without weights."""
        stored = self.config.get("weights")
        return stored["sha256"] if stored else None

    @property
    def published(self) -> Provenance | None:
        """The last published form, None if there is none."""
        return self.before if self.uri is None else self

    @property
    def trained_on(self) -> Mapping[str, Any] | None:
        """What it requires of a backbone, with the sha256 of the one it was trained on; None if it requires none."""
        needs: Mapping[str, Any] | None = (self.config.get("requires") or {}).get("backbone")
        return needs
