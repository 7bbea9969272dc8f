"""Images of lines of text, for text recognition."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, final

from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F  # noqa: N812 - its usual name

from brickyard.data.dataset import split_names
from brickyard.data.images import read_image
from brickyard.data.label_kinds import LabelKind
from brickyard.data.orientation import check_header
from brickyard.data.tables import Row, column_of, find_table, read_table
from brickyard.data.text import read_text
from brickyard.errors import BrickInputError

FILE_COLUMNS = ("file", "file_name", "filename", "image", "path")
TEXT_COLUMNS = ("text", "label", "transcription", "words")
_ALPHABET = "alphabet.txt"
_SPLITS = ("train", "val", "test")


@final
class _Sample(NamedTuple):
    """An image and its text, and what is wrong with its row."""

    image: Path
    text: str
    location: str
    problem: BrickInputError | None


@final
class TextImages(Dataset[dict[str, Any]]):
    """Images of text with a table of their texts, with labels for `ocr`.

    See `layout` for the files. A table has a column `file` (or file_name, filename, image, path) with the image,
    relative to the folder of the table, and a column `text` (or label, transcription, words). The classes are the
    characters of the alphabet: those of `alphabet.txt`, in its order, else of the texts of all splits, in the order of
    Unicode.

    Args:
        folder: The folder.
        split: "train", "val" or "test"; "val" matches "valid" and "validation".

    Raises:
        BrickInputError: The split does not exist, a table or the alphabet is damaged.
    """

    layout: ClassVar[str] = (
        "<split>.csv or <split>.jsonl, or <split>/labels.csv or <split>/labels.jsonl, with the columns file and text, "
        "and with the characters in alphabet.txt if there is one"
    )
    kinds: ClassVar[dict[str, LabelKind]] = {"ocr": LabelKind.TEXT}

    def __init__(self, folder: str | Path, split: str) -> None:
        root = Path(folder)
        table = _table_of(root, split)
        if table is None:
            expected = f"{split}.csv, {split}.jsonl, {split}/labels.csv or {split}/labels.jsonl"
            raise BrickInputError(str(root), expected, "none")
        self._samples = _samples(table)
        self._alphabet = _alphabet(root, split, self._samples)
        self.labels = {"ocr": self._alphabet}

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Read one sample.

        Returns:
            image: (3, H, W) uint8.
            targets/ocr: Its text.

        Raises:
            BrickInputError: The image is absent or damaged, or its row has no text, or one with a character that the
                alphabet does not have.
        """
        sample = self._samples[index]
        text = self._checked(sample)
        return {"image": tv_tensors.Image(F.pil_to_tensor(read_image(sample.image))), "targets/ocr": text}

    def check(self, index: int) -> int:
        """Check one sample without decoding its image, see `CheckableDataset`; raises what reading it would raise."""
        sample = self._samples[index]
        self._checked(sample)
        check_header(sample.image)
        return 0

    def _checked(self, sample: _Sample) -> str:
        """Return the text of a sample."""
        if sample.problem is not None:
            raise sample.problem
        if unknown := sorted(set(sample.text) - {*self._alphabet}):
            expected = f"characters of {_ALPHABET}"
            raise BrickInputError(sample.location, expected, f"{''.join(unknown)!r} in {sample.text[:100]!r}")
        return sample.text


def _table_of(root: Path, split: str) -> Path | None:
    return find_table([path for name in split_names(split) for path in (root / name, root / name / "labels")])


def _samples(table: Path) -> list[_Sample]:
    rows = read_table(table)
    file, text = column_of(rows, FILE_COLUMNS, table), column_of(rows, TEXT_COLUMNS, table)
    return [_sample(row, row.values.get(file), row.values.get(text), table.parent) for row in rows]


def _sample(row: Row, file: Any, text: Any, folder: Path) -> _Sample:
    problem = None
    if not isinstance(file, str) or not file:
        problem = BrickInputError(row.location, "the file of an image", repr(file)[:100])
    elif not isinstance(text, str) or not text:
        hint = "Remove the row, or write its text, in JSON in quotes."
        problem = BrickInputError(row.location, "a text", repr(text)[:100], hint)
    elif len(text.splitlines()) > 1:
        problem = BrickInputError(row.location, "a text of one line", repr(text)[:100])
    known = "" if problem is not None else str(text)
    return _Sample(folder / str(file), known, row.location, problem)


def _alphabet(root: Path, split: str, samples: Sequence[_Sample]) -> tuple[str, ...]:
    """Return the characters of the alphabet's file, else of the texts of all splits."""
    file = root / _ALPHABET
    if file.is_file():
        characters = read_text(file, "the characters of the alphabet").replace("\n", "").replace("\r", "")
        twice = sorted({each for each in characters if characters.count(each) > 1})
        if not characters or twice:
            raise BrickInputError(str(file), "characters that differ", f"{''.join(twice)!r} twice" if twice else "none")
        return tuple(characters)
    others = [_table_of(root, other) for other in _SPLITS if split not in split_names(other)]
    texts = [sample.text for sample in samples]
    texts += [sample.text for table in others if table is not None for sample in _samples(table)]
    characters = "".join(sorted(set("".join(texts))))
    if not characters:
        raise BrickInputError(str(root), "texts", "none")
    return tuple(characters)
