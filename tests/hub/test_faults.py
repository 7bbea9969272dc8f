import math
import os
import subprocess
import sys
import time

import pytest
from huggingface_hub import (
    hf_hub_download,
    snapshot_download,
    try_to_load_from_cache,
    upload_file,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
)

from tests.hub.toys import REPO, add, commit, noise, read


@pytest.fixture
def api(hub):
    api = hub.api()
    api.create_repo(REPO)
    return api


def test_a_hook_before_the_commit_makes_a_race_happen_every_time(hub, api):
    hub.fault("*/commit/main", before=lambda: hub.put(REPO, {"a.txt": b"theirs"}))
    with pytest.raises(HfHubHTTPError) as caught:
        commit(api, add(a_txt=b"mine"), parent_commit=hub.commits(REPO)[0].oid)
    assert caught.value.response.status_code == 412
    commit(api, add(a_txt=b"mine"), parent_commit=hub.commits(REPO)[0].oid)
    assert hub.files(REPO)["a.txt"] == b"mine"


def test_what_is_cached_is_read_offline_without_a_request(hub, api, monkeypatch):
    info = commit(api, add(a_txt=b"a", head_safetensors=noise(1000)))
    api.snapshot_download(REPO)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with hub.recording() as seen:
        assert read(hf_hub_download(REPO, "head.safetensors", revision=info.oid)) == noise(1000)
        assert os.path.isfile(os.path.join(snapshot_download(REPO), "a.txt"))
        with pytest.raises(OfflineModeIsEnabled):
            api.repo_info(REPO)
        with pytest.raises(LocalEntryNotFoundError):
            hf_hub_download(REPO, "never.txt")
    assert not seen


def test_a_pinned_file_in_the_cache_costs_no_request(hub, api):
    oid = hub.put(REPO, {"a.txt": b"a"})
    api.hf_hub_download(REPO, "a.txt", revision=oid)
    with hub.recording() as seen:
        path = hf_hub_download(REPO, "a.txt", revision=oid)
    assert not seen
    assert try_to_load_from_cache(REPO, "a.txt", revision=oid) == path


def test_a_second_process_sees_the_same_hub(hub, api):
    hub.put(REPO, {"a.txt": b"from the hub"})
    script = f"from huggingface_hub import *; print(open(hf_hub_download({REPO!r}, 'a.txt')).read())\n"
    script += f"upload_file(path_or_fileobj=b'b', path_in_repo='b.safetensors', repo_id={REPO!r})"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **hub.environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "from the hub\n"
    assert hub.files(REPO)["b.safetensors"] == b"b"
    assert try_to_load_from_cache(REPO, "a.txt") is not None


def test_module_functions_go_to_the_hub_as_well(hub, api):
    upload_file(path_or_fileobj=b"a", path_in_repo="a.txt", repo_id=REPO)
    assert read(hf_hub_download(REPO, "a.txt")) == b"a"


def test_requests_and_bytes_are_counted(hub, api):
    large = noise(1_000_000)
    with hub.recording() as push:
        commit(api, add(head_safetensors=large))
    assert [request.method for request in push] == ["POST", "POST", "PUT", "POST"]
    assert push.matching(method="PUT").up == len(large)
    assert push.matching("*/commit/main", "POST")[0].status == 200
    with hub.recording() as pull:
        api.hf_hub_download(REPO, "head.safetensors")
    assert [(one.method, one.status, one.up, one.down) for one in pull] == [
        ("HEAD", 200, 0, 0),
        ("GET", 200, 0, len(large)),
    ]
    assert hub.requests[-6:] == [*push, *pull]


def test_uploads_are_verified_where_the_hub_asks_for_it(hub, api):
    hub.verify_uploads = True
    with hub.recording() as seen:
        commit(api, add(head_safetensors=b"head"))
    assert [request.status for request in seen.matching("*/verify")] == [200]


@pytest.mark.parametrize("status", [500, 503])
def test_an_error_of_the_server_passes_after_some_tries(hub, api, status):
    hub.put(REPO, {"a.txt": b"a"})
    hub.fault("*/resolve/*", method="HEAD", times=3, status=status)
    with hub.recording() as seen:
        assert read(api.hf_hub_download(REPO, "a.txt")) == b"a"
    assert [request.status for request in seen] == [status] * 3 + [200, 200]


def test_an_error_of_the_server_that_stays_is_raised(hub, api):
    hub.fault("*/commit/*", times=math.inf, status=500)
    with pytest.raises(HfHubHTTPError) as caught:
        commit(api, add(a_txt=b"a"))
    assert caught.value.response.status_code == 500
    assert len(hub.commits(REPO)) == 1


