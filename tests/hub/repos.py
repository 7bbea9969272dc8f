"""Repositories in memory: files, commits, branches, tags and pull requests, as the Hub keeps them."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

# What a new repository's .gitattributes sends to large file storage, besides every file over LFS_BYTES.
LFS_SUFFIXES = (".bin", ".ckpt", ".h5", ".npy", ".npz", ".onnx", ".pb", ".pickle", ".pkl", ".pt", ".pth")
LFS_SUFFIXES += (".safetensors", ".tar", ".tflite", ".zip")
LFS_BYTES = 10_000_000


class HubError(Exception):
    """An answer of 400 or more, with the X-Error-Code that the client tells errors apart by."""

    def __init__(self, status: int, message: str, code: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.headers = status, message, code, headers or {}


def goes_by_lfs(path: str, size: int) -> bool:
    """Whether a file is kept in large file storage; an empty one never is."""
    return size > 0 and (path.endswith(LFS_SUFFIXES) or size > LFS_BYTES)


@dataclass(frozen=True)
class File:
    """One version of a file. With `content` None it is listed, but its bytes are gone."""

    content: bytes | None
    lfs: bool = False

    @cached_property
    def size(self) -> int:
        return len(self.content or b"")

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content or b"").hexdigest()

    @cached_property
    def blob_id(self) -> str:
        """Git's id of what git itself stores: the bytes, or for large files the pointer to them."""
        stored = self._pointer if self.lfs else self.content or b""
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.blob_id

    @property
    def _pointer(self) -> bytes:
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n".encode()

    def listed(self, path: str) -> dict[str, Any]:
        """The entry of this file in a tree."""
        entry = {"type": "file", "path": path, "oid": self.blob_id, "size": self.size}
        if self.lfs:
            entry["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": len(self._pointer)}
            entry["xetHash"] = hashlib.sha256(b"xet" + self.sha256.encode()).hexdigest()
        return entry


@dataclass(frozen=True)
class Commit:
    """A commit, with every file that it holds."""

    oid: str
    parent: str | None
    title: str
    description: str
    files: Mapping[str, File]
    date: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z"))


class Repository:
    """One model repository. Set `private` or `gated` to close it to everybody but its owner."""

    def __init__(self, name: str, private: bool = False) -> None:
        self.name, self.private, self.gated = name, private, False
        self.lock = threading.RLock()
        self.history: dict[str, Commit] = {}
        self.refs: dict[str, str] = {}
        self.objects: dict[str, bytes] = {}  # large files that were uploaded here, by sha256
        lines = [f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES]
        self._record("refs/heads/main", None, {".gitattributes": File("".join(lines).encode())}, "initial commit", "")

    def find(self, revision: str) -> Commit:
        """The commit that a branch, tag, `refs/...` or (short) commit id names."""
        with self.lock:
            for name in (revision, f"refs/heads/{revision}", f"refs/tags/{revision}"):
                if name in self.refs:
                    return self.history[self.refs[name]]
            found = [oid for oid in self.history if len(revision) >= 7 and oid.startswith(revision)]
        if len(found) != 1:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.history[found[0]]

    def commit(
        self,
        revision: str,
        change: Callable[[dict[str, File]], None],
        title: str,
        description: str = "",
        parent: str | None = None,
        pull_request: bool = False,
    ) -> tuple[str, Commit]:
        """Moves a branch or pull request on by one commit, all of it or nothing.

        Args:
            revision: The branch's name, or `refs/pr/N`.
            change: Edits the files of the head in place.
            title: The first line of the message.
            description: The rest of the message.
            parent: The id that the head must have.
            pull_request: Opens a new pull request from `parent`, or from `revision`, and commits there.

        Returns:
            The reference that was moved, and the commit.

        Raises:
            HubError: 412 if the head is another than `parent`.
        """
        ref = revision if revision.startswith("refs/") else f"refs/heads/{revision}"
        with self.lock:
            if pull_request:
                head = self.find(parent or revision)
                ref = f"refs/pr/{1 + sum(name.startswith('refs/pr/') for name in self.refs)}"
            elif ref in self.refs and not ref.startswith("refs/tags/"):
                head = self.find(ref)
                if parent and not head.oid.startswith(parent):
                    raise HubError(412, "A commit has happened since. Please refresh and try again.")
            else:
                raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
            files = dict(head.files)
            change(files)
            return ref, self._record(ref, head.oid, files, title, description)

    def apply(self, line: dict[str, Any], files: dict[str, File]) -> None:
        """One operation of a commit's body: `file`, `lfsFile`, `deletedFile` or `deletedFolder`."""
        path = line["value"]["path"]
        if line["key"] == "file":
            files[path] = File(base64.b64decode(line["value"]["content"]))
        elif line["key"] == "lfsFile":
            if line["value"]["oid"] not in self.objects:
                raise HubError(400, f"LFS pointer of {path} points to a file that does not exist")
            files[path] = File(self.objects[line["value"]["oid"]], lfs=True)
        elif line["key"] in {"deletedFile", "deletedFolder"}:
            folder = line["key"] == "deletedFolder"
            gone = [name for name in files if (name.startswith(path.rstrip("/") + "/") if folder else name == path)]
            if not gone:
                raise HubError(404, f"A {'folder' if folder else 'file'} with this name doesn't exist", "EntryNotFound")
            for name in gone:
                del files[name]
        else:
            raise HubError(400, f"unknown operation {line['key']}")

    def _record(self, ref: str, parent: str | None, files: dict[str, File], title: str, description: str) -> Commit:
        """Under the lock: keeps the commit, under an id that depends on its repository, parent and content."""
        content = [self.name, parent, title, sorted((path, file.blob_id) for path, file in files.items())]
        oid = hashlib.sha1(json.dumps(content).encode()).hexdigest()
        self.history[oid] = commit = Commit(oid, parent, title, description, files)
        self.refs[ref] = oid
        return commit
