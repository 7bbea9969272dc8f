"""Heads with some of their classes, or with other names for them."""

import copy
import json
import warnings

import pytest
import torch
from torch import nn

from brickyard import (
    BrickCollection,
    BrickInputError,
    BrickLoss,
    BrickMismatchError,
    BrickNotFoundError,
    BrickTrainable,
    Stage,
    UnknownNameError,
    create_model,
    create_part,
    register_part,
)
from brickyard.core.specs import HeadInfo
from brickyard.parts.registry import part_of
from tests.hub.models import REPO, cold

LABELS = ("background", "cat", "dog", "bird")
KEPT = ("dog", "background")
ORDER = [2, 0]
IMAGE = {"image": torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))}
HEADS = {
    "cls": "cls/logits",
    "cls-attention": "cls/logits",
    "cls-multilabel": "cls/logits",
    **{f"seg-{head}": "seg/logits" for head in ("fpn", "fcn", "deeplabv3plus", "lraspp", "segformer", "tower", "unet")},
    "det": "det/logits",
    "det-retinanet": "det/logits",
    "det-ssdlite": "det/logits",
    "det-centernet": "det/heatmap",
    "kpt": "kpt/heatmaps",
    "kpt-deconv": "kpt/heatmaps",
}


def make(token, labels=LABELS):
    torch.manual_seed(0)
    return create_model(f"test_resnet_{token}", labels=labels).eval()


def outputs_of(model, tags=Stage.INFERENCE.tags):
    with torch.no_grad():
        return model.eval()(IMAGE, tags=tags)


def rows_of(values, token):
    """The channels of the kept classes; detectors may have a channel of the background first."""
    axis = -1 if token.startswith("det") and "centernet" not in token else 1
    background = values.shape[axis] - len(LABELS)
    order = torch.tensor([*range(background), *(background + index for index in ORDER)])
    return values.index_select(axis, order)


