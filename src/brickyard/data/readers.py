"""Open data sets by the text of a command line: `digits`, or a format and a folder as in `coco:path/to/folder`."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import Protocol, final

from brickyard.core.specs import AUGMENTATIONS, Augmentation, ResizeMode, Strength
from brickyard.data.checking import checked_subset
from brickyard.data.coco import Coco
from brickyard.data.dataset import LabelledDataset, keypoints_of
from brickyard.data.depth_maps import DepthMaps
from brickyard.data.hf import HfDataset
from brickyard.data.image_folder import ImageFolder
from brickyard.data.label_kinds import LabelKind
from brickyard.data.mvtec import MvtecAd
from brickyard.data.pets import Pets
from brickyard.data.synthetic.anomalies import DigitAnomalies
from brickyard.data.synthetic.backgrounds import Split
from brickyard.data.synthetic.digits import DigitScenes
from brickyard.data.synthetic.scenes import SPLITS, Scenes
from brickyard.data.synthetic.single import SingleDigits
from brickyard.data.synthetic.text import DigitText
from brickyard.data.text_images import TextImages
from brickyard.data.transforms import Augment, Augmented
from brickyard.data.voc import Voc
from brickyard.data.yolo import Yolo
from brickyard.errors import UnknownNameError

_log = logging.getLogger(__name__)
Reader = Callable[[Path, str], LabelledDataset]


@final
@dataclass(frozen=True)
class _Format:
    """A format of data sets on disk.

    Attributes:
        reader: Opens a split of a folder.
        layout: The files that it reads.
        augment: Whether training images are changed at random.
    """

    reader: Reader
    layout: str = ""
    augment: bool = True


class _SceneReader(Protocol):
    """A class of generated data sets."""

    def __call__(self, split: Split, length: int, *, image_size: int | tuple[int, int], seed: int) -> Scenes: ...


_NUM_SCENES: dict[Split, int] = {"train": 1_000_000, "val": 500, "test": 1000}  # generated on the fly, all different
_IMAGE_SIZE = 224
_MIN_AREA: dict[Strength, float] = {"light": 0.5, "strong": 0.25}  # of an image that a random crop keeps
# The generated data sets, with their default image size.
_SCENES: dict[str, tuple[_SceneReader, tuple[int, int]]] = {
    "digits": (DigitScenes, (96, 96)),
    "digits-single": (SingleDigits, (96, 96)),
    "digits-text": (DigitText, (64, 192)),
    "digits-anomaly": (DigitAnomalies, (96, 96)),
}
_FORMATS: dict[str, _Format] = {
    "coco": _Format(Coco, Coco.layout),
    "coco-keypoints": _Format(partial(Coco, prefixes=("person_keypoints",)), "as `coco`, but person_keypoints_*.json"),
    "yolo": _Format(Yolo, Yolo.layout),
    "voc": _Format(Voc, Voc.layout),
    "imagefolder": _Format(ImageFolder, ImageFolder.layout),
    "pets": _Format(Pets, Pets.layout),
    "mvtec": _Format(MvtecAd, MvtecAd.layout, augment=False),
    "ocr": _Format(TextImages, TextImages.layout),
    "depth": _Format(DepthMaps, DepthMaps.layout),
    "hf": _Format(HfDataset, f"a folder or user/name on the Hub; {HfDataset.layout}"),
}
_BUILT_IN = frozenset(_FORMATS)


def data_names() -> list[str]:
    """Return the data sets that `open_data` opens: generated ones by name, and "coco:FOLDER" and the like."""
    return [*_SCENES, *(f"{name}:FOLDER" for name in _FORMATS)]


def scene_size(text: str) -> tuple[int, int] | None:
    """Return the default (H, W) in pixels of generated images, None for another data set."""
    return _SCENES[text][1] if text in _SCENES else None


def register_data(name: str, reader: Reader, *, augment: bool = True) -> None:
    """Register a format of data sets, so that `open_data` and the command line open `name:FOLDER`.

    After `register_data("mine", MyDataset)`, `open_data("mine:path/to/folder", "train")` opens `MyDataset`, and so does
    `brickyard --import my_module train ... --data mine:path/to/folder`, if the module registers it.

    Args:
        name: Lower-case letters, digits, `-` and `_`.
        reader: Opens a split: takes what follows the colon as a `Path`, and "train", "val", "test" or another split,
            and returns a `LabelledDataset`. One that has `check`, as a `CheckableDataset`, is checked before it is
            used; one with points also has `keypoints`, see `KeypointDataset`.
        augment: Whether training images are changed at random, see `Augment`.

    Raises:
        ValueError: The name has other characters, or is that of a data set of brickyard or of another reader.
    """
    if not (name.isascii() and name.replace("-", "").replace("_", "").isalnum() and name == name.lower()):
        raise ValueError(f"'{name}' cannot name data: expected lower-case letters, digits, '-' and '_' only.")
    taken = name in _SCENES or name in _BUILT_IN or (name in _FORMATS and _FORMATS[name].reader is not reader)
    if taken:
        raise ValueError(f"Data named '{name}' is registered already. Choose another name.")
    _FORMATS[name] = _Format(reader, augment=augment)


def open_data(
    text: str,
    split: str,
    *,
    length: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    seed: int = 0,
    flip: bool = True,
    resize_mode: ResizeMode = "squash",
    augment: Augmentation = "light",
    skip_bad: bool = False,
) -> LabelledDataset:
    """Open the data set that a text names, with the transforms of its split.

    Generated data sets are named by a word; each image depends on `seed`, the split and its index only:

    - `digits`: several digits on photos, for `cls` (multi-label), `seg`, `det`, `fomo`, `inst`, `pose` and `depth`, see
      `DigitScenes`.
    - `digits-single`: one digit, for `cls`, `kpt` and `emb`, see `SingleDigits`.
    - `digits-text`: a line of digits, for `ocr`, see `DigitText`.
    - `digits-anomaly`: digits on paper with and without a foreign object, for `anomaly`, see `DigitAnomalies`.

    Data sets on disk are named by a format and a folder, which may start with `~`. Their labels and the headers of
    their images are checked first; all problems are reported together. `register_data` adds formats.

    {layouts}

    Training images from a folder are cropped, flipped and recolored at random, labels included, see `Augment`. Images
    with texts are neither cropped nor flipped, and those for `anomaly` are not changed, since a changed image may no
    longer be normal.

    Args:
        text: The name of a generated data set, or a format and a folder as in `coco:path/to/folder`.
        split: "train", whose images are augmented at random, "val" or "test", or any other split that a folder has.
        length: The number of images, the first ones; None for all, of generated images a million, 500 and 1000.
        image_size: The side of an image in pixels, or (H, W); None for 224, for (64, 192) for `digits-text`, and for 96
            for other generated images, which are square.
        seed: The seed of generated images.
        flip: Whether half of the training images of a folder are flipped horizontally; never if it is unknown which of
            their points a flip exchanges, with a logged warning.
        resize_mode: How images of a folder are resized to a square: "squash" changes the aspect ratio, "letterbox"
            keeps it and pads with grey.
        augment: How much training images of a folder are changed at random: "none" only resizes them, "strong" crops
            them to a quarter of their area instead of half, and changes their colors more.
        skip_bad: Whether to leave out samples whose labels or image header are damaged, with a logged warning that
            counts them.

    Raises:
        UnknownNameError: The data set, split or augmentation is unknown.
        BrickInputError: A folder is missing or damaged, a sample is bad and `skip_bad` is False, or a number is out of
            range.
        MissingExtraError: Generated images need the extra `train`.
    """
    if augment not in AUGMENTATIONS:
        raise UnknownNameError("augmentation", augment, AUGMENTATIONS)
    data = open_stored(text, split, length=length, image_size=image_size, seed=seed)
    if is_generated(text):
        return data
    checked = checked_subset(data, length, text, skip_bad=skip_bad)
    return transformed(checked, text, split, image_size=image_size, augment=augment, flip=flip, resize_mode=resize_mode)


def open_stored(
    text: str,
    split: str,
    *,
    length: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    seed: int = 0,
) -> LabelledDataset:
    """Open a data set as `open_data` does, but without its checks and transforms: images have the size that they have.

    `length` and `image_size` are those of generated images; a folder is opened as a whole.
    """
    if is_generated(text):
        known = _split_of_scenes(split)
        num_scenes = _NUM_SCENES[known] if length is None else length
        scenes, default_size = _SCENES[text]
        return scenes(known, num_scenes, image_size=image_size or default_size, seed=seed)
    name, _, folder = text.partition(":")
    if name not in _FORMATS or not folder:
        raise UnknownNameError("data", text, data_names())
    return _FORMATS[name].reader(Path(folder).expanduser(), split)


def transformed(
    data: LabelledDataset,
    text: str,
    split: str,
    *,
    image_size: int | tuple[int, int] | None = None,
    augment: Augmentation = "light",
    flip: bool = True,
    resize_mode: ResizeMode = "squash",
) -> LabelledDataset:
    """Apply the transforms of a split to a data set on disk, see `open_data`.

    Args:
        data: What `open_stored` returned, or a part of it.
        text: The format and the folder.
        split: "train", whose images are augmented at random, or another one.
        image_size: The side of an image in pixels, or (H, W); None for 224.
        augment: How much images of "train" are changed at random, see `open_data`.
        flip: Whether half of the augmented images are flipped, if their labels can be.
        resize_mode: How images are resized.
    """
    is_train = split == "train" and augment != "none" and _FORMATS[text.partition(":")[0]].augment
    strength: Strength = "light" if augment == "none" else augment
    has_text = LabelKind.TEXT in data.kinds.values()
    pairs = {label: points.flip_pairs for label, points in keypoints_of(data).items()}
    if is_train and flip and (unknown := [label for label, known in pairs.items() if known is None]):
        _log.warning(
            "%s: images are not flipped, since it is unknown which points of %s a flip exchanges.", text, unknown
        )
    transform = Augment(
        image_size or _IMAGE_SIZE,
        data.kinds,
        train=is_train,
        flip=flip and not has_text and None not in pairs.values(),
        flip_pairs={label: known for label, known in pairs.items() if known is not None},
        min_area=1.0 if has_text else _MIN_AREA[strength],
        strength=strength,
        resize_mode=resize_mode,
    )
    return Augmented(data, transform)


def is_generated(text: str) -> bool:
    """Return whether a text names generated images."""
    return text in _SCENES


def _split_of_scenes(split: str) -> Split:
    for known in SPLITS:
        if known == split:
            return known
    raise UnknownNameError("split", split, SPLITS)


def _layouts() -> str:
    patterns = re.compile(r"[^\s(]*\*[^\s,;)]*")  # `*.json` is code, not the beginning of an emphasis
    layouts = {name: patterns.sub(r"`\g<0>`", entry.layout) for name, entry in _FORMATS.items()}
    texts = [f"- `{name}:FOLDER`: {layout}." for name, layout in layouts.items()]
    return "\n".join(fill(text, 112, initial_indent=" " * 4, subsequent_indent=" " * 6) for text in texts).strip()


if open_data.__doc__:  # None with `python -OO`
    open_data.__doc__ = open_data.__doc__.format(layouts=_layouts())
