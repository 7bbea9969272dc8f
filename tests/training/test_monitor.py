import pytest
from torch import nn
from torchmetrics import MeanSquaredError
from torchmetrics.classification import MulticlassAccuracy

from brickyard import BrickCollection, BrickLoss, BrickMetrics, BrickTrainable, UnknownNameError, create_model
from brickyard.training.monitor import resolve_monitor
from tests.runs import small_model


@pytest.mark.parametrize(
    ("monitor", "expected"),
    [
        ("validation/loss", ("validation/loss", "min")),
        ("loss", ("validation/loss", "min")),
        ("seg/MeanIoU", ("validation/seg/MeanIoU", "max")),
        ("validation/cls/Accuracy", ("validation/cls/Accuracy", "max")),
        ("det/map_50", ("validation/det/map_50", "max")),
        ("det/loss_box", ("validation/det/loss_box", "min")),
    ],
)
def test_a_metric_has_a_full_name_and_a_mode(monitor: str, expected: tuple[str, str]) -> None:
    assert resolve_monitor(small_model(), monitor, None) == expected
    assert resolve_monitor(small_model(), monitor, "max") == (expected[0], "max")


def test_an_error_is_minimized_as_the_metric_declares() -> None:
    metrics = {"Quality": MeanSquaredError(), "Accuracy": MulticlassAccuracy(2)}
    head = {
        "layer": BrickTrainable(nn.Linear(2, 2), ["x"], ["./y"]),
        "loss": BrickLoss(nn.MSELoss(), ["./y", "targets/a"], ["./loss"]),
        "metrics": BrickMetrics(metrics, ["./y", "targets/a"]),
    }
    model = BrickCollection({"a": head})
    assert resolve_monitor(model, "a/Quality", None)[1] == "min"
    assert resolve_monitor(model, "a/Accuracy", None)[1] == "max"
    assert resolve_monitor(create_model("test_resnet_depth"), "depth/RMSE", None)[1] == "min"
    assert resolve_monitor(create_model("test_resnet_depth"), "depth/Delta1", None)[1] == "max"


@pytest.mark.parametrize("monitor", ["sag/MeanIoU", "validation/losss", "backbone/loss"])
def test_an_unknown_metric_is_an_error_before_the_training(monitor: str) -> None:
    with pytest.raises(UnknownNameError, match="metric to monitor"):
        resolve_monitor(small_model(), monitor, None)
