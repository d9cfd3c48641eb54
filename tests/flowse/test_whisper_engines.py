"""Laws of the engines: both hear the same, and what is missing or unknown is named in one line."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
import whisper

from flowse.audio.waveform import resample
from flowse.seeding import generator
from flowse.whisper import SAMPLE_RATE, Decoding, Labeller
from flowse.whisper_conversion import convert, converted
from flowse.whisper_engines import PATIENCE, BackendMissing, checkpoint_file, open_engine, refuse_unknown
from pipelines.corpora.demo.sentences import sentence
from pipelines.corpora.demo.speech import SAMPLE_RATE as SPEECH_RATE
from pipelines.corpora.demo.speech import Voice, synthesise
from tests.tiny import write_whisper

needs_ctranslate2 = pytest.mark.skipif(
    importlib.util.find_spec("ctranslate2") is None, reason="ctranslate2 is not installed: pip install '.[faster]'"
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model that hears 6 s, in openai-whisper's checkpoint format."""
    return write_whisper(tmp_path_factory.mktemp("whisper") / "model.pt", audio_ctx=300)


def test_a_missing_model_says_what_to_do() -> None:
    with pytest.raises(FileNotFoundError, match=r"whisper-tiny.*large-v3"):
        checkpoint_file("no/such/model.pt")


def test_a_published_name_is_left_to_the_backend() -> None:
    assert checkpoint_file("large-v3") is None


def test_a_folder_with_one_checkpoint_stands_for_it(checkpoint: Path) -> None:
    assert checkpoint_file(checkpoint.parent) == checkpoint


def test_a_ctranslate2_folder_is_for_its_own_backend(tmp_path: Path) -> None:
    (tmp_path / "model.bin").touch()
    with pytest.raises(FileNotFoundError, match="only backend 'faster-whisper'"):
        checkpoint_file(tmp_path)


def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.pt")
    (tmp_path / "text.pt").write_text("not a checkpoint")
    for name in ("other.pt", "text.pt"):
        with pytest.raises(ValueError, match=f"{name}.*not a checkpoint"):
            Labeller(tmp_path / name)


