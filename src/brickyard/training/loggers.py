"""Lightning's loggers by name, and visualizations for those that take images (the extra `train`)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, final, runtime_checkable

import numpy as np

from brickyard.errors import MissingExtraError, UnknownNameError

try:
    from pytorch_lightning.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
except ImportError:
    raise MissingExtraError("Training with Lightning", "train") from None

_PROJECT = "brickyard"


@runtime_checkable
class ImageLogger(Protocol):
    """A logger that takes images, such as `RunLog` or Lightning's `WandbLogger`."""

    def log_image(self, key: str, images: list[Any], step: int | None = None) -> None:
        """Log Pillow images under a name."""


@final
@dataclass(frozen=True)
class _NamedLogger:
    """A logger that has a name.

    Attributes:
        create: Creates it for a folder.
        package: The package that it needs, None for none.
    """

    create: Callable[[Path], Logger]
    package: str | None = None


def _wandb(folder: Path) -> Logger:
    project = os.environ.get("WANDB_PROJECT", _PROJECT)
    return WandbLogger(name=folder.parent.name, project=project, save_dir=folder)


def _mlflow(folder: Path) -> Logger:
    experiment, server = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT), os.environ.get("MLFLOW_TRACKING_URI")
    if server is not None:
        return MLFlowLogger(experiment, folder.parent.name, server)
    folder.mkdir(parents=True, exist_ok=True)
    database, artifacts = f"sqlite:///{folder.absolute() / 'mlflow.db'}", f"{folder.absolute() / 'mlflow'}"
    return MLFlowLogger(experiment, folder.parent.name, database, artifact_location=artifacts)


_LOGGERS = {
    "csv": _NamedLogger(lambda folder: CSVLogger(folder, "csv", flush_logs_every_n_steps=1)),
    "tensorboard": _NamedLogger(
        lambda folder: TensorBoardLogger(folder, "tensorboard", default_hp_metric=False), "tensorboard"
    ),
    "wandb": _NamedLogger(_wandb, "wandb"),
    "mlflow": _NamedLogger(_mlflow, "mlflow"),
}


def check_loggers(loggers: Sequence[Logger | str]) -> None:
    """Check that the loggers which are named exist and are installed.

    Raises:
        UnknownNameError: There is no such logger.
        MissingExtraError: The package of a logger is not installed.
    """
    for name in (logger for logger in loggers if isinstance(logger, str)):
        if name not in _LOGGERS:
            raise UnknownNameError("logger", name, _LOGGERS)
        package = _LOGGERS[name].package
        if package is not None and find_spec(package) is None:
            raise MissingExtraError(f"The logger '{name}'", package=package)


def open_loggers(loggers: Sequence[Logger | str], folder: Path, settings: Mapping[str, Any]) -> list[Logger]:
    """Create the loggers that are named, and log the settings of a training to all.

    Args:
        loggers: Loggers and names.
        folder: Where the named ones write what they do not send to a server.
        settings: JSON values by name.
    """
    opened = [_LOGGERS[logger].create(folder) if isinstance(logger, str) else logger for logger in loggers]
    for logger in opened:
        logger.log_hyperparams(dict(settings))
    return opened


def image_writer(logger: Logger) -> Callable[[str, list[Any], int], None] | None:
    """Return the function that logs Pillow images under a name for a step, None if the logger takes none."""
    if isinstance(logger, ImageLogger):
        return logger.log_image
    if isinstance(logger, TensorBoardLogger):
        return lambda key, images, step: _to_tensorboard(logger, key, images, step)
    if isinstance(logger, MLFlowLogger):
        return lambda key, images, step: _to_mlflow(logger, key, images, step)
    return None


def _to_tensorboard(logger: TensorBoardLogger, key: str, images: list[Any], step: int) -> None:
    for index, image in enumerate(images):
        logger.experiment.add_image(f"{key}/{index}", np.asarray(image), step, dataformats="HWC")


def _to_mlflow(logger: MLFlowLogger, key: str, images: list[Any], step: int) -> None:
    for index, image in enumerate(images):
        logger.experiment.log_image(logger.run_id, np.asarray(image), f"{key}_{step}_{index}.png")
