"""Laws of transcription: the account balances, corpus texts are worth what the config says, doubts have a reason."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf

from flowse.data.manifest import Utterance
from flowse.data.parquet import read_rows, write_rows
from flowse.errors import UserError
from flowse.whisper.config import Decoding
from flowse.whisper.transcript import Transcript
from pipelines.engine.accounts import StageReport, Tally, UnitReport, account_unit
from pipelines.engine.context import Context, UnrecordedOutput
from pipelines.engine.fingerprint import UnitKeys
from pipelines.engine.manifest_part import ManifestPart
from pipelines.engine.units import UnitFolder
from pipelines.stages.transcribe import Config, Worker, following, run

RATE = 16000
TRANSCRIPTS = [
    ("en", "The cat sat on the mat."),
    ("zh", "我們今天去學校"),
    ("en", "no no no no no no"),
    ("en", "Subtitles by the Amara.org community"),
    ("en", ""),
]


class ByLength:
    """A labeller that transcribes by the length of the recording: a recording of n seconds has the n-th text."""

    languages = ("en", "zh")

    def __init__(self, config: Config, device: str) -> None:
        assert device == "cpu"

    def transcribe(
        self, waveforms: Sequence[np.ndarray], languages: Sequence[str], decoding: Decoding
    ) -> list[Transcript]:
        found = []
        for waveform, language in zip(waveforms, languages, strict=True):
            text = TRANSCRIPTS[round(len(waveform) / RATE) - 1][1]
            found.append(
                Transcript(text=text, language=language, avg_logprob=-0.2, no_speech_prob=0.1, tokens=5, seconds=1.0)
            )
        return found


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    rows = []
    for number, (language, _) in enumerate(TRANSCRIPTS, start=1):
        tone = np.sin(np.arange(number * RATE) * 0.1) * np.sin(np.arange(number * RATE) * 0.001)
        sf.write(tmp_path / f"{number}.wav", 0.1 * tone, RATE)
        rows.append(
            Utterance(
                utt_id=f"c/{number}",
                corpus="c",
                kind="speech",
                path=f"{number}.wav",
                duration_s=float(number),
                language=language,
            )
        )
    rows.append(replace(rows[0], utt_id="c/gone", path="gone.wav"))
    write_rows(tmp_path / "part-00000.parquet", Utterance, rows)
    return tmp_path


@pytest.fixture(autouse=True)
def by_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowse.whisper.labeller.Labeller", ByLength)


def work(folder: Path, config: Config) -> tuple[UnitReport, dict[str, Utterance], dict[str, str]]:
    worker = Worker(config, {"c": folder}, "cpu", "whisper:12345678")
    output = UnitFolder(folder, "out")
    report = worker(ManifestPart(folder / "part-00000.parquet", 0), output)
    kept = {row.utt_id[2:]: row for row in read_rows(output.path(".parquet"), Utterance)}
    return report, kept, {reject.utt_id[2:]: f"{reject.kind} {reject.reason}" for reject in report.rejects}


def give_texts(folder: Path, texts: dict[str, str]) -> None:
    rows = list(read_rows(folder / "part-00000.parquet", Utterance))
    labelled = [replace(row, text=texts.get(row.utt_id[2:], ""), text_source="corpus") for row in rows]
    write_rows(folder / "part-00000.parquet", Utterance, labelled)


def test_every_row_gets_a_transcript_or_a_reason(corpus: Path) -> None:
    report, kept, rejected = work(corpus, Config())
    assert {name: row.text for name, row in kept.items()} == {"1": TRANSCRIPTS[0][1], "2": "我们今天去学校"}
    assert {row.text_source for row in kept.values()} == {"whisper:12345678"}
    assert {row.text_logprob for row in kept.values()} == {-0.2}
    assert rejected == {
        "3": "dropped repetition",
        "4": "dropped known_phrase",
        "5": "dropped empty_transcript",
        "gone": "failed not_found",
    }
    account_unit(Tally(6, 16.0), report)


def test_doubtful_speech_may_stay_without_a_text(corpus: Path) -> None:
    report, kept, rejected = work(corpus, Config(doubtful="keep"))
    assert {name: (row.text, row.text_source) for name, row in kept.items() if name in "345"} == dict.fromkeys(
        "345", ("", "")
    )
    assert set(rejected) == {"gone"}
    assert report.metrics["kept without text, repetition"] == 1


def test_trusted_texts_are_kept_without_reading_the_audio(corpus: Path) -> None:
    give_texts(corpus, {"1": "A dog  ran.", "2": "漢語", "gone": "not read"})
    _, kept, _ = work(corpus, Config())
    assert [kept[name].text for name in ("1", "2", "gone")] == ["A dog ran.", "汉语", "not read"]
    assert {kept[name].text_source for name in ("1", "2", "gone")} == {"corpus"}
    assert kept["1"].text_logprob is None


def test_traditional_characters_may_stay(corpus: Path) -> None:
    _, kept, _ = work(corpus, Config(simplify=False))
    assert kept["2"].text == "我們今天去學校"


def test_verified_texts_must_be_about_the_same_as_whispers(corpus: Path) -> None:
    give_texts(corpus, {"1": "the cat sat on a mat", "2": "完全不同的话", "3": "no"})
    report, kept, rejected = work(corpus, Config(texts="verify"))
    assert kept["1"].text == "the cat sat on a mat"
    assert kept["1"].text_source == "corpus"
    assert kept["1"].text_logprob == -0.2
    assert rejected["2"] == rejected["3"] == "dropped text_mismatch"
    assert report.metrics["tokens zh"] == 6
    assert report.metrics["errors en"] == 1 + 5


def test_ignored_texts_are_replaced_and_still_compared(corpus: Path) -> None:
    give_texts(corpus, {"1": "the cat sat on a mat"})
    report, kept, _ = work(corpus, Config(texts="ignore"))
    assert kept["1"].text == TRANSCRIPTS[0][1]
    assert (report.metrics["errors en"], report.metrics["tokens en"]) == (1, 6)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Config(texts="maybe"), "texts is 'maybe'; allowed: trust, verify, ignore"),
        (lambda: Config(beam_size=0), "beam_size is 0"),
        (lambda: Config(doubtful="maybe"), "doubtful is 'maybe'"),
    ],
)
def test_a_wrong_value_is_named(make: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        make()


@pytest.fixture
def context(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Context:
    return Context(
        tmp_path_factory.mktemp("stage"), inputs={"filter_language": UnrecordedOutput(corpus)}, roots={"c": corpus}
    )


@pytest.mark.skipif(importlib.util.find_spec("ctranslate2") is None, reason="ctranslate2 is not installed")
def test_the_stage_records_how_it_decoded(context: Context, corpus: Path) -> None:
    give_texts(corpus, {"1": "the cat sat on a mat"})
    model = str(corpus / "1.wav")

    def done(name: str, **changes: Any) -> tuple[StageReport, dict[str, Any], set[str]]:
        folder = context.folder / name
        stage = Context(folder, inputs=context.inputs, roots=context.roots)
        report = run(Config(model=model, texts="ignore", **changes), stage)
        settings = json.loads((folder / "decoding.json").read_text())
        return report, settings, {row.text_source for row in read_rows(stage.parts(".parquet"), Utterance)}

    report, settings, sources = done("greedy")
    assert report.metrics["wer en"] == pytest.approx(1 / 6)
    assert settings["model"] == model
    assert len(settings["model_sha256"]) == 64
    _, _, others = done("beam", beam_size=2)
    assert sources.isdisjoint(others)
    # The same model in another program may give other texts: their source differs.
    _, settings, faster = done("faster", backend="faster-whisper")
    assert settings["backend"] == "faster-whisper"
    assert settings["ctranslate2"]
    assert faster.isdisjoint(sources | others)


def test_a_unit_that_is_made_of_one_file_alone_is_the_stages_own(context: Context, corpus: Path) -> None:
    """So that it may be done while filter_language still runs."""
    run(Config(), context)
    how = following(Config(), context.roots, "cpu")
    keys = UnitKeys(context.name)
    early = [how.unit_of(file) for file in context.inputs["filter_language"].unit_files(how.suffix)]
    assert [replace(unit, key=keys(unit.content)).name for unit in early] == context.units
    assert how.worker is Worker


def test_a_missing_model_is_named_before_any_work(context: Context) -> None:
    with pytest.raises(UserError, match=r"transcribe\.model.*no/such\.pt"):
        run(Config(model="no/such.pt"), context)


def test_a_language_that_the_model_does_not_know_is_named(corpus: Path) -> None:
    rows = [replace(row, language="fr") for row in read_rows(corpus / "part-00000.parquet", Utterance)]
    write_rows(corpus / "part-00000.parquet", Utterance, rows)
    with pytest.raises(UserError, match="fr"):
        work(corpus, Config())
