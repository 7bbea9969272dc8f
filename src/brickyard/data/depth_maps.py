"""Images with depth maps, in PNG or NumPy files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.utils.data import Dataset

from brickyard.data.dataset import split_names
from brickyard.data.images import find_images
from brickyard.data.label_kinds import LabelKind
from brickyard.data.orientation import check_header, read_oriented
from brickyard.data.reading import damage_as_input_error
from brickyard.data.text import read_text
from brickyard.errors import BrickInputError

_SETTINGS = "depth.json"
_SCALE = 0.001  # metres: a millimetre, as in NYU Depth v2, ScanNet and the sensors of RealSense and Kinect
_GREY_MODES = ("I;16", "I;16B", "I;16L", "I")  # of Pillow, for 16-bit grey
_SUFFIXES = (".png", ".npy")


@final
class DepthMaps(Dataset[dict[str, Any]]):
    """Images with a depth map each, with labels for `depth`.

    See `layout` for the files. The map of `a/b.jpg` is `a/b.png`, 16-bit grey, or `a/b.npy`, an array (H, W). Integers
    are multiples of a scale, 0.001 unless `depth.json` in the folder has another one, as {"scale": 0.0002}: depths are
    in metres if 1000 means a metre. Floating-point arrays are taken as they are. Depths that are 0, negative or not
    finite are unknown. A map has the size of its image.

    Args:
        folder: The folder.
        split: "train", "val" or "test"; "val" matches "valid" and "validation".

    Raises:
        BrickInputError: The split does not exist or has no images, or the settings are damaged.
    """

    layout: ClassVar[str] = (
        "images/<split>/ with the images and depth/<split>/ with a 16-bit PNG or a NumPy file of the same name for "
        "each, or <split>/images/ and <split>/depth/, with the scale of integers in depth.json if it is not 0.001"
    )
    labels: ClassVar[dict[str, tuple[str, ...]]] = {"depth": ()}
    kinds: ClassVar[dict[str, LabelKind]] = {"depth": LabelKind.DENSE_MAP}

    def __init__(self, folder: str | Path, split: str) -> None:
        root = Path(folder)
        images, maps = _folders(root, split)
        self.scale = _scale(root / _SETTINGS)
        self._samples = [(image, _map_of(maps / image.relative_to(images))) for image in find_images([images])]

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Read one sample.

        Returns:
            image: (3, H, W) uint8.
            targets/depth: (H, W) float32, 0 where it is unknown. Absent if no depth is known.

        Raises:
            BrickInputError: The image or the map is absent or damaged, or they have different sizes.
        """
        image, file = self._samples[index]
        values = _read(file)
        depth = values.astype(np.float32) if values.dtype.kind == "f" else values.astype(np.float32) * self.scale
        depth = np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))
        oriented = read_oriented(image, (depth.shape[0], depth.shape[1]))
        sample: dict[str, Any] = {"image": oriented.image}
        if depth.any():
            sample["targets/depth"] = oriented.label(LabelKind.DENSE_MAP, torch.from_numpy(depth))
        return sample

    def check(self, index: int) -> int:
        """Check one sample without decoding its image or its map, see `CheckableDataset`."""
        image, file = self._samples[index]
        check_header(image, _size_of(file))
        return 0


def _folders(root: Path, split: str) -> tuple[Path, Path]:
    """Return the folders of the images and of the maps of a split."""
    for name in split_names(split):
        for images, maps in (
            (root / "images" / name, root / "depth" / name),
            (root / name / "images", root / name / "depth"),
        ):
            if images.is_dir():
                if not maps.is_dir():
                    raise BrickInputError(str(root), f"depth maps in {maps.relative_to(root)}/", "no such folder")
                return images, maps
    raise BrickInputError(str(root), f"images/{split}/ or {split}/images/", "none", f"Layout: {DepthMaps.layout}.")


def _scale(file: Path) -> np.float32:
    """Return what an integer of 1 means, from the settings."""
    if not file.exists():
        return np.float32(_SCALE)
    with damage_as_input_error(str(file), '{"scale": number above 0}', ""):
        scale = json.loads(read_text(file, "settings in JSON"))["scale"]
        if isinstance(scale, bool) or not (isinstance(scale, int | float) and 0 < scale < float("inf")):
            raise ValueError(f"scale: {scale}")
    return np.float32(scale)


def _map_of(image: Path) -> Path:
    """Return the file of the map with the name of an image."""
    files = [image.with_suffix(suffix) for suffix in _SUFFIXES]
    return next((file for file in files if file.is_file()), files[0])


def _read(file: Path) -> npt.NDArray[Any]:
    """Read a map (H, W), of integers or floating-point numbers."""
    _size_of(file)
    with damage_as_input_error(str(file), "a depth map", "Is the file complete?"):
        if file.suffix == ".npy":
            array: npt.NDArray[Any] = np.load(file, allow_pickle=False)
            return array
        with Image.open(file) as opened:
            return np.array(opened)


def _size_of(file: Path) -> tuple[int, int]:
    """Return (height, width) of a map by its header, and check its type."""
    expected = "a depth map: 16-bit grey PNG, or an array (H, W) of numbers"
    with damage_as_input_error(str(file), expected, "Is there a map for each image?"):
        if file.suffix == ".npy":
            array = np.load(file, mmap_mode="r", allow_pickle=False)
            if array.ndim != 2 or array.dtype.kind not in "fiu":
                raise BrickInputError(str(file), expected, f"{array.shape} of {array.dtype}")
            return int(array.shape[0]), int(array.shape[1])
        with Image.open(file) as opened:
            if opened.mode not in _GREY_MODES:
                raise BrickInputError(str(file), expected, f"an image of the mode {opened.mode}")
            return opened.height, opened.width
