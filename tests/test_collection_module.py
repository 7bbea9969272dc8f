"""A collection as an `nn.Module`."""

import copy
import pickle

import pytest
import torch
from torch import nn

from brickyard import BrickCollection, BrickModule
from tests.toys import plus, run_python, tiny_bricks, tiny_inputs

ZERO = torch.zeros(1)

PRINTED = """\
BrickCollection(
  (preprocessor): BrickNotTrainable(Half, input_names=['raw'], output_names=['processed'], tags={'MODEL'})
  (backbone): BrickTrainable(TinyBackbone, input_names=['processed'], output_names=['features'], tags={'MODEL'})
  (head): BrickCollection(
    (classifier): BrickTrainable(TinyClassifier, input_names=['features'], output_names=['head/logits'], tags={'MODEL'})
    (loss): BrickLoss(CrossEntropyLoss, input_names=['head/logits', 'targets'], output_names=['head/loss_ce'], tags={'LOSS'})
    (metrics): BrickMetrics(['Accuracy', 'ConfMat'], input_names=['head/logits', 'targets'], output_names=[], tags={'METRIC'})
  )
)"""  # noqa: E501


def equal(left, right) -> bool:
    left, right = left.state_dict(), right.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def test_a_collection_prints_its_bricks_and_not_their_modules(collection):
    assert str(collection) == PRINTED


@pytest.mark.parametrize(
    "twin_of", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))], ids=["deepcopy", "pickle"]
)
def test_a_copy_computes_the_same_and_shares_nothing(collection, twin_of):
    collection.eval()(tiny_inputs())
    twin = twin_of(collection)
    assert str(twin) == str(collection)
    assert equal(twin, collection)
    for name, value in collection(tiny_inputs()).items():
        assert torch.equal(twin(tiny_inputs())[name], value)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert twin(tiny_inputs())["head/logits"].abs().sum() == 0
    assert collection(tiny_inputs())["head/logits"].abs().sum() > 0
    twin["head"]["more"] = plus(1, ["raw"], ["./more"])
    assert "head/more" in twin
    assert "head/more" not in collection


def test_a_copys_metrics_are_its_own(collection):
    twin = copy.deepcopy(collection)
    collection(tiny_inputs())
    assert twin.summarize(reset=True) == {}


def test_precision_moves_every_parameter_and_buffer(collection):
    collection.to(torch.float64)
    inputs = {**tiny_inputs(), "raw": tiny_inputs()["raw"].double()}
    assert collection(inputs)["head/logits"].dtype == torch.float64
    assert {parameter.dtype for parameter in collection.parameters()} == {torch.float64}


def test_a_state_dict_has_dotted_paths_and_goes_round(collection, tmp_path):
    keys = collection.state_dict().keys()
    assert "backbone.model.conv.weight" in keys
    assert "head.classifier.model.fc.bias" in keys
    torch.save(collection.state_dict(), tmp_path / "state.pt")
    other = BrickCollection(tiny_bricks())
    assert not equal(other, collection)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert equal(other, collection)


def test_gradients_are_those_of_the_modules_wired_by_hand():
    bricks = tiny_bricks()
    by_hand = copy.deepcopy(bricks)
    inputs = tiny_inputs()
    collection = BrickCollection(bricks)
    sum(collection.extract_losses(collection(inputs)).values()).backward()
    features = by_hand["backbone"].model(inputs["raw"] / 2)
    nn.functional.cross_entropy(by_hand["head"]["classifier"].model(features), inputs["targets"]).backward()
    for brick, other in (
        (bricks["backbone"], by_hand["backbone"]),
        (bricks["head"]["classifier"], by_hand["head"]["classifier"]),
    ):
        for left, right in zip(brick.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(left.grad, right.grad)


def test_functional_calls_take_other_parameters():
    collection = BrickCollection({"deep": {"fc": BrickModule(nn.Linear(2, 2, bias=False), ["x"], ["y"])}})
    outputs = torch.func.functional_call(
        collection, {"deep.fc.model.weight": 2 * torch.eye(2)}, ({"x": torch.ones(1, 2)},)
    )
    assert torch.equal(outputs["y"], torch.full((1, 2), 2.0))


def test_training_mode_reaches_every_trainable_brick(collection):
    assert collection["backbone"].model.training
    assert not collection["preprocessor"].model.training
    collection.eval()
    assert not any(module.training for module in collection.modules())
    collection.train()
    assert not collection["preprocessor"].model.training


CHECKS = """
import torch
from brickyard import BrickCollection, BrickError, BrickModule
from tests.toys import identity

assert False, "assertions are off under -O"

def refused(what, make):
    try:
        make()
    except BrickError as error:
        print(what, type(error).__name__)

x = {"x": torch.zeros(1)}
one = identity(["x"], ["y"])
refused("tag", lambda: BrickCollection({"a": one})(x, tags="MODLE"))
refused("nothing", lambda: BrickCollection({"a": one})(x, tags="LOSS"))
refused("cycle", lambda: BrickCollection({"a": identity(["z"], ["y"]), "b": identity(["y"], ["z"])}))
refused("writers", lambda: BrickCollection({"a": one, "b": one}))
refused("missing", lambda: BrickCollection({"a": one})({}))
refused("outputs", lambda: BrickCollection({"a": identity(["x"], ["y", "z"])})(x))
refused("tuple", lambda: BrickCollection({"a": BrickModule(lambda x: (x, x), ["x"], ["y"])})(x))
refused("root", lambda: BrickCollection({"a": identity(["../x"], ["y"])}))
refused("losses", lambda: BrickModule(torch.neg, ["x"], ["y"], loss_output_names=["z"]))
"""


@pytest.mark.slow
def test_every_check_holds_when_python_runs_without_assertions():
    assert run_python(CHECKS, "-O").splitlines() == [
        "tag UnknownNameError",
        "nothing BrickGraphError",
        "cycle BrickGraphError",
        "writers BrickGraphError",
        "missing MissingInputError",
        "outputs BrickGraphError",
        "tuple BrickGraphError",
        "root BrickGraphError",
        "losses BrickGraphError",
    ]
