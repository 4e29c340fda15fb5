"""Debian's Chromium under a test's control: with an empty profile, without a network of its own, and watched."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
)
DEADLINE_S = 60.0
POLL_S = 0.05
MISSING = "needs a browser: on Debian as root apt-get install chromium chromium-driver"


def missing() -> str:
    """What is to be installed before a browser can be had; empty if nothing is."""
    found = any(map(shutil.which, BROWSERS)) and shutil.which("chromedriver")
    return "" if found else MISSING


@contextmanager
def chromium(folder: Path, width: int = 1280, height: int = 900) -> Iterator[webdriver.Chrome]:
    """A browser with its profile, and what it downloads, below `folder`, which must not be another's."""
    downloads = folder / "downloads"
    downloads.mkdir(parents=True)
    options = webdriver.ChromeOptions()
    options.binary_location = next(path for name in BROWSERS if (path := shutil.which(name)))
    for flag in (*FLAGS, f"--user-data-dir={folder / 'profile'}", f"--window-size={width},{height}"):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    environment = {"HOME": str(folder), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
    service = Service(shutil.which("chromedriver"), env=environment)
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield driver
    finally:
        driver.quit()


def until(condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """The first true value of a condition; fails after a while and says what didn't come."""
    ends_s = time.monotonic() + deadline_s
    while not (value := condition()):
        assert time.monotonic() < ends_s, f"{what}: not within {deadline_s:.0f} s"
        time.sleep(POLL_S)
    return value


def emulate(driver: webdriver.Chrome, scheme: str = "light", width: int = 0, height: int = 0) -> None:
    """A light or dark screen, and its size if that is not the window's."""
    feature = {"name": "prefers-color-scheme", "value": scheme}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    screen = {"width": width, "height": height, "deviceScaleFactor": 0, "mobile": bool(width)}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