@pytest.mark.parametrize("token", HEADS)
def test_the_kept_classes_of_a_head_have_the_outputs_of_before(token):
    model, name = make(token), token.partition("-")[0]
    before = outputs_of(model)
    model.keep_classes(name, KEPT)
    after = outputs_of(model)
    output = HEADS[token]
    torch.testing.assert_close(after[output], rows_of(before[output], token), atol=1e-5, rtol=1e-5)
    others = {key for key in before if key.partition("/")[0] not in (name, f"{name}/")}
    assert all(torch.equal(before[key], after[key]) for key in others if isinstance(before[key], torch.Tensor))
    if token.startswith("det"):
        torch.testing.assert_close(after.get("det/regression"), before.get("det/regression"), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("token", ["cls", "seg-lraspp", "det", "kpt"])
def test_all_bricks_of_the_head_have_the_kept_classes(token, tmp_path):
    model, name = make(token), token.partition("-")[0]
    model.keep_classes(name, KEPT)
    assert model[f"{name}/head"].head.labels == KEPT
    assert part_of(model[f"{name}/visualization"].model).args["labels"] == list(KEPT)
    fresh = create_model(f"test_resnet_{token}", labels=list(KEPT))
    model.save_pretrained(tmp_path / "kept")
    fresh.save_pretrained(tmp_path / "fresh")
    for path in fresh.bricks():
        stored, expected = (
            json.loads((tmp_path / folder / f"{path}.json").read_text(encoding="utf-8")) for folder in ("kept", "fresh")
        )
        assert (path, stored["type"], stored["args"]) == (path, expected["type"], expected["args"])
        assert stored.get("labels") == expected.get("labels")
    again = outputs_of(BrickCollection.from_pretrained(tmp_path / "kept"))
    assert torch.equal(again[HEADS[token]], outputs_of(model)[HEADS[token]])


def test_loss_and_metrics_take_the_labels_of_the_kept_classes():
    model = make("cls-multilabel_seg-lraspp", {"cls": LABELS, "seg": LABELS})
    model.keep_classes("seg", KEPT)
    model.keep_classes("cls", KEPT)
    batch = {
        **IMAGE,
        "targets/cls": torch.tensor([[1, 0], [0, 1]]),
        "targets/seg": torch.randint(0, 2, (2, 64, 64)),
    }
    losses = model.extract_losses(model(batch, tags=Stage.VALIDATION.tags))
    assert all(loss.isfinite() for loss in losses.values())
    assert {"seg/IoU/dog", "seg/IoU/background"} <= set(model.summarize(reset=True))
    with pytest.raises(BrickInputError, match="targets/seg"):
        model({**batch, "targets/seg": torch.full((2, 64, 64), 3)}, tags=Stage.TRAIN.tags)


def test_a_softmax_is_over_the_kept_classes_and_a_sigmoid_is_that_of_before():
    single, multi = make("cls"), make("cls-multilabel")
    before = [outputs_of(model)["cls/probabilities"][:, ORDER] for model in (single, multi)]
    for model in (single, multi):
        model.keep_classes("cls", KEPT)
    after = [outputs_of(model)["cls/probabilities"] for model in (single, multi)]
    torch.testing.assert_close(after[0], before[0] / before[0].sum(dim=1, keepdim=True))
    torch.testing.assert_close(after[1], before[1])


def test_one_class_of_a_multi_label_head_can_stay_but_not_of_a_softmax():
    multi, single = make("cls-multilabel"), make("cls")
    multi.keep_classes("cls", ["cat"])
    assert outputs_of(multi)["cls/logits"].shape == (2, 1)
    with pytest.raises(BrickInputError, match="2 or more"):
        single.keep_classes("cls", ["cat"])


@pytest.mark.parametrize(
    ("names", "error", "match"),
    [
        (["cat", "dgo"], UnknownNameError, "class of 'cls' 'dgo'.*'dog'"),
        (["cat", "cat"], BrickInputError, "'cat' twice"),
        ([], BrickInputError, "list of names"),
        ("cat", BrickInputError, "list of names"),
        ([1, 2], BrickInputError, "text"),
    ],
)
def test_bad_names_change_nothing(names, error, match):
    model = make("cls")
    before = {path: id(brick) for path, brick in model.bricks().items()}
    with pytest.raises(error, match=match):
        model.keep_classes("cls", names)
    assert {path: id(brick) for path, brick in model.bricks().items()} == before


def test_heads_without_classes_and_unknown_heads_are_refused():
    model = create_model("test_resnet_emb_depth_cls", num_classes={"emb": 8, "cls": 3})
    for name in ("emb", "depth"):
        with pytest.raises(BrickInputError, match="predicts classes"):
            model.keep_classes(name, ["0"])
    with pytest.raises(BrickNotFoundError, match="'sge'"):
        model.keep_classes("sge", ["0"])


def test_equal_names_are_renamed_before_they_are_told_apart():
    model = make("cls")
    head = model["cls/head"]
    head.head = HeadInfo("cls", "linear", ("crane", "crane", "cat", "dog"))
    with pytest.raises(BrickInputError, match="several classes 'crane'"):
        model.keep_classes("cls", ["crane", "cat"])
    weight = head.model.weight.clone()
    model.rename_labels("cls", ["bird", "machine", "cat", "dog"])
    model.keep_classes("cls", ["machine", "cat"])
    assert torch.equal(model["cls/head"].model.weight, weight[[1, 2]])


def test_arguments_of_the_present_parts_stay():
    model = make("det")
    decode = create_part("fcos_decode", class_agnostic=True)
    model.swap("det/decode", decode)
    model["det/visualization"].model.score_threshold = 0.75
    model.keep_classes("det", ["dog"])
    assert model["det/decode"].model is decode
    assert model["det/visualization"].model.score_threshold == 0.75


def test_a_head_with_arguments_of_its_own_keeps_them():
    model = make("det")
    part = part_of(model["det/head"].model)
    model.swap("det/head", create_part(part.type, **{**part.args, "torchvision_anchors": True}))
    before = outputs_of(model, tags="MODEL")["det/logits"]
    model.keep_classes("det", KEPT)
    after = outputs_of(model, tags="MODEL")["det/logits"]
    assert model["det/head"].model.torchvision_anchors
    torch.testing.assert_close(after, before[..., ORDER], atol=1e-5, rtol=1e-5)


@register_part("test_weighted_loss")
class WeightedLoss(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.register_buffer("weight", torch.arange(1.0, num_classes + 1))

    def forward(self, logits, target):
        return nn.functional.cross_entropy(logits, target, self.weight)


def test_a_part_of_one_s_own_is_built_for_the_kept_classes_with_its_rows():
    model = make("cls")
    loss = create_part("test_weighted_loss", num_classes=4)
    model["cls/own"] = BrickLoss(loss, ["cls/logits", "targets/cls"], ["cls/own_loss"])
    model.keep_classes("cls", KEPT)
    assert model["cls/own"].model.weight.tolist() == [3.0, 1.0]
    model["cls/raw"] = BrickTrainable(nn.Linear(2, 2), ["cls/logits"], ["cls/raw"])
    with pytest.raises(BrickInputError, match="registered part"):
        model.keep_classes("cls", KEPT[::-1])


def test_labels_are_renamed_and_weights_stay():
    model = make("seg-lraspp")
    before, module = outputs_of(model), model["seg/head"].model
    model["seg/head"].metadata["metrics"] = {"MeanIoU": 0.5}
    model.rename_labels("seg", {"cat": "feline", "bird": "avian"})
    assert model["seg/head"].head.labels == ("background", "feline", "dog", "avian")
    assert tuple(model["seg/visualization"].model.labels) == model["seg/head"].head.labels
    assert model["seg/head"].model is module
    assert model["seg/head"].metadata["metrics"] == {"MeanIoU": 0.5}
    after = outputs_of(model)
    assert torch.equal(after["seg/logits"], before["seg/logits"])
    model.rename_labels("seg", list("abcd"))
    assert model["seg/head"].head.labels == tuple("abcd")
    model.keep_classes("seg", ["d", "a"])
    torch.testing.assert_close(outputs_of(model)["seg/logits"], before["seg/logits"][:, [3, 0]], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("names", "error", "match"),
    [
        (["a", "b"], BrickInputError, "4, one for each class, found 2"),
        (["a", "a", "b", "c"], BrickInputError, "'a' twice"),
        ({"cow": "x"}, UnknownNameError, "'cow'"),
        ({"cat": "dog"}, BrickInputError, "'dog' twice"),
    ],
)
def test_bad_new_names_are_refused(names, error, match):
    with pytest.raises(error, match=match):
        make("cls").rename_labels("cls", names)


def test_what_is_known_about_the_weights_follows_their_rows(hub, tmp_path, monkeypatch):
    model = make("cls")
    model["cls/head"].metadata |= {"licence": "mit", "source": "mine", "metrics": {"F1": 1.0}, "measured": "by hand"}
    model.push_to_hub(REPO)
    model = BrickCollection.from_pretrained(REPO)
    model.keep_classes("cls", KEPT)
    model.save_pretrained(tmp_path / "kept")
    config = json.loads((tmp_path / "kept" / "cls" / "head.json").read_text(encoding="utf-8"))
    assert {key: config.get(key) for key in ("licence", "source", "metrics")} == {
        "licence": "mit",
        "source": "mine",
        "metrics": None,
    }
    other = BrickCollection.from_pretrained(REPO)
    stranger = save(create_model("test_resnet_cls", num_classes=2), tmp_path / "stranger")
    with pytest.raises(BrickMismatchError, match="weights of the backbone"):
        model.swap("backbone", stranger)
    model.push_to_hub(REPO)
    cold(monkeypatch, tmp_path / "cold")
    assert BrickCollection.from_pretrained(REPO)["cls/head"].head.labels == KEPT
    assert other["cls/head"].head.labels == LABELS


def save(model, folder):
    model.save_pretrained(folder)
    return folder


def test_a_reference_to_a_renamed_or_sliced_head_becomes_a_file(hub, tmp_path):
    make("cls").push_to_hub(REPO)
    model = BrickCollection.from_pretrained(REPO)
    model.save_pretrained(tmp_path / "model", refer=["backbone", "cls"])
    model = BrickCollection.from_pretrained(tmp_path / "model")
    model.rename_labels("cls", list("abcd"))
    with pytest.raises(BrickInputError, match="without a published source"):
        model.save_pretrained(tmp_path / "other", refer="cls/head")
    model.save_pretrained(tmp_path / "model")
    again = BrickCollection.from_pretrained(tmp_path / "model")
    assert again["cls/head"].head.labels == tuple("abcd")
    assert not (tmp_path / "model" / "backbone.json").exists()
    again.keep_classes("cls", ["c", "a"])
    again.save_pretrained(tmp_path / "model")
    assert BrickCollection.from_pretrained(tmp_path / "model")["cls/head"].head.labels == ("c", "a")


def test_a_stale_head_stays_stale(tmp_path):
    model = BrickCollection.from_pretrained(save(make("cls"), tmp_path / "model"))
    with torch.no_grad():
        next(model["backbone"].parameters()).add_(1)
    model.keep_classes("cls", KEPT)
    with pytest.warns(UserWarning, match="Stale: cls/head"):
        model.save_pretrained(tmp_path / "kept")


def test_modes_precision_and_other_models_are_left_alone():
    model = make("cls")
    twin = copy.deepcopy(model)
    model.freeze("cls")
    model["cls/head"].model.double()
    state = torch.random.get_rng_state()
    model.train()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.keep_classes("cls", KEPT)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model["cls/head"].model.weight.dtype == torch.float64
    assert not model["cls/head"].trainable
    assert model["cls/loss"].training
    assert twin["cls/head"].head.labels == LABELS
