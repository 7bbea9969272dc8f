import gc
import weakref

import pytest
import torch
from torch import nn

from brickyard import (
    BrickCollection,
    BrickGraphError,
    BrickInputError,
    BrickLoss,
    BrickModule,
    BrickTrainable,
    MissingInputError,
    Stage,
    UnknownNameError,
    per_stage_brick_collections,
)
from tests.toys import identity, plus, tiny_bricks, tiny_inputs

ZERO = torch.zeros(1)


class Watched:
    """A value that can be watched being freed."""


def test_a_collection_computes_what_its_modules_compute_wired_by_hand():
    bricks = tiny_bricks()
    collection = BrickCollection(bricks).eval()
    inputs = tiny_inputs()
    outputs = collection(named_inputs=inputs)
    features = bricks["backbone"].model(bricks["preprocessor"].model(inputs["raw"]))
    logits = bricks["head"]["classifier"].model(features)
    expected = {
        **inputs,
        "processed": inputs["raw"] / 2,
        "features": features,
        "head/logits": logits,
        "head/loss_ce": nn.functional.cross_entropy(logits, inputs["targets"]),
    }
    assert list(outputs) == list(expected)
    for name, value in expected.items():
        assert torch.equal(outputs[name], value)


def test_the_given_inputs_are_not_changed(collection):
    inputs = tiny_inputs()
    before = dict(inputs)
    collection(inputs)
    assert inputs == before


def test_inputs_can_be_left_out_of_what_is_returned(collection):
    outputs = collection(tiny_inputs(), return_inputs=False)
    assert list(outputs) == ["processed", "features", "head/logits", "head/loss_ce"]


@pytest.mark.parametrize("tags", ["MODEL", {"MODEL"}, ["MODEL"], Stage.INFERENCE.tags])
def test_tags_run_only_the_bricks_that_carry_them(collection, tags):
    outputs = collection({"raw": tiny_inputs()["raw"]}, tags=tags)
    assert list(outputs) == ["raw", "processed", "features", "head/logits"]


def test_groups_are_tags_in_their_older_spelling(collection):
    raw = {"raw": tiny_inputs()["raw"]}
    assert collection(raw, groups={"MODEL"}).keys() == collection(raw, tags={"MODEL"}).keys()


def test_an_unknown_tag_names_the_tags_there_are(collection):
    with pytest.raises(UnknownNameError, match=r"Unknown tag 'MODLE'. Did you mean 'MODEL'"):
        collection(tiny_inputs(), tags={"MODLE"})
    with pytest.raises(UnknownNameError, match=r"'LOSS'.*'MODEL'"):
        collection(tiny_inputs(), groups="zzz")


@pytest.mark.parametrize("tags", ["METRIC_EXTRA", set()])
def test_a_selection_that_runs_nothing_names_the_bricks(collection, tags):
    with pytest.raises(BrickGraphError, match=r"No brick runs.*'head/loss'"):
        collection(tiny_inputs(), tags=tags)


def test_a_tag_of_ones_own_is_a_tag():
    collection = BrickCollection({"a": plus(1, ["x"], ["y"], tags="MINE"), "b": plus(1, ["x"], ["z"])})
    assert list(collection({"x": ZERO}, tags="MINE")) == ["x", "y"]


def test_a_missing_input_is_found_before_anything_has_run(collection):
    ran = []
    collection["preprocessor"].register_forward_hook(lambda *_: ran.append("preprocessor"))
    with pytest.raises(MissingInputError, match="brick 'head/loss' reads 'targets'") as caught:
        collection({"raw": tiny_inputs()["raw"], "target": ZERO})
    assert "Did you mean 'target'?" in str(caught.value)
    assert ran == []
    assert collection.summarize(reset=True) == {}


def test_a_missing_input_that_the_tags_leave_out_names_its_maker(collection):
    with pytest.raises(
        MissingInputError, match="'head/logits' is written by brick 'head/classifier', which these tags"
    ):
        collection(tiny_inputs(), tags={"LOSS"})


def test_values_that_bricks_would_make_can_be_given_to_a_selection_that_reads_them(collection):
    logits = torch.rand(4, 3)
    outputs = collection({"head/logits": logits, "targets": tiny_inputs()["targets"]}, tags="LOSS", return_inputs=False)
    torch.testing.assert_close(outputs["head/loss_ce"], nn.functional.cross_entropy(logits, tiny_inputs()["targets"]))


