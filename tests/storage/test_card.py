"""What the Hub reads: the metadata of the card, and the file that it counts downloads by."""

import json
import warnings

import pytest
import timm
from huggingface_hub import ModelCard

from brickyard import BrickCollection, BrickTrainable, create_model, create_part, inspect_brick
from brickyard.core.version import __version__
from tests.hub.cards import check_card
from tests.hub.models import REPO, cold, small, train
from tests.toys import ROOT

BACKBONE_REPO = "owner/backbone"


@pytest.fixture
def on_referenced(hub):
    """A model of two heads on the backbone of another repo, with measured metrics."""
    small().push_to_hub(BACKBONE_REPO)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = create_model(
            "test_resnet_cls-multilabel_seg-lraspp",
            num_classes={"cls": 3, "seg": 4},
            bricks={"backbone": f"hf://{BACKBONE_REPO}/backbone"},
        )
    model["backbone"].metadata["licence"] = "apache-2.0"
    model["cls/head"].metadata |= {
        "licence": "mit",
        "metrics": {"F1": 0.75, "ExactMatch": 0.5},
        "measured": "brickyard eval mine --data coco:/home/me/photos",
        "datasets": ["owner/photos"],
    }
    model["seg/head"].metadata |= {
        "licence": "cc-by-nc-4.0",
        "metrics": {"MeanIoU": 0.25},
        "measured": "brickyard eval mine --data voc:/home/me/photos",
    }
    model.push_to_hub(REPO, refer=["backbone"])
    return model


def card_of(hub, repo=REPO):
    return ModelCard(hub.files(repo)["README.md"].decode())


def test_a_card_states_what_the_hub_filters_by(hub, on_referenced):
    data = card_of(hub).data
    sha256 = on_referenced["backbone"].provenance.weights
    assert (data.library_name, data.pipeline_tag, data.license) == ("brickyard", "image-classification", "cc-by-nc-4.0")
    assert (data.base_model, data.base_model_relation) == (BACKBONE_REPO, "adapter")
    assert data.datasets == ["owner/photos"]
    assert data.metrics == ["f1", "ExactMatch", "mean_iou"]
    assert data.tags == ["brickyard", "cls", "seg", f"backbone-{sha256[:12]}", "timm", "architecture-test_resnet"]


def test_measured_metrics_are_the_model_index_without_folders_of_the_author(hub, on_referenced):
    results = card_of(hub).data.eval_results
    assert [(each.task_type, each.dataset_type, each.metric_name, each.metric_value) for each in results] == [
        ("image-classification", "owner/photos", "cls/F1", 0.75),
        ("image-classification", "owner/photos", "cls/ExactMatch", 0.5),
        ("image-segmentation", "voc", "seg/MeanIoU", 0.25),
    ]
    assert "/home/me" not in hub.files(REPO)["README.md"].decode()


def test_the_client_and_the_hub_take_the_card(hub, on_referenced):
    card = card_of(hub)
    card.validate()  # asks the hub
    assert check_card(str(card)) == ([], [])
    card.data["license"] = "none-of-the-hub's"
    with pytest.raises(ValueError, match="license"):
        card.validate()


@pytest.mark.parametrize("folder", sorted(ROOT.glob("zoo/*")), ids=lambda folder: folder.name)
def test_the_cards_of_the_zoo_pass_the_check_of_the_hub(folder):
    content = (folder / "README.md").read_text(encoding="utf-8")
    data = ModelCard(content).data
    assert check_card(content) == ([], [])
    assert data.library_name == "brickyard"
    assert data.pipeline_tag or "_anomaly." in folder.name, "the Hub has no name for anomaly detection"
    assert data.license
    assert not (folder / "config.json").exists(), "nobody counts the downloads of a folder"
    assert (data.base_model is None) == (folder / "backbone.safetensors").exists()


def test_each_part_has_its_own_licence_in_the_table(hub, on_referenced):
    rows = {line.split("|")[1].split("`")[1]: line.split("|")[-2].strip() for line in table_of(hub)}
    assert (rows["cls/head"], rows["seg/head"], rows["cls/loss"]) == ("mit", "cc-by-nc-4.0", "")
    model = small()
    model["backbone"].metadata["licence"] = "mit"
    model.push_to_hub("owner/unlicensed")
    rows = {line.split("|")[1].split("`")[1]: line.split("|")[-2].strip() for line in table_of(hub, "owner/unlicensed")}
    assert (rows["backbone"], rows["cls/head"]) == ("mit", "none stated")
    assert card_of(hub, "owner/unlicensed").data.license is None, "the head may not be used as MIT"


def table_of(hub, repo=REPO):
    return [line for line in hub.files(repo)["README.md"].decode().splitlines() if line.startswith("| `")]


