import numpy as np
import pytest
from PIL import Image

from brickyard import BrickInputError
from brickyard.data.images import find_images, read_image

WIDTH, HEIGHT = 30, 20
WHITE = np.array([255, 255, 255])


def noise(channels: int = 3) -> np.ndarray:
    shape = (HEIGHT, WIDTH, channels) if channels > 1 else (HEIGHT, WIDTH)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def saved(tmp_path, image: Image.Image, suffix: str = "png", **options) -> np.ndarray:
    """Save an image and read it again."""
    file = tmp_path / f"image.{suffix}"
    image.save(file, **options)
    read = read_image(file)
    assert read.mode == "RGB"
    return np.asarray(read)


def grey(array: np.ndarray) -> np.ndarray:
    return np.repeat(array[..., None], 3, axis=-1)


def test_rgb_is_unchanged(tmp_path):
    assert np.array_equal(saved(tmp_path, Image.fromarray(noise())), noise())


def test_grey_has_three_equal_channels(tmp_path):
    assert np.array_equal(saved(tmp_path, Image.fromarray(noise(1))), grey(noise(1)))


def test_one_bit_is_black_and_white(tmp_path):
    bits = noise(1) > 128
    assert np.array_equal(saved(tmp_path, Image.fromarray(bits)), grey(bits * np.uint8(255)))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_transparent_pixels_become_white(tmp_path, mode, suffix):
    pixels = noise(4 if mode == "RGBA" else 2)
    read = saved(tmp_path, Image.fromarray(pixels, mode=None), suffix).astype(float)
    alpha = pixels[..., -1:] / 255
    colors = pixels[..., :-1] if mode == "RGBA" else grey(pixels[..., 0])
    assert np.abs(read - (colors * alpha + WHITE * (1 - alpha))).max() <= 1


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_a_palette_with_a_transparent_color(tmp_path, suffix):
    indices = noise(1) % 3
    image = Image.fromarray(indices).convert("P")
    image.putpalette([200, 10, 20, 30, 210, 40, 50, 60, 220])
    palette = np.array([[200, 10, 20], [30, 210, 40], WHITE])
    assert np.array_equal(saved(tmp_path, image, suffix, transparency=2), palette[indices])


def test_a_transparent_color_of_an_rgb_image(tmp_path):
    pixels = noise()
    pixels[3:7] = 1, 2, 3
    read = saved(tmp_path, Image.fromarray(pixels), transparency=(1, 2, 3))
    pixels[3:7] = WHITE
    assert np.array_equal(read, pixels)


def test_cmyk_is_converted_as_pillow_does(tmp_path):
    image = Image.new("CMYK", (WIDTH, HEIGHT), (0, 255, 255, 0))  # no cyan, all magenta and yellow: red
    red = saved(tmp_path, image, "tif")
    assert np.abs(red.astype(int) - [255, 0, 0]).max() <= 2


def test_grey_of_sixteen_bits_is_scaled(tmp_path):
    deep = np.linspace(0, 65535, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH)
    for number, dtype in enumerate((np.uint16, np.int32)):
        read = saved(tmp_path, Image.fromarray(deep.astype(dtype)), "png" if number == 0 else "tif")
        assert np.abs(read - grey(deep) / 257).max() <= 1


def test_grey_of_floats_in_0_1_is_scaled(tmp_path):
    deep = np.linspace(0, 1, WIDTH * HEIGHT, dtype=np.float32).reshape(HEIGHT, WIDTH)
    assert np.abs(saved(tmp_path, Image.fromarray(deep), "tif") - grey(deep) * 255).max() <= 1


