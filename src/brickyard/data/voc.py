"""Pascal VOC: classes, pixels and boxes of objects."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar, final
from xml.etree import ElementTree

import torch
from torch.utils.data import Dataset
from torchvision.datasets import VOCSegmentation

from brickyard.data.label_kinds import LabelKind
from brickyard.data.objects import OBJECT_KINDS, box_target, object_labels, presence
from brickyard.data.orientation import read_class_map, read_oriented
from brickyard.errors import BrickInputError, UnknownNameError
from brickyard.parts.segmentation import IGNORED

_YEARS = ("2007", "2008", "2009", "2010", "2011", "2012")
_SPLITS = ("train", "val", "trainval")
_NAMES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)


@final
@dataclass(frozen=True)
class XmlObject:
    """An object of an annotation in VOC's XML format.

    Attributes:
        name: The name of its class.
        box: (x1, y1, x2, y2) in pixels; the first pixel spans [0, 1].
        difficult: Whether VOC excludes it from evaluation.
    """

    name: str
    box: tuple[float, float, float, float]
    difficult: bool


@final
class Voc(Dataset[dict[str, Any]]):
    """The images of Pascal VOC (http://host.robots.ox.ac.uk/pascal/VOC) that have masks, with labels for `cls`
    (multi-label), `seg` and `det`.

    Objects that are marked as difficult count in `cls` and are ignored in `det`, as in VOC's evaluation.

    Args:
        root: The folder with `VOCdevkit`, as in torchvision.
        split: "train", "val" or "trainval"; of 2007 also "test".
        year: "2007" to "2012".
        download: Whether to download the data set with torchvision if it is absent.

    Raises:
        UnknownNameError: The split or year is unknown.
        BrickInputError: The data set is absent.
    """

    labels: ClassVar[dict[str, tuple[str, ...]]] = object_labels(_NAMES, masks=True, location="VOC")
    kinds: ClassVar[dict[str, LabelKind]] = OBJECT_KINDS

    def __init__(self, root: str | Path, split: str, *, year: str = "2012", download: bool = False) -> None:
        if year not in _YEARS:
            raise UnknownNameError("year", year, _YEARS)
        splits = (*_SPLITS, "test") if year == "2007" else _SPLITS
        if split not in splits:
            raise UnknownNameError("split", split, splits)
        try:
            listed = VOCSegmentation(str(root), year=year, image_set=split, download=download)
        except (RuntimeError, FileNotFoundError) as error:
            hint = "Pass download=True to download it."
            raise BrickInputError(str(root), f"VOC {year} in VOCdevkit/VOC{year}", f"{error}", hint) from None
        self._files = [(Path(image), Path(mask)) for image, mask in zip(listed.images, listed.masks, strict=True)]

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Read one sample.

        Returns:
            image: (3, H, W) uint8.
            targets/cls: (20,) int64, 1 for each class that is present, else 0.
            targets/seg: (H, W) int64, 0 for background, 1 to 20 for classes, 255 for the borders between objects.
            targets/det: boxes (M, 4) float32, xyxy in pixels, labels (M,) int64, 0 to 19, and ignore (M,) bool, True
                for difficult objects.

        Raises:
            BrickInputError: A file is absent or damaged, or does not match the others.
        """
        image_file, mask_file = self._files[index]
        xml = mask_file.parents[1] / "Annotations" / f"{image_file.stem}.xml"
        classes = read_class_map(mask_file)
        if not ((classes <= len(_NAMES)) | (classes == IGNORED)).all():
            raise BrickInputError(
                str(mask_file), "classes 0 to 20, or 255", f"{sorted(set(classes.flatten().tolist()))}"
            )
        oriented = read_oriented(image_file, (classes.shape[0], classes.shape[1]))
        objects = read_objects(xml)
        labels = [_class_of(entry, xml) for entry in objects]
        boxes = torch.tensor([entry.box for entry in objects], dtype=torch.float32).reshape(-1, 4)
        return {
            "image": oriented.image,
            "targets/cls": presence(labels, len(_NAMES)),
            "targets/seg": oriented.mask(classes),
            "targets/det": box_target(oriented.boxes(boxes), labels, [entry.difficult for entry in objects]),
        }


def read_objects(file: Path) -> list[XmlObject]:
    """Read the objects of an annotation in VOC's XML format.

    Raises:
        BrickInputError: The file is absent or damaged, or has an object without a name or a box.
    """
    try:
        return [_object_of(element) for element in ElementTree.parse(file).getroot().iterfind("object")]
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise BrickInputError(str(file), "an annotation in VOC's XML format", f"{error}") from None


def _object_of(element: ElementTree.Element) -> XmlObject:
    name = element.findtext("name", "").strip()
    if not name:
        raise ValueError("an object without a name")
    sides = [element.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
    left, top, right, bottom = (float(side or "nan") for side in sides)
    if not (isfinite(left + top + right + bottom) and left <= right and top <= bottom):
        raise ValueError(f"'{name}' with the box {sides}")
    # VOC counts pixels from 1, and its boxes include their right and lower pixels.
    return XmlObject(name, (left - 1, top - 1, right, bottom), element.findtext("difficult", "0").strip() == "1")


def _class_of(entry: XmlObject, file: Path) -> int:
    if entry.name not in _NAMES:
        raise BrickInputError(str(file), "objects of VOC's 20 classes", f"'{entry.name}'")
    return _NAMES.index(entry.name)
