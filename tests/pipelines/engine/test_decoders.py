"""Audio that others decode is the audio that the worker itself would read, whatever becomes of those others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import ray
import soundfile as sf

from flowse.data import audio_ahead
from flowse.data.audio_ahead import Block, read_ahead
from flowse.data.manifest import Utterance
from pipelines.engine import decoders
from pipelines.engine.backend import Backend
from pipelines.engine.decoders import Decoders
from pipelines.engine.local_units import map_units
from pipelines.engine.resources import Capacity, Node, Resources

pytestmark = pytest.mark.usefixtures("local_ray")
RATE = 16_000


def blocks(batches: list[list[Block]]) -> dict[int, list[Block]]:
    found: dict[int, list[Block]] = {}
    for block in (block for batch in batches for block in batch):
        found.setdefault(block.index, []).append(block)
    return found


@pytest.fixture
def rows(tmp_path: Path) -> list[Utterance]:
    """Recordings of one to nine seconds, in no order, and two that cannot be read."""
    rng = np.random.default_rng(0)
    found = []
    for number, seconds in enumerate((5.0, 1.0, 9.0, 2.0, 7.0, 3.0, 8.0, 4.0, 6.0)):
        sf.write(tmp_path / f"{number}.wav", rng.normal(0, 0.1, round(seconds * RATE)), RATE)
        found.append(
            Utterance(utt_id=f"c/{number}", corpus="c", kind="speech", path=f"{number}.wav", duration_s=seconds)
        )
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    for name in ("bad.wav", "none.wav"):
        found.append(Utterance(utt_id=f"c/{name}", corpus="c", kind="speech", path=name, duration_s=2.5))
    return found


def test_blocks_are_those_of_the_worker_itself(
    tmp_path: Path, rows: list[Utterance], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoders, "pieces", lambda rows: audio_ahead.pieces(rows, 10.0))
    own = blocks(list(read_ahead(rows, {"c": tmp_path})))
    others = blocks(list(Decoders.of(3, {"c": tmp_path}, tmp_path)(rows, {"c": tmp_path})))
    assert own.keys() == others.keys() == set(range(len(rows)))
    for index in own:
        (mine,), (theirs,) = own[index], others[index]
        assert np.array_equal(mine.waveform, theirs.waveform)
        assert (mine.error is None) == (theirs.error is None) == (index < 9)


def test_batches_are_bounded_and_long_rows_are_cut(
    tmp_path: Path, rows: list[Utterance], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audio_ahead, "BATCH_S", 8.5)
    monkeypatch.setattr(decoders, "BATCH_S", 8.5)
    monkeypatch.setattr(decoders, "pieces", lambda rows: audio_ahead.pieces(rows, 4.0))
    monkeypatch.setattr(decoders, "read_ahead", lambda rows, roots: read_ahead(rows, roots, 8.5))
    batches = list(Decoders.of(2, {"c": tmp_path}, tmp_path)(rows, {"c": tmp_path}))
    assert all(sum(len(block.waveform) for block in batch) <= 8.5 * RATE for batch in batches)
    found = blocks(batches)
    assert len(found[2]) == 2  # nine seconds
    for index, of_row in found.items():
        if index < 9:
            assert sum(len(block.waveform) for block in of_row) == rows[index].duration_s * RATE


def test_without_a_free_core_the_worker_decodes_itself(
    tmp_path: Path, rows: list[Utterance], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoders, "_PATIENCE_S", 0.5)

    @ray.remote(num_cpus=4)
    class Busy:
        def here(self) -> None: ...

    busy = Busy.remote()
    ray.get(busy.here.remote())
    try:
        assert blocks(list(Decoders.of(2, {"c": tmp_path}, tmp_path)(rows, {"c": tmp_path}))).keys() == set(
            range(len(rows))
        )
    finally:
        ray.kill(busy)


def test_audio_is_decoded_elsewhere_where_that_is_asked_for(tmp_path: Path) -> None:
    capacity = Capacity((Node(4.0),))
    four = Resources(num_gpus=1.0, decoders=4)
    roots = {"c": tmp_path}
    assert isinstance(Backend(capacity, map_units).reader(four, roots, tmp_path), Decoders)
    assert Backend(capacity, map_units).reader(Resources(), roots, tmp_path) is None
    assert Backend(capacity, map_units, local=True).reader(four, roots, tmp_path) is None
