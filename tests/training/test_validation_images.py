import numpy as np
import torch

from brickyard.tasks.registry import get_task
from brickyard.training.validation_images import draw_batch
from tests.runs import Rectangles, collate_rectangles, small_model


def test_labels_are_drawn_next_to_predictions_where_an_image_has_them() -> None:
    data = Rectangles(3, {"seg": {1}, "det": {0, 1, 2}})
    model = small_model().eval()
    batch = collate_rectangles([data[index] for index in range(3)])
    drawn = draw_batch(model, batch, 2)
    assert {name: len(images) for name, images in drawn.items()} == {
        "cls/visualization": 2,
        "seg/visualization": 2,
        "det/visualization": 2,
    }
    with_label, without = drawn["seg/visualization"]
    assert with_label.width > 2 * 320
    assert without.width == 320
    assert all(image.width in (320, 64) for image in drawn["det/visualization"])
    labels = {"image": batch["image"], "seg/class_prediction": batch["targets/seg"]}
    expected = np.asarray(model["seg/visualization"](labels)["seg/visualization"][0])
    rows = np.asarray(with_label)[:, -320:]
    tops = range(len(rows) - len(expected) + 1)
    assert any(np.array_equal(rows[top : top + len(expected)], expected) for top in tops), "as a prediction"


def test_the_boxes_of_labels_are_drawn_in_both_forms() -> None:
    model = small_model("test_resnet_det-ssdlite").eval()
    data = Rectangles(2)
    batch = collate_rectangles([data[0], data[1]])
    padded = {
        "boxes": torch.stack([target["boxes"] for target in batch["targets/det"]]),
        "labels": torch.stack([target["labels"] for target in batch["targets/det"]]),
    }
    first = draw_batch(model, batch, 2)["det/visualization"]
    assert all(image.width > 320 for image in first)
    outputs = [get_task("det").labels_as_outputs(labels, 3) for labels in (batch["targets/det"], padded)]
    ignoring = [{**target, "ignore": torch.ones(1, dtype=torch.bool)} for target in batch["targets/det"]]
    assert [len(rows) for rows in get_task("det").labels_as_outputs(ignoring, 3)["boxes"]] == [0, 0]
    for name in ("boxes", "scores", "labels"):
        for one, other in zip(outputs[0][name], outputs[1][name], strict=True):
            np.testing.assert_array_equal(one, other)
