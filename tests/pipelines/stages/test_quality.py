"""Laws of the quality gate: off, it changes nothing and reads no audio; on, each defect has its reason, and other
thresholds measure nothing again."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from flowse.audio.waveform import resample
from flowse.data.manifest import Reject, Utterance
from flowse.data.parquet import read_rows, write_rows
from flowse.errors import UserError
from flowse.metrics.quality import QualityMeter
from flowse.quality import Quality, QualityLimits
from flowse.seeding import generator
from pipelines.engine.context import Context, UnrecordedOutput
from pipelines.engine.manifest_part import ManifestPart
from pipelines.engine.units import UnitFolder
from pipelines.stages.quality import Config, CorpusLimits, Measured, Worker, run

RATE = 16_000
LIMITS = {"min_bandwidth_hz": 4500.0, "min_snr_db": 5.0, "max_clipped": 0.01}


def voice(seed: int, rate: int = RATE) -> np.ndarray:
    """Amplitudes as speech has them (gamma-distributed), over the whole band."""
    draw = generator(seed)
    n = 2 * rate
    return (0.02 * draw.gamma(0.4, size=n) * draw.choice([-1.0, 1.0], size=n)).astype(np.float32)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A manifest of two corpora: good speech, and one recording for each defect; a noise row and a broken file."""
    noisy = voice(2) + 0.05 * generator(3).standard_normal(2 * RATE).astype(np.float32)
    loud = np.clip(voice(4), -0.01, 0.01)
    sounds = {
        "good": voice(1),
        "call": resample(voice(1, 8000), 8000, RATE),
        "noisy": noisy,
        "cut": loud,
    }
    for name, sound in sounds.items():
        sf.write(tmp_path / f"{name}.flac", sound, RATE)
    (tmp_path / "broken.flac").write_bytes(b"fLaC")
    rows = [utterance("a", name) for name in (*sounds, "broken")]
    rows.append(dataclasses.replace(utterance("a", "n"), kind="noise"))
    write_rows(tmp_path / "a.parquet", Utterance, rows)
    write_rows(tmp_path / "b.parquet", Utterance, [utterance("b", name) for name in sounds])
    return tmp_path


def utterance(corpus: str, name: str) -> Utterance:
    return Utterance(utt_id=f"{corpus}/{name}", corpus=corpus, kind="speech", path=f"{name}.flac", duration_s=2.0)


def context(corpus: Path, folder: Path) -> Context:
    return Context(
        folder,
        name="quality",
        inputs={"ingest": UnrecordedOutput(corpus)},
        roots={"a": corpus, "b": corpus},
    )


def kept(stage: Context) -> list[str]:
    return [row.utt_id for row in read_rows(stage.parts(".parquet"), Utterance)]


def reasons(stage: Context) -> dict[str, str]:
    return {reject.utt_id: reject.reason for reject in read_rows(stage.parts(".rejects.parquet"), Reject)}


def test_off_all_speech_passes_and_no_audio_is_read(corpus: Path, tmp_path: Path) -> None:
    for path in corpus.glob("*.flac"):
        path.unlink()
    stage = context(corpus, tmp_path / "out")
    report = run(Config(), stage)
    assert report.kept == report.taken
    assert kept(stage) == [
        row.utt_id for row in read_rows([corpus / "a.parquet", corpus / "b.parquet"], Utterance) if row.kind == "speech"
    ]
    assert not (tmp_path / "out" / "report.html").exists()


def test_every_defect_has_its_reason_and_the_account_balances(corpus: Path, tmp_path: Path) -> None:
    stage = context(corpus, tmp_path / "out")
    report = run(Config(dnsmos=False, **LIMITS), stage)
    assert kept(stage) == ["a/good", "b/good"]
    assert reasons(stage) == {
        **{f"{name}/call": "narrow_band" for name in "ab"},
        **{f"{name}/noisy": "low_snr" for name in "ab"},
        **{f"{name}/cut": "clipped" for name in "ab"},
        "a/broken": "undecodable",
    }
    assert {reason: tally.utterances for reason, tally in report.dropped.items()} == {
        "narrow_band": 2,
        "low_snr": 2,
        "clipped": 2,
    }
    assert {reason: tally.utterances for reason, tally in report.failed.items()} == {"undecodable": 1}
    assert report.taken.utterances == 9


