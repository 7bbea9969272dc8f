"""Models on the Hub, driven through the real client: what travels, and what comes back."""

import hashlib
import importlib
import json
import warnings

import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from brickyard import (
    BrickCollection,
    BrickInputError,
    BrickMismatchError,
    BrickNotFoundError,
    BrickTrainable,
    create_model,
    create_part,
    inspect_brick,
    load_brick,
)
from tests.hub.models import (
    IMAGE,
    OUTPUTS,
    REPO,
    assert_equal,
    cold,
    run,
    size_of,
    small,
    three_tasks,
    train,
    weights_up,
)
from tests.toys import run_python


def test_a_model_of_three_tasks_is_pushed_in_one_commit_of_few_requests(hub):
    model = three_tasks()
    weighted = [path for path, brick in model.bricks().items() if brick.module and brick.module.state_dict()]
    with hub.recording() as seen:
        info = model.push_to_hub(REPO)
    assert len(seen) <= 6 + len(weighted)
    assert len(seen.matching(method="PUT")) == len(weighted)
    assert hub.commits(REPO)[0].oid == info.oid
    assert len(hub.commits(REPO)) == 2  # the first is the Hub's own
    files = hub.files(REPO)
    manifest = json.loads(files["bricks.json"])
    for path, entry in manifest["bricks"].items():
        assert hashlib.sha256(files[f"{path}.json"]).hexdigest() == entry["config"]
    assert set(files) == {
        ".gitattributes",
        "README.md",
        "config.json",
        "bricks.json",
        *(f"{path}.json" for path in model.bricks()),
        *(f"{path}.safetensors" for path in weighted),
    }


def test_a_pushed_folder_is_a_saved_one(hub, tmp_path):
    model = small()
    model.push_to_hub(REPO)
    model.save_pretrained(tmp_path / "saved")
    saved = {f.relative_to(tmp_path / "saved").as_posix(): f.read_bytes() for f in (tmp_path / "saved").rglob("*.*")}
    pushed = hub.files(REPO)
    assert {name: pushed[name] for name in saved if name != "bricks.json"} == {
        name: content for name, content in saved.items() if name != "bricks.json"
    }


@pytest.mark.slow
def test_another_process_pulls_equal_outputs_into_an_empty_cache(hub, tmp_path):
    model = three_tasks()
    model.push_to_hub(REPO)
    torch.save({"image": IMAGE, **run(model, OUTPUTS)}, tmp_path / "expected.pt")
    code = f"""
import torch
from brickyard import BrickCollection
torch.set_num_threads(1)
expected = torch.load({str(tmp_path / "expected.pt")!r})
model = BrickCollection.from_pretrained("hf://{REPO}").eval()
with torch.no_grad():
    found = model({{"image": expected.pop("image")}}, outputs=list(expected))
print(all(torch.equal(found[name], expected[name]) for name in expected), len(model.bricks()))
"""
    environment = {**hub.environment, "HF_HOME": str(tmp_path / "another home")}
    assert run_python(code, **environment).split() == ["True", str(len(model.bricks()))]


@pytest.mark.slow
def test_a_part_of_one_s_own_travels_by_its_registered_name(hub, tmp_path):
    part = own_part_named("scaled_linear", size=3, scale=2.0)
    model = BrickCollection({"own": BrickTrainable(part, ["x"], ["y"])})
    model.push_to_hub(REPO)
    code = f"""
import importlib, torch
from brickyard import BrickCollection, UnknownNameError
try:
    BrickCollection.from_pretrained("hf://{REPO}")
except UnknownNameError as error:
    print("register_part" in str(error))
importlib.import_module("tests.hub.own_part")
print(BrickCollection.from_pretrained("hf://{REPO}")({{"x": torch.ones(1, 3)}})["y"].tolist())
"""
    found = run_python(code, **{**hub.environment, "HF_HOME": str(tmp_path / "another home")})
    assert found.split("\n")[:2] == ["True", str(model({"x": torch.ones(1, 3)})["y"].tolist())]


def own_part_named(name, **args):
    importlib.import_module("tests.hub.own_part")
    return create_part(name, **args)


def test_a_push_of_nothing_new_makes_no_commit(hub):
    model = small()
    model.push_to_hub(REPO)
    with hub.recording() as seen:
        info = model.push_to_hub(REPO)
    assert not seen.matching("*/commit/*")
    assert info.oid == hub.commits(REPO)[0].oid


