"""Laws of the listening page: whole, self-contained, safe, and the same for the same content."""

import base64
import hashlib
import io
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="the [pipeline] extra is not installed")

import soundfile as sf

from flowse.report import Example, Table, Track, grouped_plot, histogram_plot, render, scatter_plot, spectrogram_png
from flowse.seeding import generator

VOID = {"meta", "link", "img", "br", "path", "use", "input"}


class Checker(HTMLParser):
    """Collects elements and checks that every one that opens also closes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def page() -> str:
    samples = (0.1 * generator(0).standard_normal(12_000)).astype(np.float32)
    track = Track(label="noisy", samples=samples, sample_rate=24_000, facts={"overall": "2.31"}, text="a < b & 你好")
    return render(
        "Scores <1>",
        lead="Better & faster",
        facts={"model": "x"},
        tables=[Table(title="T", columns=["", "a"], rows=[["r", ("+0.5", "good")], ["s", "2"]], note="n")],
        plots=[
            scatter_plot("dots", [1.0, 2.0], [2.0, 3.0], "OVRL"),
            grouped_plot("lines", ["a", "b"], {"noisy": [1.0, 2.0], "enhanced": [2.0, float("nan")]}, "OVRL"),
        ],
        examples=[Example(title="utt/1", tracks=[track, track], facts={"SNR": "5 dB"}, text="reference")],
    )


def test_every_element_closes_and_nothing_is_fetched() -> None:
    checker = Checker()
    text = page()
    checker.feed(text)
    checker.close()
    assert checker.open == []
    for tag, attributes in checker.seen:
        for name in ("src", "href", "xlink:href"):
            value = attributes.get(name)
            assert not value or value.startswith(("data:", "#")), (tag, value)
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


def test_players_hold_the_samples() -> None:
    checker = Checker()
    checker.feed(page())
    players = [attributes["src"] for tag, attributes in checker.seen if tag == "audio"]
    assert len(players) == 2
    data = base64.b64decode(str(players[0]).removeprefix("data:audio/flac;base64,"))
    samples, rate = sf.read(io.BytesIO(data), dtype="float32")
    assert rate == 24_000
    np.testing.assert_allclose(samples, 0.1 * generator(0).standard_normal(12_000), atol=1 / 32768)


def test_text_is_escaped() -> None:
    text = page()
    assert "a &lt; b &amp; 你好" in text
    assert "Scores &lt;1&gt;" in text
    assert "Scores <1>" not in text


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</style><script>alert(1)</script>",
    "</title></head><body onload=alert(1)>",
    "javascript:alert(1)",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "<!--",
    "]]><svg onload=alert(1)>",
    "a\0b\x1b[31mred\x7f",
    "gnp.\u202egpj.exe\u2066",
    "\udcff\ud800 no UTF-8",
    "$\\frac{1}{0}$ and $ alone",
    "line\u2028separator",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_or_text_becomes_markup(name: str) -> None:
    """In every place that takes a text; and the page's policy would not let a script run that came through."""
    samples = np.full(2400, 0.1, np.float32)
    track = Track(label=name, samples=samples, sample_rate=24_000, facts={name: name}, text=name)
    text = render(
        name,
        lead=name,
        facts={name: name},
        tables=[Table(title=name, columns=[name], rows=[[name], [(name, "bad")]], note=name)],
        plots=[
            scatter_plot(name, [1.0, 2.0], [2.0, 3.0], name),
            grouped_plot(name, [name, "b"], {name: [1.0, 2.0]}, name),
        ],
        examples=[Example(title=name, tracks=[track], facts={name: name}, text=name, group=name)],
    )
    text.encode()
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert checker.open == []
    assert [tag for tag, _ in checker.seen].count("script") == 1
    for tag, attributes in checker.seen:
        assert not any(attribute.startswith("on") for attribute in attributes), (tag, attributes)
        for attribute in ("src", "href", "xlink:href"):
            value = attributes.get(attribute)
            assert not value or value.startswith(("data:", "#")), (tag, value)
    assert not re.search("[\0-\x08\x0b-\x1f\x7f\u2028\u202a-\u202e\u2066-\u2069]", text)


def test_the_page_s_own_script_is_the_only_one_that_its_policy_lets_run() -> None:
    text = page()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    (script,) = re.findall("<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_same_content_same_bytes() -> None:
    assert page() == page()


def test_a_spectrogram_shows_a_tone_at_its_frequency() -> None:
    from matplotlib.image import imread

    t = np.arange(24_000) / 24_000
    picture = imread(io.BytesIO(spectrogram_png(0.5 * np.sin(2 * np.pi * 3000 * t), 24_000, 100, 120)))
    assert picture.shape[:2] == (120, 100)
    brightest = picture[:, 50, :3].sum(axis=1).argmax()
    # 3 kHz of 12 kHz, counted from the bottom.
    assert brightest == pytest.approx(120 * (1 - 3000 / 12_000), abs=2)


def test_a_group_has_one_heading() -> None:
    track = Track(label="noisy", samples=np.full(2400, 0.1, np.float32), sample_rate=24_000)
    examples = [Example(title=f"utt{n}", tracks=[track], group="few" if n < 2 else "more") for n in range(4)]
    text = render("Groups", examples=examples)
    assert re.findall("<h2>(.*?)</h2>", text) == ["few", "more"]
    assert text.index("utt1") < text.index("<h2>more") < text.index("utt2")


_PROBE = """<script>
window.addEventListener("load", async () => {
  const sounds = [...document.querySelectorAll("audio")];
  await Promise.all(sounds.map((sound) => new Promise((done) => {
    if (sound.readyState > 0) return done();
    sound.addEventListener("loadedmetadata", done);
    sound.addEventListener("error", done);
    sound.preload = "metadata";
    sound.load();
  })));
  const pictures = [...document.images].filter((picture) => picture.naturalWidth > 100).length;
  const lengths = sounds.map((sound) => sound.duration.toFixed(2)).join(",");
  document.body.setAttribute("data-seen", `pictures ${pictures} sounds ${lengths}`);
});
</script>"""
"""Makes a browser say which pictures of the page it drew and which sounds it can play."""


def test_a_browser_draws_every_spectrogram_and_can_play_every_sound(tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium or Chrome on this machine")
    file = tmp_path / "page.html"
    open_to_the_probe = re.sub(r"<meta http-equiv[^>]*>", "", page())
    file.write_text(open_to_the_probe.replace("</body>", f"{_PROBE}</body>"), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000", "--dump-dom"]
    dump = subprocess.run(
        [browser, *flags, f"--user-data-dir={tmp_path / 'profile'}", file.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert 'data-seen="pictures 2 sounds 0.50,0.50"' in dump.stdout


def test_a_histogram_marks_what_its_threshold_cuts_off_and_writes_plain_numbers() -> None:
    def reds(**values: object) -> int:
        plot = histogram_plot("t", edges=[0.0, 1.0, 2.0, 3.0], counts=[5, 0, 2000], label="SNR, dB", **values)  # type: ignore[arg-type]
        assert "mathdefault" not in plot.svg
        assert "1,000" in plot.svg
        return plot.svg.count("fill: #c53030")

    assert reds() == 0
    above, below = reds(threshold=1.0), reds(threshold=1.0, passes_above=False)
    assert 0 < above < below  # one bin of three is cut off, or two
