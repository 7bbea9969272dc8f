from dataclasses import dataclass

import pytest

from brickyard import BrickGraphError, UnknownNameError
from brickyard.core.names import parse_reference
from brickyard.core.plan import Step, make_plan, owners


@dataclass
class Node:
    """What a plan needs to know of a brick, and nothing else."""

    reads: tuple
    writes: tuple
    tags: frozenset
    on_request: tuple = ()


def node(reads: str, writes: str, tags: str = "MODEL", on_request: str = "") -> Node:
    return Node(
        tuple(parse_reference(read, "node") for read in reads.split()),
        tuple(writes.split()),
        frozenset(tags.split()),
        tuple(on_request.split()),
    )


CHAIN = {
    "pre": node("raw", "image"),
    "backbone": node("image", "features"),
    "head": node("features", "logits"),
    "loss": node("logits targets", "loss", "LOSS"),
}


def paths(plan) -> list[str]:
    return [step.path for step in plan.steps]


def test_a_plan_runs_every_brick_in_declared_order_and_keeps_every_value():
    plan = make_plan(CHAIN)
    assert plan.steps == tuple(Step(path, ()) for path in CHAIN)
    assert plan.required == ("raw", "targets")
    assert plan.outputs is None


def test_bricks_declared_in_another_order_run_after_what_they_read():
    shuffled = {path: CHAIN[path] for path in ("loss", "head", "pre", "backbone")}
    assert paths(make_plan(shuffled)) == list(CHAIN)


def test_the_topological_order_stays_near_the_declared_one():
    bricks = {"z": node("late", "z"), "b": node("x", "b"), "a": node("x", "late"), "c": node("x", "c")}
    assert paths(make_plan(bricks)) == ["b", "a", "z", "c"]


def test_tags_select_bricks_that_carry_one_of_them():
    assert paths(make_plan(CHAIN, tags={"LOSS"})) == ["loss"]
    assert make_plan(CHAIN, tags={"LOSS"}).required == ("logits", "targets")
    assert paths(make_plan(CHAIN, tags={"MODEL", "LOSS"})) == list(CHAIN)


def test_one_brick_can_carry_several_tags():
    bricks = {"a": node("x", "a", "MODEL EXTRA"), "b": node("x", "b", "EXTRA"), "c": node("x", "c")}
    assert paths(make_plan(bricks, tags={"EXTRA"})) == ["a", "b"]
    assert paths(make_plan(bricks, tags={"MODEL"})) == ["a", "c"]


def test_a_tag_that_nobody_carries_is_an_error_that_names_the_tags():
    with pytest.raises(UnknownNameError, match=r"Unknown tag 'MODLE'. Did you mean 'MODEL'"):
        make_plan(CHAIN, tags={"MODLE"})


def test_a_known_tag_may_select_nothing_beside_others():
    assert paths(make_plan(CHAIN, tags={"LOSS", "METRIC_EXTRA"})) == ["loss"]


@pytest.mark.parametrize("tags", [{"METRIC"}, set()])
def test_a_selection_that_runs_nothing_is_an_error_that_names_bricks_and_their_tags(tags):
    with pytest.raises(BrickGraphError, match=r"No brick runs with tags .*'loss' \['LOSS'\]"):
        make_plan(CHAIN, tags=tags)


def test_no_bricks_make_an_empty_plan():
    assert make_plan({}).steps == ()


def test_outputs_select_what_they_depend_on_and_drop_each_value_after_its_last_reader():
    plan = make_plan(CHAIN, outputs=("logits",))
    assert plan.steps == (Step("pre", ("raw",)), Step("backbone", ("image",)), Step("head", ("features",)))
    assert plan.required == ("raw",)
    assert plan.outputs == ("logits",)


def test_a_value_that_was_asked_for_is_not_dropped():
    dropped = {name for step in make_plan(CHAIN, outputs=("features", "loss")).steps for name in step.drops}
    assert dropped == {"raw", "image", "logits", "targets"}


def test_a_value_with_two_readers_goes_after_the_second():
    bricks = {"a": node("x", "y"), "b": node("y", "p"), "c": node("y p", "q")}
    drops = {step.path: set(step.drops) for step in make_plan(bricks, outputs=("q",)).steps}
    assert drops == {"a": {"x"}, "b": set(), "c": {"y", "p"}}


