"""The description of a checkpoint that can be imported."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, final

from torch import Tensor

from brickyard.core.specs import ResizeMode


@final
@dataclass(frozen=True)
class Prefix:
    """Tensors of the checkpoint that belong to one brick.

    Attributes:
        source: The beginning of their names in the checkpoint.
        brick: The path of the brick, None for tensors that the model does not need.
        target: What replaces `source` in the state of the brick.
    """

    source: str
    brick: str | None
    target: str = ""


def _unchanged(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return dict(state)


@final
@dataclass(frozen=True)
class ImportEntry:
    """A checkpoint of another library: what it is, the model that it becomes, and which tensors go where.

    Attributes:
        source: The argument of `import_model`, `<library>:<model>`.
        name: The name of the model, with a weights tag.
        labels: The class names of each head.
        metrics: The metrics that the source states, of each head.
        licence: The licence of the weights, as the Hub spells it.
        url: The address of the checkpoint, whose file name ends with the beginning of its sha256.
        size: The bytes of the checkpoint, rounded.
        image_size: (H, W) in pixels of the images for the heads, None for those of the backbone.
        resize_mode: How images are brought to that size, None if that is unknown.
        prefixes: Which tensors go where; the first prefix that fits counts.
        in_chans: The number of channels of the image.
        options: Further arguments of `timm.create_model`.
        parts: Further arguments of parts, by the path of the brick.
        convert: From the state of the checkpoint to one whose tensors have the shapes of the bricks. It leaves tensors
            as they are that have not the expected shape, so that they are reported.
        sha256: The hash of the checkpoint, None if it is unknown or begins in the file name.
        backbone: The backbone, if the checkpoint has only heads: its `source` is a source for `load_brick`, and its
            `name` that of timm's model.
        combines: The entries whose heads the model has, if it has those of several checkpoints.
    """

    source: str
    name: str
    labels: Mapping[str, tuple[str, ...]]
    metrics: Mapping[str, Mapping[str, float]]
    licence: str
    url: str
    size: int
    image_size: tuple[int, int] | None
    resize_mode: ResizeMode | None
    prefixes: tuple[Prefix, ...]
    in_chans: int = 3
    options: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    convert: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = _unchanged
    sha256: str | None = None
    backbone: ImportEntry | None = None
    combines: tuple[ImportEntry, ...] = ()

    @property
    def weights_tag(self) -> str:
        """The weights tag in the name of the model."""
        return self.name.partition(".")[2]

    @property
    def file_name(self) -> str:
        """The file name of the checkpoint."""
        return PurePosixPath(self.url).name

    @property
    def hash_prefix(self) -> str | None:
        """The beginning of the sha256 of the checkpoint, or all of it; None if it is unknown."""
        if self.sha256 is not None:
            return self.sha256
        match = re.search(r"-([0-9a-f]{8,})\.", self.file_name)
        return match.group(1) if match else None

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the heads."""
        return tuple(self.labels)

    @property
    def checkpoints(self) -> tuple[ImportEntry, ...]:
        """The entries of the single checkpoints of the model's heads."""
        return self.combines or (self,)