@pytest.mark.parametrize("values", [(0, 255), (-1, 1), (0, float("nan"))])
def test_floats_out_of_range_are_refused_with_the_file_s_name(tmp_path, values):
    deep = np.linspace(*values, WIDTH * HEIGHT, dtype=np.float32).reshape(HEIGHT, WIDTH)
    with pytest.raises(BrickInputError, match=r"image\.tif: expected grey values in \[0, 1\]"):
        saved(tmp_path, Image.fromarray(deep), "tif")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_upright(tmp_path, orientation):
    upright = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    upright[:5, :10] = 255, 0, 0  # red on the top left
    upright[:5, -10:] = 0, 255, 0
    undo = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.transpose(1, 0, 2),
        6: np.rot90,
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, 3),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(undo[orientation](upright)))
    assert np.array_equal(saved(tmp_path, stored, exif=exif), upright)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_a_truncated_file_is_refused(tmp_path, suffix):
    file = tmp_path / f"image.{suffix}"
    Image.fromarray(noise()).save(file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(BrickInputError, match=r"image\.\w+: expected an image"):
        read_image(file)


@pytest.mark.parametrize("content", [b"hello", b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"])
def test_a_file_that_is_not_an_image_is_refused(tmp_path, content):
    file = tmp_path / "text.jpg"
    file.write_bytes(content)
    with pytest.raises(BrickInputError, match=r"text\.jpg: expected an image"):
        read_image(file)


@pytest.mark.parametrize("size", [(1, 1), (7, 8), (8, 7), (8, 801), (801, 8)])
def test_an_image_too_small_or_too_narrow_is_refused(tmp_path, size):
    with pytest.raises(BrickInputError, match=f"found {size[0]}x{size[1]}"):
        saved(tmp_path, Image.new("RGB", size))


@pytest.mark.parametrize("size", [(8, 8), (8, 800)])
def test_the_smallest_and_the_narrowest_are_read(tmp_path, size):
    assert saved(tmp_path, Image.new("RGB", size)).shape == (size[1], size[0], 3)


def test_a_very_large_image_is_read_without_a_warning(tmp_path):
    read = saved(tmp_path, Image.new("1", (12000, 9000), 1))  # Pillow would warn of a bomb
    assert read.shape == (9000, 12000, 3)
    assert read[::1000, ::1000].min() == 255


def test_a_decompression_bomb_is_refused(tmp_path):
    with pytest.raises(BrickInputError, match="bomb"):
        saved(tmp_path, Image.new("1", (20000, 9000)))


def test_a_source_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(BrickInputError, match=r"nowhere\.jpg: .*no such file"):
        find_images([tmp_path / "nowhere.jpg"])


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "folder.jpg").mkdir()
    with pytest.raises(BrickInputError, match="images in this folder"):
        find_images([tmp_path])


def test_a_folder_is_searched_in_order_and_a_file_is_taken_once(tmp_path):
    names = ["b.JPG", "a.png", "deep/er/c.webp", "deep/a.jpeg"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "d.txt").touch()
    assert find_images([tmp_path / "d.txt", str(tmp_path), tmp_path / "a.png"]) == [
        tmp_path / "d.txt",  # named, so taken whatever its name
        *sorted(tmp_path / name for name in names),
    ]


def test_files_that_pillow_can_only_write_are_not_images(tmp_path):
    (tmp_path / "scan.pdf").touch()
    (tmp_path / "photo.png").touch()
    assert find_images([tmp_path]) == [tmp_path / "photo.png"]


def test_hidden_files_and_folders_are_not_searched(tmp_path, caplog):
    for name in ("a.png", "._a.png", ".ipynb_checkpoints/a-checkpoint.png", "b/.hidden/c.png", "b/c.png", ".x/y/z.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise()).save(tmp_path / name)
    assert find_images([tmp_path]) == [tmp_path / "a.png", tmp_path / "b" / "c.png"]
    assert not caplog.records
    assert find_images([tmp_path / ".x"]) == [tmp_path / ".x" / "y" / "z.png"]  # it was named


def test_what_is_left_out_of_a_folder_is_counted(tmp_path, caplog):
    folder = tmp_path / "images"
    folder.mkdir()
    (tmp_path / "other").mkdir()
    Image.fromarray(noise()).save(tmp_path / "other" / "x.png")
    (folder / "linked").symlink_to(tmp_path / "other")
    for name in ("a.HEIC", "b.heic", "notes.txt", ".c.heic"):
        (folder / name).write_bytes(b"x")
    with pytest.raises(BrickInputError, match=r"Left out: 2 \.heic images, which Pillow does not read and 1 linked f"):
        find_images([folder])
    Image.fromarray(noise()).save(folder / "d.png")
    (folder / "e.png").symlink_to(tmp_path / "other" / "x.png")  # linked files are read
    assert find_images([folder]) == [folder / "d.png", folder / "e.png"]
    message = f"{folder}: left out 2 .heic images, which Pillow does not read and 1 linked folders."
    assert [record.getMessage() for record in caplog.records] == [message]
