"""The cache and the environment of huggingface_hub, as its own client takes them."""

from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save

from brickyard import BrickCollection, create_model
from tests.hub.models import REPO, assert_equal, small
from tests.toys import run_python

LOAD = f"""
from brickyard import BrickCollection
model = BrickCollection.from_pretrained("{REPO}")
print(model["cls/head"].model.weight.sum().item())
"""


@pytest.fixture
def pushed(hub):
    model = small()
    model.push_to_hub(REPO)
    return model


def names_in(folder):
    return {file.name for file in Path(folder).rglob("*") if file.is_file() or file.is_symlink()}


def weights_down(seen):
    return [request.path.rpartition("/")[2] for request in seen.matching("*.safetensors", method="GET")]


def test_a_model_is_cached_in_the_folder_that_is_passed(hub, pushed, tmp_path):
    assert_equal(BrickCollection.from_pretrained(REPO, cache_dir=tmp_path / "mine"), pushed)
    assert {"bricks.json", "head.safetensors", "main"} <= names_in(tmp_path / "mine")
    assert not Path(constants.HF_HUB_CACHE).exists()
    with hub.recording() as seen:
        assert_equal(BrickCollection.from_pretrained(REPO, cache_dir=tmp_path / "mine", local_files_only=True), pushed)
    assert not seen


def test_a_head_is_swapped_in_from_the_cache_that_is_passed(pushed, tmp_path):
    model = create_model("test_resnet_cls", num_classes=2)
    model.swap("cls", f"hf://{REPO}/cls", check="shape", cache_dir=tmp_path / "mine")
    assert "head.safetensors" in names_in(tmp_path / "mine")
    assert not Path(constants.HF_HUB_CACHE).exists()


def test_a_forced_download_fetches_every_file_once_more(hub, pushed):
    BrickCollection.from_pretrained(REPO)
    with hub.recording() as seen:
        BrickCollection.from_pretrained(REPO)
    assert weights_down(seen) == []
    with hub.recording() as seen:
        assert_equal(BrickCollection.from_pretrained(REPO, force_download=True), pushed)
    assert sorted(weights_down(seen)) == ["backbone.safetensors", "head.safetensors"]
    commit = hub.commits(REPO)[0].oid
    with hub.recording() as seen:
        BrickCollection.from_pretrained(REPO, revision=commit, force_download=True)
    assert sorted(weights_down(seen)) == ["backbone.safetensors", "head.safetensors"]


def test_a_forced_download_without_network_uses_the_cache(hub, pushed):
    BrickCollection.from_pretrained(REPO)
    with hub.recording() as seen:
        model = BrickCollection.from_pretrained(REPO, force_download=True, local_files_only=True)
    assert not seen
    assert_equal(model, pushed)


def test_a_model_of_the_organisation_and_its_bricks_are_cached_where_create_model_is_told(
    hub, pushed, tmp_path, monkeypatch
):
    monkeypatch.setenv("BRICKYARD_HUB", "owner")
    pushed.push_to_hub("owner/test_resnet_cls")
    model = create_model("test_resnet_cls", pretrained=True, cache_dir=tmp_path / "mine")
    assert_equal(model, pushed)
    create_model(f"hf://{REPO}", bricks={"cls": f"hf://{REPO}/cls"}, cache_dir=tmp_path / "mine")
    assert {"models--owner--test_resnet_cls", "models--owner--model"} <= {
        folder.name for folder in (tmp_path / "mine").iterdir()
    }
    assert not Path(constants.HF_HUB_CACHE).exists()
    with hub.recording() as seen:
        create_model("test_resnet_cls", pretrained=True, cache_dir=tmp_path / "mine", force_download=True)
    assert sorted(weights_down(seen)) == ["backbone.safetensors", "head.safetensors"]


def test_timm_s_weights_are_cached_there_and_downloaded_again_on_demand(hub, tmp_path):
    theirs = timm.create_model("test_resnet")
    hub.put(timm.get_pretrained_cfg("test_resnet").hf_hub_id, {"model.safetensors": save(theirs.state_dict())})
    options = {"pretrained": True, "cache_dir": tmp_path / "mine"}
    model = create_model("test_resnet_cls", **options)
    assert torch.equal(model["backbone"].model.conv1[0].weight, theirs.conv1[0].weight)
    assert "model.safetensors" in names_in(tmp_path / "mine")
    assert not Path(constants.HF_HUB_CACHE).exists()
    with hub.recording() as seen:
        create_model("test_resnet_cls", **options)
    assert weights_down(seen) == []
    with hub.recording() as seen:
        create_model("test_resnet_cls", **options, force_download=True)
    assert weights_down(seen) == ["model.safetensors"]


@pytest.mark.slow
def test_hf_home_and_hf_hub_offline_are_honoured(hub, pushed, tmp_path):
    expected = str(pushed["cls/head"].model.weight.sum().item())
    environment = {**hub.environment, "HF_HOME": str(tmp_path / "home")}
    assert run_python(LOAD, **environment).split() == [expected]
    assert "head.safetensors" in names_in(tmp_path / "home" / "hub")
    with hub.recording() as seen:
        assert run_python(LOAD, **{**environment, "HF_HUB_OFFLINE": "1"}).split() == [expected]
    assert not seen


@pytest.mark.slow
def test_hf_token_is_honoured(hub):
    model = small()
    model.push_to_hub(REPO, private=True)
    assert run_python(LOAD, **hub.environment).split() == [str(model["cls/head"].model.weight.sum().item())]
    code = f"""
from huggingface_hub.errors import RepositoryNotFoundError
try:
    {LOAD.strip().replace(chr(10), chr(10) + "    ")}
except RepositoryNotFoundError:
    print("not found")
"""
    assert run_python(code, **{**hub.environment, "HF_TOKEN": hub.stranger_token}).split() == ["not", "found"]
