"""A fault of the machine is not taken for a damaged file."""

import errno
import io
import os

import pytest
from PIL import Image

from brickyard import BrickInputError
from brickyard.data.images import read_image
from brickyard.data.orientation import check_header, read_class_map
from brickyard.data.text import read_text
from brickyard.data.voc import read_objects

READERS = [read_image, read_class_map, check_header, lambda file: read_text(file, "text"), read_objects]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.ENOMEM, errno.ESTALE, errno.EACCES])
def test_a_fault_of_the_machine_is_raised_as_it_is(read, number, tmp_path, monkeypatch):
    file = tmp_path / "file.png"
    Image.new("L", (32, 32)).save(file)

    def fail(*_args, **_options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("builtins.open", fail)
    monkeypatch.setattr(io, "open", fail)
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        read(file)
    assert not isinstance(caught.value, BrickInputError)


@pytest.mark.parametrize("read", READERS)
def test_a_damaged_or_absent_file_is_an_input_error(read, tmp_path):
    (tmp_path / "damaged").write_bytes(b"\x89PNG\xff\xfe\x00")
    for name in ("damaged", "absent"):
        with pytest.raises(BrickInputError, match=name):
            read(tmp_path / name)