def test_an_output_that_nobody_reads_goes_at_once():
    bricks = {"a": node("x", "y aux"), "b": node("y", "z")}
    assert set(make_plan(bricks, outputs=("z",)).steps[0].drops) == {"x", "aux"}


def test_a_reader_of_everything_keeps_what_was_made_before_it_and_all_before_it_runs():
    bricks = {"a": node("x", "y"), "b": node("y", "z"), "watch": node("__all__", "seen"), "c": node("z", "w")}
    plan = make_plan(bricks, outputs=("seen",))
    assert paths(plan) == ["a", "b", "watch"]
    assert [step.drops for step in plan.steps[:2]] == [(), ()]


def test_a_reader_of_everything_runs_after_the_bricks_declared_before_it():
    bricks = {"late": node("made", "l"), "watch": node("__all__", "seen"), "maker": node("x", "made")}
    assert paths(make_plan(bricks)) == ["maker", "late", "watch"]


def test_an_output_that_nobody_makes_names_the_nearest():
    with pytest.raises(BrickGraphError, match=r"No brick writes the output 'logit'. Did you mean 'logits'"):
        make_plan(CHAIN, outputs=("logit",))


def test_an_output_that_the_tags_leave_out_names_its_brick():
    with pytest.raises(BrickGraphError, match="'loss' is written by brick 'loss', which these tags leave out"):
        make_plan(CHAIN, tags={"MODEL"}, outputs=("loss",))


def test_two_bricks_that_wait_for_each_other_are_named():
    with pytest.raises(BrickGraphError, match="form a cycle") as caught:
        make_plan({"a": node("z", "y"), "b": node("y", "z"), "c": node("x", "w")})
    assert "a ->" in str(caught.value)
    assert "b ->" in str(caught.value)
    assert "c" not in str(caught.value).partition(":")[2]


def test_a_brick_that_waits_for_itself_is_a_cycle():
    with pytest.raises(BrickGraphError, match="form a cycle: a -> a"):
        make_plan({"a": node("x", "x")})


def test_two_bricks_that_write_one_name_are_named():
    with pytest.raises(BrickGraphError, match="'a' and 'b' both write 'y'"):
        make_plan({"a": node("x", "y"), "b": node("x", "y")})


def test_owners_finds_who_has_a_name():
    assert owners({"a": ["x", "y"], "b": ["z"]}, "report") == {"x": "a", "y": "a", "z": "b"}


def test_an_optional_value_is_not_required_and_is_waited_for_where_somebody_makes_it():
    bricks = {"head": node("features mask?", "logits"), "masker": node("features", "mask")}
    assert paths(make_plan(bricks)) == ["masker", "head"]
    assert make_plan(bricks).required == ("features",)
    assert make_plan({"head": bricks["head"]}).required == ("features",)


def test_given_names_leave_out_bricks_that_lack_an_input_and_what_depends_on_them():
    bricks = {**CHAIN, "after": node("loss", "scaled", "LOSS"), "opt": node("loss? logits", "report")}
    plan = make_plan(bricks, given={"raw"})
    assert paths(plan) == ["pre", "backbone", "head", "opt"]
    assert plan.required == ("raw",)


def test_outputs_that_lack_an_input_are_left_out_with_given_names():
    assert paths(make_plan(CHAIN, outputs=("logits", "loss"), given={"raw"})) == ["pre", "backbone", "head"]


def test_given_names_that_run_nothing_are_an_error():
    with pytest.raises(BrickGraphError, match="No brick runs with the given inputs"):
        make_plan(CHAIN, given={"other"})


def test_outputs_on_request_are_asked_for_by_the_reads_of_the_bricks_that_run():
    bricks = {
        "backbone": node("image", "features maps tokens", on_request="maps tokens"),
        "a": node("maps[-1]", "x"),
        "b": node("features maps[0,1] tokens?", "y"),
    }

    def requests(**selection):
        return [(read.name, read.index) for read in make_plan(bricks, **selection).steps[0].requests]

    assert requests() == [("maps", -1), ("maps", (0, 1)), ("tokens", None)]
    assert requests(outputs=("x",)) == [("maps", -1)]
    assert requests(outputs=("features", "tokens")) == [("tokens", None)]
    assert requests(outputs=("features",)) == []
    assert all(step.requests == () for step in make_plan(bricks).steps[1:])
