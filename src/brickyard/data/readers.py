"""Open data sets by the text of a command line: `digits`, or a format and a folder as in `coco:path/to/folder`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, final

from torch.utils.data import Dataset

from brickyard.core.specs import ResizeMode
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
_NUM_SCENES: dict[Split, int] = {"train": 1_000_000, "val": 500, "test": 1000}  # generated on the fly, all different
_SCENE_SIZE, _IMAGE_SIZE = 96, 224
_FORMATS: dict[str, Callable[[str, str], LabelledDataset]] = {"coco": Coco, "yolo": Yolo, "pets": Pets, "voc": Voc}

KINDS = (_DIGITS, *(f"{name}:FOLDER" for name in _FORMATS))


def open_data(
    text: str,
    split: Split,
    *,
    length: int | None = None,
    image_size: int | None = None,
    seed: int = 0,
    flip: bool = True,
    resize_mode: ResizeMode = "squash",
) -> LabelledDataset:
    """Open the data set that a text names, with the transforms of its split.

    Args:
        text: `digits` for the digit scenes, else a format and a folder, see `KINDS`.
        split: "train", whose images are augmented at random, "val" or "test".
        length: The number of images, the first ones; None for all, of digit scenes a million, 500 and 1000.
        image_size: The side of an image in pixels; None for 96 for digit scenes, 224 for others.
        seed: The seed of the digit scenes.
        flip: Whether half of the training images of a folder are flipped horizontally; not for text or digits.
        resize_mode: How images of a folder are resized to a square: "squash" changes the aspect ratio, "letterbox"
            keeps it and pads with grey.

    Raises:
        UnknownNameError: The data set or split is unknown.
        BrickInputError: A folder is missing or damaged, or a number is out of range.
        MissingExtraError: Digit scenes need the extra `train`.
    """
    if split not in _NUM_SCENES:
        raise UnknownNameError("split", split, _NUM_SCENES)
    name, _, folder = text.partition(":")
    if text == _DIGITS:
        num_scenes = _NUM_SCENES[split] if length is None else length
        return DigitScenes(split, num_scenes, image_size=image_size or _SCENE_SIZE, seed=seed)
    if name not in _FORMATS or not folder:
        raise UnknownNameError("data", text, KINDS)
    data = _FORMATS[name](folder, split)
    if length is not None:
        data = _First(data, length)
    augment = Augment(image_size or _IMAGE_SIZE, data.kinds, train=split == "train", flip=flip, resize_mode=resize_mode)
    return Augmented(data, augment)


@final
class _First(Dataset[Mapping[str, Any]]):
    """The first samples of a data set."""

    def __init__(self, data: LabelledDataset, length: int) -> None:
        if not 0 <= length <= len(data):
            raise BrickInputError("length", f"0 to {len(data)}, the length of the data set", f"{length}")
        self.data, self.length = data, length
        self.labels, self.kinds = data.labels, data.kinds

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self.data[range(self.length)[index]]
