"""Heads that are found: on the Hub by tags, in the zoo, and how well they fit."""

import json
import shlex
import warnings
from pathlib import Path

import pytest
from click.testing import CliRunner
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError

from brickyard import (
    BrickCollection,
    BrickInputError,
    UnknownNameError,
    create_model,
    find_heads,
)
from brickyard.cli.main import main
from brickyard.storage import search
from tests.hub.models import assert_equal, small, train
from tests.toys import run_python

SEG = ["background", "cat"]


@pytest.fixture(autouse=True)
def _no_zoo_of_the_package(monkeypatch):
    monkeypatch.setattr(search, "zoo_folders", dict)


@pytest.fixture
def model(hub):
    """A model whose backbone is published, and which is there under its own name."""
    small().push_to_hub("owner/base")
    return BrickCollection.from_pretrained("owner/base")


def on_the_same_backbone(model, repo, labels=SEG, **metadata):
    """Publish a segmentation head that was trained on the backbone of a model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = create_model("test_resnet_seg-lraspp", labels=labels, bricks={"backbone": "hf://owner/base/backbone"})
    other["seg/head"].metadata |= metadata
    other.push_to_hub(repo, bricks="seg")
    return other


def on_a_backbone_of_its_own(repo, name="test_resnet_seg-lraspp", **metadata):
    other = create_model(name, labels=SEG)
    other["seg/head"].metadata |= metadata
    other.push_to_hub(repo)
    return other


def test_heads_are_found_best_first_with_the_reason_why_one_does_not_fit(hub, model):
    on_a_backbone_of_its_own("owner/alike")
    on_a_backbone_of_its_own("owner/foreign", "test_vit_seg-lraspp")
    on_the_same_backbone(model, "owner/exact", licence="mit")
    on_the_same_backbone(model, "user/measured", metrics={"MeanIoU": 0.5}, measured="by hand")
    heads = find_heads(model, task="seg")
    assert [(head.source, head.fits) for head in heads] == [
        ("hf://user/measured/seg", "exact"),
        ("hf://owner/exact/seg", "exact"),
        ("hf://owner/alike/seg", "input"),
        ("hf://owner/foreign/seg", None),
    ]
    assert [problem.partition(":")[0] for problem in heads[-1].problems][:1] == ["channels of the features"]
    assert all(head.problems == () for head in heads[:-1])
    assert (heads[0].metrics, heads[1].info.licence) == ({"MeanIoU": 0.5}, "mit")
    assert (heads[0].name, heads[0].info.task, heads[0].info.labels) == ("seg", "seg", SEG)
    assert heads[0].size == len(hub.files("user/measured")["seg/head.safetensors"])
    model.swap("seg", heads[0].source, check=heads[0].fits)
    assert_equal(model, model, ("seg/logits",))


def test_results_can_be_limited(hub, model):
    on_a_backbone_of_its_own("owner/alike", licence="apache-2.0")
    on_the_same_backbone(model, "user/exact", licence="mit")
    on_a_backbone_of_its_own("user/foreign", "test_vit_seg-lraspp", licence="mit")

    def sources(**options):
        return {head.source.split("/")[3] for head in find_heads(model, **options)}

    assert sources() == {"base", "alike", "exact", "foreign"}
    assert sources(task="cls") == {"base"}
    assert sources(fits="exact") == {"base", "exact"}
    assert sources(fits="shape", task="seg") == {"alike", "exact"}
    assert sources(licences=["mit", "isc"]) == {"exact", "foreign"}
    assert sources(org="user") == {"exact", "foreign"}
    with pytest.raises(UnknownNameError, match="'seg'"):
        find_heads(model, task="sge")
    with pytest.raises(BrickInputError, match="fits"):
        find_heads(model, fits="loose")
    with pytest.raises(BrickInputError, match=r"\['mit'\]"):
        find_heads(model, licences="mit")


@pytest.fixture
def two_hundred(hub, model):
    on_the_same_backbone(model, "owner/first")
    files = hub.files("owner/first")
    for number in range(198):
        hub.put(f"owner/model{number}", files)
    return model


def test_200_repos_cost_one_list_and_one_json_each_and_a_second_search_the_list_alone(hub, two_hundred):
    with hub.recording() as seen:
        heads = find_heads(two_hundred)
    assert len(heads) == len(hub.repos) == 200
    assert len(seen.matching("/api/models")) == 1
    assert len(seen.matching("*/head.json")) == len(seen) - 1 == 199  # that of the model itself is in the cache
    assert seen.down < 200 * 6000
    with hub.recording() as seen:
        again = find_heads(two_hundred)
    assert [request.path for request in seen] == ["/api/models"]
    assert again == heads


def test_a_long_list_is_completed_by_the_repos_of_the_same_backbone(hub, two_hundred, monkeypatch):
    monkeypatch.setattr(search, "_MAX_REPOS", 50)
    on_a_backbone_of_its_own("owner/alike")
    with hub.recording() as seen:
        heads = find_heads(two_hundred)
    assert len(seen.matching("/api/models")) == 2
    assert 50 <= len(heads) <= 100


def test_downloads_are_those_that_the_hub_counts(hub, model):
    on_the_same_backbone(model, "owner/other")
    create_model("test_resnet_cls").swap("seg", "hf://owner/other/seg", check="shape")
    found = {head.source: head.downloads for head in find_heads(model)}
    assert found == {"hf://owner/base/cls": 1, "hf://owner/other/seg": 1}


def test_a_changed_repo_is_read_again(hub, model):
    find_heads(model)
    changed = BrickCollection.from_pretrained("owner/base")
    changed["cls/head"].metadata["licence"] = "mit"
    changed.push_to_hub("owner/base")
    assert [head.info.licence for head in find_heads(model)] == ["mit"]


def test_what_cannot_be_read_is_left_out_with_a_warning(hub, model):
    on_the_same_backbone(model, "owner/gated")
    hub.repos["owner/gated"].gated = True
    hub.put("owner/broken", {**hub.files("owner/base"), "cls/head.json": b"{"})
    hub.put("owner/strange", {**hub.files("owner/base"), "cls/head.json": b'{"format": 1, "requires": 3}'})
    with pytest.warns(UserWarning, match="3 heads cannot be read, such as hf://owner/"):
        heads = find_heads(model, token=hub.stranger_token)
    assert [head.source for head in heads] == ["hf://owner/base/cls"]


def test_a_damaged_note_is_read_from_the_hub_again(hub, model):
    before = find_heads(model)
    for note in (Path(constants.HF_HOME) / "brickyard" / "heads").iterdir():
        note.write_bytes(b"{")
    assert find_heads(model) == before


def test_a_task_that_is_not_registered_does_not_fit(hub, model):
    files = hub.files("owner/base")
    config = {**json.loads(files["cls/head.json"]), "task": "mood"}
    hub.put("owner/mood", {**files, "cls/head.json": json.dumps(config).encode()})
    found = {head.source: head for head in find_heads(model)}
    assert found["hf://owner/mood/cls"].fits is None
    assert "mood" in found["hf://owner/mood/cls"].problems[0]


def test_without_network_the_heads_on_this_machine_are_found(hub, model, tmp_path, monkeypatch):
    other = on_the_same_backbone(model, "owner/published")
    folder = tmp_path / "zoo" / "test_resnet_seg-lraspp.mine"
    other.save_pretrained(folder, weights="mine")
    monkeypatch.setattr(search, "zoo_folders", lambda: {folder.name: folder})
    monkeypatch.setenv("BRICKYARD_ZOO", str(tmp_path / "zoo"))
    both = find_heads(model, task="seg", fits="exact")
    assert [head.source for head in both] == [f"zoo://{folder.name}/seg", "hf://owner/published/seg"]
    assert both[0].downloads is None
    model.swap("seg", both[0].source)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with hub.recording() as seen, pytest.warns(UserWarning, match="not searched offline"):
        assert find_heads(model, task="seg") == both[:1]
    assert not seen
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.fault("/api/models", times=99, status=503)
    monkeypatch.setattr("brickyard.storage.sources.limits._FIRST_WAIT", 0.001)
    with pytest.warns(UserWarning, match="Only heads on this machine are listed"):
        assert find_heads(model, task="seg") == both[:1]


def test_a_wrong_token_is_an_error(hub, model):
    with pytest.raises(HfHubHTTPError, match="401"):
        find_heads(model, token="hf_wrong")


def test_a_name_or_source_is_described_without_its_weights(hub, model):
    on_the_same_backbone(model, "owner/other")
    with hub.recording() as seen:
        by_source = find_heads("hf://owner/base", task="seg")
    assert [(head.source, head.fits) for head in by_source] == [("hf://owner/other/seg", "exact")]
    assert not seen.matching("*.safetensors*")
    by_name = find_heads("test_resnet_cls", task="seg")
    assert [(head.source, head.fits) for head in by_name] == [("hf://owner/other/seg", "input")]
    assert find_heads("test_resnet_cls", fits="exact") == []


def test_a_changed_backbone_no_longer_fits_exactly(hub, model):
    train(model, "backbone")
    assert [head.fits for head in find_heads(model)] == ["input"]


def test_the_heads_of_the_package_fit_their_own_backbone():
    code = """
