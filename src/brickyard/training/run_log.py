"""The log of a training run: a file of JSON lines and a folder of pictures (the extra `train`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isnan
from pathlib import Path
from typing import Any, final

from brickyard.errors import MissingExtraError

try:
    from pytorch_lightning.loggers import Logger
    from pytorch_lightning.utilities import rank_zero_only
except ImportError:
    raise MissingExtraError("Training with Lightning", "train") from None


@final
class RunLog(Logger):  # type: ignore[misc]
    """Writes each row of figures as a line of `log.jsonl`, and pictures into `pictures/`.

    Args:
        folder: Of the run.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.file = folder / "log.jsonl"
        self.pictures = folder / "pictures"

    @property
    def name(self) -> str:
        return self.file.parent.name

    @property
    def version(self) -> str:
        return ""

    @property
    def size(self) -> int:
        """How many bytes have been written, for `cut`."""
        return self.file.stat().st_size if self.file.exists() else 0

    @rank_zero_only  # type: ignore[untyped-decorator]
    def cut(self, size: int) -> None:
        """Forget the rows after the first `size` bytes."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("ab") as file:
            file.truncate(size)

    @rank_zero_only  # type: ignore[untyped-decorator]
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        with self.file.open("a", encoding="utf-8") as file:
            row = {name: None if isnan(value) else value for name, value in metrics.items()}  # JSON has no nan
            file.write(json.dumps({"step": step, **row}) + "\n")

    @rank_zero_only  # type: ignore[untyped-decorator]
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Settings are in the run's own file."""

    @rank_zero_only  # type: ignore[untyped-decorator]
    def log_image(self, key: str, images: list[Any], step: int | None = None) -> None:
        """Keep Pillow images as files, those of an earlier step too."""
        self.pictures.mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(images):
            image.save(self.pictures / f"{key.replace('/', '_')}_{step}_{number}.png")
