"""Laws of evaluate: every recording is scored once or rejected with a reason; summary and page follow from scores."""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import soundfile as sf
import torch
from safetensors.torch import load_file, save_file

from flowse.audio.flac import flac_bytes
from flowse.data.manifest import Reject
from flowse.data.parquet import read_rows
from flowse.data.shards import Mixture, ShardWriter, merge_indexes, write_index
from flowse.errors import UserError
from flowse.export import ModelConfig, save
from flowse.flow.config import FlowConfig
from flowse.flow.sampling import Sampling
from flowse.metrics.dnsmos import DnsmosScore
from flowse.metrics.pairs import Pairs
from flowse.metrics.scores import Score, by_recording
from flowse.model.spec import DiTConfig, ModelSpec
from flowse.model.system import build
from flowse.seeding import generator
from flowse.whisper.config import WhisperConfig
from flowse.whisper.conversion import convert
from flowse.whisper.transcript import Transcript
from pipelines.engine.accounts import StageReport
from pipelines.engine.context import Context, UnrecordedOutput
from pipelines.engine.fingerprint import Identity
from pipelines.stages import evaluate
from pipelines.stages.evaluate import Config
from tests.pipelines.doubles import RememberingTracker
from tests.tiny import write_vocoder, write_whisper

RATE = 24_000


