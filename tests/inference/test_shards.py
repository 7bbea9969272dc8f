"""Tables of images, on this machine and on the Hub."""

import io
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from brickyard import BrickInputError
from brickyard.inference.shards import Shards, list_shards

DATA = [f"image {number}".encode() for number in range(23)]  # never decoded


def write(file: Path, column: str, values: list, group: int = 5) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.table({"label": list(range(len(values))), column: values})
    pyarrow.parquet.write_table(table, file, row_group_size=group)
    return file


def all_sources(shards: Shards) -> list[tuple]:
    return [(name, data) for shard in shards.shards for name, data, _ in shard.images(0, len(shard))]


@pytest.mark.parametrize("size", [1, 4, 5, 7, 100])
def test_rows_come_once_and_in_order_for_any_shard_size(size, tmp_path):
    file = write(tmp_path / "t.parquet", "image", DATA)
    shards = list_shards([str(file)], size)
    assert [shard.number for shard in shards.shards] == list(range(-(-23 // size)))
    assert [len(shard) for shard in shards.shards[:-1]] == [size] * (-(-23 // size) - 1)
    assert all_sources(shards) == [(f"{file}#{row}", data) for row, data in enumerate(DATA)]
    assert len(shards) == 23


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (0, 3), (3, 11), (4, 5), (5, 10), (20, 23)])
def test_a_part_of_a_shard_has_the_rows_of_that_range(start, stop, tmp_path):
    shard = list_shards([str(write(tmp_path / "t.parquet", "image", DATA, group=7))], 50).shards[0]
    assert [source.data for source in shard.images(start, stop)] == DATA[start:stop]


def test_images_of_hub_data_sets_are_bytes_or_files(tmp_path):
    values = [{"bytes": b"one", "path": "a.jpg"}, {"bytes": None, "path": "sub/b.jpg"}, None]
    file = write(tmp_path / "t.parquet", "image", values)
    assert all_sources(list_shards([str(file)], 10)) == [
        (f"{file}#0", b"one"),
        ("sub/b.jpg", str(tmp_path / "sub/b.jpg")),
        (f"{file}#2", None),
    ]


def test_paths_are_relative_to_the_folder_of_their_table_in_any_working_folder(tmp_path, monkeypatch):
    write(tmp_path / "deep/t.parquet", "path", ["x.jpg", "/y.jpg"])
    monkeypatch.chdir(tmp_path)
    shards = list_shards(["deep"], 10)
    monkeypatch.chdir("/")
    assert all_sources(shards) == [("x.jpg", str(tmp_path / "deep/x.jpg")), ("/y.jpg", "/y.jpg")]


def test_files_keep_their_names_in_any_working_folder(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    for name in ("b.png", "a.png"):
        Image.new("RGB", (9, 9)).save(tmp_path / "in" / name)
    monkeypatch.chdir(tmp_path)
    shards = list_shards(["in/b.png", "in"], 1)
    monkeypatch.chdir("/")
    assert all_sources(shards) == [(name, str(tmp_path / name)) for name in ("in/b.png", "in/a.png")]


def test_folders_of_tables_are_sorted_and_duplicates_removed(tmp_path):
    for name in ("b", "a", "c/a"):
        write(tmp_path / f"{name}.parquet", "image", [name.encode()])
    shards = list_shards([str(tmp_path), str(tmp_path / "b.parquet")], 10)
    assert [data for _, data in all_sources(shards)] == [b"a", b"b", b"c/a"]


def test_the_hash_of_the_images_changes_with_path_size_and_time(tmp_path):
    file = write(tmp_path / "t.parquet", "image", DATA)
    first = list_shards([str(file)], 4).sha256
    assert list_shards([str(file)], 5).sha256 == first
    write(tmp_path / "t.parquet", "image", DATA)
    assert list_shards([str(file)], 4).sha256 != first


def test_a_table_without_an_image_column_is_an_error_that_lists_the_columns(tmp_path):
    with pytest.raises(BrickInputError, match=r"t\.parquet.*'image' or 'path'.*\['label', 'img'\]"):
        list_shards([str(write(tmp_path / "t.parquet", "img", DATA))], 4)
    (tmp_path / "u.parquet").write_bytes(b"no table")
    with pytest.raises(BrickInputError, match=r"u\.parquet: expected a parquet file"):
        list_shards([str(tmp_path / "u.parquet")], 4)


def test_a_data_set_of_the_hub_is_read_at_one_commit(hub):
    files = {}
    for name, values in {"data/b.parquet": DATA[5:], "data/a.parquet": DATA[:5], "other/c.parquet": [b"c"]}.items():
        file = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.table({"image": values}), file)
        files[name] = file.getvalue()
    commit = hub.put("owner/images", {**files, "data/notes.txt": b"none"})
    shards = list_shards(["hf://owner/images/data"], 4)
    hub.put("owner/images", {"data/a.parquet": b"changed", "data/d.parquet": b"new"})
    source = f"hf://owner/images@{commit}/data"
    names = [f"{source}/a.parquet#{row}" for row in range(5)] + [f"{source}/b.parquet#{row}" for row in range(18)]
    assert all_sources(shards) == list(zip(names, DATA, strict=True))
    assert all_sources(list_shards([source], 4)) == all_sources(shards)
    with pytest.raises(BrickInputError, match=r"end with \.parquet"):
        list_shards([f"hf://owner/images@{commit}/nowhere"], 4)


def test_files_named_in_a_table_on_the_hub_are_downloaded(hub):
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"path": ["images/x.jpg", "none.jpg"]}), file)
    hub.put("owner/named", {"t.parquet": file.getvalue(), "images/x.jpg": b"x" * 100})
    assert all_sources(list_shards(["hf://owner/named"], 4)) == [("images/x.jpg", b"x" * 100), ("none.jpg", None)]


