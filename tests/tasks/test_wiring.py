from typing import Optional, Union

import pytest
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from brickyard import BrickGraphError
from brickyard.parts.losses import LabelledMetrics
from brickyard.tasks.metadata import Label
from brickyard.tasks.wiring import input_names

OUTPUTS = {"logits": "./logits", "scores": "./scores", "target_boxes": "./target_boxes"}
ONE = {"seg": Label("targets/parts")}
SEVERAL = {"seg": Label("targets/parts"), "age": Label("targets/parts/age", ("float", "int"))}


def wired(part, labels=ONE, outputs=OUTPUTS):
    return input_names(part, "Brick 'parts/loss'", main_output="logits", outputs=outputs, labels=labels)


@pytest.mark.parametrize("name", ["predictions", "prediction", "preds", "pred"])
def test_the_main_output_has_four_names(name):
    function = eval(f"lambda {name}: 0")
    assert wired(function) == {name: "./logits"}


def test_labels_are_named_by_their_task():
    assert wired(lambda target: 0) == {"target": "targets/parts"}
    assert wired(lambda targets, target_seg: 0) == {"targets": "targets/parts", "target_seg": "targets/parts"}
    several = wired(lambda target_seg, target_age, labelled_age=None: 0, SEVERAL)
    assert several == {
        "target_seg": "targets/parts",
        "target_age": "targets/parts/age",
        "labelled_age": "labelled/parts/age?",
    }


def test_which_rows_are_labelled_has_one_name():
    assert wired(lambda labelled: 0) == {"labelled": "labelled/parts"}
    with pytest.raises(BrickGraphError, match="'labelleds'"):
        wired(lambda labelleds: 0)


def test_any_other_argument_is_an_output_also_one_that_begins_like_a_label():
    assert wired(lambda scores, target_boxes: 0) == {"scores": "./scores", "target_boxes": "./target_boxes"}


def test_an_output_of_a_reserved_name_does_not_hide_what_is_reserved():
    outputs = {**OUTPUTS, "image": "./image", "target": "./target"}
    assert wired(lambda image, target: 0, outputs=outputs) == {"image": "image", "target": "targets/parts"}


def test_the_image_is_also_both_canvases():
    names = wired(lambda prediction_canvas, target_canvas, image: 0)
    assert names == {"prediction_canvas": "image", "target_canvas": "image", "image": "image"}


def test_what_may_be_none_is_optional():
    def loss(
        pred: Optional[Tensor],  # noqa: UP045
        target: Tensor | None,
        labelled: Tensor | None = None,
        mask: Union[Tensor, None] = None,  # noqa: UP007
        depth: "Tensor | None" = None,
        scores=None,
    ): ...

    assert wired(loss) == {
        "pred": "./logits?",
        "target": "targets/parts?",
        "labelled": "labelled/parts?",
        "scores": "./scores?",
    }


def test_what_may_be_none_and_has_no_default_is_read_even_if_nothing_writes_it():
    def loss(mask: Tensor | None): ...

    assert wired(loss) == {"mask": "./mask?"}


def test_a_default_is_kept_where_nothing_provides_the_argument():
    def loss(preds, scores: float = 1.0, smoothing: float = 0.1, *more, **options): ...

    assert wired(loss) == {"preds": "./logits", "scores": "./scores"}


def test_annotations_that_cannot_be_evaluated_are_read_as_text():
    def loss(preds: "NoSuchName", target: "NoSuchName | None"): ...  # noqa: F821

    assert wired(loss) == {"preds": "./logits", "target": "targets/parts?"}


def test_modules_metrics_and_callable_objects_are_read_where_they_are_called():
    class Loss(nn.Module):
        def forward(self, scores): ...

    class Draw:
        def __call__(self, image, scores): ...

    assert wired(Loss()) == {"scores": "./scores"}
    assert wired(Draw()) == {"image": "image", "scores": "./scores"}
    both = {"preds": "./logits", "target": "targets/parts"}
    assert wired(MulticlassAccuracy(3)) == both
    assert wired(MetricCollection({"a": MulticlassAccuracy(3), "b": MulticlassAccuracy(3)})) == both
    labelled = LabelledMetrics({"a": MulticlassAccuracy(3)})
    assert wired(labelled) == {**both, "labelled": "labelled/parts?"}


@pytest.mark.parametrize(
    ("part", "labels", "messages"),
    [
        (lambda masks: 0, ONE, ["'masks'", "The head writes ['logits', 'scores', 'target_boxes']", "['seg']"]),
        (lambda score: 0, ONE, ["'score'", "Did you mean 'scores'"]),
        (lambda target: 0, SEVERAL, ["'target'", "2 labels: target_seg, target_age"]),
        (lambda targets: 0, {}, ["'targets'", "no labels"]),
        (lambda target_sex: 0, SEVERAL, ["'target_sex'", "target_seg"]),
        (nn.CrossEntropyLoss(), ONE, ["'input'"]),
        (MeanMetric(), ONE, ["'value'"]),
        (lambda *values: 0, ONE, ["no named arguments"]),
    ],
)
def test_an_argument_that_nothing_provides_is_an_error_that_lists_what_is_available(part, labels, messages):
    with pytest.raises(BrickGraphError) as caught:
        wired(part, labels)
    assert all(words in str(caught.value) for words in ["Brick 'parts/loss'", *messages])


def test_predictions_without_the_main_output_are_an_error():
    with pytest.raises(BrickGraphError, match=r"'preds'.*main output, 'logits'.*writes \['scores'\]"):
        wired(lambda preds: 0, outputs={"scores": "./scores"})


def test_texts_are_not_tensors_and_numbers_are_not_lists():
    def of_tensor(target_kind: Tensor): ...

    def of_list(target_age: list[Tensor]): ...

    def right(target_kind: list[str], target_age: Tensor): ...

    labels = {**SEVERAL, "kind": Label("targets/parts/kind", ("str",))}
    assert list(wired(right, labels)) == ["target_kind", "target_age"]
    with pytest.raises(
        BrickGraphError, match=r"'target_kind' is annotated.*Tensor.*parts/kind' has values of type str"
    ):
        wired(of_tensor, labels)
    with pytest.raises(
        BrickGraphError, match=r"'target_age' is annotated list.*parts/age' has values of type float or int"
    ):
        wired(of_list, labels)


def test_a_torch_function_can_be_wired_by_a_function_that_calls_it():
    def loss(predictions, target):
        return nn.functional.cross_entropy(predictions, target)

    names = wired(loss)
    values = {"./logits": torch.randn(2, 3), "targets/parts": torch.tensor([0, 2])}
    given = {argument: values[name] for argument, name in names.items()}
    assert loss(**given) == nn.functional.cross_entropy(values["./logits"], values["targets/parts"])
