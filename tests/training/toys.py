"""A trainer without output, and a module for it."""

from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from brickyard import BrickCollection, LightningBrickCollection

MULTITASK = "test_resnet_cls_seg-lraspp_det-ssdlite"


def lightning(collection: BrickCollection, path: Path, **options: Any) -> LightningBrickCollection:
    create_optimizer_func = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=5e-4)
    return LightningBrickCollection(
        path_experiments=path,
        experiment_name=None,
        brick_collection=collection,
        create_optimizers_func=options.pop("optimizer", create_optimizer_func),
        **options,
    )


def quiet_trainer(path: Path, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        default_root_dir=path,
        accelerator="cpu",
        logger=options.pop("logger", False),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