def test_a_row_group_is_streamed(tmp_path):
    """Writers put a thousand rows in a page: only these are in memory, not the 5000 rows of the group."""
    rows = [np.random.default_rng(row).bytes(1 << 14) for row in range(5000)]
    shard = list_shards([str(write(tmp_path / "t.parquet", "image", rows, group=5000))], 5000).shards[0]
    before = pyarrow.total_allocated_bytes()
    most = 0
    for number, source in enumerate(shard.images(0, 5000)):
        assert source.data == rows[number]
        most = max(most, pyarrow.total_allocated_bytes() - before)
    assert most < (5000 << 14) * 0.6


def test_a_damaged_page_is_an_error_for_each_of_its_rows(tmp_path):
    file = write(tmp_path / "t.parquet", "image", [bytes([row]) * 1000 for row in range(15)])
    data = bytearray(file.read_bytes())
    group = pyarrow.parquet.ParquetFile(file).metadata.row_group(1).column(1)
    start = group.dictionary_page_offset or group.data_page_offset
    end = start + group.total_compressed_size
    data[start:end] = b"\xff" * (end - start)
    shards = list_shards([str(file)], 15)
    file.write_bytes(data)
    sources = [source for shard in shards.shards for source in shard.images(0, len(shard))]
    assert [source.name for source in sources] == [f"{file}#{row}" for row in range(15)]
    assert [source.data is None for source in sources] == [False] * 5 + [True] * 5 + [False] * 5
    assert all(source.problem.startswith("a damaged table") for source in sources[5:10])


def test_a_damaged_footer_names_the_table(tmp_path):
    file = write(tmp_path / "t.parquet", "image", [b"x"] * 5)
    file.write_bytes(file.read_bytes()[:-60] + b"\xff" * 52 + file.read_bytes()[-8:])
    with pytest.raises(BrickInputError, match=r"t\.parquet: expected a parquet file"):
        list_shards([str(file)], 5)


def test_an_empty_list_of_sources_is_an_error():
    with pytest.raises(BrickInputError, match="no sources"):
        list_shards([], 5)
