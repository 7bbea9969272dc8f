import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.hub.repos import LFS_BYTES
from tests.hub.toys import REPO, add, commit, noise, read


@pytest.fixture
def api(hub):
    api = hub.api()
    api.create_repo(REPO)
    return api


def test_a_new_repository_holds_what_the_hub_puts_there(hub):
    url = hub.api().create_repo(REPO)
    assert (url.repo_id, str(url)) == (REPO, f"{hub.endpoint}/{REPO}")
    assert list(hub.files(REPO)) == [".gitattributes"]
    assert hub.api().repo_info(REPO).sha == hub.commits(REPO)[0].oid
    assert hub.api().whoami()["name"] == "owner"


def test_a_repository_is_made_once(hub, api):
    with pytest.raises(HfHubHTTPError) as caught:
        api.create_repo(REPO)
    assert caught.value.response.status_code == 409
    assert api.create_repo(REPO, exist_ok=True).repo_id == REPO
    assert len(hub.commits(REPO)) == 1


def test_small_and_large_files_come_back_as_they_went(hub, api):
    sent = {"config.json": b'{"a": 1}', "seg/head.safetensors": noise(1_000_000), "empty.safetensors": b""}
    sent["table.csv"] = noise(LFS_BYTES + 1, seed=1)
    info = commit(api, [CommitOperationAdd(path, data) for path, data in sent.items()])
    assert {path: hub.files(REPO)[path] for path in sent} == sent
    assert {path: read(api.hf_hub_download(REPO, path, revision=info.oid)) for path in sent} == sent
    by_lfs = {file.path for file in api.list_repo_tree(REPO, recursive=True) if getattr(file, "lfs", None)}
    assert by_lfs == {"seg/head.safetensors", "table.csv"}


def test_several_adds_and_a_delete_are_one_commit(hub, api):
    first = commit(api, add(a_txt=b"a", old__b_txt=b"b", old__c_txt=b"c"))
    operations = [CommitOperationDelete("a.txt"), CommitOperationDelete("old/"), *add(d_txt=b"d", e_safetensors=b"e")]
    second = commit(api, operations, parent_commit=first.oid)
    assert hub.files(REPO).keys() == {".gitattributes", "d.txt", "e.safetensors"}
    assert [one.oid for one in hub.commits(REPO)][:2] == [second.oid, first.oid]


def test_deleting_what_is_not_there_is_refused(api):
    with pytest.raises(RemoteEntryNotFoundError, match="doesn't exist"):
        commit(api, [CommitOperationDelete("nothing.txt")])


def test_an_unchanged_file_does_not_travel_again(hub, api):
    large = noise(1_000_000)
    commit(api, add(a_txt=b"a", head_safetensors=large))
    with hub.recording() as seen:
        commit(api, add(a_txt=b"changed", head_safetensors=large))
    assert not seen.matching(method="PUT")
    assert seen.up < 3000
    with hub.recording() as seen:
        info = commit(api, add(a_txt=b"changed", head_safetensors=large))
    assert not seen.matching("*/commit/*")
    assert info.oid == hub.commits(REPO)[0].oid


def test_a_commit_on_an_old_parent_is_refused_and_changes_nothing(hub, api):
    parent = hub.commits(REPO)[0].oid
    commit(api, add(a_txt=b"theirs"))
    with pytest.raises(HfHubHTTPError) as caught:
        commit(api, add(a_txt=b"mine", b_txt=b"mine"), parent_commit=parent)
    assert caught.value.response.status_code == 412
    assert hub.files(REPO)["a.txt"] == b"theirs"
    assert "b.txt" not in hub.files(REPO)


def test_of_eight_writers_with_one_parent_one_wins(hub, api):
    parent = hub.commits(REPO)[0].oid

    def push(number):
        try:
            return commit(hub.api(), add(a_txt=b"%d" % number), parent_commit=parent).oid
        except HfHubHTTPError as error:
            return error.response.status_code

    with ThreadPoolExecutor(8) as pool:
        ends = list(pool.map(push, range(8)))
    assert ends.count(412) == 7
    assert [end for end in ends if end != 412] == [hub.commits(REPO)[0].oid]


