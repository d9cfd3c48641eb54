"""Laws of a report's page: whole, self-contained, safe, and the same for the same content."""

import base64
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="the [eval] extra is not installed")

import soundfile as sf

from flowse.audio.flac import flac_bytes
from flowse.report.page import (
    NOT_THERE,
    Cell,
    Column,
    Listening,
    Recording,
    Table,
    Track,
    number_cell,
    render,
)
from flowse.report.plots import grouped_plot, scatter_plot
from flowse.seeding import generator

VOID = {"meta", "link", "img", "br", "path", "use", "input"}
NOISE = (0.1 * generator(0).standard_normal(12_000)).astype(np.float32)
FLAC = flac_bytes(NOISE, 24_000)


class Checker(HTMLParser):
    """Collects elements and checks that every one that opens also closes, and that no id is given twice."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def data(text: str, name: str) -> Any:
    """What the page gives its script under a name."""
    (found,) = re.findall(f'<script type="application/json" id="{name}">(.*?)</script>', text, re.DOTALL)
    return json.loads(found)


def listening(*recordings: Recording, head: str = "gain") -> Listening:
    return Listening(title="Recordings", columns=[Column(head=head, tip="what it is")], recordings=recordings)


def page() -> str:
    track = Track(label="noisy", flac=FLAC, facts={"overall": "2.31"}, text="a < b & 你好")
    return render(
        "Scores <1>",
        lead="Better & faster",
        facts={"model": "x"},
        tables=[
            Table(title="T", columns=["", "a"], rows=[["r", Cell(text="+0.5", kind="good")], ["s", "2"]], note="n")
        ],
        plots=[
            scatter_plot("dots", [1.0, 2.0], [2.0, 3.0], "OVRL"),
            grouped_plot("lines", ["a", "b"], {"noisy": [1.0, 2.0], "enhanced": [2.0, float("nan")]}, "OVRL"),
        ],
        listening=listening(
            Recording(title="utt/1", tracks=[track, track], cells=[number_cell(0.25, 2)], facts={"SNR": "5 dB"}),
            Recording(title="utt/2", cells=[number_cell(None, 2)]),
        ),
    )


def test_every_element_closes_and_nothing_is_fetched() -> None:
    text = page()
    for tag, attributes in Checker(text).seen:
        for name in ("src", "href", "xlink:href"):
            value = attributes.get(name)
            assert not value or value.startswith(("data:", "#")), (tag, value)
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


def test_the_page_holds_the_samples() -> None:
    text = page()
    (first, second) = data(text, "described")[0]["tracks"], data(text, f"sound-{data(text, 'described')[0]['name']}")
    assert [track["label"] for track in first] == ["noisy", "noisy"]
    samples, rate = sf.read(io.BytesIO(base64.b64decode(second[0]["flac"])), dtype="float32")
    assert (rate, second[0]["khz"], second[0]["seconds"]) == (24_000, "12 kHz", 0.5)
    np.testing.assert_allclose(samples, NOISE, atol=1 / 32768)


def test_only_what_has_audio_is_a_link_and_is_told_to_the_script() -> None:
    text = page()
    (described,) = data(text, "described")
    assert re.findall('<a href="#([^"]*)">(.*?)</a>', text) == [(described["name"], "utt/1")]
    silent = render("t", listening=listening(Recording(title="utt/2", cells=["1"])))
    assert 'id="described"' not in silent
    assert 'class="player"' not in silent
    assert '<th scope="row">utt/2</th>' in silent


def test_audio_beside_the_page_is_named_and_not_held() -> None:
    address = "../units/part-0.audio-0123456789ab.noisy.flac"
    text = render("t", listening=listening(Recording(title="u", tracks=[Track(label="noisy", address=address)])))
    (described,) = data(text, "described")
    assert described["tracks"][0]["address"] == address
    assert f"sound-{described['name']}" not in text


def test_a_link_depends_on_the_title_alone_and_equal_titles_differ() -> None:
    track = Track(label="noisy", address="a.flac")
    alone, twice = Recording(title="u", tracks=[track]), Recording(title="v", tracks=[track])
    first = [entry["name"] for entry in data(render("t", listening=listening(alone)), "described")]
    both = [entry["name"] for entry in data(render("t", listening=listening(twice, twice, alone)), "described")]
    assert both[-1] == first[0]
    assert len(set(both)) == 3


def test_text_is_escaped() -> None:
    text = page()
    assert data(text, "described")[0]["tracks"][0]["text"] == "a < b & 你好"
    assert "Scores &lt;1&gt;" in text
    assert "Scores <1>" not in text


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_never_shown_bare_and_sorted_last(value: float | None) -> None:
    cell = number_cell(value, 2, sign=True, kind="bad")
    assert (cell.text, cell.value, cell.kind) == (NOT_THERE, None, "dim")
    text = render("t", listening=listening(Recording(title="u", cells=[cell])))
    assert not re.search(r"\b(nan|inf|None)\b", text.partition("<script>")[0].partition("</style>")[2], re.IGNORECASE)
    assert "data-value" not in text.partition("<script>")[0]


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</style><script>alert(1)</script>",
    "</title></head><body onload=alert(1)>",
    "javascript:alert(1)",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "<!--",
    "<!--<script>",
    "]]><svg onload=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "a\0b\x1b[31mred\x7f",
    "gnp.\u202egpj.exe\u2066",
    "\udcff\ud800 no UTF-8",
    "$\\frac{1}{0}$ and $ alone",
    "line\u2028separator",
    "",
    "_hidden",
    "x" * 5000,
]


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_or_text_becomes_markup(name: str) -> None:
    """In every place that takes a text; and the page's policy would not let a script run that came through."""
    track = Track(label=name, flac=flac_bytes(np.full(2400, 0.1, np.float32), 24_000), facts={name: name}, text=name)
    cell = Cell(text=name, tip=name)
    text = render(
        name,
        lead=name,
        facts={name: name},
        tables=[Table(title=name, columns=[name, cell], rows=[[name, cell], [cell, cell]], note=name)],
        plots=[
            scatter_plot(name, [1.0, 2.0], [2.0, 3.0], name),
            grouped_plot(name, [name, "b"], {name: [1.0, 2.0]}, name),
        ],
        listening=Listening(
            title=name,
            columns=[Column(head=name, tip=name), Column(head=name, numbers=False, choices=True)],
            recordings=[
                Recording(title=name, tracks=[track], cells=[cell, cell], facts={name: name}, text=name),
                Recording(title=name, cells=["1", "other"]),
            ],
            note=name,
        ),
    )
    text.encode()
    seen = Checker(text).seen
    scripts = [attributes.get("type") for tag, attributes in seen if tag == "script"]
    assert scripts == ["application/json", "application/json", None]
    for tag, attributes in seen:
        assert not any(attribute.startswith("on") for attribute in attributes), (tag, attributes)
        for attribute in ("src", "href", "xlink:href"):
            value = attributes.get(attribute)
            assert not value or value.startswith(("data:", "#")), (tag, value)
    ids = [attributes["id"] for tag, attributes in seen if "id" in attributes and tag != "g"]
    assert not [name for name in ids if str(name).startswith(("tip-", "sound-", "r-")) and ids.count(name) > 1]
    assert not re.search("[\0-\x08\x0b-\x1f\x7f\u2028\u202a-\u202e\u2066-\u2069]", text)
    assert "49" not in re.findall("<h1>(.*?)</h1>", text, re.DOTALL)[0]


