"""`flowse import-official` writes a model that enhances, or says in one line what is wrong with the checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile

from flowse.cli import main
from flowse.enhancer import Enhancer
from flowse.flow.sampling import Sampling
from flowse.model.official import Official
from flowse.model.spec import DiTConfig, ModelSpec
from flowse.model.system import build
from flowse.seeding import generator
from tests.tiny import write_vocoder


@pytest.fixture
def vocoder(tmp_path: Path) -> str:
    write_vocoder(tmp_path / "vocoder")
    return str(tmp_path / "vocoder")


def test_import_official_writes_a_model_that_enhances(
    vocoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = ModelSpec(
        model=DiTConfig(dim=32, depth=1, heads=2, conv_groups=4, text_dim=16, text_blocks=1, rotary="first")
    )
    found = Official(spec=spec, state=build(spec).state_dict(), used=("a", "b"), implied=("c",))
    monkeypatch.setattr("flowse.commands.import_official.read_official", lambda checkpoint, vocabulary: found)
    out = tmp_path / "imported"
    assert main(["import-official", "x.pt", "v.txt", str(out), "--vocoder", vocoder]) == 0
    assert "2 tensors became weights, 1 follow" in " ".join((out / "README.md").read_text().split())
    soundfile.write(tmp_path / "in.wav", 0.1 * generator(0).standard_normal(5_000), 24_000)
    assert (
        main(["enhance", str(tmp_path / "in.wav"), str(tmp_path / "o.wav"), "--model", str(out), "--steps", "1"]) == 0
    )
    assert Enhancer.from_pretrained(out).sampling == Sampling(steps=32, guidance=1.0)


def test_import_official_refuses_what_is_no_checkpoint(
    vocoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.pt").write_bytes(b"not a checkpoint")
    arguments = [str(tmp_path / "x.pt"), str(tmp_path / "v.txt"), str(tmp_path / "o"), "--vocoder", vocoder]
    assert main(["import-official", *arguments]) == 2
    said = capsys.readouterr().err.strip()
    assert "x.pt cannot be read as a checkpoint" in said
    assert "\n" not in said