def test_a_head_that_is_pushed_alone_names_its_backbone(hub):
    small().push_to_hub(BACKBONE_REPO)
    model = BrickCollection.from_pretrained(BACKBONE_REPO)
    train(model, "cls/head")
    model.push_to_hub(REPO, bricks="cls")
    data = card_of(hub).data
    assert (data.base_model, data.base_model_relation) == (BACKBONE_REPO, "adapter")
    assert {f"backbone-{model['backbone'].provenance.weights[:12]}", "architecture-test_resnet"} <= set(data.tags)
    train(model, "backbone")
    model.push_to_hub("owner/changed", bricks="cls", allow_stale=True)
    assert card_of(hub, "owner/changed").data.base_model is None


def test_a_backbone_of_timm_s_is_the_base_model(hub, tmp_path):
    timm.models.save_for_hf(timm.create_model("test_resnet"), tmp_path, safe_serialization=True)
    hub.put("timm/test_resnet.r160_in1k", {file.name: file.read_bytes() for file in tmp_path.iterdir()})
    model = create_model("test_resnet_seg-lraspp", bricks={"backbone": "hf://timm/test_resnet.r160_in1k"})
    model.push_to_hub(REPO, refer=["backbone"])
    assert card_of(hub).data.base_model == "timm/test_resnet.r160_in1k"


def test_the_first_task_that_the_hub_has_a_name_for_is_the_pipeline_tag(hub):
    create_model("test_resnet_seg-lraspp_det-ssdlite", num_classes={"seg": 2, "det": 2}).push_to_hub(REPO)
    assert card_of(hub).data.pipeline_tag == "image-segmentation"


def test_downloads_are_counted_by_a_small_config(hub):
    model = small()
    model.push_to_hub(REPO)
    assert json.loads(hub.files(REPO)["config.json"]) == {
        "format": 1,
        "name": "test_resnet_cls",
        "tasks": {"cls": "cls"},
        "library_name": "brickyard",
        "library_version": __version__,
    }


def counted(seen):
    return [(request.method, request.status) for request in seen.matching("*/config.json")]


def test_a_download_of_weights_is_counted_once(hub, tmp_path, monkeypatch):
    small().push_to_hub(REPO)
    with hub.recording() as seen:
        inspect_brick(f"hf://{REPO}/cls")
    assert counted(seen) == []
    with hub.recording() as seen:
        BrickCollection.from_pretrained(REPO)
    assert counted(seen) == [("HEAD", 200)]
    with hub.recording() as seen:
        BrickCollection.from_pretrained(REPO)
    assert counted(seen) == []
    cold(monkeypatch, tmp_path / "cold")
    with hub.recording() as seen:
        create_model("test_resnet_cls").swap("cls", f"hf://{REPO}/cls", check="shape")
    assert counted(seen) == [("HEAD", 200)]


def test_a_count_that_fails_fails_no_download(hub):
    small().push_to_hub(REPO)
    hub.fault("*/config.json", status=500)
    BrickCollection.from_pretrained(REPO)


def test_a_repo_without_the_config_gets_it_and_a_new_card_with_the_next_push(hub):
    model = small()
    model.push_to_hub(REPO)
    manifest = json.loads(hub.files(REPO)["bricks.json"])
    del manifest["hub_config"]
    old = {"bricks.json": json.dumps(manifest).encode()}
    hub.put("owner/old", {**hub.files(REPO), **old})
    commit = hub.repos["owner/old"]
    commit.commit("main", lambda files: files.pop("config.json"), "as it was")
    again = BrickCollection.from_pretrained("owner/old")
    again.push_to_hub("owner/old")
    assert json.loads(hub.files("owner/old")["config.json"])["tasks"] == {"cls": "cls"}
    with hub.recording() as seen:
        again.push_to_hub("owner/old")
    assert not seen.matching("*/commit/*")


def test_a_config_of_another_library_stays(hub):
    hub.put(REPO, {"config.json": b'{"architecture": "test_resnet"}'})
    model = small()
    model.push_to_hub(REPO)
    train(model, "cls/head")
    model.push_to_hub(REPO)
    assert hub.files(REPO)["config.json"] == b'{"architecture": "test_resnet"}'


def test_a_brick_named_config_keeps_its_file(hub):
    part = create_part("linear", in_features=2, out_features=2)
    model = BrickCollection({"config": BrickTrainable(part, ["x"], ["y"])})
    model.push_to_hub(REPO)
    assert json.loads(hub.files(REPO)["config.json"])["kind"] == "BrickTrainable"
    assert BrickCollection.from_pretrained(REPO)["config"].module_name == "Linear"
