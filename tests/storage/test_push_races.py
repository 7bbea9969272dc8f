"""Pushes of several people at once, pushes that go wrong, stale heads and cards."""

import threading

import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError

from brickyard import (
    BrickCollection,
    BrickMismatchError,
    HubConnectionError,
    PushConflictError,
    create_model,
    create_part,
)
from brickyard.storage.sources import limits
from tests.hub.models import IMAGE, REPO, assert_equal, size_of, small, three_tasks, train


def test_eight_writers_of_different_heads_all_arrive(hub):
    small().push_to_hub(REPO, bricks=["preprocessor", "backbone"])
    models = []
    for number in range(8):
        model = BrickCollection.from_pretrained(REPO)
        torch.manual_seed(number)
        head = create_model(backbone="test_resnet", tasks={f"head{number}": "cls"}, num_classes=3)[f"head{number}"]
        model.update({f"head{number}": head})
        models.append(model)
    failed = []

    def push(number):
        try:
            models[number].push_to_hub(REPO, bricks=f"head{number}")
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=push, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    found = BrickCollection.from_pretrained(REPO)
    for number, model in enumerate(models):
        assert_equal(found, model, [f"head{number}/logits"])


def test_the_same_brick_changed_by_two_is_a_conflict_for_the_second(hub, tmp_path):
    small().push_to_hub(REPO)
    mine, theirs = BrickCollection.from_pretrained(REPO), BrickCollection.from_pretrained(REPO)
    train(theirs, "cls/head")
    theirs.push_to_hub(REPO)
    with torch.no_grad():
        mine["cls/head"].model.bias.fill_(3)
    before = hub.files(REPO)
    with pytest.raises(PushConflictError, match=r"\['cls/head'\]"):
        mine.push_to_hub(REPO)
    mine.save_pretrained(tmp_path)  # a save in between is no reason to forget
    with pytest.raises(PushConflictError, match=r"\['cls/head'\]"):
        mine.push_to_hub(REPO)
    mine.swap("cls", create_part("linear", in_features=96, out_features=3))
    with pytest.raises(PushConflictError, match=r"\['cls/head'\]"):
        mine.push_to_hub(REPO)
    assert hub.files(REPO) == before


def test_what_others_changed_meanwhile_stays_and_mine_is_added(hub):
    three_tasks().push_to_hub(REPO)
    mine, theirs = BrickCollection.from_pretrained(REPO), BrickCollection.from_pretrained(REPO)
    train(theirs, "cls/head")
    train(mine, "seg/head")
    hub.fault("*/commit/main", before=lambda: theirs.push_to_hub(REPO), times=1)
    mine.push_to_hub(REPO)
    found = BrickCollection.from_pretrained(REPO)
    assert_equal(found, theirs, ["cls/logits"])
    assert_equal(found, mine, ["seg/logits"])
    train(mine, "seg/head")
    mine.push_to_hub(REPO)  # and again: cls is theirs still
    assert_equal(BrickCollection.from_pretrained(REPO), theirs, ["cls/logits"])


def test_two_first_pushes_of_the_same_brick_at_once_are_a_conflict_too(hub):
    hub.api().create_repo(REPO)
    hub.fault("*/commit/main", before=lambda: small(seed=1).push_to_hub(REPO), times=1)
    with pytest.raises(PushConflictError):
        small(seed=2).push_to_hub(REPO)


def test_an_answer_that_is_lost_after_the_commit_is_no_failure_and_no_second_commit(hub):
    model = small()
    hub.fault("*/commit/main", cut_off=True, times=1)
    info = model.push_to_hub(REPO)
    assert len(hub.commits(REPO)) == 2
    assert info.oid == hub.commits(REPO)[0].oid
    assert_equal(BrickCollection.from_pretrained(f"hf://{REPO}@{info.oid}"), model)
    train(model, "cls/head")
    model.push_to_hub(REPO)  # and the model knows that it was its own
    assert len(hub.commits(REPO)) == 3


def test_a_commit_that_fails_changes_nothing_and_can_be_tried_again(hub):
    model = small()
    hub.fault("*/commit/main", status=403)
    with pytest.raises(HfHubHTTPError):
        model.push_to_hub(REPO)
    assert list(hub.files(REPO)) == [".gitattributes"]
    model.push_to_hub(REPO)
    assert_equal(BrickCollection.from_pretrained(REPO), model)


def test_stale_heads_are_told_on_a_save_and_refused_on_a_push(hub, tmp_path):
    small().push_to_hub(REPO)
    model = BrickCollection.from_pretrained(REPO)
    train(model, "backbone")
    with pytest.warns(UserWarning, match="Stale: cls/head"):
        model.save_pretrained(tmp_path)
    before = hub.files(REPO)
    with pytest.raises(BrickMismatchError, match="'cls/head' was trained on a backbone that has changed"):
        model.push_to_hub(REPO)
    assert hub.files(REPO) == before
    model.push_to_hub(REPO, allow_stale=True)
    with pytest.warns(UserWarning, match="'cls/head' of .* is stale"):
        again = BrickCollection.from_pretrained(REPO)
    train(again, "cls/head")
    again.push_to_hub(REPO)  # a head that was trained since fits
    BrickCollection.from_pretrained(REPO)


def test_batch_norm_statistics_that_move_make_a_head_stale_and_a_frozen_backbone_keeps_it(hub):
    small().push_to_hub(REPO)
    model = BrickCollection.from_pretrained(REPO).train()
    model.freeze("backbone")
    model({"image": IMAGE}, outputs="cls/logits")
    model.push_to_hub(REPO)
    model.unfreeze("backbone")
    model({"image": IMAGE}, outputs="cls/logits")
    with pytest.raises(BrickMismatchError, match="Stale"):
        model.push_to_hub(REPO)


def test_the_card_is_valid_and_one_written_by_hand_stays(hub):
    model = three_tasks()
    model.push_to_hub(REPO)
    card = hub.files(REPO)["README.md"].decode()
    for text in ("library_name: brickyard", "mermaid", f"hf://{REPO}/seg", "`seg/head`", size_text(model, "seg/head")):
        assert text in card
    assert model["seg/head"].provenance.weights[:12] in card
    train(model, "cls/head")
    model.push_to_hub(REPO)
    assert hub.files(REPO)["README.md"].decode() != card  # ours follows the model
    hub.put(REPO, {"README.md": b"---\nlicense: mit\n---\nmine"})
    train(model, "cls/head")
    model.push_to_hub(REPO)
    assert hub.files(REPO)["README.md"] == b"---\nlicense: mit\n---\nmine"


def size_text(model, path):
    return f"{size_of(model, path) / 1e6:.2f} MB"


def test_a_hub_that_is_silent_during_a_push_is_one_error(hub, monkeypatch):
    monkeypatch.setattr(limits, "_PUSH_TIMEOUT", 0.3)
    for path in ("*/repos/create", "*/commit/main"):
        hub.fault(path, delay=1, times=99)
        with pytest.raises(HubConnectionError, match=rf"the push to {REPO}.*try again"):
            small().push_to_hub(REPO)
        hub.hint()
    small().push_to_hub("owner/other")
