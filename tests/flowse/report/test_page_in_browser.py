"""Laws of the page's script and style, in a real browser: what is heard, keys, sorting, width, contrast, tooltips."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib", reason="the [eval] extra is not installed")

from flowse.report.page import Track
from tests.browser import chromium, low_contrasts
from tests.flowse.report.made import RATE, TONES_HZ, recording, report, tone, tracks

LONG = "a/very/long/name/" + "of-a-recording-without-a-space-" * 4 + ".flac"

_TAP = """
const connect = AudioNode.prototype.connect;
AudioNode.prototype.connect = function (target, ...rest) {
  if (target === this.context.destination && !(this instanceof AnalyserNode)) {
    this.context.tap ??= Object.assign(new AnalyserNode(this.context, { fftSize: 8192 }), {});
    window.tap = this.context.tap;
    connect.call(this, this.context.tap);
  }
  return connect.call(this, target, ...rest);
};
"""
"""Listens to everything that the page plays."""

_LOUDEST = """() => {
  if (!window.tap) return 0;
  const bins = new Float32Array(window.tap.frequencyBinCount);
  window.tap.getFloatFrequencyData(bins);
  const at = bins.indexOf(Math.max(...bins));
  return bins[at] > -60 ? Math.round(at * window.tap.context.sampleRate / window.tap.fftSize) : 0;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    made = [
        recording("worst.wav", -0.4, "en", tracks()),
        recording(LONG, 0.1, "de", tracks(2.0)),
        recording("unheard.wav", None, "en"),
        recording("beside.wav", 0.9, "zh", [Track(label=label, address=f"audio/{label}.flac") for label in TONES_HZ]),
        *(recording(f"more/{n:02d}.wav", 1 + 0.01 * n, "fr") for n in range(20)),
    ]
    (folder / "audio").mkdir()
    for label in TONES_HZ:
        (folder / "audio" / f"{label}.flac").write_bytes(tone(label))
    (folder / "report.html").write_text(report(made), encoding="utf-8")
    return folder / "report.html"


@pytest.fixture
def tab(browser: Any, page_file: Path) -> Iterator[Any]:
    """The page at the width of a desktop; every error of its script fails the test."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    opened.add_init_script(_TAP)
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    opened.goto(page_file.as_uri())
    yield opened
    opened.close()
    assert errors == []


def until(tab: Any, holds: Callable[[], bool]) -> None:
    """Wait until something holds; the page's policy lets playwright's own way of waiting evaluate nothing."""
    for _ in range(300):
        if holds():
            return
        tab.wait_for_timeout(50)
    pytest.fail("it did not come to hold")


def heard_hz(tab: Any, expected: int) -> None:
    """Wait until the loudest frequency that the page plays is that of a version (0: it is silent)."""
    until(tab, lambda: abs(tab.evaluate(_LOUDEST) - expected) < 20)


def position_s(tab: Any) -> float:
    return float(tab.locator("#position").input_value())


def test_keys_play_switch_and_pause_and_the_position_stays(tab: Any) -> None:
    assert tab.locator("#heard-title").inner_text() == "worst.wav"
    tab.keyboard.press("Space")
    heard_hz(tab, TONES_HZ["enhanced"])
    before = position_s(tab)
    for key, label in (("1", "noisy"), ("3", "clean"), ("2", "enhanced")):
        tab.keyboard.press(key)
        heard_hz(tab, TONES_HZ[label])
        assert tab.locator("#versions input:checked").get_attribute("value") == label
        assert position_s(tab) >= before  # it runs on: a switch does not go back
        before = position_s(tab)
    tab.keyboard.press("Space")
    heard_hz(tab, 0)
    stopped = position_s(tab)
    tab.keyboard.press("1")
    assert position_s(tab) == pytest.approx(stopped, abs=0.02)
    tab.keyboard.press("ArrowLeft")
    assert position_s(tab) == pytest.approx(max(0, stopped - 1), abs=0.02)
    assert tab.locator("#position").get_attribute("aria-valuetext").endswith("of 4.0 seconds")


def test_a_spectrogram_seeks_and_the_end_is_the_end(tab: Any) -> None:
    box = tab.locator(".spectrum").nth(2).bounding_box()
    tab.mouse.click(box["x"] + 0.75 * box["width"], box["y"] + 40)
    heard_hz(tab, TONES_HZ["clean"])
    assert position_s(tab) >= 3.0
    tab.locator("#play").get_by_text("Play").wait_for(timeout=15_000)
    assert position_s(tab) == 0
    assert tab.locator(".axis").first.inner_text().split() == ["0.0", "s", "2.0", "s", "4.0", "s"]


def test_every_recording_with_audio_is_linked_and_a_link_opens_it(tab: Any, page_file: Path) -> None:
    links = tab.locator("#list tbody a")
    assert links.count() == 3
    links.nth(1).click()
    heard_hz(tab, TONES_HZ["enhanced"])
    assert tab.locator("#heard-title").inner_text() == LONG
    assert tab.locator("tr[aria-current] th").inner_text() == LONG
    address = tab.url
    tab.keyboard.press("p")
    assert tab.locator("#heard-title").inner_text() == "worst.wav"
    tab.goto("about:blank")
    tab.goto(address)
    assert tab.locator("#heard-title").inner_text() == LONG


def test_audio_beside_the_page_plays_from_a_file_and_is_missed_politely(tab: Any, page_file: Path) -> None:
    tab.get_by_role("link", name="beside.wav").click()
    until(tab, lambda: position_s(tab) > 0.2)
    before = position_s(tab)
    tab.keyboard.press("1")
    until(tab, lambda: position_s(tab) > before)
    assert tab.locator("#time").inner_text().endswith("/ 0:04.0")


def test_a_copy_without_its_folder_says_so(browser: Any, page_file: Path, tmp_path: Path) -> None:
    (tmp_path / "copy.html").write_bytes(page_file.read_bytes())
    tab = browser.new_page()
    tab.goto((tmp_path / "copy.html").as_uri())
    tab.get_by_role("link", name="beside.wav").click()
    tab.get_by_text("lies in files beside the page").wait_for(timeout=15_000)
    tab.close()


def test_the_page_needs_no_mouse(tab: Any) -> None:
    """Every control has the focus in turn, says what it is, and works by keyboard."""
    names = []
    for _ in range(14):
        tab.keyboard.press("Tab")
        names.append(tab.evaluate("document.activeElement.id || document.activeElement.className"))
    assert [name for name in names if name in ("before", "play", "next", "position", "find")] == [
        "before", "play", "next", "position", "find",
    ]  # fmt: skip
    for role, name in (
        ("button", "Play"), ("button", "Previous recording"), ("button", "Next recording"), ("slider", "Position"),
        ("radio", "noisy"), ("radio", "clean"), ("searchbox", "Find"), ("combobox", "language"),
    ):  # fmt: skip
        assert tab.get_by_role(role, name=name).count() == 1, (role, name)
    tab.locator("#play").focus()
    tab.keyboard.press("Space")  # the button's own key: it must not count twice
    heard_hz(tab, TONES_HZ["enhanced"])
    tab.keyboard.press("n")
    assert tab.locator("#heard-title").inner_text() == LONG
    tab.locator("#find").fill("1 2 3")  # what is typed plays nothing
    assert tab.locator("#versions input:checked").get_attribute("value") == "enhanced"


def names_shown(tab: Any) -> list[str]:
    found: list[str] = tab.locator("#list tbody tr:visible th").all_inner_texts()
    return found


def test_rows_are_sorted_by_value_and_missing_values_come_last(tab: Any) -> None:
    gain = tab.get_by_role("button", name="gain", exact=True)
    assert names_shown(tab)[0] == "worst.wav"
    gain.click()
    assert tab.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"
    assert names_shown(tab)[0] == "more/19.wav"
    assert names_shown(tab)[-2:] == ["worst.wav", "unheard.wav"]
    gain.click()
    assert names_shown(tab)[0] == "worst.wav"
    assert names_shown(tab)[-1] == "unheard.wav"
    tab.get_by_role("button", name="language").focus()
    tab.keyboard.press("Enter")
    assert names_shown(tab)[0] == LONG
    assert tab.locator("th[aria-sort]").count() == 1


def test_rows_are_filtered_by_words_and_by_choices(tab: Any) -> None:
    assert tab.locator("#shown").inner_text() == "24 recordings"
    tab.locator("#find").fill("MORE 1")
    assert names_shown(tab) == [f"more/{n:02d}.wav" for n in range(20) if "1" in f"{n:02d} +{1 + 0.01 * n:.2f}"]
    tab.locator("#find").fill("")
    tab.get_by_role("combobox", name="language").select_option("en")
    assert names_shown(tab) == ["worst.wav", "unheard.wav"]
    assert tab.locator("#shown").inner_text() == "2 of 24 recordings"


def test_what_is_pointed_at_or_focused_is_explained(tab: Any) -> None:
    name = tab.locator(".tip", has_text="WER/CER")
    name.focus()
    assert tab.locator("#tip").inner_text() == "Lower is better."
    tab.keyboard.press("Escape")
    assert tab.locator("#tip").is_hidden()
    tab.get_by_role("button", name="gain", exact=True).hover()
    assert tab.locator("#tip").inner_text() == "Enhanced − noisy. Higher is better."
    described = name.get_attribute("aria-describedby")
    assert tab.locator(f"#{described}").text_content() == "Lower is better."


@pytest.mark.parametrize("width", [390, 640, 1280])
def test_nothing_is_cut(browser: Any, page_file: Path, width: int) -> None:
    """The page never scrolls sideways; a table that is too wide does in its own box, and its names stay in view."""
    tab = browser.new_page(viewport={"width": width, "height": 800})
    tab.goto(page_file.as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    cut = tab.evaluate(
        """() => [...document.querySelectorAll("main *")].filter((element) => {
          if (element.closest(".scroll, svg, .unseen") || !element.getClientRects().length) return false;
          const box = element.getBoundingClientRect();
          return box.left < -0.5 || box.right > innerWidth + 0.5;
        }).map((element) => element.outerHTML.slice(0, 80))"""
    )
    assert cut == []
    for table in tab.locator(".scroll").all():
        table.evaluate("(box) => { box.scrollLeft = 10_000; }")
        name = table.locator("tbody th").first.bounding_box()
        assert name["x"] >= 0
        last = table.locator("tbody tr").first.locator("td").last.bounding_box()
        assert last["x"] + last["width"] <= width + 0.5
    tab.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_contrast(browser: Any, page_file: Path, scheme: str) -> None:
    tab = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme=scheme)
    tab.goto(page_file.as_uri())
    assert low_contrasts(tab, "main *", 4.5) == []
    tab.locator(".tip").first.focus()
    assert low_contrasts(tab, "#tip", 4.5) == []
    tab.close()


def test_a_thousand_recordings_stay_usable(browser: Any, tmp_path: Path) -> None:
    beside = [Track(label=label, address=f"../units/part-0.audio-0123456789ab.{label}.flac") for label in TONES_HZ]
    made = [recording(f"set/speaker-{n % 40}/{n:04d}.wav", n / 1000, "en", tracks(1.0) if n < 10 else beside)
            for n in range(1000)]  # fmt: skip
    text = report(made)
    assert len(text) < 3_000_000
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    tab.goto((tmp_path / "page.html").as_uri())
    tab.locator("#find").fill("0999")
    assert names_shown(tab) == ["set/speaker-39/0999.wav"]
    tab.locator("#find").fill("")
    tab.get_by_role("button", name="gain", exact=True).click()
    assert names_shown(tab)[0] == "set/speaker-39/0999.wav"
    assert tab.locator(".scroll.tall").bounding_box()["height"] < 800
    tab.close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None: ...


def test_it_works_from_a_server_and_in_a_frame_that_may_only_run_scripts(browser: Any, page_file: Path) -> None:
    """MLflow shows an HTML artifact in a frame with `sandbox="allow-scripts"`, from a blob."""
    (page_file.parent / "frame.html").write_text(
        """<iframe sandbox="allow-scripts" style="width:700px;height:600px"></iframe><script>
        fetch("report.html").then((answer) => answer.text()).then((text) => {
          document.querySelector("iframe").src = URL.createObjectURL(new Blob([text], { type: "text/html" }));
        });</script>""",
        encoding="utf-8",
    )
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(page_file.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        tab = browser.new_page(viewport={"width": 800, "height": 700})
        tab.add_init_script(_TAP)
        tab.goto(f"http://127.0.0.1:{server.server_port}/frame.html")
        frame = tab.frame_locator("iframe")
        frame.locator("#play").click()
        frame.locator("#play").get_by_text("Pause").wait_for(timeout=15_000)
        frame.locator("#list tbody a").nth(1).click()
        assert frame.locator("#heard-title").inner_text() == LONG
        inner = tab.frames[1]
        heard_hz(inner, TONES_HZ["enhanced"])
        assert inner.evaluate("document.documentElement.scrollWidth") <= 700
        tab.close()
    finally:
        server.shutdown()
        server.server_close()


def test_the_tones_are_as_the_tests_take_them() -> None:
    assert all(hertz < RATE / 2 for hertz in TONES_HZ.values())