def voice(seed: int, seconds: float = 1.2) -> np.ndarray:
    """Harmonics under a syllabic envelope."""
    t = np.arange(round(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(110 + 12 * seed + 20 * np.sin(2 * np.pi * 0.7 * t)) / RATE
    voiced = sum(np.sin(k * phase) / k for k in range(1, 30))
    return (0.12 * np.clip(np.sin(2 * np.pi * 2.2 * t), 0, None) * voiced).astype(np.float32)


def noisy(clean: np.ndarray, seed: int) -> np.ndarray:
    return (clean + 0.02 * generator(seed).standard_normal(len(clean))).astype(np.float32)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, UnrecordedOutput]:
    """Simulate's shards and train's weights, tiny; beside them a random vocoder."""
    root = tmp_path_factory.mktemp("inputs")
    shards = root / "simulate"
    shards.mkdir()
    with ShardWriter(shards / "test-00000.tar", "test-00000.tar") as writer:
        for i in range(5):
            clean = voice(i)
            meta = {
                "utt_id": f"c/u{i}", "copy": 0, "split": "test", "text": "hello",
                "language": "en" if i % 2 else "zh",
                "speaker": f"s{i}", "corpus": "c", "licence": "CC0-1.0", "snr_db": 3.0 * i,
                "room_id": "r" if i == 2 else "",
            }  # fmt: skip
            writer.add(Mixture(key=f"c/u{i}", clean=clean, noisy=noisy(clean, i), sample_rate=RATE, meta=meta))
    write_index(shards / "test-00000.index.parquet", writer.close())
    merge_indexes([shards / "test-00000.index.parquet"], shards / "index.parquet")
    trained = root / "train"
    trained.mkdir()
    small = DiTConfig(dim=32, depth=1, heads=2, conv_groups=4, text_dim=16, text_blocks=1)
    spec = ModelSpec(model=small, flow=FlowConfig(source="predicted"), mel_mean=-6.0, mel_std=3.0)
    torch.manual_seed(0)
    save_file(build(spec).state_dict(), trained / "model.safetensors")
    (trained / "spec.json").write_text(json.dumps(spec.to_dict()))
    vocos = write_vocoder(root / "vocos")
    return {"simulate": UnrecordedOutput(shards), "train": UnrecordedOutput(trained), "vocos": UnrecordedOutput(vocos)}


@pytest.fixture(scope="module")
def config(inputs: dict[str, UnrecordedOutput]) -> Config:
    return Config(
        vocoder=str(inputs["vocos"].folder),
        sampling=Sampling(steps=1),
        whisper="",
        max_items=3,
        examples=1,
        unit_size=2,
        resamples=100,
    )


class ByLevel:
    """Scores by level in no time, for tests that are not about DNSMOS."""

    def __init__(self, threads: int) -> None: ...

    def __call__(self, waveform: np.ndarray, sample_rate: int) -> DnsmosScore:
        value = 1 + 4 * float(np.abs(waveform).mean())
        return DnsmosScore(ovrl=value, sig=value, bak=value, p808=value)


@pytest.fixture
def no_dnsmos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowse.metrics.dnsmos.Dnsmos", ByLevel)


@pytest.fixture(scope="module")
def done(
    inputs: dict[str, UnrecordedOutput], config: Config, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Context, StageReport]:
    context = Context(tmp_path_factory.mktemp("evaluate"), seed=7, inputs=inputs, tracker=RememberingTracker())
    return context, evaluate.run(config, context)


def test_every_recording_has_every_version_and_the_account_balances(done: tuple[Context, StageReport]) -> None:
    context, report = done
    scores = list(read_rows(context.folder / "scores.parquet", Score))
    keys = {score.key for score in scores}
    assert len(keys) == 3
    assert sorted((score.key, score.signal) for score in scores) == sorted(
        (key, signal) for key in keys for signal in ("noisy", "enhanced", "clean")
    )
    assert report.taken == report.kept
    assert report.kept.utterances == 3


def test_clean_speech_beats_noisy_speech(done: tuple[Context, StageReport]) -> None:
    scores = list(read_rows(done[0].folder / "scores.parquet", Score))
    for versions in by_recording(scores).values():
        assert versions["clean"].bak > versions["noisy"].bak
        assert versions["noisy"].lag_ms == 0
        assert versions["clean"].estoi is None
        assert versions["enhanced"].peak <= 1


def test_summary_page_and_metrics_agree(done: tuple[Context, StageReport]) -> None:
    context, report = done
    summary = json.loads((context.folder / "summary.json").read_text())
    scores = list(read_rows(context.folder / "scores.parquet", Score))
    ovrl = next(row for row in summary["summary"] if row["metric"] == "ovrl" and row["group"] == "all")
    assert ovrl["enhanced"] == pytest.approx(np.mean([score.ovrl for score in scores if score.signal == "enhanced"]))
    assert report.metrics["enhanced/ovrl"] == pytest.approx(ovrl["enhanced"])
    assert report.metrics["rtf"] > 0
    page = (context.folder / "report.html").read_text()
    assert f"{ovrl['enhanced']:.2f}" in page
    for label in ("noisy", "enhanced", "clean"):
        assert page.count(f'"label": "{label}"') == 3  # three recordings
    assert page.count('"flac":') == 9  # all of them are among the ten that gained least
    assert "not meaningful for non-aligned output" in page
    assert "Measured lag" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert isinstance(context.tracker, RememberingTracker)
    assert context.tracker.artifacts == ["scores.parquet", "summary.json", "report.html"]
    assert any("DNSMOS overall" in note for note in report.notes)
    # One of the predictor, one of the flow.
    assert report.metrics["network evaluations"] == 2
    assert any(note.startswith("2 evaluation(s) of the network a window: euler, 1 steps") for note in report.notes)
    assert str(context.folder / "report.html") in report.notes[-1]


def test_a_rerun_writes_the_same_bytes(
    inputs: dict[str, UnrecordedOutput], config: Config, done: tuple[Context, StageReport], tmp_path: Path
) -> None:
    context = Context(tmp_path, seed=7, inputs=inputs)
    evaluate.run(config, context)
    for name in ("scores.parquet", "summary.json"):
        assert (tmp_path / name).read_bytes() == (done[0].folder / name).read_bytes()


@pytest.mark.usefixtures("no_dnsmos")
def test_folders_are_scored_and_bad_files_become_rejects(
    inputs: dict[str, UnrecordedOutput], config: Config, tmp_path: Path
) -> None:
    for kind in ("noisy", "clean"):
        (tmp_path / kind).mkdir()
    for i in range(2):
        clean = voice(i)
        sf.write(tmp_path / "clean" / f"clean_fileid_{i}.wav", clean, RATE)
        sf.write(tmp_path / "noisy" / f"book_snr{i}_fileid_{i}.wav", noisy(clean, i), RATE)
    (tmp_path / "noisy" / "x_fileid_0.wav").write_bytes(b"<html>")
    sf.write(tmp_path / "noisy" / "y_fileid_1.wav", np.zeros(9000), RATE)
    (tmp_path / "texts.csv").write_text("path,text,language\nbook_snr0_fileid_0.wav,hello there,en\n")
    pairs = Pairs(
        name="dns",
        noisy=str(tmp_path / "noisy"),
        clean=str(tmp_path / "clean"),
        transcripts=str(tmp_path / "texts.csv"),
    )
    context = Context(tmp_path / "out", seed=7, inputs=inputs)
    report = evaluate.run(dataclasses.replace(config, pairs=(pairs,), max_items=0, unit_size=20), context)
    scores = list(read_rows(context.folder / "scores.parquet", Score))
    of_pairs = {score.key: score for score in scores if score.test_set == "dns" and score.signal == "enhanced"}
    assert sorted(of_pairs) == ["dns/book_snr0_fileid_0.wav", "dns/book_snr1_fileid_1.wav"]
    assert of_pairs["dns/book_snr0_fileid_0.wav"].text == "hello there"
    assert of_pairs["dns/book_snr0_fileid_0.wav"].estoi is not None
    assert (report.taken.utterances, report.kept.utterances) == (9, 7)
    assert set(report.failed) == {"html_instead_of_audio"}
    assert set(report.dropped) == {"silent"}
    rejects = list(read_rows(context.parts(".rejects.parquet"), Reject))
    assert {reject.utt_id for reject in rejects} == {"dns/x_fileid_0.wav", "dns/y_fileid_1.wav"}
    page = (context.folder / "report.html").read_text()
    assert "set dns" in page


def test_of_recordings_without_speech_the_level_that_is_left_is_measured(
    inputs: dict[str, UnrecordedOutput], config: Config, tmp_path: Path, no_dnsmos: None
) -> None:
    (tmp_path / "street").mkdir()
    for i in range(2):
        sf.write(tmp_path / "street" / f"n{i}.wav", 0.05 * generator(i).standard_normal(RATE), RATE)
    street = Pairs(name="street", noisy=str(tmp_path / "street"), noise_only=True)
    context = Context(tmp_path / "out", seed=7, inputs=inputs)
    report = evaluate.run(dataclasses.replace(config, pairs=(street,), whisper="whisper-tiny"), context)
    scores = list(read_rows(context.folder / "scores.parquet", Score))
    left = {(score.key, score.signal): score.residual_db for score in scores if score.residual_db is not None}
    assert sorted(left) == [(f"street/n{i}.wav", signal) for i in range(2) for signal in ("enhanced", "noisy")]
    assert left["street/n0.wav", "noisy"] == pytest.approx(-26.0, abs=0.3)
    summary = json.loads((context.folder / "summary.json").read_text())["summary"]
    recordings = {row["metric"]: row["recordings"] for row in summary if row["group"] == "all"}
    assert (recordings["residual_db"], recordings["ovrl"]) == (2, 3)
    assert report.metrics["enhanced/residual_db"] == pytest.approx(
        (left["street/n0.wav", "enhanced"] + left["street/n1.wav", "enhanced"]) / 2
    )
    assert any("No speech, dBFS" in note for note in report.notes)
    assert "no speech, enhanced, dBFS" in (context.folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocoder": "nothing"}, "evaluate.vocoder"),
        ({"whisper": "/no/such.pt"}, "evaluate.whisper"),
        ({"speaker": "nobody"}, "evaluate.speaker"),
        ({"previous": "nobody"}, "evaluate.previous"),
        ({"model": "nobody"}, "evaluate.model"),
        ({"pairs": (Pairs(noisy="/no/such/folder"),)}, "evaluate.pairs pairs: noisy"),
    ],
)
def test_mistakes_are_named_before_any_work(
    inputs: dict[str, UnrecordedOutput], config: Config, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    context = Context(tmp_path, seed=7, inputs=inputs)
    with pytest.raises(UserError, match=message):
        evaluate.run(dataclasses.replace(config, **changes), context)
    assert context.units == []


@pytest.mark.usefixtures("no_dnsmos")
def test_a_model_from_elsewhere_gets_the_scores_that_it_would_get_here(
    inputs: dict[str, UnrecordedOutput], config: Config, done: tuple[Context, StageReport], tmp_path: Path
) -> None:
    trained = inputs["train"].folder
    spec = ModelSpec.from_dict(json.loads((trained / "spec.json").read_text()))
    described = ModelConfig(spec=spec, sampling=config.sampling)
    save(tmp_path / "model", described, load_file(trained / "model.safetensors"), inputs["vocos"].folder, "# Model\n")
    given = dataclasses.replace(config, model=str(tmp_path / "model"), vocoder="", sampling=Sampling(steps=9))
    assert given.reads() == ("simulate",)
    context = Context(tmp_path / "given", seed=7, inputs={"simulate": inputs["simulate"]})
    evaluate.run(given, context)
    scores = {(score.key, score.signal): score.peak for score in read_rows(context.folder / "scores.parquet", Score)}
    here = {(score.key, score.signal): score.peak for score in read_rows(done[0].folder / "scores.parquet", Score)}
    assert scores == here
    summary = json.loads((context.folder / "summary.json").read_text())
    assert summary["model"] == given.model
    assert summary["sampling"]["steps"] == 1


@pytest.mark.usefixtures("no_dnsmos")
def test_folders_alone_need_no_dataset(config: Config, tmp_path: Path) -> None:
    for folder in ("noisy", "clean"):
        (tmp_path / folder).mkdir()
        sf.write(tmp_path / folder / "a.wav", voice(1), RATE)
    pairs = (Pairs(name="mine", noisy=str(tmp_path / "noisy"), clean=str(tmp_path / "clean")),)
    alone = dataclasses.replace(config, model="flowse-small", simulated=False, pairs=pairs)
    assert alone.reads() == ()
    context = Context(tmp_path / "out", seed=7, inputs={})
    assert evaluate.run(alone, context).kept.utterances == 1


@pytest.mark.usefixtures("no_dnsmos")
def test_previous_model_is_scored_beside_the_new_one(
    inputs: dict[str, UnrecordedOutput], config: Config, tmp_path: Path
) -> None:
    trained = inputs["train"].folder
    spec = ModelSpec.from_dict(json.loads((trained / "spec.json").read_text()))
    described = ModelConfig(spec=spec, sampling=config.sampling)
    save(tmp_path / "old", described, load_file(trained / "model.safetensors"), inputs["vocos"].folder, "# Old\n")
    context = Context(tmp_path / "again", seed=7, inputs=inputs)
    evaluate.run(dataclasses.replace(config, previous=str(tmp_path / "old"), max_items=1), context)
    scores = {score.signal: score for score in read_rows(context.folder / "scores.parquet", Score)}
    assert scores["previous"].ovrl == scores["enhanced"].ovrl  # the same model, the same seed
    assert "enhanced − previous" in (context.folder / "report.html").read_text()


@pytest.mark.usefixtures("no_dnsmos")
def test_word_errors_and_speakers_are_compared_where_there_is_a_model(
    inputs: dict[str, UnrecordedOutput], config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Recogniser:
        """Recognises "hello" in all that is loud enough, else nothing; knows English only."""

        languages = ("en",)

        def __init__(self, config: WhisperConfig, device: str) -> None: ...

        def transcribe(self, waveforms: Sequence[np.ndarray], languages: Sequence[str | None]) -> list[Transcript]:
            assert set(languages) <= {"en", None}
            return [
                Transcript(
                    text="hello" if np.abs(waveform).max() > 0.05 else "",
                    language="en",
                    avg_logprob=0.0,
                    no_speech_prob=0.0,
                    compression_ratio=1.0,
                )
                for waveform in waveforms
            ]

    class Speakers:
        def __init__(self, path: Path, threads: int) -> None: ...

        def embed(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
            return np.array([1.0, 0.0])

    monkeypatch.setattr("flowse.whisper.labeller.Labeller", Recogniser)
    monkeypatch.setattr("flowse.metrics.speaker.SpeakerEncoder", Speakers)
    for name in ("w.pt", "s.onnx"):
        (tmp_path / name).write_bytes(b"x")
    changes = {"whisper": str(tmp_path / "w.pt"), "speaker": str(tmp_path / "s.onnx"), "max_items": 2}
    context = Context(tmp_path / "out", seed=7, inputs=inputs)
    evaluate.run(dataclasses.replace(config, **changes), context)
    scores = list(read_rows(context.folder / "scores.parquet", Score))
    assert {score.errors for score in scores if score.signal == "clean"} == {0}
    assert {score.tokens for score in scores} == {1}
    assert {score.errors_clean for score in scores if score.signal == "clean"} == {None}
    assert {score.errors_clean for score in scores if score.signal == "noisy"} == {0}
    assert {score.speaker_cosine for score in scores if score.signal != "clean"} == {1.0}
    summary = json.loads((context.folder / "summary.json").read_text())
    assert {"wer", "dwer", "speaker_cosine"} <= {row["metric"] for row in summary["summary"]}


@pytest.mark.usefixtures("no_dnsmos")
def test_a_ctranslate2_folder_is_a_recogniser_too(
    inputs: dict[str, UnrecordedOutput], config: Config, tmp_path: Path
) -> None:
    pytest.importorskip("ctranslate2", reason="pip install '.[faster]'")
    convert(write_whisper(tmp_path / "model.pt", audio_ctx=300), tmp_path / "folder")
    context = Context(tmp_path / "out", seed=7, inputs=inputs)
    folder = dataclasses.replace(config, whisper=str(tmp_path / "folder"), max_items=1)
    with pytest.raises(UserError, match=r"^evaluate\.whisper: .*only backend 'faster-whisper' reads"):
        evaluate.run(folder, context)
    evaluate.run(dataclasses.replace(folder, whisper_backend="faster-whisper"), context)
    assert {score.tokens for score in read_rows(context.folder / "scores.parquet", Score)} == {1}
    part = dataclasses.replace(folder, whisper=str(tmp_path / "folder" / "model.bin"), whisper_backend="faster-whisper")
    with pytest.raises(UserError, match=r"^evaluate\.whisper: .*give its folder"):
        evaluate.run(part, context)


def test_keys_that_were_added_later_leave_finished_evaluations_fresh() -> None:
    def fingerprinted(config: Config) -> Mapping[str, Any]:
        return Identity.of("evaluate", 1, config, 0, {}).settings

    assert not any("backend" in key or "compute" in key for key in fingerprinted(Config()))
    chosen = fingerprinted(Config(whisper_backend="faster-whisper", whisper_compute="int8"))
    assert (chosen["whisper_backend"], chosen["whisper_compute"]) == ("faster-whisper", "int8")


def test_configs_refuse_nonsense() -> None:
    with pytest.raises(ValueError, match=r"^whisper_compute is 'int8', which backend 'openai' does not have"):
        Config(whisper_compute="int8")
    with pytest.raises(ValueError, match="unit_size is 0"):
        Config(unit_size=0)
    with pytest.raises(ValueError, match="nothing to test on"):
        Config(simulated=False)
    with pytest.raises(ValueError, match="must differ"):
        Config(pairs=(Pairs(name="a"), Pairs(name="a")))


def test_a_recording_at_which_a_model_or_a_metric_fails_is_one_reject(
    inputs: dict[str, UnrecordedOutput],
    config: Config,
    tmp_path: Path,
    no_dnsmos: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[int] = []

    def third_fails(self: ByLevel, waveform: np.ndarray, sample_rate: int) -> DnsmosScore:
        seen.append(len(waveform))
        if len(waveform) == 9600:
            raise FloatingPointError("division by zero")
        return DnsmosScore(ovrl=1.0, sig=1.0, bak=1.0, p808=1.0)

    monkeypatch.setattr(ByLevel, "__call__", third_fails)
    for name, seconds in (("a", 1.0), ("b", 0.4), ("c", 0.8)):
        sf.write(tmp_path / f"{name}.wav", voice(1, seconds), RATE)
    settings = dataclasses.replace(config, simulated=False, pairs=(Pairs(name="p", noisy=str(tmp_path)),), max_items=0)
    context = Context(tmp_path / "out", seed=7, inputs=inputs, tracker=RememberingTracker())
    report = evaluate.run(settings, context)
    assert (report.taken.utterances, report.kept.utterances) == (3, 2)
    assert report.failed["worker_error"].utterances == 1
    (reject,) = read_rows(context.parts(".rejects.parquet"), Reject)
    assert reject.utt_id == "p/b.wav"
    assert "FloatingPointError: division by zero" in reject.detail


@pytest.mark.usefixtures("no_dnsmos")
def test_the_page_shows_the_youngest_earlier_evaluation_and_nothing_else_changes(
    inputs: dict[str, UnrecordedOutput],
    config: Config,
    done: tuple[Context, StageReport],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = Context(tmp_path / "first", seed=7, inputs=inputs)
    evaluate.run(config, first)
    second = Context(tmp_path / "second", seed=7, inputs=inputs)
    damaged = UnrecordedOutput(tmp_path)  # no scores: a page can do without
    other = dataclasses.replace(config, sampling=Sampling(steps=2))
    monkeypatch.setattr(second, "earlier", lambda: iter([damaged, UnrecordedOutput(first.folder)]))
    evaluate.run(other, second)
    page = (second.folder / "report.html").read_text()
    assert "the previous evaluation (first)" in page
    assert page.count('"label": "previous"') == 3
    assert page.count('"flac":') == 12
    alone = Context(tmp_path / "alone", seed=7, inputs=inputs)
    evaluate.run(other, alone)
    for name in ("scores.parquet", "summary.json"):
        assert (alone.folder / name).read_bytes() == (second.folder / name).read_bytes()
    assert '"label": "previous"' not in (alone.folder / "report.html").read_text()


@pytest.mark.usefixtures("no_dnsmos")
def test_audio_that_the_page_does_not_hold_lies_beside_it(
    inputs: dict[str, UnrecordedOutput], config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowse.report.page.EMBEDDED_BYTES", 1)
    context = Context(tmp_path / "a b#c", seed=7, inputs=inputs, units_folder=tmp_path / "units of it")
    evaluate.run(dataclasses.replace(config, max_items=0), context)
    page = (context.folder / "report.html").read_text()
    assert '"flac":' not in page
    addresses = re.findall(r'"address": "([^"]+)"', page)
    assert len(addresses) == 15
    for address in addresses:
        samples, rate = sf.read(context.folder / unquote(address))
        assert rate == RATE
        assert len(samples) > 0


def test_examples_go_to_mlflow_to_hear_and_to_see() -> None:
    data = flac_bytes(generator(0).standard_normal(8_000).astype(np.float32) * 0.1, 16_000)
    found: list[str] = []

    class Listing(RememberingTracker):
        def artifact(self, path: Path, folder: str | None = None) -> None:
            found.extend(sorted(f"{folder}/{file.relative_to(path)}" for file in path.rglob("*.*")))

    context = SimpleNamespace(tracker=Listing("run"))
    evaluate._track_examples(context, {"a/b c": {"noisy": data, "enhanced": "../units/far.flac"}})  # type: ignore[arg-type]
    assert found == ["examples/01 a_b_c/noisy.flac", "examples/01 a_b_c/noisy.png"]
    evaluate._track_examples(context, {})  # type: ignore[arg-type]
    assert len(found) == 2


def test_headline_scores_fit_the_columns_of_a_list_and_those_that_were_not_measured_are_absent() -> None:
    found = evaluate.headline({"gain/ovrl": 0.853373, "enhanced/wer": 0.21949, "noisy/wer": 0.3})
    assert found == {"DNSMOS gain": 0.85, "WER": 0.219}
