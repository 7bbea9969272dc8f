"""Open data sets by the text of a command line: `digits`, or a format and a folder as in `coco:path/to/folder`."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
from typing import Protocol

from brickyard.core.specs import ResizeMode
from brickyard.data.checking import checked_subset
from brickyard.data.coco import Coco
from brickyard.data.dataset import CheckableDataset, LabelledDataset
from brickyard.data.image_folder import ImageFolder
from brickyard.data.pets import Pets
from brickyard.data.synthetic.backgrounds import Split
from brickyard.data.synthetic.digits import DigitScenes
from brickyard.data.transforms import Augment, Augmented
from brickyard.data.voc import Voc
from brickyard.data.yolo import Yolo
from brickyard.errors import BrickInputError, UnknownNameError


class _Reader(Protocol):
    """A class of data sets in one format."""

    layout: str

    def __call__(self, folder: Path, split: str, /) -> CheckableDataset: ...


_DIGITS = "digits"
_NUM_SCENES: dict[Split, int] = {"train": 1_000_000, "val": 500, "test": 1000}  # generated on the fly, all different
_SCENE_SIZE, _IMAGE_SIZE = 96, 224
_FORMATS: dict[str, _Reader] = {"coco": Coco, "yolo": Yolo, "voc": Voc, "imagefolder": ImageFolder, "pets": Pets}

KINDS = (_DIGITS, *(f"{name}:FOLDER" for name in _FORMATS))


def open_data(
    text: str,
    split: str,
    *,
    length: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    seed: int = 0,
    flip: bool = True,
    resize_mode: ResizeMode = "squash",
    skip_bad: bool = False,
) -> LabelledDataset:
    """Open the data set that a text names, with the transforms of its split.

    `digits` are generated scenes, see `DigitScenes`. Data sets on disk are named by a format and a folder, which may
    start with `~`. Their labels and the headers of their images are checked first; all problems are reported together.

    {layouts}

    Args:
        text: `digits`, or a format and a folder as in `coco:path/to/folder`.
        split: "train", whose images are augmented at random, "val" or "test", or any other split that a folder has.
        length: The number of images, the first ones; None for all, of digit scenes a million, 500 and 1000.
        image_size: The side of an image in pixels, or (H, W); None for 96 for digit scenes, which are square, 224 for
            others.
        seed: The seed of the digit scenes.
        flip: Whether half of the training images of a folder are flipped horizontally; not for text or digits.
        resize_mode: How images of a folder are resized to a square: "squash" changes the aspect ratio, "letterbox"
            keeps it and pads with grey.
        skip_bad: Whether to leave out samples whose labels or image header are damaged, with a logged warning that
            counts them.

    Raises:
        UnknownNameError: The data set or split is unknown.
        BrickInputError: A folder is missing or damaged, a sample is bad and `skip_bad` is False, or a number is out of
            range.
        MissingExtraError: Digit scenes need the extra `train`.
    """
    name, _, folder = text.partition(":")
    if text == _DIGITS:
        known = _split_of_scenes(split)
        num_scenes = _NUM_SCENES[known] if length is None else length
        if isinstance(image_size, tuple):
            if image_size[0] != image_size[1]:
                raise BrickInputError("image_size", "one side, since digit scenes are square", f"{image_size}")
            image_size = image_size[0]
        return DigitScenes(known, num_scenes, image_size=image_size or _SCENE_SIZE, seed=seed)
    if name not in _FORMATS or not folder:
        raise UnknownNameError("data", text, KINDS)
    data = checked_subset(_FORMATS[name](Path(folder).expanduser(), split), length, text, skip_bad=skip_bad)
    augment = Augment(image_size or _IMAGE_SIZE, data.kinds, train=split == "train", flip=flip, resize_mode=resize_mode)
    return Augmented(data, augment)


def _split_of_scenes(split: str) -> Split:
    for known in _NUM_SCENES:
        if known == split:
            return known
    raise UnknownNameError("split", split, _NUM_SCENES)


def _layouts() -> str:
    texts = [f"- `{name}:FOLDER`: {reader.layout}." for name, reader in _FORMATS.items()]
    return "\n".join(fill(text, 112, initial_indent=" " * 4, subsequent_indent=" " * 6) for text in texts).strip()


if open_data.__doc__:  # None with `python -OO`
    open_data.__doc__ = open_data.__doc__.format(layouts=_layouts())
