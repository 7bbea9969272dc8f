"""Parts for reading a line of text: a head for CTC, encoding of texts, loss, decoding, metrics.

The method is that of CRNN (Shi et al. 2015, https://arxiv.org/abs/1507.05717): one prediction per column of a feature
map, trained by connectionist temporal classification (CTC, Graves et al. 2006, https://doi.org/10.1145/1143844.1143891).
The columns exchange information by the mixing blocks of SVTR (Du et al. 2022, https://arxiv.org/abs/2205.00159) instead
of a recurrent network.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, final

import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.functional.text import edit_distance

from brickyard.core.compiling import not_compiled
from brickyard.errors import BrickInputError
from brickyard.parts.blocks import conv1x1
from brickyard.parts.detection.points import levels_from
from brickyard.parts.losses import mean_over
from brickyard.parts.metric_state import BaseMetric, MetricState
from brickyard.parts.tower import PyramidTower

FINEST = 4  # the stride of the map whose columns are read
_BLANK = 0  # the class of no character in the logits; the characters follow
_HEADS = 4  # of the attention
_KERNEL = 7  # columns that local mixing sees; SVTR's windows are 11 columns of stride 4 to 16
_LOG_ZERO = -1e9  # instead of -inf, whose gradients would be nan
_MIN_PADDED = 8  # padded lengths are this times a power of two, so that a compiled loss has few different shapes


@final
class TextRecognizer(nn.Module):
    """Characters of each column of a feature map at stride 4, from a `PyramidTower`.

    A column is the mean of its cells, weighted by a learned softmax over the height, so that a line may be anywhere in
    the image. A local and a global mixing block follow, and a linear layer.

    Args:
        channels: The channels of the backbone's maps, fine to coarse.
        strides: The strides of the backbone's maps, increasing.
        num_classes: K, the number of characters.
        width: The channels of the tower and of the columns, divisible by 4.

    Shape: maps (B, C_i, H / s_i, W / s_i) -> logits (B, T, 1 + K), T the width of the finest map that is read: no
    character, then the K characters.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], num_classes: int, width: int = 48) -> None:
        super().__init__()
        self.levels = levels_from(strides, FINEST)
        self.tower = PyramidTower([channels[level] for level in self.levels], width, depth=1)
        self.row_weights = conv1x1(width, 1)
        self.local_mixing = LocalMixing(width)
        self.global_mixing = Block(width, num_heads=_HEADS, mlp_ratio=2.0, qkv_bias=True)
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, 1 + num_classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        cells = self.tower([features[level] for level in self.levels])
        columns = (cells * self.row_weights(cells).softmax(dim=2)).sum(dim=2).transpose(1, 2)  # (B, T, width)
        return self.classifier(self.norm(self.global_mixing(self.local_mixing(columns))))  # type: ignore[no-any-return]