def test_eight_writers_without_a_parent_lose_nothing(hub, api):
    def push(number):
        return commit(hub.api(), [CommitOperationAdd(f"{number}.safetensors", noise(50_000, number))]).oid

    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(push, range(8)))
    assert {one.oid for one in hub.commits(REPO)[:8]} == made
    assert {path: data for path, data in hub.files(REPO).items() if path != ".gitattributes"} == {
        f"{number}.safetensors": noise(50_000, number) for number in range(8)
    }


def test_a_pull_request_is_read_at_its_revision_and_leaves_main_alone(hub, api):
    stranger = hub.api(hub.stranger_token)
    info = stranger.create_commit(REPO, add(head_safetensors=b"h"), commit_message="offer", create_pr=True)
    assert (info.pr_revision, info.pr_num) == ("refs/pr/1", 1)
    assert read(api.hf_hub_download(REPO, "head.safetensors", revision="refs/pr/1")) == b"h"
    assert "head.safetensors" not in hub.files(REPO)
    assert hub.files(REPO, "refs/pr/1")["head.safetensors"] == b"h"
    commit(api, add(more_txt=b"m"), revision="refs/pr/1")
    assert "more.txt" in hub.files(REPO, "refs/pr/1")
    assert [ref.ref for ref in api.list_repo_refs(REPO, include_pull_requests=True).pull_requests] == ["refs/pr/1"]


def test_a_tree_lists_files_and_folders(hub, api):
    hub.put(REPO, {"seg/fcn/head.json": b"{}", "seg/readme.txt": b"r"})
    shallow = {entry.path for entry in api.list_repo_tree(REPO)}
    assert shallow == {".gitattributes", "seg"}
    assert {entry.path for entry in api.list_repo_tree(REPO, "seg")} == {"seg/fcn", "seg/readme.txt"}
    deep = {entry.path for entry in api.list_repo_tree(REPO, recursive=True)}
    assert deep == {".gitattributes", "seg", "seg/fcn", "seg/fcn/head.json", "seg/readme.txt"}
    with pytest.raises(RemoteEntryNotFoundError):
        list(api.list_repo_tree(REPO, "det"))


def test_paths_info_tells_size_and_hashes_without_the_content(hub, api):
    large = noise(1_000_000)
    info = commit(api, add(head_safetensors=large, a_txt=b"hello\n"))
    with hub.recording() as seen:
        found = api.get_paths_info(REPO, ["head.safetensors", "a.txt", "missing"], revision=info.oid)
    by_path = {file.path: file for file in found}
    assert by_path.keys() == {"head.safetensors", "a.txt"}
    head = by_path["head.safetensors"]
    assert (head.size, head.lfs.sha256) == (1_000_000, hashlib.sha256(large).hexdigest())
    assert by_path["a.txt"].blob_id == "ce013625030ba8dba906f756967f9e9ca394464a"  # git hash-object
    assert len(seen) == 1
    assert seen.down < 1000


def test_tags_and_branches_name_commits(hub, api):
    first = commit(api, add(a_txt=b"1"))
    api.create_tag(REPO, tag="v1")
    api.create_branch(REPO, branch="try/2", revision=first.oid)
    commit(api, add(a_txt=b"2"))
    commit(api, add(a_txt=b"3"), revision="try/2")
    found = {name: read(api.hf_hub_download(REPO, "a.txt", revision=name)) for name in ("main", "v1", "try/2")}
    assert found == {"main": b"2", "v1": b"1", "try/2": b"3"}
    refs = api.list_repo_refs(REPO)
    assert {ref.name for ref in refs.branches} == {"main", "try/2"}
    assert [(ref.name, ref.target_commit) for ref in refs.tags] == [("v1", first.oid)]
    with pytest.raises(HfHubHTTPError) as caught:
        api.create_tag(REPO, tag="v1")
    assert caught.value.response.status_code == 409


def test_a_commit_id_keeps_naming_the_old_content(hub, api):
    first = commit(api, add(a_txt=b"1"))
    commit(api, add(a_txt=b"2"))
    assert read(api.hf_hub_download(REPO, "a.txt", revision=first.oid)) == b"1"