@pytest.mark.parametrize(("status", "code", "error"), [(401, "", HfHubHTTPError), (403, "GatedRepo", GatedRepoError)])
def test_access_can_be_refused_by_a_fault(hub, api, status, code, error):
    hub.put(REPO, {"a.txt": b"a"})
    hub.fault("*/resolve/*", status=status, code=code)
    with pytest.raises(error) as caught:
        api.hf_hub_download(REPO, "a.txt")
    assert caught.value.response.status_code == status
    assert read(api.hf_hub_download(REPO, "a.txt")) == b"a"


def test_a_download_that_was_cut_off_goes_on_where_the_clients_chunks_of_10_mib_ended(hub, api):
    large, chunk = noise(22_000_000), 10 * 2**20
    hub.put(REPO, {"head.safetensors": large})
    hub.fault("*/resolve/*", method="GET", cut_off=True)
    with hub.recording() as seen:
        assert read(api.hf_hub_download(REPO, "head.safetensors")) == large
    assert [(one.status, one.down) for one in seen] == [(200, 0), (200, 11_000_000), (206, len(large) - chunk)]


def test_a_small_download_that_was_cut_off_starts_again(hub, api):
    hub.put(REPO, {"head.safetensors": noise(1_000_000)})
    hub.fault("*/resolve/*", method="GET", cut_off=True)
    with hub.recording() as seen:
        assert read(api.hf_hub_download(REPO, "head.safetensors")) == noise(1_000_000)
    assert [(one.status, one.down) for one in seen] == [(200, 0), (200, 500_000), (200, 1_000_000)]


def test_a_download_that_is_always_cut_off_leaves_nothing_in_the_cache(hub, api):
    hub.put(REPO, {"head.safetensors": noise(1000)})
    hub.fault("*/resolve/*", method="GET", times=math.inf, cut_off=True)
    with hub.recording() as seen, pytest.raises(Exception, match="peer closed connection"):
        api.hf_hub_download(REPO, "head.safetensors")
    assert len(seen.matching(method="GET")) == 6
    assert try_to_load_from_cache(REPO, "head.safetensors") is None


def test_a_lost_answer_leaves_the_commit_made(hub, api):
    hub.fault("*/commit/main", cut_off=True)
    with pytest.raises(Exception, match="peer closed connection"):
        commit(api, add(a_txt=b"a"))
    assert hub.files(REPO)["a.txt"] == b"a"


def test_an_upload_without_an_answer_is_sent_again(hub, api):
    hub.fault("/lfs/*", method="PUT", cut_off=True)
    with hub.recording() as seen:
        commit(api, add(head_safetensors=noise(1000)))
    assert seen.matching(method="PUT").up == 2000
    assert hub.files(REPO)["head.safetensors"] == noise(1000)


def test_wrong_bytes_of_the_right_size_get_past_the_client(hub, api):
    hub.put(REPO, {"head.safetensors": b"\x00\x01\x02"})
    hub.fault("*/resolve/*", method="GET", corrupt=True)
    assert read(api.hf_hub_download(REPO, "head.safetensors")) == b"\xff\xfe\xfd"


def test_an_answer_can_be_late(hub, api):
    hub.fault("*/api/models/*", delay=0.2)
    start = time.monotonic()
    api.repo_info(REPO)
    assert time.monotonic() - start >= 0.2


def test_damaged_repositories_are_served(hub, api):
    hub.put(REPO, {"../evil.txt": b"e", "/etc/evil": b"f", "gone.safetensors": None})
    assert {"../evil.txt", "/etc/evil", "gone.safetensors"} <= set(api.list_repo_files(REPO))
    with pytest.raises(RemoteEntryNotFoundError):
        api.hf_hub_download(REPO, "gone.safetensors")
    with pytest.raises(ValueError, match="Invalid filename"):
        api.hf_hub_download(REPO, "../evil.txt")
    with pytest.raises(ValueError, match="Invalid filename"):
        api.snapshot_download(REPO, allow_patterns=["../*"])


def test_the_hubs_own_failure_fails_the_test(hub):
    def break_a_hub():
        with type(hub)() as other:
            other.fault("*", before=lambda: 1 / 0)
            with pytest.raises(HfHubHTTPError):
                other.api().repo_info(REPO)

    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        break_a_hub()


def test_a_hub_that_was_down_comes_back(hub, api):
    hub.fault("*", times=math.inf, status=503)
    with pytest.raises(HfHubHTTPError, match="503"):
        api.repo_info(REPO)
    hub.hint()
    assert api.repo_info(REPO).id == REPO
