import pytest
from huggingface_hub import (
    CommitOperationAdd,
    ModelCard,
)

from tests.hub.toys import REPO, add, commit

CARD = b"---\nlibrary_name: brickyard\nlicense: apache-2.0\ntags:\n- brickyard\n---\n\n# Model\n"


@pytest.fixture
def api(hub):
    api = hub.api()
    api.create_repo(REPO)
    return api


def test_a_card_is_checked_before_anything_is_uploaded(hub, api):
    commit(api, [CommitOperationAdd("README.md", CARD)])
    assert ModelCard.load(REPO).data.license == "apache-2.0"
    ModelCard("---\nlicense: mit\n---\n# Other\n").push_to_hub(REPO)
    assert b"# Other" in hub.files(REPO)["README.md"]


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ("license: [", "not valid"),
        ("license: my-own", '"license" must be one of'),
        ("tags: brick", '"tags" must be an array'),
        ("tags: [1]", '"tags" must be a string'),
        ("base_model: not an id", '"base_model" with value'),
        ("base_model_relation: child", '"base_model_relation" must be one of'),
        ("model-index: not correct", '"model-index" must be an array'),
        ("model-index: [{results: []}]", "name"),
        ("- a\n- b", "must be an object"),
    ],
)
def test_bad_metadata_of_a_card_is_refused(hub, api, metadata, reason):
    card = f"---\n{metadata}\n---\n# Model\n".encode()
    with hub.recording() as seen, pytest.raises(ValueError, match=reason):
        commit(api, [CommitOperationAdd("README.md", card), *add(head_safetensors=b"h")])
    assert [request.path for request in seen] == ["/api/validate-yaml"]


def test_a_card_without_metadata_is_warned_of(hub, api):
    with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
        commit(api, [CommitOperationAdd("README.md", b"# Model\n")])
