"""Files whose bytes are compared with their hash, once."""

import hashlib
import os
from pathlib import Path

import pytest
from huggingface_hub import constants

from brickyard import BrickIntegrityError
from brickyard.storage import integrity
from brickyard.storage.integrity import check_file


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A file that has not changed for an hour, and a home without notes."""
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(integrity, "_TICK", -1)
    (tmp_path / "file").write_bytes(b"content")
    return tmp_path / "file"


CONTENT = hashlib.sha256(b"content").hexdigest()


def read_count(monkeypatch):
    """One item for each time that a file is hashed."""
    read, digest = [], hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *args: read.append(1) or digest(*args))
    return read


def test_a_file_is_read_once(file, monkeypatch):
    read = read_count(monkeypatch)
    for _ in range(3):
        check_file(file, CONTENT, 7)
    assert len(read) == 1
    check_file(file, CONTENT, 7, afresh=True)
    assert len(read) == 2


def test_a_file_that_has_just_changed_is_read_every_time(file, monkeypatch):
    monkeypatch.setattr(integrity, "_TICK", 10**18)
    read = read_count(monkeypatch)
    for _ in range(3):
        check_file(file, CONTENT, 7)
    assert len(read) == 3


@pytest.mark.parametrize("same_times", [True, False])
def test_another_content_is_found_out(file, same_times):
    check_file(file, CONTENT, 7)
    before = file.stat()
    file.write_bytes(b"CONTENT")
    if same_times:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(BrickIntegrityError, match="sha256"):
        check_file(file, CONTENT, 7)


def test_another_file_in_its_place_and_another_hash_are_found_out(file):
    check_file(file, CONTENT, 7)
    with pytest.raises(BrickIntegrityError):
        check_file(file, "0" * 64, 7)
    other = file.with_name("other")
    other.write_bytes(b"another")
    other.replace(file)
    with pytest.raises(BrickIntegrityError):
        check_file(file, CONTENT, 7)
    file.write_bytes(b"longer content")
    with pytest.raises(BrickIntegrityError, match="has 14 bytes, expected 7"):
        check_file(file, CONTENT, 7)


def test_a_home_that_cannot_be_written_costs_no_more_than_time(file, tmp_path, monkeypatch):
    (tmp_path / "a file").write_text("")
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "a file"))
    read = read_count(monkeypatch)
    check_file(file, CONTENT, 7)
    check_file(file, CONTENT, 7)
    assert len(read) == 2


def test_notes_lie_in_the_home_of_the_client_only(file, tmp_path):
    check_file(file, CONTENT, 7)
    assert {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*")} == {"file", "home"}
    assert len(list((Path(constants.HF_HOME) / "brickyard" / "verified").iterdir())) == 1


def test_notes_of_verified_files_do_not_grow_without_bound(file, tmp_path, monkeypatch):
    monkeypatch.setattr(integrity, "_MAX_NOTES", 4)
    notes = Path(constants.HF_HOME) / "brickyard" / "verified"
    for number in range(12):  # each file has an inode of its own
        other = tmp_path / f"file {number}"
        other.write_bytes(b"content")
        check_file(other, CONTENT, 7)
        assert len(list(notes.iterdir())) <= 4
    read = read_count(monkeypatch)
    check_file(other, CONTENT, 7)
    assert read == []
