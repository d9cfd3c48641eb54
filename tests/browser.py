"""A real browser for tests of pages: Chromium of the machine, driven by playwright; tests skip where there is none."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


def require_chromium() -> str:
    """Return the path of Chromium; skip the test where it or playwright is not installed."""
    pytest.importorskip("playwright.sync_api")
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    return found or pytest.skip("Chromium is not installed")


@contextmanager
def chromium() -> Iterator[Any]:
    """Open a headless browser; skip the test where there is none."""
    found = require_chromium()
    playwright = importlib.import_module("playwright.sync_api")
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(
            executable_path=found, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        try:
            yield browser
        finally:
            browser.close()