@pytest.mark.parametrize(
    ("backend", "compute", "named"),
    [("vosk", "auto", "openai, faster-whisper"), ("openai", "fp8", "float16"), ("openai", "int8", "faster-whisper")],
)
def test_unknown_settings_are_refused(backend: str, compute: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        refuse_unknown(backend, compute)


def test_half_precision_on_a_processor_is_refused_by_openai(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="on a GPU only"):
        open_engine(checkpoint, "openai", torch.device("cpu"), "float16")


def test_a_backend_that_is_not_installed_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(BackendMissing, match=r"pip install '\.\[faster\]'"):
        checkpoint_file("whisper-tiny", "faster-whisper")


SAYINGS = [
    ("Please build her daughter near the ship.", Voice("en", "f1")),
    ("The old clock stopped at nine.", Voice("en", "m2", rate=190)),
    ("老师今天在图书馆看书。", Voice("zh", "f2", pitch=40)),
    ("Der Hund schläft unter der Brücke.", Voice("de", "m1")),
]


@pytest.fixture(scope="module")
def spoken() -> list[np.ndarray]:
    """Utterances in several languages, and one of more than a window."""
    short = [resample(synthesise(text, voice), SPEECH_RATE, SAMPLE_RATE) for text, voice in SAYINGS]
    pause = np.zeros(SAMPLE_RATE // 2, np.float32)
    long = np.concatenate([piece for _ in range(8) for piece in (short[0], pause, short[1], pause)])
    assert len(long) > 30 * SAMPLE_RATE
    return [*short, long]


# openai-whisper sorts tensors with NumPy.
@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")
def test_beams_of_many_windows_end_where_openai_whispers_end_one_by_one(spoken: list[np.ndarray]) -> None:
    labeller = Labeller("whisper-tiny")
    windows = labeller._mel(spoken[:3])
    found = labeller.engine.decode(windows, "en", [60, 80, 40], 5)
    for window, limit, heard in zip(windows, (60, 80, 40), found, strict=True):
        options = whisper.DecodingOptions(
            language="en", without_timestamps=True, fp16=False, beam_size=5, patience=PATIENCE, sample_len=limit
        )
        expected = labeller.engine.model.decode(window, options)
        assert (heard.text, heard.tokens) == (expected.text, len(expected.tokens) + 1)
        assert heard.avg_logprob == pytest.approx(expected.avg_logprob, abs=1e-4)


def test_beams_find_what_the_greedy_search_finds_or_what_is_likelier() -> None:
    """A search ended at its first five ends once, all of them too early: every letter offers one."""
    labeller = Labeller("whisper-tiny")
    voice = Voice("ar", "m3", pitch=50, rate=160, pitch_range=50)
    texts = [sentence("ar", generator(number)) for number in range(7)]
    said = [resample(synthesise(text, voice), SPEECH_RATE, SAMPLE_RATE) for text in texts]
    greedy, beams = (labeller.transcribe(said, ["ar"] * len(said), Decoding(beam_size=size)) for size in (1, 5))
    for one, other in zip(greedy, beams, strict=True):
        assert other.avg_logprob > one.avg_logprob - 0.01


@needs_ctranslate2
def test_both_backends_hear_the_same(spoken: list[np.ndarray]) -> None:
    """The embedded model, converted; the reference is openai-whisper."""
    one, other = Labeller("whisper-tiny"), Labeller("whisper-tiny", backend="faster-whisper")
    assert (one.languages, one.window) == (other.languages, other.window)
    reference = one.detect_language(spoken)
    for expected, found in zip(reference, other.detect_language(spoken), strict=True):
        assert found == pytest.approx(expected, abs=1e-4)
    languages = [max(probabilities, key=probabilities.__getitem__) for probabilities in reference]
    said = (labeller.transcribe(spoken, languages) for labeller in (one, other))
    for expected, found in zip(*said, strict=True):
        assert (found.text, found.language, found.tokens) == (expected.text, expected.language, expected.tokens)
        assert found.avg_logprob == pytest.approx(expected.avg_logprob, abs=1e-3)
        assert found.no_speech_prob == pytest.approx(expected.no_speech_prob, abs=1e-3)
        assert found.compression_ratio == expected.compression_ratio


@needs_ctranslate2
def test_eight_bits_hear_the_same_languages(spoken: list[np.ndarray]) -> None:
    exact = Labeller("whisper-tiny").detect_language(spoken[:4])
    coarse = Labeller("whisper-tiny", backend="faster-whisper", compute="int8").detect_language(spoken[:4])
    assert [max(one, key=one.__getitem__) for one in coarse] == [max(one, key=one.__getitem__) for one in exact]


@needs_ctranslate2
def test_any_size_of_model_is_converted(checkpoint: Path, tmp_path: Path) -> None:
    """Another window, another context, random weights: the converted folder decodes as the checkpoint does."""
    convert(checkpoint, tmp_path / "folder")
    one, other = Labeller(checkpoint), Labeller(tmp_path / "folder", backend="faster-whisper")
    assert one.window == other.window == 6 * SAMPLE_RATE
    sounds = [0.1 * generator(n).standard_normal(n * SAMPLE_RATE).astype(np.float32) for n in (1, 4, 9)]
    for beams in (1, 2):
        decoding = Decoding(beam_size=beams)
        found = other.transcribe(sounds, ["en"] * 3, decoding)
        assert found == other.transcribe(sounds, ["en"] * 3, decoding)
        if beams == 1:
            assert [said.text for said in found] == [said.text for said in one.transcribe(sounds, ["en"] * 3)]


@needs_ctranslate2
def test_a_conversion_is_kept_and_whole(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = converted(checkpoint)
    before = (folder / "model.bin").stat().st_mtime_ns
    assert converted(checkpoint) == folder
    assert (folder / "model.bin").stat().st_mtime_ns == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    broken = tmp_path / "broken.pt"
    torch.save({"dims": {}, "model_state_dict": {}}, broken)
    with pytest.raises(ValueError, match=r"broken\.pt: not a checkpoint"):
        converted(broken)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
