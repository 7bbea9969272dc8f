"""Tables of pictures, here and on a Hub; what they hold is known from how they were written."""

import io
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from brickyard import BrickInputError
from brickyard.inference.shards import Shards, list_shards

DATA = [f"picture {number}".encode() for number in range(23)]  # nothing is decoded here


def write(file: Path, column: str, values: list, group: int = 5) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.table({"label": list(range(len(values))), column: values})
    pyarrow.parquet.write_table(table, file, row_group_size=group)
    return file


def all_of(shards: Shards) -> list[tuple]:
    return [(name, source) for shard in shards.shards for name, source, _ in shard.pictures(0, len(shard))]


@pytest.mark.parametrize("size", [1, 4, 5, 7, 100])
def test_rows_come_once_and_in_order_whatever_the_cut(size, tmp_path):
    file = write(tmp_path / "t.parquet", "image", DATA)
    shards = list_shards([str(file)], size)
    assert [shard.number for shard in shards.shards] == list(range(-(-23 // size)))
    assert [len(shard) for shard in shards.shards[:-1]] == [size] * (-(-23 // size) - 1)
    assert all_of(shards) == [(f"{file}#{row}", data) for row, data in enumerate(DATA)]
    assert len(shards) == 23


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (0, 3), (3, 11), (4, 5), (5, 10), (20, 23)])
def test_a_part_of_a_shard_is_those_rows(start, stop, tmp_path):
    shard = list_shards([str(write(tmp_path / "t.parquet", "image", DATA, group=7))], 50).shards[0]
    assert [picture.source for picture in shard.pictures(start, stop)] == DATA[start:stop]


def test_images_as_hub_data_sets_have_them_are_bytes_or_files(tmp_path):
    values = [{"bytes": b"one", "path": "a.jpg"}, {"bytes": None, "path": "sub/b.jpg"}, None]
    file = write(tmp_path / "t.parquet", "image", values)
    assert all_of(list_shards([str(file)], 10)) == [
        (f"{file}#0", b"one"),
        ("sub/b.jpg", str(tmp_path / "sub/b.jpg")),
        (f"{file}#2", None),
    ]


def test_paths_start_at_the_folder_of_their_table_wherever_a_process_runs(tmp_path, monkeypatch):
    write(tmp_path / "deep/t.parquet", "path", ["x.jpg", "/y.jpg"])
    monkeypatch.chdir(tmp_path)
    shards = list_shards(["deep"], 10)
    monkeypatch.chdir("/")
    assert all_of(shards) == [("x.jpg", str(tmp_path / "deep/x.jpg")), ("/y.jpg", "/y.jpg")]


def test_files_keep_their_names_wherever_a_process_runs(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    for name in ("b.png", "a.png"):
        Image.new("RGB", (9, 9)).save(tmp_path / "in" / name)
    monkeypatch.chdir(tmp_path)
    shards = list_shards(["in/b.png", "in"], 1)
    monkeypatch.chdir("/")
    assert all_of(shards) == [(name, str(tmp_path / name)) for name in ("in/b.png", "in/a.png")]


def test_folders_of_tables_are_sorted_and_places_are_taken_once(tmp_path):
    for name in ("b", "a", "c/a"):
        write(tmp_path / f"{name}.parquet", "image", [name.encode()])
    shards = list_shards([str(tmp_path), str(tmp_path / "b.parquet")], 10)
    assert [data for _, data in all_of(shards)] == [b"a", b"b", b"c/a"]


def test_what_tells_pictures_apart_is_their_path_size_and_time(tmp_path):
    file = write(tmp_path / "t.parquet", "image", DATA)
    first = list_shards([str(file)], 4).sha256
    assert list_shards([str(file)], 5).sha256 == first
    write(tmp_path / "t.parquet", "image", DATA)
    assert list_shards([str(file)], 4).sha256 != first


def test_a_table_without_pictures_is_refused_by_its_columns(tmp_path):
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
    commit = hub.put("owner/pictures", {**files, "data/notes.txt": b"none"})
    shards = list_shards(["hf://owner/pictures/data"], 4)
    hub.put("owner/pictures", {"data/a.parquet": b"changed", "data/d.parquet": b"new"})
    place = f"hf://owner/pictures@{commit}/data"
    names = [f"{place}/a.parquet#{row}" for row in range(5)] + [f"{place}/b.parquet#{row}" for row in range(18)]
    assert all_of(shards) == list(zip(names, DATA, strict=True))
    assert all_of(list_shards([place], 4)) == all_of(shards)
    with pytest.raises(BrickInputError, match=r"end with \.parquet"):
        list_shards([f"hf://owner/pictures@{commit}/nowhere"], 4)


def test_files_that_a_table_of_the_hub_names_are_fetched(hub):
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"path": ["pictures/x.jpg", "none.jpg"]}), file)
    hub.put("owner/named", {"t.parquet": file.getvalue(), "pictures/x.jpg": b"x" * 100})
    assert all_of(list_shards(["hf://owner/named"], 4)) == [("pictures/x.jpg", b"x" * 100), ("none.jpg", None)]


def test_a_row_group_is_not_read_at_once(tmp_path):
    """Writers put a thousand rows in a page: that much is in memory, and not the 5000 rows of the group."""
    rows = [np.random.default_rng(row).bytes(1 << 14) for row in range(5000)]
    shard = list_shards([str(write(tmp_path / "t.parquet", "image", rows, group=5000))], 5000).shards[0]
    before = pyarrow.total_allocated_bytes()
    most = 0
    for number, picture in enumerate(shard.pictures(0, 5000)):
        assert picture.source == rows[number]
        most = max(most, pyarrow.total_allocated_bytes() - before)
    assert most < (5000 << 14) * 0.6


def test_a_damaged_page_is_told_for_each_of_its_rows(tmp_path):
    file = write(tmp_path / "t.parquet", "image", [bytes([row]) * 1000 for row in range(15)])
    data = bytearray(file.read_bytes())
    group = pyarrow.parquet.ParquetFile(file).metadata.row_group(1).column(1)
    start = group.dictionary_page_offset or group.data_page_offset
    end = start + group.total_compressed_size
    data[start:end] = b"\xff" * (end - start)
    shards = list_shards([str(file)], 15)
    file.write_bytes(data)
    found = [picture for shard in shards.shards for picture in shard.pictures(0, len(shard))]
    assert [picture.name for picture in found] == [f"{file}#{row}" for row in range(15)]
    assert [picture.source is None for picture in found] == [False] * 5 + [True] * 5 + [False] * 5
    assert all(picture.problem.startswith("a damaged table") for picture in found[5:10])


def test_a_damaged_footer_names_the_table(tmp_path):
    file = write(tmp_path / "t.parquet", "image", [b"x"] * 5)
    file.write_bytes(file.read_bytes()[:-60] + b"\xff" * 52 + file.read_bytes()[-8:])
    with pytest.raises(BrickInputError, match=r"t\.parquet: expected a parquet file"):
        list_shards([str(file)], 5)


def test_no_place_at_all_is_told():
    with pytest.raises(BrickInputError, match="no place to look"):
        list_shards([], 5)
