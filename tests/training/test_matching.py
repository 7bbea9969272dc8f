import pytest
import torch

from brickyard import BrickMismatchError, create_model
from brickyard.data.label_kinds import LabelKind
from brickyard.data.synthetic.digits import DigitScenes
from brickyard.training.matching import check_labels, create_model_for
from tests.runs import LABELS, Rectangles


def test_a_model_has_the_classes_of_the_data_and_only_the_heads_of_its_name() -> None:
    model = create_model_for(Rectangles(1), "test_resnet_seg_det")
    assert sorted(model) == ["backbone", "det", "preprocessor", "seg"]
    for head in ("seg", "det"):
        assert model[f"{head}/head"].head.labels == LABELS[head]
    assert model["seg/head"].head.variant == "fpn"


def test_the_seed_determines_the_initial_weights_and_leaves_the_global_random_state_unchanged() -> None:
    state = torch.get_rng_state()
    weights = [
        create_model_for(Rectangles(1), "test_resnet_cls", seed=seed)["cls/head"].model.weight for seed in (1, 1, 2)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(torch.get_rng_state(), state)


def test_data_without_labels_for_the_model_is_refused() -> None:
    model = create_model("test_resnet_cls", num_classes=3)
    data = Rectangles(1)
    data.labels = {"age": ("young", "old")}
    with pytest.raises(BrickMismatchError, match=r"expected labels for some of \['cls'\], found \['age'\]"):
        check_labels(model, data)


def test_data_of_other_classes_is_refused_for_each_head() -> None:
    model = create_model("test_resnet_cls_seg", labels={"cls": ["a", "b", "c"], "seg": ["a", "b"]})
    with pytest.raises(BrickMismatchError) as error:
        check_labels(model, Rectangles(1))
    assert [problem.partition(":")[0] for problem in error.value.problems] == ["head 'cls'", "head 'seg'"]
    assert "expected the 2 classes ['a', 'b']" in error.value.problems[1]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("test_resnet_cls", DigitScenes("val", 1), "kind 'class index', found 'multi-hot': use 'cls-multilabel'"),
        ("test_resnet_cls-multilabel", Rectangles(1), "kind 'multi-hot', found 'class index': use 'cls-linear'"),
    ],
)
def test_single_label_and_multi_label_data_are_not_confused(name: str, data: Rectangles, message: str) -> None:
    with pytest.raises(BrickMismatchError, match=message):
        create_model_for(data, name)


def test_data_may_have_more_tasks_than_the_model_and_the_model_than_the_data() -> None:
    check_labels(create_model("test_resnet_det", labels=LABELS["det"]), Rectangles(1))
    data = Rectangles(1)
    data.labels = {"det": LABELS["det"]}
    check_labels(create_model("test_resnet_cls_det", labels={"det": LABELS["det"]}), data)


def test_the_kind_of_labels_is_checked_by_task_and_not_by_the_name_of_the_head() -> None:
    model = create_model(backbone="test_resnet", tasks={"color": "cls-multilabel"}, labels={"color": LABELS["cls"]})
    data = Rectangles(1)
    data.labels, data.kinds = {"color": LABELS["cls"]}, {"color": LabelKind.CLASS_INDEX}
    with pytest.raises(BrickMismatchError, match="head 'color': expected labels of the kind 'multi-hot'"):
        check_labels(model, data)
