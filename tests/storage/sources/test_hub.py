"""The limits around huggingface_hub's client: time, sizes and names, against a server that lies."""

import math
import threading
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.utils import get_session

from brickyard import (
    BrickCollection,
    BrickIntegrityError,
    BrickMismatchError,
    HubConnectionError,
    UnsafeBrickError,
    create_model,
    inspect_brick,
)
from brickyard.storage.sources import limits
from brickyard.storage.sources.files import DEFAULT_ACCESS
from brickyard.storage.sources.hub import HubFiles
from tests.hub.models import REPO, assert_equal, run, size_of, small

HEAD_JSON, HEAD_WEIGHTS, LARGE = "cls/head.json", "cls/head.safetensors", "200000000"


@pytest.fixture
def pushed(hub):
    model = small()
    model.push_to_hub(REPO)
    return model


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(limits, "_PATIENCE", 1.0)
    monkeypatch.setattr(limits, "_FIRST_WAIT", 0.01)


def cached_names():
    root = Path(constants.HF_HUB_CACHE)
    return {file.name for file in root.rglob("*") if file.is_file()} if root.exists() else set()


@pytest.mark.parametrize("name", ["bricks.json", HEAD_JSON, HEAD_WEIGHTS, "backbone.safetensors"])
@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.parametrize(
    "fault",
    [
        {"status": 429, "headers": {"Retry-After": "0"}},
        {"status": 429},
        {"status": 408},
        {"status": 503},
        {"cut_off": True},
    ],
    ids=["429 with Retry-After", "429", "408", "503", "cut"],
)
def test_a_passing_failure_of_any_request_is_survived(hub, pushed, name, method, fault, monkeypatch):
    monkeypatch.setattr(limits, "_FIRST_WAIT", 0.01)
    hub.fault(f"*/resolve/*/{name}", method=method, times=1, **fault)
    assert_equal(BrickCollection.from_pretrained(REPO), pushed)


@pytest.mark.parametrize(("name", "method"), [("bricks.json", "GET"), (HEAD_JSON, "HEAD"), (HEAD_WEIGHTS, "GET")])
@pytest.mark.parametrize(
    "fault",
    [
        {"status": 429, "headers": {"Retry-After": "3600"}},
        {"status": 500},
        {"delay": 1.5},
        {"drip": 0.2},
        {"cut_off": True},
        {"status": 302, "headers": {"Location": f"/{REPO}/resolve/main/{HEAD_JSON}"}},
    ],
    ids=["429 for an hour", "500", "silence", "drip", "cut", "redirects"],
)
def test_a_failure_that_stays_is_one_error_that_names_file_and_repo(hub, pushed, impatient, name, method, fault):
    if "drip" in fault or "cut_off" in fault:  # of a HEAD nothing is cut off
        method = "GET"
    hub.fault(f"*/resolve/*/{HEAD_JSON if 'headers' in fault and fault['status'] == 302 else name}", times=math.inf,
              **({"method": method} if "status" not in fault else {}), **fault)  # fmt: skip
    start = time.monotonic()
    with pytest.raises(HubConnectionError, match=rf"'[\w/.]+' in hf://{REPO}@.*try again"):
        BrickCollection.from_pretrained(REPO)
    assert time.monotonic() - start < 10


def test_a_server_that_is_not_there_is_told(hub, impatient, monkeypatch):
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    )
    with pytest.raises(HubConnectionError, match=r"bricks\.json.*Connect"):
        BrickCollection.from_pretrained(REPO)


def test_without_a_connection_the_files_of_an_earlier_download_are_used(hub, pushed, impatient, caplog):
    BrickCollection.from_pretrained(REPO)
    hub.fault("*", times=math.inf, cut_off=True)
    assert_equal(BrickCollection.from_pretrained(REPO), pushed)
    assert "earlier download" in caplog.text


