"""The page of mixtures: the same for the same draw, whole, with the real extremes, and readable recipes."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import soundfile

from flowse.data.shards import IndexRow, read_index, read_mixture
from flowse.errors import UserError
from flowse.simulation.facts import MixtureFacts
from pipelines.commands.listen import choose, page, recipe_facts, write_page
from pipelines.engine.workspace import StageFolder
from tests.pipelines.small_workspace import run_data_stages


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> StageFolder:
    finished = run_data_stages(tmp_path_factory.mktemp("listen"))[2]["simulate"].finished
    assert finished is not None
    return finished


@pytest.fixture(scope="module")
def rows(simulated: StageFolder) -> dict[str, IndexRow]:
    return {row.key: row for row in read_index(simulated.file("index.parquet")) if row.split == "train"}


@pytest.fixture(scope="module")
def text(simulated: StageFolder, tmp_path_factory: pytest.TempPathFactory) -> str:
    beside = tmp_path_factory.mktemp("beside") / "audio"
    text = page(simulated, "train", 1, 5, beside)
    assert not beside.exists()  # the page holds it all
    return text


def data(text: str, name: str) -> Any:
    """What the page gives its script under a name."""
    (found,) = re.findall(f'<script type="application/json" id="{name}">(.*?)</script>', text, re.DOTALL)
    return json.loads(found)


def test_the_page_shows_as_many_as_asked_for(text: str, rows: dict[str, IndexRow], simulated: StageFolder) -> None:
    described = data(text, "described")
    chosen = choose(simulated, "train", 1, 5)
    keys = dict.fromkeys([*(row.key for row in chosen.random), *(row.key for row, _ in chosen.extreme)])
    assert [of["title"] for of in described] == list(keys)
    for of in described:
        assert [track["label"] for track in of["tracks"]] == ["noisy", "clean"]
        assert all("DNSMOS overall" in track["facts"] for track in of["tracks"])
    for row, why in chosen.extreme:
        assert re.search(f'>{re.escape(row.key)}</a></th>\\s*<td class=" words">(random, )?{why}</td>', text)
    assert not re.search(r'(src|href)="(?!data:|#)', text.partition("<script>")[0])


def test_the_page_holds_the_stored_samples(text: str, rows: dict[str, IndexRow], simulated: StageFolder) -> None:
    first = data(text, "described")[0]
    mixture = read_mixture(simulated.folder, rows[first["title"]])
    for sound, samples in zip(data(text, f"sound-{first['name']}"), (mixture.noisy, mixture.clean), strict=True):
        heard, rate = soundfile.read(io.BytesIO(base64.b64decode(sound["flac"])), dtype="float32")
        assert rate == mixture.sample_rate
        np.testing.assert_array_equal(heard, samples)


def test_more_than_a_page_should_hold_lies_beside_it(
    simulated: StageFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.commands.listen.EMBEDDED_BYTES", 1)
    path = write_page(simulated, tmp_path, "dev", 1, 0, tmp_path / "my page.html")
    for of in data(path.read_text(), "described"):
        for track in of["tracks"]:
            assert (path.parent / unquote(track["address"])).read_bytes().startswith(b"fLaC")
    assert '"flac":' not in path.read_text()


def test_extremes_are_the_extremes(simulated: StageFolder, rows: dict[str, IndexRow]) -> None:
    why = {way: row.key for row, ways in choose(simulated, "train", 20, 5).extreme for way in ways.split(", ")}
    assert why["lowest SNR"] == min(rows.values(), key=lambda row: row.snr_db).key
    assert why["highest SNR"] == max(rows.values(), key=lambda row: row.snr_db).key
    facts = {key: MixtureFacts.of(read_mixture(simulated.folder, row).meta) for key, row in rows.items()}
    levels = {key: stored.checks.level_dbfs for key, stored in facts.items()}
    assert levels[why["lowest level"]] == min(levels.values())
    reverberant = {key: stored.rt60_s or 0.0 for key, stored in facts.items()}
    assert reverberant[why["longest reverberation"]] == max(reverberant.values())
    # The corpus has no such effects, so nothing can stand out by them.
    assert not {"most clipped", "most lost packets", "narrowest band"} & set(why)


def test_the_draw_decides_and_nothing_else(simulated: StageFolder, text: str) -> None:
    first = choose(simulated, "train", 4, 5)
    assert choose(simulated, "train", 4, 5) == first
    assert first.random[0].key == data(text, "described")[0]["title"]
    assert choose(simulated, "train", 4, 6).random != first.random


def test_the_page_is_written_where_it_is_asked_for(simulated: StageFolder, tmp_path: Path) -> None:
    path = write_page(simulated, tmp_path, "dev", 1, 0)
    assert path == tmp_path / "listen" / f"{simulated.folder.name}-dev.html"
    assert "What the mixtures of split dev sound like" in path.read_text()
    assert not list(simulated.folder.glob("*.html"))


def test_recipes_are_said_in_words(simulated: StageFolder, rows: dict[str, IndexRow]) -> None:
    for row in rows.values():
        stored = MixtureFacts.of(read_mixture(simulated.folder, row).meta)
        facts = recipe_facts(stored)
        said = " ".join(f"{name} {value}" for name, value in facts.items())
        assert all(name in said for name in stored.recipe.noise_ids)
        assert f"{stored.snr_db:.1f} dB" in facts["SNR measured"]
        assert ("room" in facts) == bool(stored.recipe.room_id)
        assert ("other speaker" in facts) == bool(stored.recipe.competitor_id)
        assert all(facts.values())


def test_mistakes_are_named(simulated: StageFolder) -> None:
    with pytest.raises(UserError, match="no split 'trian'"):
        choose(simulated, "trian", 3, 0)
    with pytest.raises(UserError, match="--count 0"):
        choose(simulated, "train", 0, 0)
