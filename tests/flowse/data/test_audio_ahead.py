"""Laws of reading ahead: every sample comes exactly once, batches are bounded, and an error is a block."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from flowse.data.audio_ahead import Block, read_ahead
from flowse.data.manifest import Utterance
from flowse.seeding import generator

RATE = 16000


def row(name: str, duration_s: float, offset_s: float = 0.0) -> Utterance:
    return Utterance(utt_id=f"c/{name}", corpus="c", kind="speech", path=name, offset_s=offset_s, duration_s=duration_s)


@pytest.fixture
def corpus(tmp_path: Path) -> tuple[list[Utterance], dict[str, Path]]:
    rows = []
    for number, seconds in enumerate([3.0, 0.5, 25.0, 1.0, 2.0]):
        noise = (0.1 * generator(number).standard_normal(round(seconds * RATE))).astype(np.float32)
        sf.write(tmp_path / f"{number}.wav", noise, RATE, subtype="FLOAT")
        rows.append(row(f"{number}.wav", seconds))
    return rows, {"c": tmp_path}


def gather(batches: list[list[Block]]) -> dict[int, np.ndarray]:
    gathered: dict[int, list[np.ndarray]] = {}
    for block in (block for batch in batches for block in batch):
        gathered.setdefault(block.index, []).append(block.waveform)
    return {index: np.concatenate(parts) for index, parts in gathered.items()}


@pytest.mark.parametrize("batch_s", [2.0, 5.0, 100.0])
def test_every_sample_comes_exactly_once_at_any_batch_length(
    corpus: tuple[list[Utterance], dict[str, Path]], batch_s: float
) -> None:
    rows, roots = corpus
    batches = list(read_ahead(rows, roots, batch_s))
    for index, waveform in gather(batches).items():
        expected, _ = sf.read(roots["c"] / rows[index].path, dtype="float32")
        assert np.array_equal(waveform, expected)
    assert {block.index for batch in batches for block in batch} == set(range(len(rows)))
    assert all(sum(len(block.waveform) for block in batch) <= batch_s * RATE for batch in batches)


def test_a_segment_is_cut_from_its_recording(corpus: tuple[list[Utterance], dict[str, Path]]) -> None:
    _, roots = corpus
    ((block,),) = read_ahead([row("2.wav", 1.5, offset_s=10.0)], roots)
    expected, _ = sf.read(roots["c"] / "2.wav", dtype="float32", start=10 * RATE, stop=round(11.5 * RATE))
    assert np.array_equal(block.waveform, expected)


def test_a_row_that_cannot_be_read_is_a_block_with_the_reason(
    corpus: tuple[list[Utterance], dict[str, Path]],
) -> None:
    rows, roots = corpus
    (roots["c"] / "page.wav").write_text("<!doctype html><html></html>")
    sf.write(roots["c"] / "nan.wav", np.full(RATE, np.nan, np.float32), RATE, subtype="FLOAT")
    changed = dataclasses.replace(rows[1], content="0" * 32)
    bad = [row("missing.wav", 1.0), row("page.wav", 1.0), row("nan.wav", 1.0), changed]
    blocks = [block for batch in read_ahead([*bad, rows[0]], roots) for block in batch]
    reasons = {block.index: block.error.reason for block in blocks if block.error is not None}
    assert reasons == {0: "not_found", 1: "html_instead_of_audio", 2: "nan_samples", 3: "changed_since_ingest"}
    assert [block.index for block in blocks if block.error is None] == [4]


def test_without_rows_there_are_no_batches() -> None:
    assert list(read_ahead([], {})) == []
