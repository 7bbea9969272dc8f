"""Search stored heads that fit a backbone: on the Hub by the tags of its repos, and in the folders of the zoo.

Only JSON is read: one or two lists of repos, and the file of each head, which is kept for the next search.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, final

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError

from brickyard.core.names import prefix_of
from brickyard.errors import BrickError, HubConnectionError
from brickyard.storage.card_metadata import LIBRARY, weights_tag
from brickyard.storage.fit import CHECKS, Backbone, BrickInfo, Check, closest_fit
from brickyard.storage.notes import note_file, write_note
from brickyard.storage.read import parse_brick, read_entries, read_manifest
from brickyard.storage.sources.files import Access
from brickyard.storage.sources.hub import HubFiles
from brickyard.storage.sources.limits import download
from brickyard.storage.sources.zoo import open_zoo, zoo_folders
from brickyard.tasks.registry import TASKS

_HEAD_FILE = re.compile(r"(?P<path>\w+(/\w+)*/head)\.json", re.A)
_REPO = re.compile(r"[\w.-]+/[\w.-]+", re.A)
_MAX_REPOS = 1000  # of one list: the Hub gives so many in one response
_MAX_NOTES = 5000  # JSON files of heads that are kept
_WORKERS = 8  # files that are read at the same time


@final
@dataclass(frozen=True)
class FoundHead:
    """A stored head, and how well it fits.

    Attributes:
        source: The source that `BrickCollection.swap` takes: `hf://user/repo/seg` or `zoo://model/seg`.
        info: The head as its JSON describes it: task, labels, licence, weights, requirements, metrics in `config`.
        downloads: How often the repo was downloaded in the last month as the Hub counts it, None in the zoo.
        fits: The strictest check by which it fits, "exact", "input" or "shape"; None if it does not fit.
        problems: The reasons why it does not fit.
    """

    source: str
    info: BrickInfo
    downloads: int | None
    fits: Check | None
    problems: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of the head in its model."""
        return prefix_of(self.info.path)

    @property
    def metrics(self) -> dict[str, float]:
        """The measured metrics by name."""
        return dict(self.info.config.get("metrics", {}))

    @property
    def size(self) -> int:
        """The bytes of its weights."""
        return (self.info.weights or {}).get("size") or 0


@final
@dataclass(frozen=True)
class Wanted:
    """Which heads are searched.

    Attributes:
        task: The name of their task, None for any.
        fits: The weakest check by which they must fit, None to list also those that do not fit.
        licences: Their licences, None for any, also for none stated.
        org: The organisation or user on the Hub, None for all, and for the zoo.
    """

    task: str | None = None
    fits: Check | None = None
    licences: Collection[str] | None = None
    org: str | None = None

    def takes(self, head: FoundHead) -> bool:
        """Return whether a head is one of them."""
        return (
            self.task in (None, head.info.task)
            and (self.licences is None or head.info.licence in self.licences)
            and (self.fits is None or (head.fits is not None and CHECKS.index(head.fits) <= CHECKS.index(self.fits)))
        )


@final
@dataclass(frozen=True)
class _Candidate:
    """A head whose JSON is to be read.

    Attributes:
        source: See `FoundHead`.
        downloads: See `FoundHead`.
        read: Reads its JSON.
    """

    source: str
    downloads: int | None
    read: Callable[[], BrickInfo]


def search_heads(backbone: Backbone, wanted: Wanted, access: Access) -> list[FoundHead]:
    """Return the stored heads, best first: how well they fit, whether they were measured, and their downloads.

    Args:
        backbone: The backbone that they are for.
        wanted: Which heads.
        access: How the Hub is accessed. If it cannot be reached, those of the zoo are returned, with a warning.
    """
    candidates = [] if wanted.org is not None else list(_in_zoo(access))
    if constants.is_offline_mode() or access.local_files_only:
        warnings.warn("The Hub is not searched offline: only heads on this machine are listed.", stacklevel=3)
    else:
        try:
            candidates += _on_hub(backbone, wanted, access)
        except HubConnectionError as error:
            warnings.warn(f"Only heads on this machine are listed: {error}", stacklevel=3)
    with ThreadPoolExecutor(_WORKERS) as pool:
        outcomes = list(pool.map(partial(_found, backbone=backbone), candidates))
    if unread := [outcome for outcome in outcomes if isinstance(outcome, str)]:
        warnings.warn(f"{len(unread)} heads cannot be read, such as {unread[0]}", stacklevel=3)
    heads = [outcome for outcome in outcomes if isinstance(outcome, FoundHead) and wanted.takes(outcome)]
    return sorted(heads, key=_rank)


