"""The files of a repo on the Hub, in the cache of huggingface_hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import final

from huggingface_hub import HfApi, constants, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import RemoteEntryNotFoundError
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status, httpx

from brickyard.errors import BrickIntegrityError, BrickNotFoundError, UnsafeBrickError
from brickyard.storage.atomic import write_whole
from brickyard.storage.integrity import check_file
from brickyard.storage.sources.files import MOST, Access, Files, read_small

_FEW = 2  # files that are downloaded one by one: a snapshot download lists the repo first
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@final
class HubFiles(Files):
    """The files of a repo at one commit, in the cache of huggingface_hub.

    Args:
        repo: `user/repo`.
        revision: A branch, tag or commit; the first file that is read pins it to a commit.
        access: See `Files`.
    """

    def __init__(self, repo: str, revision: str | None, access: Access) -> None:
        super().__init__(access)
        self.repo = repo
        self.api = HfApi(token=access.token, library_name="brickyard")
        self._revision = revision or constants.DEFAULT_REVISION
        self._only_cached = access.local_files_only or constants.is_offline_mode()
        self._read: dict[str, bytes] = {}
        self._pinned: str | None = self._revision if _COMMIT.fullmatch(self._revision) else None

    @property
    def location(self) -> str:
        return f"hf://{self.repo}@{self._pinned or self._revision}"

    @property
    def commit(self) -> str:
        """The commit of all files."""
        if self._pinned is None:
            commit = self.api.resolve_revision(self.repo, revision=self._revision, local_files_only=self._only_cached)
            self._pinned = str(commit.resolved)
        return self._pinned

    def peek(self, name: str) -> bytes:
        cached = try_to_load_from_cache(self.repo, name, revision=self._pinned) if self._pinned else None
        if isinstance(cached, str):
            return read_small(Path(cached))
        content = None if self._only_cached else self._get(name)
        if content is None:
            return read_small(self.file(name))
        self._read[name] = content
        return content

    def file(self, name: str) -> Path:
        try:
            file = Path(
                self.api.hf_hub_download(self.repo, name, revision=self.commit, local_files_only=self._only_cached)
            )
        except RemoteEntryNotFoundError:
            raise BrickNotFoundError(f"No file '{name}' in {self.location}.") from None
        self._check(name, file)
        return file

    def fetch(self, names: Sequence[str]) -> None:
        if self._only_cached:
            return
        absent = [
            name for name in names if not isinstance(try_to_load_from_cache(self.repo, name, revision=self.commit), str)
        ]
        if len(absent) > _FEW:
            self.api.snapshot_download(self.repo, revision=self.commit, allow_patterns=absent)
            for name in absent:
                if isinstance(cached := try_to_load_from_cache(self.repo, name, revision=self.commit), str):
                    self._check(name, Path(cached))
        else:
            for name in absent:
                self.file(name)

    def uri(self, path: str) -> str | None:
        return f"hf://{self.repo}@{self.commit}/{path}"

    def discard(self, name: str) -> None:
        file = try_to_load_from_cache(self.repo, name, revision=self.commit)
        if isinstance(file, str):
            Path(file).resolve().unlink(missing_ok=True)
            Path(file).unlink(missing_ok=True)

    def _check(self, name: str, file: Path) -> None:
        """Check a downloaded file; huggingface_hub itself only compares sizes."""
        blob = file.resolve()  # large files are stored under their sha256
        with self.discarding(name):
            if _SHA256.fullmatch(blob.name):
                check_file(blob, blob.name, blob.stat().st_size)
            elif name in self._read and self._read[name] != blob.read_bytes():
                raise BrickIntegrityError(f"{file} differs from '{name}' in {self.location}. Download it again.")

    def _get(self, name: str) -> bytes | None:
        """Return a JSON file with one request, with the commit; None if huggingface_hub should retry it."""
        url = hf_hub_url(self.repo, name, revision=self._pinned or self._revision, endpoint=self.api.endpoint)
        headers = build_hf_headers(token=self.api.token, library_name="brickyard")
        content = b""
        try:
            with get_session().stream("GET", url, headers=headers, follow_redirects=True) as response:
                if response.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
                    return None
                self._pin(response)
                hf_raise_for_status(response)
                for chunk in response.iter_bytes():
                    content += chunk
                    if len(content) > MOST:
                        raise UnsafeBrickError(
                            f"'{name}' in {self.location} is too large, expected at most {MOST} bytes for a JSON file."
                        )
        except RemoteEntryNotFoundError:
            raise BrickNotFoundError(f"No file '{name}' in {self.location}.") from None
        except httpx.RequestError:
            return None
        return content

    def _pin(self, response: httpx.Response) -> None:
        """Record the commit of a response, also for later use without network."""
        answers = [answer.headers.get(constants.HUGGINGFACE_HEADER_X_REPO_COMMIT) for answer in response.history]
        commits = [*answers, response.headers.get(constants.HUGGINGFACE_HEADER_X_REPO_COMMIT)]
        commit = next((commit for commit in commits if commit), None)
        if self._pinned is not None or commit is None or not _COMMIT.fullmatch(commit):
            return
        self._pinned = commit
        folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=self.repo, repo_type="model")
        write_whole(folder / "refs" / self._revision, commit)