def test_the_values_of_each_unit_are_stored_and_shown(corpus: Path, tmp_path: Path) -> None:
    stage = context(corpus, tmp_path / "out")
    report = run(Config(dnsmos=False, **LIMITS), stage)
    values = {
        quality.utt_id: quality
        for file in stage.unit_files(".quality.parquet", hidden=True)
        for quality in read_rows(file.path, Quality)
    }
    assert values.keys() == {*kept(stage), *reasons(stage)}
    assert values["a/good"].bandwidth_hz == pytest.approx(8000, abs=100)
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<figure>") == 6  # three measures of two corpora
    assert "4500" in page
    assert report.metrics["a median bandwidth_hz"] > 4000
    assert not any(key.startswith("bin ") for key in report.metrics)


def test_a_corpus_may_have_other_thresholds(corpus: Path, tmp_path: Path) -> None:
    stage = context(corpus, tmp_path / "out")
    run(Config(dnsmos=False, corpora=(CorpusLimits(name="b", min_bandwidth_hz=0.0),), **LIMITS), stage)
    assert kept(stage) == ["a/good", "b/good", "b/call"]


def test_other_thresholds_measure_nothing_again(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: Counter[str] = Counter()
    of_row = QualityMeter.of_row

    def counting(self: QualityMeter, row: Utterance, path: Path) -> Quality:
        measured[row.utt_id] += 1
        return of_row(self, row, path)

    monkeypatch.setattr(QualityMeter, "of_row", counting)
    run(Config(dnsmos=False, enabled=True), context(corpus, tmp_path / "out"))
    assert sum(measured.values()) == 9
    again = context(corpus, tmp_path / "out")
    run(Config(dnsmos=False, **LIMITS), again)
    assert sum(measured.values()) == 9
    assert kept(again) == ["a/good", "b/good"]
    fresh = context(corpus, tmp_path / "fresh")
    run(Config(dnsmos=False, **LIMITS), fresh)
    assert [path.read_bytes() for path in fresh.parts(".parquet")] == [
        path.read_bytes() for path in again.parts(".parquet")
    ]


def test_measuring_without_thresholds_drops_nothing(corpus: Path, tmp_path: Path) -> None:
    stage = context(corpus, tmp_path / "out")
    report = run(Config(dnsmos=False, enabled=True), stage)
    assert not report.dropped
    assert (tmp_path / "out" / "report.html").exists()


def test_switched_off_thresholds_drop_nothing(corpus: Path, tmp_path: Path) -> None:
    config = Config(enabled=False, dnsmos=False, **LIMITS)
    assert config.limits_of("a") == QualityLimits()
    assert not run(config, context(corpus, tmp_path / "out")).dropped


def test_without_speech_it_says_so(tmp_path: Path) -> None:
    noise = dataclasses.replace(utterance("a", "n"), kind="noise")
    write_rows(tmp_path / "a.parquet", Utterance, [noise])
    with pytest.raises(UserError, match="ingest kept no speech"):
        run(Config(), context(tmp_path, tmp_path / "out"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"corpora": (CorpusLimits(name="a"), CorpusLimits(name="a"))}, "corpora names a twice"),
        ({"longest_s": 0.0}, "longest_s"),
        ({"min_dnsmos": 3.0, "dnsmos": False}, "min_dnsmos is given, but dnsmos is false"),
        ({"max_clipped": 2.0}, "max_clipped"),
    ],
)
def test_settings_that_contradict_themselves_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**values)  # type: ignore[arg-type]


def test_a_row_that_must_not_be_read_fails_and_the_others_are_measured(corpus: Path, tmp_path: Path) -> None:
    part = ManifestPart(corpus / "a.parquet", 5, "speech").refuse({0: ("worker_died", "a/good: kills workers")})
    config = Config(dnsmos=False, **LIMITS)
    worker = Worker(config, {"a": corpus})
    values = UnitFolder(tmp_path, "values")
    measured = worker(part, values)
    assert [reject.reason for reject in measured.rejects] == ["undecodable", "worker_died"]
    judged = worker(
        Measured(corpus / "a.parquet", values.path(".quality.parquet"), config.limits_of("a")),
        UnitFolder(tmp_path, "judged"),
    )
    found = {reject.utt_id: (reject.reason, reject.kind) for reject in judged.rejects}
    assert found["a/good"] == ("worker_died", "failed")
    assert len(found) == 5
