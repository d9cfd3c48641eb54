"""Laws of files: Python writes what the command line writes, once, and says a mistake before it loads a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from flowse import Enhancer, enhance_file
from flowse.cli import main
from flowse.errors import UserError
from flowse.refusal import Refusal
from flowse.seeding import generator


@pytest.fixture
def noisy(tmp_path: Path) -> Path:
    sf.write(tmp_path / "noisy.wav", 0.1 * generator(0).standard_normal((20_000, 2)), 16_000)
    return tmp_path / "noisy.wav"


def test_a_file_is_what_the_command_line_and_the_enhancer_write(noisy: Path, tmp_path: Path) -> None:
    enhancer = Enhancer.from_pretrained()
    assert enhance_file(noisy, tmp_path / "a.wav") == tmp_path / "a.wav"
    assert enhance_file(str(noisy), str(tmp_path / "b.wav"), enhancer, seed=0) == tmp_path / "b.wav"
    assert main(["enhance", str(noisy), str(tmp_path / "c.wav"), "--quiet"]) == 0
    written = {(tmp_path / f"{name}.wav").read_bytes() for name in "abc"}
    assert len(written) == 1
    samples, rate = sf.read(tmp_path / "a.wav", dtype="float32", always_2d=True)
    assert rate == 16_000
    np.testing.assert_allclose(samples.T, enhancer(noisy), atol=1 / 32768)


def test_a_folder_gets_the_name_of_the_source(noisy: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert enhance_file(noisy, tmp_path / "out") == tmp_path / "out" / "noisy.wav"
    assert enhance_file(noisy, f"{tmp_path}/new/") == tmp_path / "new" / "noisy.wav"


def test_nothing_is_lost_and_mistakes_are_said_before_a_model_is_loaded(noisy: Path, tmp_path: Path) -> None:
    before = noisy.read_bytes()
    (tmp_path / "there.wav").write_bytes(b"mine")
    (tmp_path / "link.wav").symlink_to(noisy)
    for target, said in (
        ("noisy.wav", "is the input itself"),
        ("link.wav", "is the input itself"),
        ("there.wav", "overwrite=True"),
        ("a.mp3", "the suffix names the format"),
    ):
        with pytest.raises(UserError, match=said):
            enhance_file(noisy, tmp_path / target, "no-such-model", overwrite=target.endswith("noisy.wav"))
    with pytest.raises(Refusal, match="not_found"):
        enhance_file(tmp_path / "absent.wav", tmp_path / "out.wav", "no-such-model")
    assert (noisy.read_bytes(), (tmp_path / "there.wav").read_bytes()) == (before, b"mine")
    assert enhance_file(noisy, tmp_path / "there.wav", overwrite=True).stat().st_size > 1000


def test_samples_beyond_full_scale_are_lowered_with_a_warning(tmp_path: Path) -> None:
    sf.write(tmp_path / "loud.wav", 3 * np.sin(np.arange(9000) / 9), 16_000, subtype="FLOAT")
    with pytest.warns(UserWarning, match="the result is lowered by 9.5 dB"):
        enhance_file(tmp_path / "loud.wav", tmp_path / "out.flac")
    assert np.abs(sf.read(tmp_path / "out.flac")[0]).max() <= 1
