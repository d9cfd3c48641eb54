"""What the tests of Whisper share: a random model, and synthesised speech in several languages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flowse.audio.waveform import resample
from flowse.whisper.windows import SAMPLE_RATE
from pipelines.corpora.demo.speech import SAMPLE_RATE as SPEECH_RATE
from pipelines.corpora.demo.speech import Voice, synthesise
from tests.tiny import write_whisper

SENTENCES = [
    ("Please build her daughter near the ship.", Voice("en", "f1")),
    ("The old clock stopped at nine.", Voice("en", "m2", rate=190)),
    ("老师今天在图书馆看书。", Voice("zh", "f2", pitch=40)),
    ("Der Hund schläft unter der Brücke.", Voice("de", "m1")),
]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with windows of 6 s, in openai-whisper's checkpoint format."""
    return write_whisper(tmp_path_factory.mktemp("whisper") / "model.pt", audio_ctx=300)


@pytest.fixture(scope="session")
def spoken() -> list[np.ndarray]:
    """Utterances in several languages, and one that is longer than a window of 30 s."""
    short = [resample(synthesise(text, voice), SPEECH_RATE, SAMPLE_RATE) for text, voice in SENTENCES]
    pause = np.zeros(SAMPLE_RATE // 2, np.float32)
    long = np.concatenate([piece for _ in range(8) for piece in (short[0], pause, short[1], pause)])
    assert len(long) > 30 * SAMPLE_RATE
    return [*short, long]
