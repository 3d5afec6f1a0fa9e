"""A real browser, headless, that looks at one page."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By

from consumer.demo.processes import await_that

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
DESKTOP, PHONE = (1200, 900), (360, 740)

needs_browser = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and chromedriver are not installed")


class Browser:
    """A headless browser that looks at one member's page."""

    def __init__(self, driver: Chrome, url: str) -> None:
        self.driver = driver
        self.url = url

    def open(self, size: tuple[int, int] = DESKTOP) -> None:
        """Open the page of a member, and wait until it has its answers."""
        self.resize(size)
        self.driver.get(self.url)
        await_that("it is live", lambda: self.text("live").startswith("live"))

    def resize(self, size: tuple[int, int]) -> None:
        measures = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", measures)

    def text(self, identity: str) -> str:
        return self.driver.find_element(By.ID, identity).text

    def says(self, identity: str, text: str) -> Callable[[], bool]:
        return lambda: text in self.text(identity)

    def run(self, script: str) -> Any:
        return self.driver.execute_script(script)

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]  # type: ignore[no-untyped-call]

    def overflows(self) -> bool:
        return bool(self.run("return document.documentElement.scrollWidth > document.documentElement.clientWidth"))


@contextmanager
def headless(folder: Path, url: str) -> Iterator[Browser]:
    """Start a browser that keeps its files in a folder."""
    options = ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        f"--user-data-dir={folder}/chrome",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options, ChromeService(DRIVER))
    try:
        yield Browser(driver, url)
    finally:
        driver.quit()
