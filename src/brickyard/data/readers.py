"""Data sets by what a command line says: `digits`, or a kind and a folder as in `coco:path/to/folder`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, final

from torch.utils.data import Dataset

from brickyard.data.coco import Coco
from brickyard.data.dataset import LabelledDataset
from brickyard.data.pets import Pets
from brickyard.data.synthetic.backgrounds import Split
from brickyard.data.synthetic.digits import DigitScenes
from brickyard.data.transforms import Augment, Augmented
from brickyard.data.voc import Voc
from brickyard.data.yolo import Yolo
from brickyard.errors import BrickInputError, UnknownNameError

_DIGITS = "digits"
_SCENES: dict[Split, int] = {"train": 1_000_000, "val": 500, "test": 1000}  # made on the fly, each another
_SCENE_SIZE, _PICTURE_SIZE = 96, 224
_IN_FOLDERS: dict[str, Callable[[str, str], LabelledDataset]] = {"coco": Coco, "yolo": Yolo, "pets": Pets, "voc": Voc}

KINDS = (_DIGITS, *(f"{kind}:FOLDER" for kind in _IN_FOLDERS))


def open_data(
    text: str,
    split: Split,
    *,
    length: int | None = None,
    image_size: int | None = None,
    seed: int = 0,
    flip: bool = True,
) -> LabelledDataset:
    """Open the data set that a text names, ready for a model.

    Args:
        text: One of `KINDS`: `digits` for the digit scenes, else a kind and the folder where it lies.
        split: "train", whose pictures are changed at random, "val" or "test".
        length: How many pictures, the first ones; None for all, of digit scenes a million, 500 and 1000.
        image_size: Pixels of a picture's side; None for 96 for digit scenes, 224 for others.
        seed: Of the digit scenes.
        flip: Whether half of the training pictures of a folder are mirrored left to right; not for text or digits.

    Raises:
        UnknownNameError: There is no such data set or split.
        BrickInputError: A folder is missing or damaged, or a number is out of its range.
        MissingExtraError: Digit scenes need the extra `train`.
    """
    if split not in _SCENES:
        raise UnknownNameError("split", split, _SCENES)
    kind, _, folder = text.partition(":")
    if text == _DIGITS:
        scenes = _SCENES[split] if length is None else length
        return DigitScenes(split, scenes, image_size=image_size or _SCENE_SIZE, seed=seed)
    if kind not in _IN_FOLDERS or not folder:
        raise UnknownNameError("data", text, KINDS)
    data = _IN_FOLDERS[kind](folder, split)
    if length is not None:
        data = _First(data, length)
    return Augmented(data, Augment(image_size or _PICTURE_SIZE, train=split == "train", flip=flip))


@final
class _First(Dataset[Mapping[str, Any]]):
    """The first pictures of a data set."""

    def __init__(self, data: LabelledDataset, length: int) -> None:
        if not 0 <= length <= len(data):
            raise BrickInputError("length", f"0 to {len(data)}, as many as there are", f"{length}")
        self.data, self.length, self.labels = data, length, data.labels

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self.data[range(self.length)[index]]
