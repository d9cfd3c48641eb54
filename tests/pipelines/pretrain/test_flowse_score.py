"""Laws of the scores of pairs: every version of every recording is scored, and faults are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from flowse.data.parquet import read_rows
from flowse.errors import UserError
from flowse.metrics.scores import Score
from flowse.seeding import generator
from pipelines.pretrain.flowse_score import faults, find_pairs, main
from tests.tiny import write_model

RATE = 16_000


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two pairs: harmonics like a voice's, and the same with noise."""
    root = tmp_path_factory.mktemp("audio")
    t = np.arange(round(1.5 * RATE)) / RATE
    rows = ["path,language,text"]
    for number in range(2):
        voiced = sum(np.sin(2 * np.pi * (110 + 20 * number) * k * t) / k for k in range(1, 20))
        clean = 0.1 * np.clip(np.sin(2 * np.pi * 2.2 * t), 0, None) * voiced
        for kind, samples in (
            ("clean", clean),
            ("noisy", clean + 0.02 * generator(number).standard_normal(len(clean))),
        ):
            path = root / "dev" / "pairs" / kind / f"p{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, samples, RATE)
        rows.append(f"dev/pairs/noisy/p{number}.wav,en,hello there")
    (root / "manifest.csv").write_text("\n".join(rows) + "\n")
    return root


def test_every_version_of_every_pair_is_scored_and_printed(
    audio: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model(tmp_path / "model", synthesis="noisy_phase")
    command = ["--audio", str(audio), "--model", str(model), "--threads", "1", "--out", str(tmp_path / "scores")]
    assert main(command) in (0, 1)
    printed = capsys.readouterr().out
    scores = list(read_rows(tmp_path / "scores", Score))
    assert [(score.key, score.signal) for score in scores] == [
        (f"p{number}.wav", signal) for number in range(2) for signal in ("noisy", "enhanced", "clean")
    ]
    assert all(score.estoi is not None and score.pesq_wb is not None for score in scores if score.signal != "clean")
    for word in ("OVRL", "DNSMOS overall", "SI-SDR", "RTF", "WER: not measured", "speaker cosine: not measured"):
        assert word in printed


def test_pairs_have_their_texts_and_a_missing_clean_version_is_refused(audio: Path, tmp_path: Path) -> None:
    first, _ = find_pairs(audio / "dev" / "pairs", audio / "manifest.csv")
    assert (first.name, first.text, first.language) == ("p0.wav", "hello there", "en")
    with pytest.raises(UserError, match="no recordings there"):
        find_pairs(tmp_path, audio / "manifest.csv")
    (tmp_path / "noisy").mkdir()
    soundfile.write(tmp_path / "noisy" / "x.wav", np.zeros(10), RATE)
    with pytest.raises(UserError, match="has no clean version"):
        find_pairs(tmp_path, tmp_path / "manifest.csv")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x, ""),
        (lambda x: 0.5 * x, ""),
        (lambda x: x[:-1], "999 samples"),
        (lambda x: 2.0 * x, "6.0 dB louder"),
        (lambda x: np.where(np.arange(1_000) == 5, 1.02, 0.9 * x), "clipped"),
        (lambda x: np.where(np.arange(1_000) == 5, np.nan, x), "not finite"),
    ],
    ids=["same", "quieter", "shorter", "louder", "clipped", "nan"],
)
def test_a_fault_of_an_enhanced_recording_is_named(change: object, message: str) -> None:
    noisy = (0.1 * generator(0).standard_normal(1_000)).astype(np.float32)
    found = list(faults("x", noisy, np.asarray(change(noisy), np.float32)))  # type: ignore[operator]
    assert len(found) == bool(message)
    assert message in "".join(found)


def test_a_users_mistake_is_reported_in_one_line(audio: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (["--model", "nowhere"], "make pretrain MODEL=flowse"),
        (["--model", "nowhere", "--pairs", "gone"], "no recordings there"),
    ):
        assert main(["--audio", str(audio), *words]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
