"""Data sets for anomaly detection in the layout of MVTec AD."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, final

import torch
from torch.utils.data import Dataset

from brickyard.data.dataset import split_names
from brickyard.data.images import find_images
from brickyard.data.label_kinds import LabelKind
from brickyard.data.orientation import check_header, read_class_map, read_oriented
from brickyard.errors import BrickInputError

_GOOD, _TRUTH = "good", "ground_truth"
_log = logging.getLogger(__name__)


@final
class _Sample(NamedTuple):
    """An image, whether it is anomalous, and the file of its mask, None without one."""

    image: Path
    is_anomalous: bool
    mask: Path | None


@final
class MvtecAd(Dataset[dict[str, Any]]):
    """One category of a data set in the layout of MVTec AD (Bergmann et al. 2019,
    https://www.mvtec.com/company/research/datasets/mvtec-ad), with labels for `anomaly`.

    See `layout` for the files. The training split has normal images only. Where there is no folder of validation
    images, as in MVTec AD itself, `val` is the test split, with a logged warning. Where `ground_truth/` exists, each
    anomalous image has a mask there, `<image>_mask.png` or `<image>.png`, of the size of its image and not 0 where it
    is anomalous.

    Args:
        folder: The folder of the category.
        split: "train", "val" or "test".

    Raises:
        BrickInputError: The split does not exist or has no images, or the training split has anomalous images.
    """

    layout: ClassVar[str] = (
        "train/good/ with normal images, test/good/ and test/<defect>/ with normal and anomalous ones, with masks in "
        "ground_truth/<defect>/<image>_mask.png if there are any"
    )
    labels: ClassVar[dict[str, tuple[str, ...]]] = {"anomaly": ("normal", "anomalous")}
    kinds: ClassVar[dict[str, LabelKind]] = {"anomaly": LabelKind.CLASS_INDEX, "anomaly/mask": LabelKind.MASK}

    def __init__(self, folder: str | Path, split: str) -> None:
        root = Path(folder)
        images = _folder_of(root, split)
        truth = root / _TRUTH if (root / _TRUTH).is_dir() else None
        self._samples = [_sample(image, images, truth) for image in find_images([images])]
        if split == "train" and (wrong := [sample.image for sample in self._samples if sample.is_anomalous]):
            expected = f"normal images only, in {_GOOD}/"
            raise BrickInputError(str(images), expected, f"{len(wrong)} others, such as {wrong[0]}")

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Read one sample.

        Returns:
            image: (3, H, W) uint8.
            targets/anomaly: () int64, 0 for normal, 1 for anomalous.
            targets/anomaly/mask: (H, W) int64, 1 for the anomalous pixels, else 0. Absent for anomalous images of a
                data set without masks.

        Raises:
            BrickInputError: The image or the mask is absent or damaged, or they have different sizes.
        """
        sample = self._samples[index]
        label = {"targets/anomaly": torch.tensor(int(sample.is_anomalous))}
        if sample.mask is None:
            image = read_oriented(sample.image).image
            normal = torch.zeros(image.shape[-2:], dtype=torch.int64)
            return {"image": image, **label, **({} if sample.is_anomalous else {"targets/anomaly/mask": normal})}
        mask = (read_class_map(sample.mask) > 0).long()
        oriented = read_oriented(sample.image, (mask.shape[0], mask.shape[1]))
        return {"image": oriented.image, **label, "targets/anomaly/mask": oriented.mask(mask)}

    def check(self, index: int) -> int:
        """Check one sample without decoding its image, see `CheckableDataset`; raises what reading it would raise."""
        sample = self._samples[index]
        check_header(sample.image, None if sample.mask is None else check_header(sample.mask))
        return 0


def _folder_of(root: Path, split: str) -> Path:
    """Return the folder of the images of a split."""
    for name in split_names(split):
        if (root / name).is_dir():
            return root / name
    if split == "val" and (root / "test").is_dir():
        _log.warning("%s: there are no validation images, so 'val' is the test split.", root)
        return root / "test"
    raise BrickInputError(str(root), f"a folder {split}/", "none", f"Layout: {MvtecAd.layout}.")


def _sample(image: Path, images: Path, truth: Path | None) -> _Sample:
    relative = image.relative_to(images)
    if len(relative.parts) < 2:
        expected = f"an image in {_GOOD}/ or in the folder of a defect"
        raise BrickInputError(str(image), expected, "an image outside these folders")
    is_anomalous = relative.parts[0] != _GOOD
    if truth is None or not is_anomalous:
        return _Sample(image, is_anomalous, None)
    masks = [truth / relative.parent / f"{image.stem}{suffix}.png" for suffix in ("_mask", "")]
    return _Sample(image, is_anomalous, next((mask for mask in masks if mask.is_file()), masks[0]))
