"""A real browser for tests of pages: Chromium of the machine, driven by playwright; tests skip where there is none."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
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


def upload(tab: Any, recording: Path) -> None:
    """Give a file to the upload field of the page of `flowse demo`, and wait for the player that takes its place.

    A field is there before the script that listens to it: what it is given until then is lost without a word, so the
    file is given again. The file's name is no sign of success, as it is shown only while the file travels.
    """
    errors = importlib.import_module("playwright.sync_api")
    player, field = tab.locator("[data-testid=waveform-controls]").first, tab.locator("input[type=file]").first
    for left in reversed(range(10)):
        player.or_(field).first.wait_for(state="attached")
        if field.count():
            field.set_input_files(str(recording))
        try:
            player.wait_for(state="attached", timeout=15_000)
            return
        except errors.TimeoutError:
            if not left:
                raise


_CONTRASTS = """([selector, least]) => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = ([r, g, b, a], under) => [r, g, b].map((value, at) => a * value + (1 - a) * under[at]);
  const ground = (element) => {
    if (!element) return rgba(getComputedStyle(document.documentElement).backgroundColor)[3]
      ? rgba(getComputedStyle(document.documentElement).backgroundColor).slice(0, 3)
      : matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18] : [255, 255, 255];
    const own = rgba(getComputedStyle(element).backgroundColor);
    return own[3] === 1 ? own.slice(0, 3) : over(own, ground(element.parentElement));
  };
  const light = (rgb) => {
    const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = rgb.map((value) => linear(value / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  for (const element of document.querySelectorAll(selector)) {
    const words = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim());
    const style = getComputedStyle(element);
    const drawn = element.closest("svg") && (element.matches("text, path, use"));
    if (!(words || drawn) || !element.getClientRects().length || element.closest("defs, clipPath")) continue;
    if (element.matches(".unseen") || style.visibility === "hidden") continue;
    const under = ground(element.closest("svg") ? element.closest("svg").parentElement : element);
    const colours = element.closest("svg")
      ? [style.fill, style.stroke].filter((colour) => colour.startsWith("rgb") && rgba(colour)[3] > 0).slice(0, 1)
      : [style.color];
    for (const colour of colours) {
      const [a, b] = [light(over(rgba(colour), under)), light(under)].sort((x, y) => y - x);
      const ratio = (a + 0.05) / (b + 0.05);
      if (ratio < least) found.push(`${ratio.toFixed(2)} ${colour} ${element.outerHTML.slice(0, 90)}`);
    }
  }
  return found;
}"""
"""WCAG 2's contrast of every text, and of what is drawn in a plot, with what is behind it."""


def low_contrasts(tab: Any, selector: str, least: float) -> list[str]:
    """Return a line for each text or mark that stands out less from its background than `least`, e.g. 4.5."""
    found: list[str] = tab.evaluate(_CONTRASTS, [selector, least])
    return found
