"""Images in one folder per class."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, final

import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F  # noqa: N812 - its usual name

from brickyard.data.dataset import find_split, split_names
from brickyard.data.images import find_images, read_image
from brickyard.data.label_kinds import LabelKind
from brickyard.data.orientation import check_header
from brickyard.errors import BrickInputError


@final
class ImageFolder(Dataset[dict[str, Any]]):
    """Images in one folder per class, as `torchvision.datasets.ImageFolder`, with labels for `cls` and `emb`.

    Classes are the names of the folders of all splits, in alphabetical order; for `emb`, the class is the identity. The
    splits may have different identities, as it is usual in retrieval.

    Args:
        folder: The folder of the splits.
        split: "train", "val" or "test"; "val" matches "valid" and "validation".

    Raises:
        BrickInputError: The split does not exist or has no images, or an image is in no folder of a class.
    """

    layout: ClassVar[str] = "<split>/<class>/ with the images of a class, also in folders below it"

    kinds: ClassVar[dict[str, LabelKind]] = {"cls": LabelKind.CLASS_INDEX, "emb": LabelKind.ID}

    def __init__(self, folder: str | Path, split: str) -> None:
        root = Path(folder)
        folder_of_split = find_split(root, split, self.layout)
        known = {name for each in ("train", "val", "test") for name in split_names(each)}
        every = {path.name for name in known | {split} if (root / name).is_dir() for path in _folders(root / name)}
        classes = sorted(every)
        images = find_images([folder_of_split])
        self._samples = [(image, _class_of(image, folder_of_split, classes)) for image in images]
        self.labels: dict[str, tuple[str, ...]] = {"cls": tuple(classes), "emb": ()}

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Read one sample.

        Returns:
            image: (3, H, W) uint8.
            targets/cls: () int64, the class, 0 to K - 1.
            targets/emb: The same.

        Raises:
            BrickInputError: The image is absent or damaged.
        """
        file, class_index = self._samples[index]
        image = tv_tensors.Image(F.pil_to_tensor(read_image(file)))
        return {"image": image, "targets/cls": torch.tensor(class_index), "targets/emb": torch.tensor(class_index)}

    def check(self, index: int) -> int:
        """Check one sample without decoding its image, see `CheckableDataset`; raises what reading it would raise."""
        check_header(self._samples[index][0])
        return 0


def _folders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]


def _class_of(image: Path, folder: Path, classes: list[str]) -> int:
    relative = image.relative_to(folder)
    if len(relative.parts) < 2:
        raise BrickInputError(str(image), "an image in the folder of its class", "an image outside these folders")
    return classes.index(relative.parts[0])
