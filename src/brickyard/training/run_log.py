"""The log of a training run: metrics as JSON lines, visualizations as PNG files (the extra `train`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isnan
from pathlib import Path
from typing import Any, final

from brickyard.errors import MissingExtraError
from brickyard.training.run_folder import LOG, VISUALIZATIONS

try:
    from pytorch_lightning.loggers import Logger
    from pytorch_lightning.utilities import rank_zero_only
except ImportError:
    raise MissingExtraError("Training with Lightning", "train") from None


@final
class RunLog(Logger):  # type: ignore[misc]
    """Write each row of metrics as a line of `log.jsonl`, and visualizations into `visualizations/`.

    Args:
        folder: The folder of the run.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.file = folder / LOG
        self.visualizations = folder / VISUALIZATIONS

    @property
    def name(self) -> str:
        return self.file.parent.name

    @property
    def version(self) -> str:
        return ""

    @property
    def size(self) -> int:
        """Size of the log in bytes, for `truncate`."""
        return self.file.stat().st_size if self.file.exists() else 0

    @rank_zero_only  # type: ignore[untyped-decorator]
    def truncate(self, size: int) -> None:
        """Remove the rows after the first `size` bytes; create the log if there is none."""
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
        """Do nothing: `fit` writes the settings into `config.yaml`."""

    @rank_zero_only  # type: ignore[untyped-decorator]
    def log_image(self, key: str, images: list[Any], step: int | None = None) -> None:
        """Save Pillow images as `<key>_<step>_<index>.png`."""
        self.visualizations.mkdir(parents=True, exist_ok=True)
        for index, image in enumerate(images):
            image.save(self.visualizations / f"{key.replace('/', '_')}_{step}_{index}.png")
