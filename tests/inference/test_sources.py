"""Images from every kind of source have the results of the same image in a file."""

import http.server
import io
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from brickyard import BrickInputError
from brickyard.inference import sources as sources_module


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


@pytest.fixture
def png(pixels, tmp_path) -> Path:
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return tmp_path / "image.png"


class _Handler(http.server.BaseHTTPRequestHandler):
    """Serves one image, an endless one, an error, and a redirection."""

    content = b""

    def do_GET(self) -> None:
        if self.path == "/missing.png":
            self.send_error(404)
        elif self.path == "/moved.png":
            self.send_response(302)
            self.send_header("Location", "/image.png")
            self.end_headers()
        elif self.path == "/hang.png":
            self.server.released.wait(20)
        else:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.content)
            if self.path == "/endless.png":
                try:
                    while not self.server.released.is_set():
                        self.wfile.write(bytes(1 << 20))
                except OSError:
                    pass

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url(png) -> Iterator[str]:
    _Handler.content = png.read_bytes()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.released = threading.Event()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.released.set()
    server.shutdown()
    server.server_close()
    thread.join()


def results_of(predictor, sources) -> list:
    return [prediction.results["cls"] for prediction in predictor.predict(sources)]


def test_every_kind_of_source_gives_the_results_of_the_file(predictor, pixels, png, url):
    (expected,) = results_of(predictor, png)
    image, tensor = Image.fromarray(pixels), torch.from_numpy(pixels).permute(2, 0, 1)
    kinds = [str(png), png.read_bytes(), image, pixels, tensor, tensor / 255, tensor.double() / 255]
    kinds += [f"{url}/image.png", f"{url}/moved.png", png.parent, str(png.parent / "*.png"), png.parent / "**/im*"]
    for kind in kinds:
        assert results_of(predictor, kind) == [expected], kind
        assert results_of(predictor, [kind]) == [expected], kind


def test_a_list_may_mix_them_and_predictions_are_in_order(predictor, pixels, png, url):
    dark = np.zeros_like(pixels)
    mixed = [dark, str(png), Image.fromarray(dark), f"{url}/image.png", png.read_bytes(), png]
    predictions = list(predictor.predict(mixed))
    assert [each.name for each in predictions] == [
        "sources[0]",
        str(png),
        "sources[2]",
        f"{url}/image.png",
        "sources[4]",
    ]
    assert [each.file for each in predictions] == [None, png, None, None, None]
    labels = [each.results["cls"][0]["class"] for each in predictions]
    first, second = results_of(predictor, [dark, pixels])
    assert labels == [each[0]["class"] for each in (first, second, first, second, second)]


def test_grey_and_transparent_arrays_are_images(predictor, pixels):
    grey = pixels[..., 0]
    expected = results_of(predictor, Image.fromarray(grey))
    for same in (grey, grey[..., None], torch.from_numpy(grey)[None]):
        assert results_of(predictor, same) == expected
    opaque = np.dstack([pixels, np.full(grey.shape, 255, np.uint8)])
    assert results_of(predictor, opaque) == results_of(predictor, pixels)


def test_the_file_of_an_opened_image_is_its_name(predictor, png):
    with Image.open(png) as image:
        assert next(predictor.predict(image)).name == str(png)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (None, r"sources\[1\]: expected a path, .*, found NoneType"),
        (3, r"sources\[1\]: expected a path, .*, found int"),
        ([], r"sources\[1\]: expected a path, .*, found list"),
        (np.zeros((3, 40, 60), np.uint8), r"sources\[1\]: expected an array .*found \(3, 40, 60\) uint8"),
        (np.zeros((40, 60, 3), np.float32), r"sources\[1\].*found \(40, 60, 3\) float32"),
        (np.zeros((2, 40, 60, 3), np.uint8), r"sources\[1\].*found \(2, 40, 60, 3\) uint8.*a list of images"),
        (torch.zeros(40, 60, 3), r"sources\[1\]: expected a tensor .*found \(40, 60, 3\) torch.float32"),
        (torch.zeros(3, 40, 60, dtype=torch.int64), r"sources\[1\].*torch.int64"),
        (torch.full((3, 40, 60), 1.5), r"sources\[1\]: expected floats in \[0, 1\], found values from 1.5 to 1.5"),
        (torch.full((3, 40, 60), float("nan")), r"sources\[1\]: expected floats in \[0, 1\]"),
        ("nowhere-*.png", r"nowhere-\*\.png: expected a pattern that matches images, found no match"),
        ("nowhere.png", "nowhere.png: expected an image"),
    ],
)
def test_a_wrong_item_of_a_list_is_an_error_before_the_first_prediction(item, message, predictor, pixels):
    with pytest.raises(BrickInputError, match=message):
        predictor.predict([pixels, item])


def test_something_that_is_no_source_is_an_error(predictor):
    with pytest.raises(BrickInputError, match=r"sources: expected a path, .*, or several, found int"):
        predictor.predict(3)


@pytest.mark.parametrize("item", [np.zeros((0, 0, 3), np.uint8), torch.zeros(3, 0, 5), np.zeros((4, 4, 3), np.uint8)])
def test_an_image_that_is_too_small_is_a_prediction_with_an_error(item, predictor, pixels):
    bad, good = predictor.predict([item, pixels])
    assert bad.error.startswith("sources[0]: expected an image of at least 8x8 pixels")
    assert good.results


def test_bytes_that_are_no_image_are_a_prediction_with_an_error(predictor, pixels):
    bad, good = predictor.predict([b"not an image", pixels])
    assert bad.error.startswith("sources[0]: expected an image")
    assert good.results


def test_a_truncated_pillow_image_is_a_prediction_with_an_error(predictor, png):
    with Image.open(io.BytesIO(png.read_bytes()[:2000])) as image:
        assert "truncated" in next(predictor.predict(image)).error


def test_a_generator_is_consumed_in_batches(predictor, pixels):
    taken = []

    def frames() -> Iterator[np.ndarray]:
        for number in range(6):
            taken.append(number)
            yield pixels

    predictions = predictor.predict(frames())
    assert taken == []
    next(predictions)
    assert len(taken) == predictor.batch_size
    assert len(list(predictions)) == 5


def test_a_url_that_fails_is_a_prediction_with_an_error(predictor, pixels, url):
    missing, closed, good = predictor.predict([f"{url}/missing.png", "http://127.0.0.1:9/image.png", pixels])
    assert f"{url}/missing.png: expected an image, found HTTPError: HTTP Error 404" in missing.error
    assert "http://127.0.0.1:9/image.png" in closed.error
    assert good.results


def test_a_url_without_end_or_answer_is_given_up(predictor, url, monkeypatch):
    monkeypatch.setattr(sources_module, "_MAX_DOWNLOAD", 3 << 20)
    monkeypatch.setattr(sources_module, "_TIMEOUT", 0.2)
    endless, hang = predictor.predict([f"{url}/endless.png", f"{url}/hang.png"])
    assert "an image of at most 3 MiB" in endless.error
    assert "TimeoutError" in hang.error or "timed out" in hang.error
    monkeypatch.setattr(sources_module, "_MAX_DOWNLOAD", 1 << 40)
    monkeypatch.setattr(sources_module, "_DEADLINE", 0.2)
    assert "within 0 seconds" in next(predictor.predict(f"{url}/endless.png")).error
