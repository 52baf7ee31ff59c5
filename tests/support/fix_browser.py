"""
Debian's Chromium, without a window. Its tests carry the mark ``browser``; a machine without it leaves them out, and the
last lines of the run say how many. ``.ci/run`` installs it where it can.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest

MARK = "browser"
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_DRIVER = "chromedriver"


def _found(names: tuple[str, ...]) -> Optional[str]:
    return next((path for name in names if (path := shutil.which(name))), None)


def missing() -> Optional[str]:
    """What this machine lacks; None when all is there."""
    if _found(_BROWSERS) is None:
        return "Chromium"
    return None if _found((_DRIVER,)) else _DRIVER


def start_chromium(profile: Path) -> Any:
    """A Chromium that selenium drives; *profile* is its folder."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = _found(_BROWSERS)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for argument in (
        "--headless=new",
        "--no-sandbox",  # CI is root, and its kernel may have no namespaces for it
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--no-first-run",
        "--hide-scrollbars",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    return webdriver.Chrome(options=options, service=Service(_found((_DRIVER,))))


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One Chromium for all tests: its start costs seconds."""
    driver = start_chromium(tmp_path_factory.mktemp("chromium"))
    driver.set_page_load_timeout(120)
    yield driver
    driver.quit()


@pytest.fixture
def browser(chromium: Any) -> Iterator[Any]:
    """The same without cookies, and with nothing in its log that a page did not write."""
    chromium.execute_cdp_cmd("Network.clearBrowserCookies", {})
    chromium.get_log("browser")
    yield chromium
    chromium.get("about:blank")  # no page of a gateway that ends