def _rank(head: FoundHead) -> tuple[Any, ...]:
    fit = len(CHECKS) if head.fits is None else CHECKS.index(head.fits)
    return fit, not head.metrics, head.downloads is not None, -(head.downloads or 0), head.source


def _found(candidate: _Candidate, backbone: Backbone) -> FoundHead | str:
    """Read a candidate and compare it with the backbone; a text says why it cannot be read."""
    try:
        info = candidate.read()
        fits, problems = closest_fit(info.config, backbone)
    except (BrickError, HfHubHTTPError, KeyError, TypeError) as error:  # the JSON may have any values
        return f"{candidate.source}: {str(error).splitlines()[0][:200]}"
    if info.task not in TASKS:
        fits, problems = None, [f"task '{info.task}': expected one of {list(TASKS)}, or of `register_task`"]
    return FoundHead(candidate.source, info, candidate.downloads, fits, tuple(problems))


def _in_zoo(access: Access) -> Iterator[_Candidate]:
    """Yield the heads in the package and in `BRICKYARD_ZOO`, without those that a model refers to."""
    for name in zoo_folders():
        files = open_zoo(name, access)
        with suppress(BrickError):  # `brickyard verify` says what is wrong with a folder
            for path, entry in read_manifest(files)[0].bricks.items():
                if path.endswith("/head") and not entry.is_published:
                    read = partial(lambda files, entries: next(iter(read_entries(files, entries).values())).info, files)
                    yield _Candidate(f"zoo://{name}/{prefix_of(path)}", None, partial(read, {path: entry}))


def _on_hub(backbone: Backbone, wanted: Wanted, access: Access) -> Iterator[_Candidate]:
    for repo in _repos(backbone, wanted, access):
        for sibling in (repo.siblings or ()) if _REPO.fullmatch(repo.id) else ():
            if match := _HEAD_FILE.fullmatch(sibling.rfilename):
                source = f"hf://{repo.id}/{prefix_of(match['path'])}"
                read = partial(_read_head, HubFiles(repo.id, repo.sha, access), match["path"])
                yield _Candidate(source, repo.downloads or 0, read)


def _repos(backbone: Backbone, wanted: Wanted, access: Access) -> Iterable[Any]:
    """Return huggingface_hub's descriptions of the repos that may have such heads, with one or two requests."""
    api = HfApi(token=access.token, library_name=LIBRARY)
    tags = [LIBRARY, *([wanted.task] if wanted.task else [])]

    def listed(*more: str) -> Mapping[str, Any]:
        call = partial(
            api.list_models,
            filter=[*tags, *more],
            author=wanted.org,
            sort="downloads",
            limit=_MAX_REPOS,
            expand=["downloads", "sha", "siblings"],
        )
        return {repo.id: repo for repo in download("the list of models on the Hub", lambda: list(call()))}

    same_backbone = [] if backbone.sha256 is None else [weights_tag(backbone.sha256)]
    if wanted.fits == "exact":
        return listed(*same_backbone).values() if same_backbone else []
    repos = listed()
    if len(repos) == _MAX_REPOS and same_backbone:  # there are more, and the best must not be missed
        repos = {**listed(*same_backbone), **repos}
    return repos.values()


def _read_head(files: HubFiles, path: str) -> BrickInfo:
    """Read the JSON of a head at a commit, from an earlier search if there was one."""
    name = f"{path}.json"
    note = note_file("heads", hashlib.sha256(f"{files.repo}@{files.commit}/{name}".encode()).hexdigest())
    with suppress(OSError, BrickError):
        return parse_brick(path, files, note.read_bytes()).info
    content = files.peek(name)
    info = parse_brick(path, files, content).info
    write_note(note, content.decode(), _MAX_NOTES)
    return info
