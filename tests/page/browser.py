"""Chromium without a display: one that reaches nothing but this machine, and tells what it asked for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

_PATIENCE = 120  # seconds, for a first image
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--proxy-server=http://127.0.0.1:9",  # where nothing listens
    "--proxy-bypass-list=127.0.0.1",
)


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """Start a browser with a new profile; the test fails on a machine without one."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.fail("needs Chromium and its driver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*_FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    instance = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield Browser(instance)
    finally:
        instance.quit()


class Browser:
    """A browser on the page of a model."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        """Open the page of a model, and wait for its demo."""
        self.driver.get(url)
        self.wait(lambda _: self.driver.find_element(By.ID, "demo-app").is_displayed())

    def choose(self, file: Path) -> dict[str, Any]:
        """Choose a photo by the file input, and return the results."""
        self.driver.find_element(By.ID, "demo-file").send_keys(str(file))
        return self.results(file.name)

    def results(self, name: str) -> dict[str, Any]:
        """Wait for the results of an image of this name, as they are saved."""
        self.wait(lambda _: self.status.startswith(name) and self.status.endswith(" ms"))
        results: dict[str, Any] = self.script("return document.getElementById('demo-app').brickyardResults()")
        return results

    @property
    def status(self) -> str:
        """The line below the demo."""
        return self.driver.find_element(By.ID, "demo-status").text

    def script(self, code: str, *arguments: Any) -> Any:
        """Run a function's body in the page."""
        return self.driver.execute_script(code, *arguments)

    def complaints(self) -> list[str]:
        """The warnings and errors on the console since the last call, such as violations of the policy."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] != "INFO"]

    def requests(self) -> set[str]:
        """The URLs that pages asked a network for since the last call."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [each["params"] for each in messages if each["method"] == "Network.requestWillBeSent"]
        return {each["request"]["url"] for each in sent if each["request"]["url"].startswith(("http", "ws"))}

    def wait(self, condition: Any) -> None:
        """Wait until a condition of the driver is met."""
        try:
            WebDriverWait(self.driver, _PATIENCE, poll_frequency=0.1).until(condition)
        except Exception as error:
            raise AssertionError(f"{self.status}; {self.driver.get_log('browser')}") from error
