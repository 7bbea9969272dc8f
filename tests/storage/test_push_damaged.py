"""Repos damaged by their author, and files damaged on their way: refused, and nothing wrong stays."""

from contextlib import suppress
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from huggingface_hub.utils import httpx
from safetensors.torch import load

from brickyard import BrickCollection, BrickError, BrickIntegrityError, UnsafeBrickError, create_model
from tests.hub.damage import DAMAGE, HEAD, MANIFEST, WEIGHTS
from tests.storage.test_save_load_damaged import STALE, contents, stored, within  # noqa: F401

REPO = "owner/model"


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_repo_is_refused_with_an_error_of_ours(damage, stored, hub, tmp_path, monkeypatch):  # noqa: F811
    hub.put(REPO, DAMAGE[damage](stored))
    hub.create("user/repo")
    monkeypatch.chdir(tmp_path)
    with within(20), pytest.raises(UserWarning if damage == STALE else BrickError) as caught:
        BrickCollection.from_pretrained(REPO)
    assert len(str(caught.value)) > 20
    assert {path.name for path in tmp_path.iterdir()} <= {"hf"}  # the cache; nothing was unpickled
    hub.put(REPO, stored)
    BrickCollection.from_pretrained(REPO)


@pytest.mark.parametrize(
    "name", ["bricks.json", "backbone.json", HEAD, WEIGHTS, "backbone.safetensors", "cls/loss.json"]
)
@pytest.mark.parametrize("trouble", ["corrupt", "cut_off"])
@pytest.mark.parametrize("which", [1, 2, 99], ids=["first", "second", "every"])
def test_what_was_damaged_on_its_way_does_not_stay(name, trouble, which, stored, hub):  # noqa: F811
    hub.put(REPO, stored)
    if which == 2:
        hub.fault(f"*/{name}", method="GET", times=1)
    hub.fault(f"*/{name}", method="GET", times=1 if which == 2 else which, **{trouble: True})
    expected = (
        BrickError if trouble == "corrupt" else (BrickError, httpx.HTTPError, OSError)
    )  # the client's, of networks
    with within(20), suppress(expected):
        assert_loads(stored)
    hub.hint()
    for blob in cached().values():
        assert blob in stored.values(), "a damaged file is in the cache"
    assert_loads(stored)
    assert_loads(stored, local_files_only=True)


def assert_loads(files, **options):
    expected = load(files[WEIGHTS])
    assert torch.equal(BrickCollection.from_pretrained(REPO, **options)["cls/head"].model.bias, expected["bias"])


def cached() -> dict[str, bytes]:
    folder = Path(constants.HF_HUB_CACHE) / "models--owner--model" / "snapshots"
    return contents(folder) if folder.exists() else {}


def test_a_cached_file_that_is_damaged_on_disk_is_removed_and_fetched_again(stored, hub):  # noqa: F811
    hub.put(REPO, stored)
    model = BrickCollection.from_pretrained(REPO)
    snapshot = next((Path(constants.HF_HUB_CACHE) / "models--owner--model" / "snapshots").iterdir())
    for name in (WEIGHTS, HEAD, MANIFEST):
        blob = (snapshot / name).resolve()
        blob.write_bytes(blob.read_bytes()[:-2] + b"xx")
        with pytest.raises(BrickError):
            BrickCollection.from_pretrained(REPO, local_files_only=True)
        again = BrickCollection.from_pretrained(REPO)
        assert torch.equal(again["cls/head"].model.bias, model["cls/head"].model.bias)


def test_a_reference_to_a_reference_and_a_cycle_of_them_are_refused(stored, hub):  # noqa: F811
    def referring(to):
        return DAMAGE["at ''"](stored)[MANIFEST].replace(b'"at": ""', f'"at": "{to}"'.encode())

    files = {name: content for name, content in stored.items() if not name.startswith("cls/head")}
    first = hub.put("owner/a", {**files, MANIFEST: referring(f"hf://owner/b@{'0' * 40}/cls/head")})
    second = hub.put("owner/b", {**files, MANIFEST: referring(f"hf://owner/a@{first}/cls/head")})
    hub.put("owner/a", {MANIFEST: referring(f"hf://owner/b@{second}/cls/head")})
    with within(20), pytest.raises(UnsafeBrickError, match="leads to no file of that model"):
        BrickCollection.from_pretrained("owner/a")


def test_weights_that_timm_wrote_are_checked_too(hub, tmp_path):
    timm.models.save_for_hf(timm.create_model("test_resnet"), tmp_path / "timm", safe_serialization=True)
    files = contents(tmp_path / "timm")
    hub.put("timm/resnet", files)
    hub.fault("*/model.safetensors", method="GET", corrupt=True)
    model = create_model("test_resnet_cls", num_classes=3)
    with pytest.raises(BrickIntegrityError):
        model.swap("backbone", "hf://timm/resnet")
    model.swap("backbone", "hf://timm/resnet")
