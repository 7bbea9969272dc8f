"""Data sets in the format of Pascal VOC: classes, pixels and boxes of objects."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, final
from xml.etree import ElementTree

import torch
from torch.utils.data import Dataset
from torchvision.datasets import VOCSegmentation

from brickyard.data.dataset import split_names
from brickyard.data.images import find_images
from brickyard.data.label_kinds import check_pixels
from brickyard.data.objects import OBJECT_KINDS, box_target, check_box, count_small, object_labels, presence
from brickyard.data.orientation import check_header, read_class_map, read_oriented
from brickyard.data.reading import damage_as_input_error
from brickyard.data.text import read_lines
from brickyard.errors import BrickInputError, UnknownNameError
from brickyard.parts.segmentation import IGNORED

_log = logging.getLogger(__name__)
_YEARS = ("2007", "2008", "2009", "2010", "2011", "2012")
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
class _Files(NamedTuple):
    """The files of a sample."""

    image: Path
    xml: Path
    mask: Path | None


@final
class Voc(Dataset[dict[str, Any]]):
    """A data set in the format of Pascal VOC (http://host.robots.ox.ac.uk/pascal/VOC), with labels for `cls`
    (multi-label), `det`, `fomo` and, where there are masks and the order of their classes is known, `seg`.

    See `layout` for the files. The classes are VOC's 20 in `VOCdevkit`, else those of a file with one name per line,
    `classes.txt` or `labels.txt`, or of CVAT's `labelmap.txt`; without such a file, the names in the annotations of all
    splits, in alphabetical order. Objects that are marked as difficult count in `cls` and are ignored in `det` and
    `fomo`, as in VOC's evaluation.

    Args:
        root: The folder.
        split: "train", "val", "test" or any other list of images; "val" matches "valid" and "validation".
        year: "2007" to "2012", of the folder in `VOCdevkit`.
        download: Whether to download VOC with torchvision if it is absent.

    Raises:
        UnknownNameError: The split or year is unknown.
        BrickInputError: The data set is absent, or a list of images or of classes is damaged.
    """

    layout: ClassVar[str] = (
        "JPEGImages/, Annotations/*.xml and ImageSets/Segmentation/<split>.txt or ImageSets/Main/<split>.txt, with "
        "masks in SegmentationClass/*.png and the class names in classes.txt if there is one; VOCdevkit/VOC<year>/ "
        "with these, as in torchvision; or as Roboflow writes it <split>/ with each .xml next to its image"
    )

    def __init__(self, root: str | Path, split: str, *, year: str = "2012", download: bool = False) -> None:
        if year not in _YEARS:
            raise UnknownNameError("year", year, _YEARS)
        if download:
            VOCSegmentation(str(root), year=year, image_set=split, download=True)
        published = Path(root) / "VOCdevkit" / f"VOC{year}"
        folder = published if published.is_dir() else Path(root)
        if (folder / "Annotations").is_dir():
            self._samples = _listed_samples(folder, split)
            annotations = [folder / "Annotations"]
        else:
            self._samples = _unlisted_samples(folder, split, published)
            annotations = [child for child in folder.iterdir() if child.is_dir()]
        names, are_ordered = (_NAMES, True) if folder == published else _class_names(folder, annotations)
        self._index_of = {name: index for index, name in enumerate(names)}
        has_masks = any(sample.mask is not None for sample in self._samples)
        if has_masks and not are_ordered:
            _log.warning("%s: masks are not read, since no classes.txt has the order of their classes.", folder)
        self._has_masks = has_masks and are_ordered
        self.labels = object_labels(names, masks=self._has_masks, location=str(folder))
        self.kinds = {name: OBJECT_KINDS[name] for name in self.labels}

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Read one sample.

        Returns:
            image: (3, H, W) uint8.
            targets/cls: (K,) int64, 1 for each class that is present, else 0.
            targets/seg: (H, W) int64, 0 for background, 1 to K for classes, 255 for the borders between objects. Absent
                where the image has no mask.
            targets/det: boxes (M, 4) float32, xyxy in pixels, labels (M,) int64, 0 to K - 1, and ignore (M,) bool, True
                for difficult objects.

        Raises:
            BrickInputError: A file is absent or damaged, or does not match the others.
        """
        files = self._samples[index]
        sample: dict[str, Any] = {}
        mask = None
        if self._has_masks and files.mask is not None:
            mask = read_class_map(files.mask)
            if not ((mask <= len(self._index_of)) | (mask == IGNORED)).all():
                expected = f"classes 0 to {len(self._index_of)}, or {IGNORED}"
                raise BrickInputError(str(files.mask), expected, f"{sorted(set(mask.flatten().tolist()))}")
        oriented = read_oriented(files.image, None if mask is None else (mask.shape[0], mask.shape[1]))
        if mask is not None:
            sample["targets/seg"] = oriented.mask(mask)
        objects, labels = self._objects(files.xml, oriented.size)
        boxes = oriented.boxes(torch.tensor([entry.box for entry in objects], dtype=torch.float32).reshape(-1, 4))
        target = box_target(boxes, labels, [entry.difficult for entry in objects])
        return {
            "image": oriented.image,
            "targets/cls": presence(labels, len(self._index_of)),
            **sample,
            "targets/det": target,
            "targets/fomo": dict(target),
        }

    def check(self, index: int) -> int:
        """Check one sample without decoding its image, see `CheckableDataset`; raises what reading it would raise."""
        files = self._samples[index]
        size = check_header(files.mask) if self._has_masks and files.mask is not None else None
        size = check_header(files.image, size)
        return count_small((entry.box for entry in self._objects(files.xml, size)[0]), size)

    def _objects(self, xml: Path, size: tuple[int, int]) -> tuple[list[XmlObject], list[int]]:
        """Return the objects of an image of (height, width), checked, and their classes."""
        objects = read_objects(xml)
        for entry in objects:
            if entry.name not in self._index_of:
                known = ", ".join(list(self._index_of)[:20])
                raise BrickInputError(
                    str(xml), f"objects of the {len(self._index_of)} classes {known}", f"'{entry.name}'"
                )
            check_box(entry.box, size, f"{xml}, '{entry.name}'")
        # Before `read_objects` subtracts 1, a box in [0, 1] is one of fractions.
        as_written = torch.tensor([entry.box for entry in objects]).reshape(-1, 4) + torch.tensor([1, 1, 0, 0])
        check_pixels(as_written, str(xml))
        return objects, [self._index_of[entry.name] for entry in objects]


def _listed_samples(folder: Path, split: str) -> list[_Files]:
    """Return the files of the images in the list of a split."""
    lists = [*(folder / "ImageSets" / "Segmentation").glob("*.txt"), *(folder / "ImageSets" / "Main").glob("*.txt")]
    named = [file for name in split_names(split) for file in lists if file.stem == name]
    if not named:
        hint = "A split is a list of images, ImageSets/Main/<split>.txt."
        raise UnknownNameError("split", split, {file.stem for file in lists}, hint)
    names = read_lines(named[0], "a list of images")
    if not names:
        raise BrickInputError(str(named[0]), "a list of one image or more", "an empty file")
    have_masks = named[0].parent.name == "Segmentation"
    images = {file.stem: file for file in (folder / "JPEGImages").iterdir()} if (folder / "JPEGImages").is_dir() else {}
    samples = []
    for name in names:
        mask = folder / "SegmentationClass" / f"{name}.png"
        image = images.get(name, folder / "JPEGImages" / f"{name}.jpg")
        xml = folder / "Annotations" / f"{name}.xml"
        samples.append(_Files(image, xml, mask if have_masks or mask.is_file() else None))
    return samples


def _unlisted_samples(folder: Path, split: str, published: Path) -> list[_Files]:
    """Return the files of a split whose annotations are in the folder of its images."""
    for name in split_names(split):
        if (folder / name).is_dir() and any((folder / name).glob("*.xml")):
            images = find_images([folder / name])
            return [_Files(image, image.with_suffix(".xml"), None) for image in images]
    expected = f"VOC in VOCdevkit/{published.name}, or in another layout"
    raise BrickInputError(str(folder), expected, "none", f"Pass download=True to download it. Layout: {Voc.layout}.")


def _class_names(folder: Path, annotations: Iterable[Path]) -> tuple[tuple[str, ...], bool]:
    """Return the class names, and whether their order is that of the numbers in masks."""
    for name in ("classes.txt", "labels.txt", "labelmap.txt"):
        if (file := folder / name).is_file():
            lines = [line for line in read_lines(file, "one class name per line") if not line.startswith("#")]
            names = [line.partition(":")[0] for line in lines] if name == "labelmap.txt" else lines
            classes = tuple(each for each in names if each != "background")
            if not classes or len(set(classes)) < len(classes):
                raise BrickInputError(str(file), "one class name per line, all different", f"{names}")
            return classes, True
    found: set[str] = set()
    damage = BrickInputError(str(folder), "annotations with objects", "none")
    for xml in (file for each in annotations for file in each.glob("*.xml") if not file.name.startswith(".")):
        try:
            found |= {entry.name for entry in read_objects(xml)}
        except BrickInputError as error:  # reported when the file is checked as a sample
            damage = error
    if not found:
        raise damage
    return tuple(sorted(found)), found == set(_NAMES)


def read_objects(file: Path) -> list[XmlObject]:
    """Read the objects of an annotation in VOC's XML format.

    Raises:
        BrickInputError: The file is absent or damaged, or has an object without a name or a box.
    """
    with damage_as_input_error(str(file), "an annotation in VOC's XML format", ""):
        return [_object_of(element) for element in ElementTree.parse(file).getroot().iterfind("object")]


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
