"""Oxford-IIIT Pet: the breed, the pixels and the head box of a cat or dog."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, final

import torch
from torch.utils.data import Dataset
from torchvision.datasets import OxfordIIITPet

from brickyard.data.label_kinds import LabelKind
from brickyard.data.objects import box_target, check_box, count_small
from brickyard.data.orientation import check_header, read_class_map, read_oriented
from brickyard.data.text import read_lines
from brickyard.data.voc import XmlObject, read_objects
from brickyard.errors import BrickInputError, UnknownNameError
from brickyard.parts.segmentation import IGNORED

_SPLITS = ("train", "val", "trainval", "test")
_VAL_EVERY = 10  # every tenth image of a breed in `trainval` is in `val`
_SPECIES = ("cat", "dog")
_BREEDS = (
    "Abyssinian",
    "American Bulldog",
    "American Pit Bull Terrier",
    "Basset Hound",
    "Beagle",
    "Bengal",
    "Birman",
    "Bombay",
    "Boxer",
    "British Shorthair",
    "Chihuahua",
    "Egyptian Mau",
    "English Cocker Spaniel",
    "English Setter",
    "German Shorthaired",
    "Great Pyrenees",
    "Havanese",
    "Japanese Chin",
    "Keeshond",
    "Leonberger",
    "Maine Coon",
    "Miniature Pinscher",
    "Newfoundland",
    "Persian",
    "Pomeranian",
    "Pug",
    "Ragdoll",
    "Russian Blue",
    "Saint Bernard",
    "Samoyed",
    "Scottish Terrier",
    "Shiba Inu",
    "Siamese",
    "Sphynx",
    "Staffordshire Bull Terrier",
    "Wheaten Terrier",
    "Yorkshire Terrier",
)
_CLASSES = torch.tensor([-1, 1, 0, IGNORED])  # by the trimap's values: 1 pet, 2 background, 3 the border between them


@final
class Pets(Dataset[dict[str, Any]]):
    """The Oxford-IIIT Pet data set (https://www.robots.ox.ac.uk/~vgg/data/pets), with labels for `cls` (the breed),
    `seg` and `det` (the head); the images of the test split have no boxes.

    Args:
        root: The folder with `oxford-iiit-pet`, as in torchvision.
        split: "trainval" or "test" as published; "train" and "val" are nine tenths and one tenth of "trainval".
        download: Whether to download the data set with torchvision if it is absent.

    Raises:
        UnknownNameError: The split is unknown.
        BrickInputError: The data set is absent, or its list of images is damaged.
    """

    layout: ClassVar[str] = "oxford-iiit-pet/ with images/ and annotations/, as in torchvision"

    labels: ClassVar[dict[str, tuple[str, ...]]] = {
        "cls": _BREEDS,
        "seg": ("background", "pet"),
        "det": tuple(f"{species} head" for species in _SPECIES),
    }
    kinds: ClassVar[dict[str, LabelKind]] = {
        "cls": LabelKind.CLASS_INDEX,
        "seg": LabelKind.MASK,
        "det": LabelKind.BOXES,
    }

    def __init__(self, root: str | Path, split: str, *, download: bool = False) -> None:
        if split not in _SPLITS:
            raise UnknownNameError("split", split, _SPLITS)
        published = "test" if split == "test" else "trainval"
        self._folder = Path(root) / "oxford-iiit-pet"
        if download:
            OxfordIIITPet(str(root), published, download=True)
        listed = self._folder / "annotations" / f"{published}.txt"
        lines = read_lines(listed, "a list of the Oxford-IIIT Pet data set", "Pass download=True to download it.")
        self._entries = _of_split([_parse_entry(line, listed) for line in lines], split)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Read one sample.

        Returns:
            image: (3, H, W) uint8.
            targets/cls: () int64, the breed, 0 to 36.
            targets/seg: (H, W) int64, 0 for background, 1 for the pet, 255 for the border between them.
            targets/det: boxes (M, 4) float32, xyxy in pixels, labels (M,) int64, 0 for a cat's head, 1 for a dog's, and
                ignore (M,) bool, False. Absent where the data set has no box.

        Raises:
            BrickInputError: A file is absent or damaged, or does not match the others.
        """
        name, breed = self._entries[index]
        annotations = self._folder / "annotations"
        trimap_file, xml = annotations / "trimaps" / f"{name}.png", annotations / "xmls" / f"{name}.xml"
        trimap = read_class_map(trimap_file)
        if not 1 <= trimap.min() <= trimap.max() <= 3:
            raise BrickInputError(str(trimap_file), "values 1 to 3", f"{trimap.min()} to {trimap.max()}")
        oriented = read_oriented(self._folder / "images" / f"{name}.jpg", (trimap.shape[0], trimap.shape[1]))
        sample = {
            "image": oriented.image,
            "targets/cls": torch.tensor(breed),
            "targets/seg": oriented.mask(_CLASSES[trimap]),
        }
        if not xml.exists():
            return sample
        heads = _heads(xml, oriented.size)
        boxes = oriented.boxes(torch.tensor([head.box for head in heads], dtype=torch.float32).reshape(-1, 4))
        return {**sample, "targets/det": box_target(boxes, [_SPECIES.index(head.name) for head in heads])}

    def check(self, index: int) -> int:
        """Check one sample without decoding its image, see `CheckableDataset`; raises what reading it would raise."""
        name, _ = self._entries[index]
        annotations = self._folder / "annotations"
        size = check_header(annotations / "trimaps" / f"{name}.png")
        check_header(self._folder / "images" / f"{name}.jpg", size)
        xml = annotations / "xmls" / f"{name}.xml"
        return count_small((head.box for head in _heads(xml, size)), size) if xml.exists() else 0


def _heads(xml: Path, size: tuple[int, int]) -> list[XmlObject]:
    """Read the objects of an image of (height, width), checked."""
    heads = read_objects(xml)
    for head in heads:
        if head.name not in _SPECIES:
            raise BrickInputError(str(xml), "objects 'cat' or 'dog'", f"'{head.name}'")
        check_box(head.box, size, str(xml))
    return heads


def _parse_entry(line: str, file: Path) -> tuple[str, int]:
    """Parse a line of a list to the name of an image and its breed; the name starts with the breed, too."""
    name, number = (*line.split(), "", "")[:2]
    breed = int(number) - 1 if number.isdecimal() else -1
    if not 0 <= breed < len(_BREEDS) or name.rpartition("_")[0].lower() != _BREEDS[breed].lower().replace(" ", "_"):
        raise BrickInputError(str(file), "lines with the name of an image and the number of its breed", f"'{line}'")
    return name, breed


def _of_split(entries: list[tuple[str, int]], split: str) -> list[tuple[str, int]]:
    if split not in ("train", "val"):
        return entries
    seen = [0] * len(_BREEDS)
    selected = []
    for name, breed in entries:
        seen[breed] += 1
        if (seen[breed] % _VAL_EVERY == 0) == (split == "val"):
            selected.append((name, breed))
    return selected