import warnings
from brickyard import find_heads
warnings.simplefilter("ignore")
for head in find_heads("tf_efficientnet_lite0_cls.in1k", fits="exact"):
    print(head.source)
"""
    assert run_python(code, HF_HUB_OFFLINE="1").split() == [
        "zoo://tf_efficientnet_lite0_anomaly.digits_v1/anomaly",
        "zoo://tf_efficientnet_lite0_cls-multilabel_seg-tower_det.digits_v1/cls",
        "zoo://tf_efficientnet_lite0_cls-multilabel_seg-tower_det.digits_v1/det",
        "zoo://tf_efficientnet_lite0_cls-multilabel_seg-tower_det.digits_v1/seg",
        "zoo://tf_efficientnet_lite0_depth_pose-masks_fomo.digits_v1/depth",
        "zoo://tf_efficientnet_lite0_depth_pose-masks_fomo.digits_v1/fomo",
        "zoo://tf_efficientnet_lite0_depth_pose-masks_fomo.digits_v1/pose",
        "zoo://tf_efficientnet_lite0_kpt_emb.digits_v1/emb",
        "zoo://tf_efficientnet_lite0_kpt_emb.digits_v1/kpt",
        "zoo://tf_efficientnet_lite0_ocr.digits_v1/ocr",
        "zoo://tf_efficientnet_lite0_seg-unet.digits_v1/seg",
        "zoo://tf_efficientnet_lite0_cls.in1k/cls",
    ]


def test_a_line_of_the_command_is_a_swap(hub, model, tmp_path):
    on_a_backbone_of_its_own("owner/alike", licence="mit", metrics={"MeanIoU": 0.25})
    on_a_backbone_of_its_own("owner/foreign", "test_vit_seg-lraspp")
    model.save_pretrained(tmp_path / "my model")
    result = CliRunner().invoke(main, ["find", str(tmp_path / "my model"), "--task", "seg", "--licence", "mit, isc"])
    assert result.exit_code == 0, result.output
    row, line = (next(line for line in result.output.splitlines() if text in line) for text in ("MeanIoU", "swap"))
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells[:5] == ["hf://owner/alike/seg", "seg", "2: background, cat", "MeanIoU 0.2500", "mit"]
    assert cells[6:] == ["0", "input"]
    with pytest.warns(UserWarning, match="Stale: seg/head"):  # it was trained on another backbone
        swapped = CliRunner().invoke(main, shlex.split(line)[1:])
    assert swapped.exit_code == 0, swapped.output
    assert "seg/head" in BrickCollection.from_pretrained(tmp_path / "my model", check="input").bricks()
    shown = CliRunner().invoke(main, ["find", "hf://owner/base", "--task", "seg"]).output
    assert "no: channels of the features" in shown
    assert "brickyard pull hf://owner/base FOLDER" in shown
    assert "brickyard swap FOLDER seg hf://owner/alike/seg --check input" in shown
    assert CliRunner().invoke(main, ["find", "hf://owner/base", "--org", "nobody"]).output == "No heads found.\n"
