"""Content for the tests of the hub, and the client's calls in short."""

import hashlib

from huggingface_hub import CommitOperationAdd

REPO = "owner/model"


def noise(size, seed=0):
    """Bytes that differ from place to place, so that a shift or a mix-up shows."""
    return hashlib.shake_128(bytes([seed])).digest(size)


def add(**files):
    """One operation for each file; `__` stands for `/`, `_` for `.`."""
    return [CommitOperationAdd(name.replace("__", "/").replace("_", "."), data) for name, data in files.items()]


def commit(api, operations, **options):
    return api.create_commit(REPO, operations, commit_message="a commit", **options)


def read(path):
    with open(path, "rb") as file:
        return file.read()