def test_outputs_run_only_what_they_need_and_are_all_that_is_returned(collection):
    ran = []
    for path, brick in collection.bricks().items():
        brick.register_forward_hook(lambda *_, path=path: ran.append(path))
    outputs = collection({"raw": tiny_inputs()["raw"]}, outputs=["features"])
    assert list(outputs) == ["features"]
    assert ran == ["preprocessor", "backbone"]


def test_outputs_come_in_the_order_asked_for(collection):
    assert list(collection(tiny_inputs(), outputs=["head/loss_ce", "processed"])) == ["head/loss_ce", "processed"]


def test_an_output_that_nobody_makes_names_the_nearest(collection):
    with pytest.raises(BrickGraphError, match=r"'head/logit'. Did you mean 'head/logits'"):
        collection(tiny_inputs(), outputs=["head/logit"])


def test_intermediate_values_are_freed_after_their_last_reader():
    alive = {}

    def make(*_):
        value = Watched()
        alive[len(alive)] = weakref.ref(value)
        return value

    def check(*_):
        gc.collect()
        living.append([ref() is not None for ref in alive.values()])
        return make()

    living = []
    collection = BrickCollection(
        {
            "a": BrickModule(make, ["x"], ["a"]),
            "unread": BrickModule(lambda x: (make(), x), ["x"], ["unread", "b"]),
            "c": BrickModule(check, ["a", "b"], ["c"]),
            "d": BrickModule(check, ["c"], ["d"]),
        }
    )
    result = collection({"x": 0}, outputs=["d"])
    assert living == [[True, False], [False, False, True]]
    assert alive[3]() is result["d"]


def test_the_collection_holds_no_value_after_a_call():
    collection = BrickCollection({"a": BrickModule(lambda x: Watched(), ["x"], ["y"])})
    made = weakref.ref(collection({"x": 0})["y"])
    gc.collect()
    assert made() is None


def test_bricks_in_any_declared_order_run_after_what_they_read():
    collection = BrickCollection({"late": plus(10, ["y"], ["z"]), "early": plus(1, ["x"], ["y"])})
    assert collection({"x": ZERO})["z"] == 11


def test_all_passes_what_has_been_made_so_far():
    seen = []
    bricks = {
        "a": plus(1, ["x"], ["y"]),
        "watch": BrickModule(lambda values: seen.append(sorted(values)), ["__all__"], []),
        "b": plus(1, ["y"], ["z"]),
    }
    BrickCollection(bricks)({"x": ZERO, "more": 1})
    assert seen == [["more", "x", "y"]]


def test_a_brick_can_pick_from_features_and_do_without_a_mask():
    collection = BrickCollection(
        {
            "backbone": BrickModule(lambda x: [x, x + 1, x + 2], ["x"], ["features"]),
            "head": identity(["features[-1]", "features[1:]", "mask?"], ["last", "rest", "seen"]),
        }
    )
    outputs = collection({"x": ZERO})
    assert (outputs["last"], outputs["rest"], outputs["seen"]) == (2, [1, 2], None)
    assert collection({"x": ZERO, "mask": 5}, outputs=["seen"]) == {"seen": 5}


def two_tasks() -> BrickCollection:
    return BrickCollection(
        {
            "backbone": plus(1, ["x"], ["features"]),
            "a": {"loss": BrickLoss(torch.sub, ["features", "targets/a"], ["./loss"])},
            "b": {
                "loss": BrickLoss(torch.sub, ["features", "targets/b"], ["./loss"]),
                "after": plus(1, ["./loss"], ["./more"]),
            },
        }
    )


def test_skip_missing_leaves_out_bricks_without_their_inputs_and_what_depends_on_them():
    outputs = two_tasks()({"x": ZERO, "targets/a": ZERO}, skip_missing=True)
    assert list(outputs) == ["x", "targets/a", "features", "a/loss"]


def test_skip_missing_leaves_asked_for_outputs_out_where_they_cannot_be_made():
    collection = two_tasks()
    outputs = ["a/loss", "b/more"]
    assert list(collection({"x": ZERO, "targets/a": ZERO}, outputs=outputs, skip_missing=True)) == ["a/loss"]
    everything = {"x": ZERO, "targets/a": ZERO, "targets/b": ZERO}
    assert list(collection(everything, outputs=outputs, skip_missing=True)) == outputs