def test_the_page_s_own_script_is_the_only_one_that_its_policy_lets_run() -> None:
    text = page()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    (script,) = re.findall("<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = policy.replace("&#39;", "'")
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_same_content_same_bytes() -> None:
    assert page() == page()


def test_recordings_are_taken_one_by_one() -> None:
    """A thousand recordings need not be in memory at once."""
    alive = 0

    def made() -> Any:
        nonlocal alive
        for n in range(3):
            alive += 1
            yield Recording(title=f"u{n}")

    given = Listening(title="Recordings", columns=(), recordings=made())
    assert render("t", listening=given).count("data-name=") == 3
    assert alive == 3


def test_facts_keep_their_order() -> None:
    facts = {"overall": "2", "background": "3", "WER": "4"}
    track = Track(label="noisy", address="a.flac", facts=facts)
    text = render("t", listening=listening(Recording(title="u", tracks=[track], facts=facts)))
    (described,) = data(text, "described")
    assert list(described["facts"]) == list(described["tracks"][0]["facts"]) == list(facts)


def test_one_value_is_no_choice() -> None:
    def selects(*languages: str) -> int:
        columns = [Column(head="language", numbers=False, choices=True)]
        made = [Recording(title=f"u{n}", cells=[language]) for n, language in enumerate(languages)]
        return render("t", listening=Listening(title="R", columns=columns, recordings=made)).count("<select")

    assert selects("en", "en") == 0
    assert selects("en", "de") == 1
