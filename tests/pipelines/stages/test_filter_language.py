"""Laws of the language filter: its account balances, labels are worth what the config says, silence has no language."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile as sf

from flowse.data.manifest import Utterance
from flowse.data.parquet import read_rows, write_rows
from flowse.errors import UserError
from pipelines.engine.accounts import Tally, UnitReport, account_unit
from pipelines.engine.context import Context, UnrecordedOutput
from pipelines.engine.fingerprint import Identity
from pipelines.engine.manifest_part import ManifestPart
from pipelines.engine.units import UnitFolder
from pipelines.stages.filter_language import Config, Worker, run
from tests.tiny import write_whisper

RATE = 16000
PITCH = {"en": 200, "zh": 300, "fr": 400, "yue": 500, "mixed": 600, "unsure": 700}
DETECTED = {
    "en": {"en": 0.9, "zh": 0.05, "fr": 0.05},
    "zh": {"en": 0.1, "zh": 0.8, "fr": 0.1},
    "fr": {"en": 0.1, "zh": 0.1, "fr": 0.8},
    "yue": {"en": 0.1, "zh": 0.35, "yue": 0.45, "fr": 0.1},
    "mixed": {"en": 0.45, "zh": 0.45, "fr": 0.1},
    "unsure": {"en": 0.3, "zh": 0.1, "fr": 0.2, "de": 0.2, "es": 0.2},
}


class ByPitch:
    """A labeller that detects the language by the pitch."""

    multilingual = True

    def __init__(self, config: Config, device: str) -> None:
        assert device == "cpu"

    def detect_language(self, waveforms: Sequence[np.ndarray]) -> list[dict[str, float]]:
        found = []
        for waveform in waveforms:
            spectrum = np.abs(np.fft.rfft(waveform))
            pitch = float(np.argmax(spectrum)) * RATE / len(waveform)
            found.append(DETECTED[min(PITCH, key=lambda name: abs(PITCH[name] - pitch))])
        return found


def voice(language: str, seconds: float = 1.0) -> np.ndarray:
    n = round(seconds * RATE)
    envelope = np.maximum(0.01, np.sin(np.arange(n) * 2 * np.pi * 3 / RATE))
    return (0.1 * envelope * np.sin(np.arange(n) * 2 * np.pi * PITCH[language] / RATE)).astype(np.float32)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A manifest part with all that occurs: languages, labels, silence, hum, broken files, noise rows."""
    hum = (0.1 * np.sin(np.arange(RATE) * 2 * np.pi * 50 / RATE)).astype(np.float32)
    sounds = {language: voice(language) for language in PITCH} | {"silent": np.zeros(RATE, np.float32), "hum": hum}
    labels = {"en": "eng", "zh": "zh-CN", "fr": "French", "yue": "zh", "mixed": "", "unsure": "en"}
    rows = []
    for name, sound in sounds.items():
        sf.write(tmp_path / f"{name}.wav", sound, RATE)
        rows.append(utterance(f"{name}.wav", language=labels.get(name, "en")))
    (tmp_path / "empty.wav").touch()
    rows += [utterance("empty.wav", language="en"), utterance("gone.wav"), replace(utterance("n.wav"), kind="noise")]
    write_rows(tmp_path / "part-00000.parquet", Utterance, rows)
    return tmp_path


def utterance(path: str, language: str = "") -> Utterance:
    return Utterance(
        utt_id=f"c/{path.replace('.', '-')}", corpus="c", kind="speech", path=path, duration_s=1.0, language=language
    )


@pytest.fixture
def by_pitch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowse.whisper.labeller.Labeller", ByPitch)


def work(folder: Path, config: Config) -> tuple[UnitReport, dict[str, Utterance], dict[str, str]]:
    output = UnitFolder(folder, "out")
    report = Worker(config, {"c": folder}, "cpu")(ManifestPart(folder / "part-00000.parquet", 0, "speech"), output)
    kept = {row.path.split(".")[0]: row for row in read_rows(output.path(".parquet"), Utterance)}
    rejected = {reject.utt_id[2:].split("-")[0]: f"{reject.kind} {reject.reason}" for reject in report.rejects}
    return report, kept, rejected


REFUSED = {
    "silent": "dropped no_speech",
    "hum": "dropped no_speech",
    "empty": "failed empty_file",
    "gone": "failed not_found",
}


@pytest.mark.usefixtures("by_pitch")
def test_every_speech_row_is_kept_or_rejected_with_its_reason(corpus: Path) -> None:
    report, kept, rejected = work(corpus, Config())
    assert {name: row.language for name, row in kept.items()} == {"en": "en", "zh": "zh", "yue": "zh", "mixed": "en"}
    assert kept["yue"].language_prob == pytest.approx(0.8)
    assert rejected == REFUSED | {"fr": "dropped other_language", "unsure": "dropped uncertain_language"}
    balanced = account_unit(Tally(10, 10.0), report)
    assert balanced.kept == Tally(4, 4.0)
    detail = next(reject.detail for reject in report.rejects if reject.reason == "other_language")
    assert detail.startswith("fr 0.80")