def test_one_changed_head_sends_that_head_s_weights_only(hub):
    model = three_tasks()
    model.push_to_hub(REPO)
    train(model, "cls/head")
    before = hub.files(REPO)
    with hub.recording() as seen:
        model.push_to_hub(REPO)
    after = hub.files(REPO)
    assert len(seen) <= 9
    assert list(weights_up(seen).values()) == [size_of(model, "cls/head")]
    changed = {name for name in after if before.get(name) != after[name]}
    assert changed == {"cls/head.json", "cls/head.safetensors", "bricks.json", "README.md"}


def test_one_brick_is_pushed_without_the_rest(hub):
    model = three_tasks()
    with hub.recording() as seen:
        model.push_to_hub(REPO, bricks="seg")
    assert len(weights_up(seen)) == 1
    assert set(json.loads(hub.files(REPO)["bricks.json"])["bricks"]) == {p for p in model.bricks() if p[:3] == "seg"}
    with pytest.raises(BrickNotFoundError, match="'depth'"):
        model.push_to_hub(REPO, bricks="depth")


def test_a_second_model_refers_to_the_shared_backbone_and_moves_no_byte_of_it(hub, tmp_path, monkeypatch):
    three_tasks().push_to_hub(REPO)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        second = create_model("test_resnet_cls", num_classes=7, bricks={"backbone": f"hf://{REPO}/backbone"})
    with hub.recording() as seen:
        second.push_to_hub("owner/second", refer=["backbone"])
    assert list(weights_up(seen).values()) == [size_of(second, "cls/head")]
    assert "backbone.safetensors" not in hub.files("owner/second")
    commit = hub.commits(REPO)[0].oid
    assert json.loads(hub.files("owner/second")["bricks.json"])["bricks"]["backbone"]["at"] == (
        f"hf://{REPO}@{commit}/backbone"
    )
    train(BrickCollection.from_pretrained(REPO), "backbone")  # what is changed elsewhere changes nothing here
    cold(monkeypatch, tmp_path / "cold")
    assert_equal(BrickCollection.from_pretrained("owner/second"), second)


def test_a_reference_stays_one_when_the_model_is_saved_and_pushed_again(hub, tmp_path):
    small().push_to_hub(REPO)
    model = BrickCollection.from_pretrained(REPO)
    model.save_pretrained(tmp_path / "model", refer="backbone")
    assert not (tmp_path / "model" / "backbone.json").exists()
    again = BrickCollection.from_pretrained(tmp_path / "model")
    train(again, "cls/head")
    again.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model" / "backbone.json").exists()
    assert_equal(BrickCollection.from_pretrained(tmp_path / "model"), again)
    train(again, "backbone")
    train(again, "cls/head")
    again.save_pretrained(tmp_path / "model")
    assert (tmp_path / "model" / "backbone.safetensors").exists()


def test_a_reference_to_other_weights_is_refused(hub):
    small().push_to_hub(REPO)
    other = small(seed=1)
    with pytest.raises(BrickMismatchError, match="cannot be a reference"):
        other.push_to_hub("owner/other", refer={"backbone": f"hf://{REPO}/backbone"})
    with pytest.raises(BrickInputError, match="without a published source"):
        other.push_to_hub("owner/other", refer=["backbone"])


