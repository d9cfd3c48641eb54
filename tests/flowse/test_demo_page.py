"""Laws of the demo's page: it gives what the enhancer gives, says mistakes, and works in a browser, small and large."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from flowse import Enhancer
from flowse.seeding import generator
from tests.browser import chromium, low_contrasts, require_chromium, upload

gradio = pytest.importorskip("gradio")
NOISY = Path(__file__).parents[2] / "docs" / "example" / "noisy.wav"


@pytest.fixture(scope="module")
def enhancer() -> Enhancer:
    return Enhancer.from_pretrained()


def test_the_button_gives_what_the_enhancer_gives(enhancer: Enhancer, tmp_path: Path) -> None:
    from flowse.demo_page import DemoPage

    page = DemoPage(enhancer)
    for channels in (1, 2):
        noisy = 0.1 * generator(channels).standard_normal((20_000, channels))
        sf.write(tmp_path / "a.wav", noisy, 16_000)
        (rate, samples), before, after = page.enhance(str(tmp_path / "a.wav"))
        expected = np.atleast_2d(enhancer(tmp_path / "a.wav"))
        assert (rate, samples.shape, samples.dtype) == (16_000, (20_000, channels), np.int16)
        np.testing.assert_allclose(samples.T / 32768, expected, atol=1 / 32768)
        assert before.size == after.size == (600, 240)
    (_, limited), _, _ = page.enhance(str(tmp_path / "a.wav"), 3.0, "listening")
    assert np.any(limited != samples)


def test_what_cannot_be_enhanced_is_said(enhancer: Enhancer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flowse import demo_page

    page = demo_page.DemoPage(enhancer)
    (tmp_path / "text.wav").write_text("no audio")
    with pytest.raises(gradio.Error, match="first"):
        page.enhance(None)
    with pytest.raises(gradio.Error, match="undecodable"):
        page.enhance(str(tmp_path / "text.wav"))
    monkeypatch.setattr(demo_page, "MAX_S", 5)
    with pytest.raises(gradio.Error, match="7 s, the page takes 5"):
        page.enhance(str(NOISY))


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The address of `flowse demo`, which runs in a process of its own."""
    require_chromium()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "flowse", "demo", "--no-browser", "--port", str(port)]
    environment = {**os.environ, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    where = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(where, timeout=10).close()
                break
            except OSError:
                assert server.poll() is None, "flowse demo ended"
                time.sleep(0.2)
        yield where
    finally:
        server.terminate()
        server.wait()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_a_recording_is_uploaded_and_enhanced_in_a_browser(
    address: str, width: int, scheme: str, tmp_path: Path
) -> None:
    with chromium() as browser:
        tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        tab.set_default_timeout(120_000)
        errors: list[str] = []
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.goto(address, wait_until="domcontentloaded")
        upload(tab, NOISY)
        tab.get_by_role("button", name="Enhance", exact=True).click()
        tab.locator("img[src*='/file=']").nth(1).wait_for()
        assert tab.locator("img[src*='/file=']").count() == 2
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert tab.locator("time").count() >= 2
        assert low_contrasts(tab, "time", 4.5) == []
        tab.screenshot(
            path=str(Path(os.environ.get("FLOWSE_SCREENSHOTS", tmp_path)) / f"demo-{width}-{scheme}.png"),
            full_page=True,
        )
        assert errors == []