@final
class LocalMixing(nn.Module):
    """Local mixing block: a depthwise convolution over neighbouring columns and a small MLP, with residual connections.

    SVTR mixes by attention within a window; a convolution also knows the order of the columns.

    Args:
        width: The channels.

    Shape: (B, T, width) -> (B, T, width).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mixing_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mixing = nn.Conv1d(width, width, _KERNEL, padding=_KERNEL // 2, groups=width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, columns: Tensor) -> Tensor:
        columns = columns + self.mixing(self.mixing_norm(columns).transpose(1, 2)).transpose(1, 2)
        return columns + self.mlp(self.mlp_norm(columns))  # type: ignore[no-any-return]


@final
class EncodeText(nn.Module):
    """Encode the texts of a batch as indices of characters.

    Texts are compared with the alphabet as they are: case matters, and Unicode is not normalised. The empty text is
    valid: an image without text.

    To compile a training step with `fullgraph=True`, encode before the step, as with `PadBoxes`: encoded texts are
    returned unchanged.

    Args:
        labels: The alphabet: the K characters, in the order of the classes.

    Example:
        >>> EncodeText(["a", "b"])(["ab", ""], logits=torch.zeros(2, 5, 3))[:, :3].tolist()
        [[0, 1, -1], [-1, -1, -1]]
    """

    def __init__(self, labels: Sequence[str]) -> None:
        super().__init__()
        self.labels = list(labels)
        self.index = {character: index for index, character in enumerate(labels)}

    def extra_repr(self) -> str:
        return f"{len(self.labels)} characters"

    def forward(self, targets: Sequence[str] | Tensor, logits: Tensor, labelled: Tensor | None = None) -> Tensor:
        """Encode the texts of a batch.

        Args:
            targets: A text for each image, or what this method returned for them.
            logits: (B, T, 1 + K), for the number of columns T.
            labelled: (B,) bool; texts of unlabelled images are not looked at. None for all labelled.

        Returns:
            (B, L) int64 in [0, K), padded with -1; L is 8, 16, 32, ...

        Raises:
            BrickInputError: A character is not in the alphabet, or a text needs more than T columns. CTC needs one per
                character, and one more between two equal ones.
        """
        if isinstance(targets, Tensor):
            return targets
        encoded: Tensor = self._encode(targets, logits, labelled)
        return encoded

    @not_compiled("texts are no tensors: encode them with `EncodeText` for fullgraph=True")
    def _encode(self, targets: Sequence[str], logits: Tensor, labelled: Tensor | None) -> Tensor:
        is_read = [True] * len(targets) if labelled is None else labelled.tolist()
        texts = [text if read else "" for text, read in zip(targets, is_read, strict=True)]
        size = _MIN_PADDED
        while size < max(map(len, texts), default=0):
            size *= 2
        rows = [self._indices(text, f"EncodeText, row {row}", logits.shape[1]) for row, text in enumerate(texts)]
        padded = [indices + [-1] * (size - len(indices)) for indices in rows]
        return torch.tensor(padded, dtype=torch.int64, device=logits.device).reshape(len(rows), size)

    def _indices(self, text: str, location: str, columns: int) -> list[int]:
        unknown = [character for character in text if character not in self.index]
        if unknown:
            expected = f"characters of the alphabet of {len(self.labels)}, {''.join(self.labels)[:100]!r}"
            hint = "Case matters. Add the character to the labels of the head, or change the text."
            raise BrickInputError(location, expected, f"{unknown[0]!r} in {text[:100]!r}", hint)
        repeats = sum(left == right for left, right in pairwise(text))
        if len(text) + repeats > columns:
            needed = f"{text[:100]!r}, {len(text)} characters, {repeats} of them like the one before"
            hint = "Use wider images: the head has about one column per 4 pixels."
            raise BrickInputError(location, f"a text that fits into {columns} columns", needed, hint)
        return [self.index[character] for character in text]


@final
class TextLoss(nn.Module):
    """CTC loss of texts, divided by their lengths and averaged over the labelled images, computed in float32.

    Shape: logits (B, T, 1 + K), target_text (B, L) int64 padded with -1, see `EncodeText`, labelled (B,) bool or None
    for all -> a scalar. It is about 1e9 if an encoded text needs more than T columns. If no image is labelled, the loss
    and its gradients are 0.
    """

    def extra_repr(self) -> str:
        return "CTC loss per character"

    def forward(self, logits: Tensor, target_text: Tensor, labelled: Tensor | None = None) -> Tensor:
        labelled = torch.ones_like(target_text[:, 0], dtype=torch.bool) if labelled is None else labelled
        lengths = ((target_text >= 0) & labelled[:, None]).sum(dim=1)
        classes = target_text.clamp(min=0) + _BLANK + 1
        losses = ctc_losses(logits.float().log_softmax(dim=2), classes, lengths)
        return mean_over(losses / lengths.clamp(min=1), labelled)


@final
class TextDecode(nn.Module):
    """Decode logits to texts: the best class of each column, without repetitions and then without blanks.

    Shape: logits (B, T, 1 + K) -> text (B, T) int64, characters in [0, K), padded with -1; score (B,) float32 in
    [0, 1], the probability of the best class of every column together.
    """

    def forward(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        logs, best = logits.float().log_softmax(dim=2).max(dim=2)
        before = F.pad(best[:, :-1], (1, 0), value=_BLANK)
        is_character = (best != _BLANK) & (best != before)
        columns = best.shape[1]
        # Characters move to the front; all others to a further column, which is removed.
        position = torch.where(is_character, is_character.long().cumsum(dim=1) - 1, columns)
        text = torch.full_like(F.pad(best, (0, 1)), -1).scatter(1, position, best - _BLANK - 1)
        return text[:, :columns], logs.sum(dim=1).exp()


@final
class TextErrors(BaseMetric):
    """Character error rate and exact match of texts.

    The rate is the number of characters to insert, delete or replace (Levenshtein's distance, by torchmetrics) divided
    by the number of characters of the labels; it may exceed 1. `ExactMatch` is the fraction of images whose whole text
    is right.
    """

    errors: Annotated[Tensor, MetricState(default=0)]
    characters: Annotated[Tensor, MetricState(default=0)]
    exact: Annotated[Tensor, MetricState(default=0)]
    texts: Annotated[Tensor, MetricState(default=0)]

    def update(self, text: Tensor, target_text: Tensor, labelled: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            text: (B, T) int64, padded with -1.
            target_text: (B, L) int64, padded with -1.
            labelled: (B,) bool; unlabelled images are ignored. None for all labelled.
        """
        if labelled is not None:
            text, target_text = text[labelled], target_text[labelled]
        if not len(text):
            return
        distances = edit_distance(_as_strings(text), _as_strings(target_text), reduction=None)
        self.errors += distances.sum().long().to(self.errors.device)
        self.characters += (target_text >= 0).sum()
        self.exact += (distances == 0).sum().to(self.exact.device)
        self.texts += len(text)

    def compute(self) -> dict[str, Tensor]:
        """Return "CharErrorRate" and "ExactMatch"; an empty dictionary without texts."""
        if self.texts == 0:
            return {}
        return {"CharErrorRate": self.errors / self.characters, "ExactMatch": self.exact / self.texts}


def ctc_losses(logs: Tensor, classes: Tensor, lengths: Tensor) -> Tensor:
    """Compute the CTC loss of each text: the negative logarithm of the probability of all its alignments.

    It equals `torch.nn.functional.ctc_loss`, which torch.compile cannot trace since it reads the lengths.

    Args:
        logs: (B, T, 1 + K), logarithms of the probabilities of blank and the characters in each column.
        classes: (B, L) in [1, K], the characters; any class after the end of a text.
        lengths: (B,), the number of characters, from 0 to L.

    Returns:
        (B,); about 1e9 for a text without an alignment.
    """
    # A path passes through the states blank, character 1, blank, ..., character L, blank. In each column it stays, or
    # moves on by one state, or by two from a character to the next one, unless they are equal.
    blanks = torch.full_like(classes, _BLANK)
    states = F.pad(torch.stack([blanks, classes], dim=2).flatten(1), (0, 1), value=_BLANK)  # (B, 2 L + 1)
    emitted = logs.gather(2, states[:, None].expand(-1, logs.shape[1], -1)).unbind(dim=1)
    may_skip = (states != _BLANK) & (states != F.pad(states[:, :-2], (2, 0), value=_BLANK))
    is_start = torch.arange(states.shape[1], device=states.device) < 2
    paths = torch.where(is_start, emitted[0], _LOG_ZERO)
    for column in emitted[1:]:
        moved = F.pad(paths[:, :-1], (1, 0), value=_LOG_ZERO)
        skipped = torch.where(may_skip, F.pad(paths[:, :-2], (2, 0), value=_LOG_ZERO), _LOG_ZERO)
        paths = torch.stack([paths, moved, skipped]).logsumexp(dim=0) + column
    end = 2 * lengths[:, None]
    at_blank, at_character = paths.gather(1, end), paths.gather(1, (end - 1).clamp(min=0))
    return -torch.logaddexp(at_blank, torch.where(end > 0, at_character, _LOG_ZERO))[:, 0]


def text_metrics() -> MetricCollection:
    """Create the character error rate and the exact match, see `TextErrors`."""
    return MetricCollection({"TextErrors": TextErrors()})


def _as_strings(text: Tensor) -> list[str]:
    """Return texts (B, L) as strings in which each character stands for its index."""
    return ["".join(chr(index) for index in row if index >= 0) for row in text.tolist()]
