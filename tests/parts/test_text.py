"""Reading of text against torch's CTC, torchmetrics' error rate and a decoding written with loops."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional
from torchmetrics.text import CharErrorRate

from brickyard.errors import BrickInputError
from brickyard.parts.text import (
    EncodeText,
    LocalMixing,
    TextDecode,
    TextErrors,
    TextLoss,
    TextRecognizer,
    ctc_losses,
    text_metrics,
)

ALPHABET = ["a", "b", "c", " "]
COLUMNS = 12
WORDS = ["abc", "", "aab b", "cc"]


def encoded(words=WORDS, columns=COLUMNS, **options):
    return EncodeText(ALPHABET)(words, torch.zeros(len(words), columns, 1 + len(ALPHABET)), **options)


def test_texts_are_encoded_by_their_position_in_the_alphabet():
    rows = encoded()
    assert rows.shape == (4, 8)
    assert rows[2].tolist() == [0, 0, 1, 3, 1, -1, -1, -1]
    assert (rows[1] == -1).all()
    assert encoded(["abcabcabc"], columns=9).shape == (1, 16)
    assert encoded([]).shape == (0, 8)


def test_encoded_texts_are_returned_unchanged():
    rows = encoded()
    assert EncodeText(ALPHABET)(rows, torch.zeros(4, COLUMNS, 5)) is rows


@pytest.mark.parametrize("text", ["abx", "A", "a\tb"])
def test_an_unknown_character_is_told_with_its_row(text):
    with pytest.raises(BrickInputError, match=r"EncodeText, row 1: expected characters of the alphabet") as caught:
        encoded(["a", text])
    assert repr(next(character for character in text if character not in ALPHABET)) in str(caught.value)


@pytest.mark.parametrize(("text", "columns"), [("abcab", 4), ("aabb", 5), ("aaa", 4)])
def test_a_text_that_needs_more_columns_is_told_and_one_column_more_is_enough(text, columns):
    with pytest.raises(
        BrickInputError, match=rf"row 0: expected a text that fits into {columns} columns, found '{text}'"
    ):
        encoded([text], columns=columns)
    rows = encoded([text], columns=columns + 1)
    logs = torch.randn(1, columns + 1, 5).log_softmax(dim=2)
    lengths = torch.tensor([len(text)])
    assert ctc_losses(logs, rows.clamp(min=0) + 1, lengths).item() < 100, "there is an alignment"
    assert ctc_losses(logs[:, :columns], rows.clamp(min=0) + 1, lengths).item() > 1e8, "there is none"


def test_texts_of_unlabelled_rows_are_not_looked_at():
    rows = encoded(["?" * 100, "ab"], labelled=torch.tensor([False, True]))
    assert (rows[0] == -1).all()
    assert rows[1, :2].tolist() == [0, 1]


def test_the_loss_equals_torchs_in_value_and_gradient():
    logits = torch.randn(4, COLUMNS, 5, requires_grad=True)
    rows = encoded()
    lengths = torch.tensor([len(word) for word in WORDS])
    logs = logits.log_softmax(dim=2).transpose(0, 1)
    columns = torch.full((4,), COLUMNS)
    expected = functional.ctc_loss(logs, rows.clamp(min=0) + 1, columns, lengths, blank=0, reduction="none")
    expected = (expected / lengths.clamp(min=1)).mean()
    loss = TextLoss()(logits, rows)
    torch.testing.assert_close(loss, expected)
    for found, reference in zip(torch.autograd.grad(loss, logits), torch.autograd.grad(expected, logits), strict=True):
        torch.testing.assert_close(found, reference)


def test_the_loss_is_computed_in_float32():
    logits = torch.randn(4, COLUMNS, 5)
    half = TextLoss()(logits.bfloat16(), encoded())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, TextLoss()(logits, encoded()), rtol=0.02, atol=0)


def test_unlabelled_rows_have_no_loss_and_no_gradient():
    logits, labelled = torch.randn(4, COLUMNS, 5, requires_grad=True), torch.tensor([True, False, True, False])
    loss = TextLoss()(logits, encoded(), labelled)
    torch.testing.assert_close(loss, TextLoss()(logits[labelled], encoded()[labelled]))
    gradient = torch.autograd.grad(loss, logits)[0]
    assert gradient[labelled].any()
    assert not gradient[~labelled].any()
    nothing = TextLoss()(logits, encoded(), torch.zeros(4, dtype=torch.bool))
    assert nothing == 0
    assert not torch.autograd.grad(nothing, logits)[0].any()


def test_repetitions_and_blanks_are_removed_as_by_hand():
    logits = torch.randn(6, 20, 5) * 3
    logits[0, :, 0] = 99  # nothing but blanks
    logits[1, :8] = torch.eye(5)[[0, 1, 1, 0, 1, 2, 2, 0]] * 99
    text, score = TextDecode()(logits)
    assert (text.shape, text.dtype) == ((6, 20), torch.int64)
    probabilities = logits.softmax(dim=2).numpy()
    for row, columns in enumerate(probabilities.argmax(axis=2)):
        read = [int(best) - 1 for best, _ in itertools.groupby(columns) if best != 0]
        assert text[row].tolist() == read + [-1] * (20 - len(read))
    np.testing.assert_allclose(score, probabilities.max(axis=2).prod(axis=1), rtol=1e-4)
    assert (text[0] == -1).all()
    assert text[1, :3].tolist()[:3] == [0, 0, 1]


def test_the_metrics_equal_torchmetrics_on_strings():
    read, labels = ["abc", "ab", "", "cc c", "b"], ["abc", "bb", "aa", "ccc", ""]
    rows = encoded(read), encoded(labels)
    metric = text_metrics()
    metric.update(rows[0][:2], rows[1][:2])
    metric.update(rows[0][2:], rows[1][2:])
    reference = CharErrorRate()
    reference.update(read, labels)
    values = metric.compute()
    torch.testing.assert_close(values["CharErrorRate"], reference.compute())
    assert values["ExactMatch"].item() == pytest.approx(1 / 5)


def test_unlabelled_texts_are_not_counted():
    metric = TextErrors()
    metric.update(encoded(["ab", "c"]), encoded(["ab", "a"]), torch.tensor([True, False]))
    assert metric.compute()["CharErrorRate"] == 0
    metric.reset()
    metric.update(encoded(["ab"]), encoded(["ab"]), torch.tensor([False]))
    assert metric.compute() == {}


def test_local_mixing_reaches_three_columns_to_each_side():
    mixing, columns = LocalMixing(8).eval(), torch.randn(1, 20, 8)
    changed = columns.clone()
    changed[0, 10] += torch.randn(8)
    differs = (mixing(columns) - mixing(changed)).abs().amax(dim=(0, 2)) > 1e-6
    assert differs.nonzero()[:, 0].tolist() == list(range(7, 14))


def test_a_column_of_the_map_is_a_column_of_the_logits():
    head = TextRecognizer([8, 16, 32], [4, 8, 16], num_classes=4)
    maps = [torch.rand(2, 8, 6, 20), torch.rand(2, 16, 3, 10), torch.rand(2, 32, 2, 5)]
    logits = head(maps)
    assert logits.shape == (2, 20, 5)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in head.parameters())