def test_a_second_start_asks_nothing_and_works_without_network(hub, monkeypatch):
    model = small()
    commit = model.push_to_hub(REPO).oid
    BrickCollection.from_pretrained(REPO)
    with hub.recording() as seen:
        BrickCollection.from_pretrained(REPO, revision=commit)
        BrickCollection.from_pretrained(f"hf://{REPO}@{commit}")
        BrickCollection.from_pretrained(REPO, local_files_only=True)
        load_brick(f"hf://{REPO}/preprocessor", local_files_only=True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert_equal(BrickCollection.from_pretrained(REPO), model)
        assert inspect_brick(f"hf://{REPO}/cls").labels == ["a", "b", "c"]
    assert len(seen) == 0


def test_a_pull_of_one_brick_leaves_the_rest(hub):
    model = three_tasks()
    model.push_to_hub(REPO)
    with hub.recording() as seen:
        head = load_brick(f"hf://{REPO}/cls/head")
    assert len(seen) <= 6
    assert seen.down < size_of(model, "cls/head") + 5000
    assert torch.equal(head.model.weight, model["cls/head"].model.weight)
    with hub.recording() as seen:
        some = BrickCollection.from_pretrained(REPO, bricks=["cls"])
    assert set(some.bricks()) == {path for path in model.bricks() if path.startswith("cls")}
    assert not seen.matching("*/backbone*")
    assert set(BrickCollection.from_pretrained(f"hf://{REPO}/cls").bricks()) == set(some.bricks())


def test_a_branch_that_moves_during_a_pull_is_read_at_one_commit(hub):
    first, second = small(), small(seed=1)
    first.push_to_hub(REPO)
    second.push_to_hub("owner/second")
    files = {name: content for name, content in hub.files("owner/second").items() if name[0] != "."}
    hub.fault("*/cls/head.json", before=lambda: hub.put(REPO, files), times=1)
    assert_equal(BrickCollection.from_pretrained(REPO), first)
    assert_equal(BrickCollection.from_pretrained(REPO), second)


def test_branches_tags_and_pull_requests_are_revisions(hub):
    model = small()
    first = model.push_to_hub(REPO).oid
    hub.api().create_tag(REPO, tag="v1", revision=first)
    train(model, "cls/head")
    offer = model.push_to_hub(REPO, create_pr=True)
    assert hub.commits(REPO)[0].oid == first
    assert_equal(BrickCollection.from_pretrained(REPO, revision=offer.pr_revision), model)
    assert_equal(BrickCollection.from_pretrained(f"hf-hub:{REPO}@v1"), BrickCollection.from_pretrained(REPO))
    with pytest.raises(BrickInputError, match="as in the source"):
        BrickCollection.from_pretrained(f"hf://{REPO}@v1", revision="main")


def test_repos_revisions_and_tokens_fail_with_the_client_s_own_errors(hub):
    model = small()
    model.push_to_hub(REPO, private=True)
    BrickCollection.from_pretrained(REPO)
    for token in (False, hub.stranger_token):
        with pytest.raises(RepositoryNotFoundError):
            inspect_brick(f"hf://{REPO}/cls", token=token)
        with pytest.raises(HfHubHTTPError):
            model.push_to_hub(REPO, token=token)
    with pytest.raises(HfHubHTTPError, match="401"):
        BrickCollection.from_pretrained(REPO, token="hf_wrong")
    with pytest.raises(RepositoryNotFoundError):
        BrickCollection.from_pretrained("owner/none")
    with pytest.raises(RevisionNotFoundError):
        BrickCollection.from_pretrained(REPO, revision="none")
    hub.put("owner/gated", hub.files(REPO))
    hub.repos["owner/gated"].gated = True
    with pytest.raises(GatedRepoError):
        BrickCollection.from_pretrained("owner/gated", token=hub.stranger_token)


def test_a_repo_without_a_model_says_what_is_missing(hub):
    hub.put(REPO, {"a.txt": b"a"})
    with pytest.raises(BrickNotFoundError, match=r"bricks\.json"):
        BrickCollection.from_pretrained(REPO)
    small().push_to_hub("owner/small")
    with pytest.raises(BrickNotFoundError, match=r"'depth'.*cls/head"):
        inspect_brick("hf://owner/small/depth")


def test_a_push_of_one_head_reads_no_json_of_the_other_bricks(hub):
    three_tasks().push_to_hub(REPO)
    model = BrickCollection.from_pretrained(REPO)
    train(model, "cls/head")
    with hub.recording() as seen:
        model.push_to_hub(REPO, bricks="cls/head")
    assert len(seen) <= 9
    assert {request.status for request in seen} <= {200, 409}  # 409: the repo exists
    assert [request.path.rpartition("/")[2] for request in seen.matching("*/resolve/*")] == ["bricks.json", "README.md"]
    card = hub.files(REPO)["README.md"].decode()
    assert all(f"`{path}`" in card for path in model.bricks())


def test_a_head_alone_reads_each_json_of_the_others_once_and_asks_for_no_file_that_is_not_there(hub):
    three_tasks().push_to_hub(REPO)
    head = BrickCollection.from_pretrained(REPO, bricks="cls/head")
    train(head, "cls/head")
    with hub.recording() as seen:
        head.push_to_hub(REPO)
    assert {request.status for request in seen} <= {200, 409}
    read = [request.path.rpartition("/resolve/")[2].partition("/")[2] for request in seen.matching("*/resolve/*")]
    others = {path for path in three_tasks().bricks() if path != "cls/head"}
    assert sorted(read) == sorted(["bricks.json", "README.md", *(f"{path}.json" for path in others)])
