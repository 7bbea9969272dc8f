"""Checks that hold for every task, called by the tests of each."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from brickyard import BrickCollection, Predictor, Stage, create_model, export_onnx

TRAINED = {"MODEL", "LOSS"}


def rows(batch: dict[str, Any], kept: Tensor) -> dict[str, Any]:
    """The values of some rows; labels may be lists."""
    return {
        name: value[kept] if isinstance(value, Tensor) else [value[row] for row in kept.nonzero()[:, 0].tolist()]
        for name, value in batch.items()
    }


def learned(
    model: BrickCollection, batch: dict[str, Tensor], loss: str, steps: int, lr: float = 5e-3, clip: float = math.inf
) -> tuple[float, float]:
    """Train, and evaluate on the same images: the first and the last loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    losses = []
    for _ in range(steps):
        value = model(batch, tags=TRAINED)[loss]
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        schedule.step()
        losses.append(value.item())
    with torch.no_grad():
        model.eval()(batch, tags=Stage.VALIDATION.tags)
    return losses[0], losses[-1]


def assert_every_weight_is_trained(model: BrickCollection, batch: dict[str, Tensor], head: str) -> None:
    model(batch, tags=TRAINED)[f"{head}/loss"].backward()
    assert not [name for name, weight in model[head].named_parameters() if weight.grad is None]


def assert_unlabelled_rows_do_not_matter(
    model: BrickCollection, batch: dict[str, Any], head: str, nonsense: Any
) -> None:
    """Neither for the loss, nor for its gradients, nor for the metrics, whatever their labels contain."""
    model.eval()
    kept = torch.ones(len(batch["image"]), dtype=torch.bool)
    kept[1] = False
    partial = {name: value.clone() if isinstance(value, Tensor) else list(value) for name, value in batch.items()}
    partial[f"targets/{head}"][1] = nonsense
    partial["image"].requires_grad_()
    loss = model({**partial, f"labelled/{head}": kept}, tags=Stage.VALIDATION.tags)[f"{head}/loss"]
    summary = model.summarize(reset=True)
    gradient = torch.autograd.grad(loss, partial["image"])[0]
    assert gradient.isfinite().all()
    assert gradient[kept].any()
    assert not gradient[~kept].any()
    alone = model(rows(batch, kept), tags=Stage.VALIDATION.tags)[f"{head}/loss"]
    torch.testing.assert_close(loss, alone)
    assert summary
    for name, value in model.summarize(reset=True).items():
        torch.testing.assert_close(value, summary[name], equal_nan=True)


def assert_without_labels_the_loss_is_zero(model: BrickCollection, batch: dict[str, Tensor], head: str) -> None:
    unlabelled = {f"labelled/{head}": torch.zeros(len(batch["image"]), dtype=torch.bool)}
    loss = model({**batch, **unlabelled}, tags=Stage.VALIDATION.tags)[f"{head}/loss"]
    loss.backward()
    assert loss.item() == 0
    assert not model.summarize(reset=True)
    for weight in model[head].parameters():
        assert weight.grad is not None
        assert not weight.grad.any()


def assert_stored_and_swapped(model: BrickCollection, head: str, output: str, folder: Path) -> None:
    """The same values after a save, and with the head swapped into another model."""
    image = {"image": torch.rand(2, 3, 64, 64)}
    model.eval().save_pretrained(folder / "model")
    again = create_model(f"local-dir:{folder / 'model'}").eval()
    torch.testing.assert_close(again(image, outputs=[output])[output], model(image, outputs=[output])[output])
    other = create_model("test_resnet_cls", num_classes=2)
    other.swap("backbone", model["backbone"])
    with pytest.raises(KeyError):
        other[head]
    other.swap(head, f"{folder / 'model'}/{head}")
    torch.testing.assert_close(other.eval()(image, outputs=[output])[output], model(image, outputs=[output])[output])
    assert other[f"{head}/head"].metadata == model[f"{head}/head"].metadata


def predicted(model: BrickCollection, folder: Path, size: tuple[int, int] = (400, 120)) -> Any:
    """The prediction for an image of another size than the model's."""
    file = folder / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(file)
    return next(Predictor(model).predict(file, draw=True))


def assert_exported(model: BrickCollection, folder: Path, head: str) -> None:
    """As ONNX, which is compared with the model at other batch sizes when it is written; and predictions are equal."""
    export_onnx(model.eval(), folder / "model.onnx", image_size=64)
    image = np.random.default_rng(0).random((3, 3, 64, 64), dtype=np.float32)
    outputs = Predictor(folder / "model.onnx")({"image": image})
    expected = Predictor(model)({"image": image})
    assert outputs
    for name, array in outputs.items():
        assert name.startswith(f"{head}/")
        np.testing.assert_allclose(array, expected[name], rtol=1e-3, atol=1e-2)