def test_two_repositories_never_share_a_commit_id(hub):
    assert hub.put("owner/a", {"a.txt": b"1"}) != hub.put("owner/b", {"a.txt": b"1"})


def test_a_snapshot_takes_only_what_the_patterns_allow(hub, api):
    commit(api, add(seg__a_txt=b"a", det__b_txt=b"b"))
    folder = api.snapshot_download(REPO, allow_patterns=["seg/*"])
    found = [os.path.join(at, name) for at, _, names in os.walk(folder) for name in names]
    assert [os.path.relpath(path, folder) for path in found] == ["seg/a.txt"]


def test_a_safetensors_header_is_read_by_a_range(hub, api):
    header = json.dumps({"w": {"dtype": "F32", "shape": [1000, 1000], "data_offsets": [0, 4_000_000]}}).encode()
    hub.put(REPO, {"w.safetensors": len(header).to_bytes(8, "little") + header + bytes(4_000_000)})
    with hub.recording() as seen:
        found = api.parse_safetensors_file_metadata(REPO, "w.safetensors")
    assert found.tensors["w"].shape == [1000, 1000]
    assert [request.status for request in seen] == [206]
    assert seen.down == 100_001


def test_a_private_repository_looks_like_none_to_others(hub):
    hub.api().create_repo(REPO, private=True)
    hub.put(REPO, {"a.txt": b"a"})
    assert read(hub.api().hf_hub_download(REPO, "a.txt")) == b"a"
    for token in (False, hub.stranger_token):
        with pytest.raises(RepositoryNotFoundError):
            hub.api(token).repo_info(REPO)
        with pytest.raises(RepositoryNotFoundError):
            hub.api(token).get_paths_info(REPO, ["a.txt"])
    with pytest.raises(HfHubHTTPError, match="401"):
        hub.api("hf_wrong").repo_info(REPO)


def test_a_gated_repository_is_seen_but_not_downloaded(hub):
    hub.put(REPO, {"a.txt": b"a"})
    hub.repos[REPO].gated = True
    for token, status in ((False, 401), (hub.stranger_token, 403)):
        assert hub.api(token).repo_info(REPO).gated == "auto"
        with pytest.raises(GatedRepoError) as caught:
            hub.api(token).hf_hub_download(REPO, "a.txt")
        assert caught.value.response.status_code == status
    assert read(hub.api().hf_hub_download(REPO, "a.txt")) == b"a"


def test_only_the_owner_writes(hub, api):
    for token, status in ((False, 401), (hub.stranger_token, 403)):
        with pytest.raises(HfHubHTTPError) as caught:
            commit(hub.api(token), add(a_txt=b"a"))
        assert caught.value.response.status_code == status
    assert len(hub.commits(REPO)) == 1


def test_what_is_missing_is_told_apart(hub, api):
    with pytest.raises(RepositoryNotFoundError):
        api.hf_hub_download("owner/none", "a.txt")
    with pytest.raises(RevisionNotFoundError):
        api.hf_hub_download(REPO, "a.txt", revision="none")
    with pytest.raises(RemoteEntryNotFoundError):
        api.hf_hub_download(REPO, "a.txt")
    with pytest.raises(RevisionNotFoundError):
        commit(api, add(a_txt=b"a"), revision="none")


def test_large_files_are_copied_between_repositories_without_their_bytes(hub, api):
    large = noise(1_000_000)
    hub.put("owner/source", {"seg/head.safetensors": large})
    with hub.recording() as seen:
        commit(api, [CommitOperationCopy("seg/head.safetensors", "b.safetensors", None, "owner/source", "model")])
    assert hub.files(REPO)["b.safetensors"] == large
    assert seen.up + seen.down < 3000


def test_a_pointer_to_a_file_that_was_never_uploaded_is_refused(hub, api):
    operations = add(head_safetensors=b"h")
    api.preupload_lfs_files(REPO, operations)
    hub.repos[REPO].objects.clear()
    with pytest.raises(HfHubHTTPError, match="does not exist"):
        commit(api, operations)
