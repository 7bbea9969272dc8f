"""Where the stored form of a brick is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

import torch


@final
@dataclass(frozen=True)
class Provenance:
    """The stored form that a brick was read from, or was last written as.

    Attributes:
        config: Its JSON.
        sha256: Of the bytes of that.
        uri: Where it is published, with its revision: `hf://user/repo@<commit>/seg/head` or `zoo://<model>/seg/head`;
            None for one in a folder.
        dtypes: The stored types of those tensors that the module holds in another, such as half precision.
        before: Its last published form, where it was changed since and saved in a folder.
    """

    config: Mapping[str, Any]
    sha256: str
    uri: str | None = None
    dtypes: Mapping[str, torch.dtype] = field(default_factory=dict)
    before: Provenance | None = None

    @property
    def weights(self) -> str | None:
        """The sha256 of its weights, None if it has none."""
        stored = self.config.get("weights")
        return stored["sha256"] if stored else None

    @property
    def published(self) -> Provenance | None:
        """The last form of it that is published, None if none ever was."""
        return self.before if self.uri is None else self

    @property
    def trained_on(self) -> Mapping[str, Any] | None:
        """What it needs of its backbone, with the sha256 of the one that it was trained on; None if it needs none."""
        needs: Mapping[str, Any] | None = (self.config.get("requires") or {}).get("backbone")
        return needs