def test_losses_are_extracted_without_sub_losses():
    both = BrickLoss(lambda x: (x, 2 * x, 3 * x), ["x"], ["./sum", "./ce", "./dice"], loss_output_names=["./sum"])
    collection = BrickCollection({"seg": {"loss": both}, "cls": {"loss": both}, "model": plus(1, ["x"], ["y"])})
    outputs = collection({"x": torch.ones(1)})
    assert collection.extract_losses(named_outputs=outputs) == {"seg/sum": 1, "cls/sum": 1}
    assert outputs["seg/dice"] == 3


@pytest.mark.parametrize("value", ["text", 3, torch.tensor([1]), [torch.ones(1)], None])
def test_a_value_under_the_name_of_a_loss_that_no_loss_brick_wrote_is_refused(collection, value):
    outputs = collection(tiny_inputs(), tags="MODEL")
    name = next(name for brick in collection.bricks().values() for name in brick.loss_names)
    with pytest.raises(BrickInputError, match=f"loss '{name}': expected a floating-point tensor"):
        collection.extract_losses({**outputs, name: value})


class Counter(nn.Module):
    """Counts the values that it saw."""

    def __init__(self):
        super().__init__()
        self.seen = 0

    def forward(self, x):
        self.seen += x.numel()
        return x

    def summarize(self, reset):
        values = {"seen": self.seen}
        self.seen = 0 if reset else self.seen
        return values


def test_a_module_s_own_summary_is_part_of_the_collection_s():
    bricks = {"head": {"counter": BrickTrainable(Counter(), ["x"], ["./y"])}, "plain": plus(1, ["x"], ["z"])}
    collection = BrickCollection(bricks)
    for _ in range(2):
        collection({"x": torch.ones(3)})
    assert collection.summarize(reset=False) == {"head/seen": 6}
    assert collection["head"].summarize(reset=True) == {"head/seen": 6}
    assert collection.summarize(reset=True) == {"head/seen": 0}


def test_losses_that_did_not_run_are_not_extracted(collection):
    assert collection.extract_losses(collection(tiny_inputs(), tags="MODEL")) == {}


def test_required_inputs_are_those_of_the_selection(collection):
    assert collection.required_inputs() == ["raw", "targets"]
    assert collection.required_inputs(tags={"MODEL"}) == ["raw"]
    assert collection.required_inputs(tags="LOSS") == ["head/logits", "targets"]
    assert collection.required_inputs(outputs=["features"]) == ["raw"]


def test_a_sub_collection_has_only_the_selected_bricks_and_shares_them(collection):
    part = collection.sub_collection(tags={"MODEL"})
    assert list(part.bricks()) == ["preprocessor", "backbone", "head/classifier"]
    assert part["head/classifier"] is collection["head/classifier"]
    assert list(collection.sub_collection(outputs=["processed"]).bricks()) == ["preprocessor"]
    assert collection.sub_collection().keys() == collection.keys()
    assert list(collection["head"].keys()) == ["classifier", "loss", "metrics"]


def test_a_change_of_a_sub_collection_leaves_the_whole_alone(collection):
    part = collection.sub_collection()
    part.pop("head")
    assert "head/loss" in collection
    assert "head/loss" not in part


def test_a_nested_collection_runs_by_itself_under_the_names_of_the_whole(collection):
    features = torch.rand(4, 5, 2, 2)
    head = collection["head"]
    assert list(head({"features": features}, tags="MODEL", return_inputs=False)) == ["head/logits"]
    assert head.required_inputs() == ["features", "targets"]
    assert list(head.bricks()) == ["head/classifier", "head/loss", "head/metrics"]


def test_stages_share_modules_and_keep_metrics_apart(collection):
    stages = per_stage_brick_collections(collection)
    assert set(stages) == {"TRAIN", "VALIDATION", "TEST"}
    assert stages["TRAIN"]["backbone"].model is stages["TEST"]["backbone"].model is collection["backbone"].model
    stages["TRAIN"](tiny_inputs())
    assert stages["VALIDATION"].summarize(reset=True) == {}
    assert set(stages["TRAIN"].summarize(reset=False)) == {"head/Accuracy", "head/ConfMat"}
    assert collection.summarize(reset=True) == {}
    assert len(list(stages.parameters())) == len(list(collection.parameters()))
