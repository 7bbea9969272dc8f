"""The files of a repo on the Hub, in the cache of huggingface_hub."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import final

from huggingface_hub import HfApi, constants, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import RemoteEntryNotFoundError
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from brickyard.errors import BrickError, BrickIntegrityError, BrickNotFoundError, HubConnectionError, UnsafeBrickError
from brickyard.storage.integrity import check_file
from brickyard.storage.sources.files import MAX_JSON_SIZE, Access, Files, read_small
from brickyard.storage.sources.limits import COMMIT, TRIES, UNBOUNDED, download
from brickyard.storage.tensor_file import SUFFIX

HUB_CONFIG = "config.json"  # the Hub counts the requests for it as downloads of the repo
_log = logging.getLogger(__name__)
_WORKERS = 8  # files that are downloaded at the same time
_SHA256 = re.compile(r"[0-9a-f]{64}")


@final
class HubFiles(Files):
    """The files of a repo at one commit, in the cache of huggingface_hub, which alone writes there.

    Args:
        repo: `user/repo`.
        revision: A branch, tag or commit; the first file that is read pins it to a commit.
        access: See `Files`.

    Raises:
        UnsafeBrickError: The revision is a path that leaves the cache.
    """

    def __init__(self, repo: str, revision: str | None, access: Access) -> None:
        super().__init__(access)
        self.repo = repo
        self.api = HfApi(token=access.token, library_name="brickyard")
        self._revision = revision or constants.DEFAULT_REVISION
        if not all(part.strip(".") for part in self._revision.split("/")) or "\\" in self._revision:
            raise UnsafeBrickError(
                f"hf://{repo} has no revision '{self._revision}': it is a path outside of the cache."
            )
        self._only_cached = access.local_files_only or constants.is_offline_mode()
        self._cache = None if access.cache_dir is None else Path(access.cache_dir).expanduser()
        self._is_forced = access.force_download and not self._only_cached
        self._downloaded: set[str] = set()
        self._is_counted = False
        self._read: dict[str, bytes] = {}
        self._pinned: str | None = self._revision if COMMIT.fullmatch(self._revision) else None

    @property
    def location(self) -> str:
        return f"hf://{self.repo}@{self._pinned or self._revision}"

    @property
    def commit(self) -> str:
        """The commit of all files."""
        if self._pinned is None:
            resolve = partial(self.api.resolve_revision, self.repo, revision=self._revision, cache_dir=self._cache)
            if self._only_cached:
                self._pin(resolve(local_files_only=True).resolved)
            else:
                self._pin(download(self.location, resolve).resolved)
        return str(self._pinned)

    def peek(self, name: str) -> bytes:
        if self._pinned and (cached := self._cached(name, self._pinned)):
            return read_small(cached)
        if name in self._read:
            return self._read[name]
        if self._only_cached:
            return read_small(self.file(name))
        is_first, cached = self._pinned is None, self._cached(name, self._revision)
        try:
            get, tries = partial(self._get, name), 1 if cached else TRIES
            self._read[name] = download(self._name(name), get, most=MAX_JSON_SIZE, tries=tries)
        except RemoteEntryNotFoundError:
            raise self._absent(name) from None
        except HubConnectionError:
            if cached is None or not is_first:
                raise
            resolve = partial(self.api.resolve_revision, self.repo, revision=self._revision, cache_dir=self._cache)
            self._pin(resolve(local_files_only=True).resolved)
            _log.warning("%s cannot be reached: the files of an earlier download are used.", self.location)
            return read_small(cached)
        return self._read[name]

    def file(self, name: str, size: int | None = None) -> Path:
        if self._only_cached:
            file = self.api.hf_hub_download(
                self.repo, name, revision=self.commit, cache_dir=self._cache, local_files_only=True
            )
            return self._verified(name, Path(file))
        return self._cached(name, self.commit) or self._download(name, size, self.commit)

    def fetch(self, sizes: Mapping[str, int | None]) -> None:
        if self._only_cached or not sizes:
            return
        is_download = any(name.endswith(SUFFIX) and self._cached(name, self.commit) is None for name in sizes)
        first = next(iter(sizes))
        recorded = self._cached(first, self._revision)
        if recorded is None or self.commit not in recorded.parts:
            # By the name of the branch, so that huggingface_hub records its commit for use without network.
            self._download(first, sizes[first], self._revision)
        absent = [name for name in sizes if self._cached(name, self.commit) is None]
        with ThreadPoolExecutor(_WORKERS) as pool:
            if is_download and not self._is_counted:
                self._is_counted = True
                pool.submit(self._count)
            list(pool.map(lambda name: self._download(name, sizes[name], self.commit), absent))

    def uri(self, path: str) -> str | None:
        return f"hf://{self.repo}@{self.commit}/{path}"

    def discard(self, name: str) -> None:
        self._read.pop(name, None)
        if (file := self._cached(name, self.commit)) is not None:
            file.resolve().unlink(missing_ok=True)
            file.unlink(missing_ok=True)

    def _cached(self, name: str, revision: str) -> Path | None:
        """Return a file of the cache; none that was not downloaded by this object if downloads are forced."""
        if self._is_forced and name not in self._downloaded:
            return None
        file = try_to_load_from_cache(self.repo, name, cache_dir=self._cache, revision=revision)
        return Path(file) if isinstance(file, str) else None

    def _download(self, name: str, size: int | None, revision: str) -> Path:
        """Download a file that is not in the cache."""
        least, most = (size, size) if size is not None else (0, MAX_JSON_SIZE if name.endswith(".json") else UNBOUNDED)
        options = {"revision": revision, "cache_dir": self._cache, "force_download": self._is_forced}
        call = partial(self.api.hf_hub_download, self.repo, name, **options)
        try:
            file = Path(download(self._name(name), call, least=least, most=most))
        except RemoteEntryNotFoundError:
            raise self._absent(name) from None
        self._downloaded.add(name)
        return self._verified(name, file) if self.commit in file.parts else file

    def _verified(self, name: str, file: Path) -> Path:
        """Check a downloaded file; huggingface_hub itself only compares sizes."""
        blob = file.resolve()  # large files are stored under their sha256
        with self.discarding(name):
            if _SHA256.fullmatch(blob.name):
                check_file(blob, blob.name, blob.stat().st_size)
            elif name in self._read and self._read[name] != blob.read_bytes():
                raise BrickIntegrityError(f"{file} differs from '{name}' in {self.location}. Download it again.")
        return file

    def _count(self) -> None:
        """Request the file that the Hub counts downloads by; it does not matter whether the repo has it."""
        url = hf_hub_url(self.repo, HUB_CONFIG, revision=self.commit, endpoint=self.api.endpoint)
        headers = build_hf_headers(token=self.api.token, library_name="brickyard")
        with suppress(BrickError):
            download(self._name(HUB_CONFIG), partial(get_session().head, url, headers=headers), tries=1)

    def _get(self, name: str) -> bytes:
        """Return a JSON file with one request, which also tells the commit."""
        url = hf_hub_url(self.repo, name, revision=self._pinned or self._revision, endpoint=self.api.endpoint)
        headers = build_hf_headers(token=self.api.token, library_name="brickyard")
        with get_session().stream("GET", url, headers=headers, follow_redirects=True) as response:
            for answer in (*response.history, response):
                if self._pinned is None:
                    self._pin(answer.headers.get(constants.HUGGINGFACE_HEADER_X_REPO_COMMIT))
            hf_raise_for_status(response)
            return b"".join(response.iter_bytes())

    def _pin(self, commit: str | None) -> None:
        if commit is not None and not COMMIT.fullmatch(commit):
            raise UnsafeBrickError(f"{self.location}: expected a commit of 40 hex digits, found {commit[:100]!r}.")
        self._pinned = commit

    def _name(self, name: str) -> str:
        return f"'{name}' in {self.location}"

    def _absent(self, name: str) -> BrickNotFoundError:
        return BrickNotFoundError(f"No file {self._name(name)}.")