@pytest.mark.usefixtures("by_pitch")
def test_verified_labels_must_agree(corpus: Path) -> None:
    rows = list(read_rows(corpus / "part-00000.parquet", Utterance))
    wrong = [replace(row, language="zh") if row.path == "en.wav" else row for row in rows]
    write_rows(corpus / "part-00000.parquet", Utterance, wrong)
    _, kept, rejected = work(corpus, Config(labels="verify"))
    assert set(kept) == {"zh", "yue", "mixed"}
    assert rejected["en"] == "dropped label_mismatch"
    assert rejected["fr"] == "dropped other_language"


def test_trusted_labels_need_no_model_and_no_audio(corpus: Path) -> None:
    rows = [row for row in read_rows(corpus / "part-00000.parquet", Utterance) if row.language]
    write_rows(corpus / "part-00000.parquet", Utterance, rows)
    for file in corpus.glob("*.wav"):
        file.unlink()
    report, kept, rejected = work(corpus, Config(labels="trust", model="/there/is/none.pt"))
    assert len(kept) == 7
    assert rejected == {"fr": "dropped other_language"}
    assert kept["zh"].language == "zh"
    assert kept["zh"].language_prob is None
    account_unit(Tally(8, 8.0), report)


@pytest.mark.usefixtures("by_pitch")
def test_a_language_alone_or_among_others_gets_the_same_verdict(corpus: Path) -> None:
    _, together, _ = work(corpus, Config())
    rows = list(read_rows(corpus / "part-00000.parquet", Utterance))
    for row in rows[:4]:
        write_rows(corpus / "part-00000.parquet", Utterance, [row])
        _, alone, _ = work(corpus, Config())
        assert list(alone.values()) == [together[name] for name in alone]


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"labels": "maybe"}, "labels is 'maybe'; allowed: trust, verify, ignore"),
        ({"languages": ()}, "languages is empty"),
        ({"min_probability": 1.5}, "min_probability is 1.5"),
    ],
)
def test_a_wrong_value_is_named(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Config(**values)


@pytest.fixture
def context(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Context:
    return Context(tmp_path_factory.mktemp("stage"), inputs={"quality": UnrecordedOutput(corpus)}, roots={"c": corpus})


@pytest.mark.usefixtures("by_pitch")
def test_the_stage_reports_how_well_it_detects_languages(context: Context, corpus: Path) -> None:
    report = run(Config(model=str(corpus / "en.wav")), context)
    assert report.taken == Tally(10, 10.0)
    assert report.notes == ("language filter: recall 75.0%, precision 100.0% on 5 labelled",)
    assert not any(key.startswith("told") for key in report.metrics)
    table = pq.read_table(context.folder / "languages.parquet").to_pylist()
    assert {"label": "fr", "decision": "other_language fr", "kept": False, "utterances": 1} in table
    assert sum(row["utterances"] for row in table) == 5


def test_a_missing_model_is_named_before_any_work(context: Context) -> None:
    with pytest.raises(UserError, match=r"filter_language\.model.*no/such\.pt"):
        run(Config(model="no/such.pt"), context)


def test_a_backend_that_is_not_installed_says_what_to_type(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"^filter_language\.backend: .*pip install '\.\[faster\]'$"):
        run(Config(backend="faster-whisper"), context)


def test_backend_and_precision_enter_the_fingerprint() -> None:
    configs = (Config(), Config(backend="faster-whisper"), Config(backend="faster-whisper", compute="int8"))
    assert len({Identity.of("filter_language", 1, config, 0, {}).fingerprint for config in configs}) == len(configs)
    with pytest.raises(ValueError, match="faster-whisper"):
        Config(compute="int8")


def test_a_language_that_whisper_does_not_know_is_named(context: Context) -> None:
    with pytest.raises(UserError, match="tlh"):
        run(Config(languages=("en", "tlh")), context)


def test_a_corpus_without_speech_is_an_error(context: Context, corpus: Path, tmp_path: Path) -> None:
    noise = [replace(utterance("n.wav"), kind="noise")]
    write_rows(corpus / "part-00000.parquet", Utterance, noise)
    model = tmp_path / "model.pt"
    model.touch()
    with pytest.raises(UserError, match="no speech"):
        run(Config(model=str(model)), context)


def test_a_real_model_decides_and_an_english_one_is_refused(corpus: Path) -> None:
    multilingual = write_whisper(corpus / "multilingual.pt", audio_ctx=100)
    report, _, rejected = work(corpus, Config(model=str(multilingual), min_probability=0.0))
    account_unit(Tally(10, 10.0), report)
    assert REFUSED.items() <= rejected.items()
    english = write_whisper(corpus / "english.pt", audio_ctx=100, vocabulary=51864)
    with pytest.raises(UserError, match="multilingual"):
        work(corpus, Config(model=str(english)))