def test_several_threads_share_the_client_and_have_limits_of_their_own(hub, pushed):
    hub.fault(f"*/{HEAD_WEIGHTS}", method="HEAD", times=1, headers={"X-Linked-Size": LARGE})
    results = []

    def load():
        try:
            results.append(BrickCollection.from_pretrained(REPO))
        except BrickIntegrityError as error:
            results.append(error)

    threads = [threading.Thread(target=load) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [type(result) for result in results].count(BrickIntegrityError) == 1
    hooks = get_session().event_hooks
    assert hooks["request"].count(limits._on_request) == hooks["response"].count(limits._on_response) == 1


def test_the_client_s_own_errors_pass(hub):
    with pytest.raises(RepositoryNotFoundError):
        inspect_brick("hf://owner/none/cls")


def test_weights_of_another_size_than_stated_do_not_travel(hub, pushed):
    hub.fault(f"*/{HEAD_WEIGHTS}", method="HEAD", times=math.inf, headers={"X-Linked-Size": LARGE})
    with hub.recording() as seen, pytest.raises(BrickIntegrityError, match=f"{LARGE} bytes, expected"):
        BrickCollection.from_pretrained(REPO)
    assert not seen.matching(f"*/{HEAD_WEIGHTS}", method="GET")
    hub.hint()
    hub.fault(f"*/{HEAD_WEIGHTS}", method="GET", times=math.inf, headers={"Content-Length": LARGE}, drip=1)
    with pytest.raises(BrickIntegrityError, match=f"{LARGE} bytes, expected"):
        BrickCollection.from_pretrained(REPO)
    hub.hint()
    assert_equal(BrickCollection.from_pretrained(REPO), pushed)


@pytest.mark.parametrize("name", ["bricks.json", HEAD_JSON])
@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_a_json_that_is_too_large_is_neither_read_nor_cached(hub, pushed, name, method):
    hub.fault(f"*/{name}", method=method, times=math.inf, headers={"Content-Length": LARGE}, drip=1)
    with pytest.raises(UnsafeBrickError, match="too large"):
        BrickCollection.from_pretrained(REPO)
    hub.hint()
    files = hub.files(REPO)
    hub.put(REPO, {name: files[name] + b" " * 9_000_000})
    with pytest.raises(UnsafeBrickError, match="too large"):
        BrickCollection.from_pretrained(REPO)
    assert all(file.stat().st_size < 9_000_000 for file in Path(constants.HF_HUB_CACHE).rglob("*"))


def test_compressed_content_is_refused_since_its_size_is_unknown(hub, pushed):
    hub.fault("*/bricks.json", method="GET", headers={"Content-Encoding": "gzip"})
    with pytest.raises(UnsafeBrickError, match="compressed"):
        BrickCollection.from_pretrained(REPO)


@pytest.mark.parametrize("etag", ['"../../../../x"', '"/absolute"', '"a/b"', '""', '".."', '"a\\b"'])
@pytest.mark.parametrize("name", ["bricks.json", HEAD_JSON, HEAD_WEIGHTS])
@pytest.mark.parametrize("header", ["ETag", "X-Linked-Etag"])
def test_an_etag_that_is_a_path_is_refused_before_it_is_used(hub, pushed, tmp_path, etag, name, header):
    before = {path for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "hf")}
    hub.fault(f"*/{name}", method="HEAD", times=math.inf, headers={header: etag})
    with pytest.raises(UnsafeBrickError, match="plain name"):
        BrickCollection.from_pretrained(REPO)
    assert {path for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "hf")} == before
    assert "x" not in cached_names()
    assert "x.lock" not in cached_names()


@pytest.mark.parametrize("commit", ["../../x", "/abs", "main", "0" * 39, "0" * 40 + "/.."])
@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_a_commit_that_is_no_commit_is_refused(hub, pushed, commit, method):
    hub.fault("*/bricks.json", method=method, times=math.inf, headers={"X-Repo-Commit": commit})
    with pytest.raises(UnsafeBrickError, match="40 hex digits"):
        BrickCollection.from_pretrained(REPO)


@pytest.mark.parametrize("revision", ["../../x", "/abs", "a/../b", "..", "a\\b", "a//b", "."])
def test_a_revision_that_is_a_path_is_refused_whoever_opens_it(revision):
    with pytest.raises(UnsafeBrickError, match="outside of the cache"):
        HubFiles(REPO, revision, DEFAULT_ACCESS)


def test_only_the_client_writes_into_its_cache(hub, pushed, monkeypatch):
    with hub.recording():
        inspect_brick(f"hf://{REPO}/cls")  # it downloads nothing for later use
        assert cached_names() == set()
    BrickCollection.from_pretrained(REPO)
    assert "main" in cached_names()
    with hub.recording() as seen:
        BrickCollection.from_pretrained(REPO, local_files_only=True)
    assert not seen


def test_a_branch_that_was_first_loaded_by_its_commit_can_be_loaded_without_network(hub, pushed):
    BrickCollection.from_pretrained(f"hf://{REPO}@{hub.commits(REPO)[0].oid}")
    with hub.recording() as seen:
        BrickCollection.from_pretrained(REPO)
    assert [request.method for request in seen] == ["HEAD"] or len(seen) <= 2
    assert_equal(BrickCollection.from_pretrained(REPO, local_files_only=True), pushed)


def test_a_head_that_does_not_fit_costs_one_request_and_one_that_fits_nine(hub, pushed):
    other = create_model("test_resnet_cls", num_classes=5)
    with hub.recording() as seen, pytest.raises(BrickMismatchError):
        other.swap("cls", f"hf://{REPO}/cls")
    assert len(seen) == 1
    with hub.recording() as seen:
        other.swap("cls", f"hf://{REPO}/cls", check="shape")
    # head and prediction with a look at first, the weights, and one without body, which the Hub counts as a download
    assert len(seen) == 9
    assert seen.down < size_of(pushed, "cls/head") + 5000
    assert torch.equal(other["cls/head"].model.weight, pushed["cls/head"].model.weight)
    assert run(other)["cls/logits"].shape == (2, 3)
