"""The demo in a real browser: its results are those of `Predictor`, and no request leaves this machine."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faster_coco_eval.core import mask as coco_masks
from selenium.webdriver.common.by import By

import brickyard
from brickyard import Predictor
from brickyard.page.runtime import VERSION, Runtime
from brickyard.page.server import make_server
from tests.page.browser import Browser, chromium
from tests.page.html import Page

SAMPLES = Path(brickyard.__file__).parent / "samples"
COFFEE = SAMPLES / "coffee.jpg"
DIGITS, PHOTOS = "test_resnet_cls-multilabel_seg-tower_det.digits_v1", "mobilenetv2_100_cls.tv_in1k"
OTHERS = "test_resnet_depth_inst_pose-masks_kpt_emb_fomo_anomaly_ocr"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("npm")
    pack = ["npm", "pack", "--silent", f"onnxruntime-web@{VERSION}"]
    archive = subprocess.run(pack, cwd=folder, check=True, capture_output=True, text=True).stdout.split()[-1]
    subprocess.run(["tar", "-xzf", archive], cwd=folder, check=True)
    return folder / "package"


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the other tasks, for grey letterboxed images; its heads are random, with clearly different scores."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "others"
    model = brickyard.create_model(OTHERS, in_chans=1, num_classes={"inst": 3, "fomo": 2, "kpt": 4, "emb": 8})
    for brick in model.bricks().values():
        if getattr(brick, "head", None) is not None:
            brick.head = replace(brick.head, resize_mode="letterbox", image_size=(64, 64))
            for name, parameter in brick.named_parameters():
                if name.endswith(("logits.weight", "heatmap.weight", "classifier.weight")):
                    parameter.data.mul_(10)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def site(runtime: Path, untrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "below" / "a path"
    brickyard.write_page(folder, [DIGITS, PHOTOS, untrained], runtime=runtime)
    return folder


@contextmanager
def served(folder: Path) -> Iterator[str]:
    with make_server(folder) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def base(site: Path) -> Iterator[str]:
    """The URL of the site, below a path."""
    with served(site.parents[1]) as url:
        yield f"{url}/below/a%20path"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def pixels(segmentation: dict[str, Any]) -> np.ndarray:
    lengths = segmentation
    if isinstance(segmentation["counts"], list):
        lengths = coco_masks.frPyObjects(segmentation, *segmentation["size"])
    return np.asarray(coco_masks.decode(lengths), bool)


def check_close(actual: Any, expected: Any, key: str = "") -> None:
    """Compare results: probabilities to 2e-3, coordinates to a pixel, masks by their overlap."""
    if key == "segmentation":
        first, second = pixels(actual), pixels(expected)
        assert first.shape == second.shape
        assert (first & second).sum() >= 0.99 * (first | second).sum()
    elif isinstance(expected, dict):
        assert set(actual) == set(expected)
        for name, value in expected.items():
            check_close(actual[name], value, name)
    elif isinstance(expected, list):
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            check_close(one, other, key)
    elif isinstance(expected, str | int):
        assert actual == expected
    else:
        is_coordinate = key in ("box", "x", "y", "keypoints")
        assert actual == pytest.approx(expected, abs=1.0 if is_coordinate else 2e-3, rel=1e-3)


def check_results(actual: dict[str, Any], source: Path, image: Path, **limits: Any) -> dict[str, Any]:
    """Compare with the results of the exported file in Python, and return these."""
    (prediction,) = Predictor(source, **limits).predict(image)
    expected = {**prediction.to_json(), "file": image.name}
    check_close(actual, expected)
    return expected


@pytest.mark.parametrize("name", [DIGITS, PHOTOS])
def test_the_results_are_those_of_the_predictor(browser, base, site, name):
    browser.open(f"{base}/models/{name}/index.html")
    folder = site / "models" / name
    expected = check_results(browser.choose(COFFEE), folder / "model.onnx", COFFEE)
    shown = browser.driver.find_element(By.ID, "demo-results").text
    assert expected["cls"][0]["label"] in shown
    assert expected["cls"][0]["label"] in browser.driver.find_element(By.ID, "demo-canvas").get_attribute("aria-label")
    for sample in Page(folder / "index.html").links:
        if sample.startswith("../../assets/samples/"):
            image = (folder / sample).resolve()
            button = browser.driver.find_element(By.CSS_SELECTOR, f"[data-sample='{sample}']")
            button.click()
            results = {**browser.results(button.text), "file": image.name}
            check_results(results, folder / "model.onnx", image)
    assert browser.complaints() == []
    assert all(url.startswith(f"{base}/") for url in browser.requests())


def test_every_other_task_has_the_results_of_the_predictor(browser, base, site):
    folder = site / "models" / OTHERS
    demo = json.loads((folder / "demo.json").read_text(encoding="utf-8"))
    assert (demo["image"]["resize_mode"], demo["image"]["channels"]) == ("letterbox", 1)
    for head in demo["heads"].values():
        head |= {"threshold": 0.0, "topk": 10}  # the scores of random heads are low, and the lowest almost equal
    (folder / "demo.json").write_text(json.dumps(demo), encoding="utf-8")
    browser.open(f"{base}/models/{OTHERS}/index.html")
    actual = browser.choose(COFFEE)
    expected = check_results(actual, folder / "model.onnx", COFFEE, threshold=0.0, topk=10)
    assert all(expected[head] for head in demo["heads"])
    assert browser.complaints() == []


def test_the_camera_is_analysed_until_it_is_stopped(browser, base):
    browser.open(f"{base}/models/{DIGITS}/index.html")
    button = browser.driver.find_element(By.ID, "demo-camera")
    button.click()
    assert browser.results("camera")["width"] > 0
    assert button.get_attribute("aria-pressed") == "true"
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert browser.complaints() == []


def test_a_file_that_is_no_image_is_reported(browser, base, tmp_path):
    browser.open(f"{base}/models/{DIGITS}/index.html")
    (tmp_path / "text.jpg").write_text("no image")
    browser.driver.find_element(By.ID, "demo-file").send_keys(str(tmp_path / "text.jpg"))
    browser.wait(lambda _: "cannot read" in browser.status)
    browser.choose(COFFEE)


@pytest.mark.parametrize("width", [360, 1280])
def test_pages_are_as_wide_as_the_window(browser, base, width):
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    for page in ("index.html", f"models/{DIGITS}/index.html"):
        browser.driver.get(f"{base}/{page}")
        # Chromium lays a page out anew some time after its size was set.
        browser.wait(lambda _: browser.script("return innerWidth") == width)
        browser.wait(lambda _: browser.script("return document.documentElement.scrollWidth") <= width)


def test_a_changed_runtime_is_refused(browser, base, site):
    """The hashes are checked by the browser, also for files of another host."""
    file = site / "assets" / "runtime" / "ort.wasm.bundle.min.mjs"
    content = file.read_bytes()
    file.write_bytes(content + b"\n// changed")
    try:
        browser.driver.execute_cdp_cmd("Network.setCacheDisabled", {"cacheDisabled": True})
        browser.open(f"{base}/models/{DIGITS}/index.html")
        browser.driver.find_element(By.ID, "demo-file").send_keys(str(COFFEE))
        browser.wait(lambda _: "not the expected file" in browser.status)
    finally:
        file.write_bytes(content)
    assert any("integrity" in complaint for complaint in browser.complaints())


def test_the_runtime_of_another_host_is_taken(browser, runtime, tmp_path, monkeypatch):
    """Files of a CDN: the policy names them, and their hashes are checked across hosts."""

    def end_headers(self):
        self.send_header("Access-Control-Allow-Origin", "*")
        SimpleHTTPRequestHandler.end_headers(self)

    monkeypatch.setattr("brickyard.page.server._Handler.end_headers", end_headers)
    with served(runtime / "dist") as cdn:
        monkeypatch.setattr("brickyard.page.site.Runtime", partial(Runtime, cdn))
        brickyard.write_page(tmp_path / "site", [DIGITS])
        with served(tmp_path / "site") as url:
            browser.open(f"{url}/models/{DIGITS}/index.html")
            folder = tmp_path / "site" / "models" / DIGITS
            check_results(browser.choose(COFFEE), folder / "model.onnx", COFFEE)
    assert browser.complaints() == []
