"""Licences of parts: the strictest of several, and those that a push allows."""

import pytest

from brickyard import BrickInputError, BrickMismatchError, create_model, model_info
from brickyard.storage.licences import hub_licence, strictest
from tests.hub.cards import LICENSES
from tests.hub.models import REPO, small


@pytest.mark.parametrize(
    ("licences", "expected"),
    [
        (["mit"], "mit"),
        (["mit", "apache-2.0"], "apache-2.0"),
        (["apache-2.0", "bsd-3-clause", "cc0-1.0"], "apache-2.0"),
        (["apache-2.0", "gpl-3.0", "lgpl-3.0"], "gpl-3.0"),
        (["agpl-3.0", "gpl-3.0"], "agpl-3.0"),
        (["cc-by-4.0", "cc-by-sa-4.0"], "cc-by-sa-4.0"),
        (["agpl-3.0", "cc-by-nc-4.0"], "cc-by-nc-4.0"),
        (["cc-by-nc-4.0", "cc-by-nc-nd-4.0"], "cc-by-nc-nd-4.0"),
        (["cc-by-nc-nd-4.0", "dinov3"], "dinov3"),
    ],
)
def test_the_strictest_licence_asks_for_most(licences, expected):
    assert strictest(licences) == strictest(licences[::-1]) == expected


def test_every_licence_of_the_hub_has_a_rank():
    named = LICENSES - {"other", "unknown"}
    assert {name for name in named if hub_licence([name]) != {"license": name}} == set()


def test_a_licence_that_the_hub_does_not_know_is_named():
    assert hub_licence(["mit", "DINOv3 License"]) == {"license": "other", "license_name": "dinov3-license"}


def test_a_part_without_a_licence_leaves_the_repo_without_one():
    assert hub_licence(["mit", None]) == hub_licence([None]) == hub_licence([]) == {}


@pytest.fixture
def model():
    model = small()
    model["backbone"].metadata["licence"] = "apache-2.0"
    model["cls/head"].metadata["licence"] = "mit"
    return model


def test_a_push_takes_the_allowed_licences_only(hub, model):
    with hub.recording() as seen, pytest.raises(BrickMismatchError) as caught:
        model.push_to_hub(REPO, allow_licences=["apache-2.0"])
    assert caught.value.problems == ["'cls/head': mit"]
    assert not seen, "the repo is not even created"
    model.push_to_hub(REPO, allow_licences=("apache-2.0", "mit"))
    assert model.push_to_hub("owner/other", bricks="backbone", allow_licences=iter(["apache-2.0"]))


def test_a_part_that_states_no_licence_is_not_allowed(hub, model):
    del model["cls/head"].metadata["licence"]
    with pytest.raises(BrickMismatchError, match="'cls/head': no licence is stated"):
        model.push_to_hub(REPO, allow_licences=["apache-2.0", "mit"])
    with pytest.raises(BrickInputError, match=r"Pass \['mit'\]"):
        model.push_to_hub(REPO, allow_licences="mit")


def test_the_licence_of_a_reference_is_that_of_the_published_brick(hub, model):
    model["backbone"].metadata["licence"] = "cc-by-nc-4.0"
    model.push_to_hub(REPO)
    model["backbone"].metadata["licence"] = "mit"
    with pytest.raises(BrickMismatchError, match="'backbone': cc-by-nc"):
        model.push_to_hub("owner/other", refer={"backbone": f"hf://{REPO}/backbone"}, allow_licences=["mit"])


def test_model_info_tells_the_licence_of_each_part(model, tmp_path):
    del model["cls/head"].metadata["licence"]
    model.save_pretrained(tmp_path)
    assert model_info(str(tmp_path)).licence == {"backbone": "apache-2.0", "cls/head": None}
    assert model_info("test_resnet_cls").licence == {}


def test_fresh_weights_have_no_licence():
    assert all("licence" not in brick.metadata for brick in create_model("test_resnet_cls").bricks().values())
