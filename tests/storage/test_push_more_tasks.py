"""Keypoints, embeddings and depth on the Hub: each head is pushed, looked at, and put into another model."""

import pytest
import torch

from brickyard import BrickMismatchError, create_model, fits, inspect_brick
from tests.hub.models import REPO, assert_equal, cold, size_of, train

HEADS = {
    "kpt": ("kpt-deconv", ["nose", "tail"], ("kpt/heatmaps", "kpt/keypoints", "kpt/scores")),
    "emb": ("emb-mlp", ["0", "1", "2", "3"], ("emb/vector",)),
    "depth": ("depth-unet", ["metres"], ("depth/coarse", "depth/depth")),
}
ALL_OUTPUTS = [output for _, _, outputs in HEADS.values() for output in outputs]


def of_task(task, seed=0):
    torch.manual_seed(seed)
    token, labels, _ = HEADS[task]
    return create_model(f"test_resnet_{token}", labels=labels)


def with_the_backbone_of(model, name):
    other = create_model(name)
    other.swap("backbone", model["backbone"])
    return other


@pytest.mark.parametrize("task", HEADS)
def test_a_head_is_pushed_inspected_and_added_to_another_model_with_the_same_backbone(hub, task):
    token, labels, outputs = HEADS[task]
    model = of_task(task)
    model.push_to_hub(REPO)
    info = inspect_brick(f"hf://{REPO}/{task}")
    assert (info.path, info.task, info.config["variant"]) == (f"{task}/head", task, token.partition("-")[2])
    assert list(info.labels) == labels
    other = with_the_backbone_of(model, "test_resnet_cls")
    assert fits(info, other) == []
    other.swap(task, f"hf://{REPO}/{task}")
    assert set(other[task].bricks()) == set(model[task].bricks())
    assert_equal(other, model, outputs)


@pytest.mark.parametrize("task", HEADS)
def test_a_head_takes_the_place_of_another_one_of_its_task(hub, task):
    model = of_task(task)
    model.push_to_hub(REPO, bricks=task)
    other = with_the_backbone_of(model, f"test_resnet_{task}")  # of the default variant and other classes
    other.swap(task, f"hf://{REPO}/{task}")
    assert other[f"{task}/head"].metadata == model[f"{task}/head"].metadata
    assert_equal(other, model, HEADS[task][2])


@pytest.mark.parametrize("task", HEADS)
def test_a_head_of_another_backbone_is_refused_before_its_weights_travel(hub, task):
    of_task(task).push_to_hub(REPO)
    stranger = create_model("test_resnet_cls")
    with hub.recording() as seen, pytest.raises(BrickMismatchError, match="weights of the backbone"):
        stranger.swap(task, f"hf://{REPO}/{task}")
    assert not seen.matching("*.safetensors")
    assert f"{task}/head" not in stranger.bricks()


def test_all_three_are_pulled_together_and_one_changed_head_is_pushed_alone(hub, tmp_path, monkeypatch):
    labels = {task: names for task, (_, names, _) in HEADS.items()}
    model = create_model("test_resnet_" + "_".join(token for token, _, _ in HEADS.values()), labels=labels)
    model.push_to_hub(REPO)
    train(model, "kpt/head")
    with hub.recording() as seen:
        model.push_to_hub(REPO)
    assert [request.up for request in seen.matching("/lfs/*", method="PUT")] == [size_of(model, "kpt/head")]
    cold(monkeypatch, tmp_path / "cold")
    again = create_model(f"hf-hub:{REPO}")
    assert list(again.bricks()) == list(model.bricks())
    assert_equal(again, model, ALL_OUTPUTS)
