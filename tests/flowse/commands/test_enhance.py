"""`flowse enhance`: a file, a folder and a pipe give the same samples; every mistake is one line."""

import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from flowse.audio.waveform import probe
from flowse.cli import main
from flowse.commands import enhance
from flowse.enhancer import Enhancer
from flowse.export import ModelConfig, save
from flowse.flow.sampling import Sampling
from flowse.model.spec import DiTConfig, ModelSpec
from flowse.model.system import build
from flowse.seeding import generator
from tests.aac import write_aac
from tests.terminal import lines_left, on_terminal
from tests.tiny import write_vocoder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An export with random weights."""
    folder = tmp_path_factory.mktemp("cli")
    write_vocoder(folder / "vocoder")
    small = DiTConfig(dim=32, depth=1, heads=2, conv_groups=4, text_dim=16, text_blocks=1)
    spec = ModelSpec(model=small, vocabulary=tuple(" abcdefghij"), mel_mean=-6.0, mel_std=3.0)
    config = ModelConfig(spec=spec, sampling=Sampling(steps=1))
    save(folder / "model", config, build(spec).state_dict(), folder / "vocoder", "# Card\n")
    return str(folder / "model")


def write(path: Path, n: int = 20_000, rate: int = 24_000, channels: int = 1) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = (0.1 * generator(n).standard_normal((n, channels))).astype(np.float32)
    sf.write(path, samples, rate)
    read: np.ndarray = sf.read(path, dtype="float32", always_2d=True)[0]
    return read


def test_a_file_is_what_the_enhancer_gives(model: str, tmp_path: Path) -> None:
    noisy = write(tmp_path / "in.wav", 30_001, 48_000, channels=2)
    assert main(["enhance", str(tmp_path / "in.wav"), str(tmp_path / "out.flac"), "--model", model, "--seed", "3"]) == 0
    out, rate = sf.read(tmp_path / "out.flac", dtype="float32", always_2d=True)
    assert (rate, out.shape) == (48_000, noisy.shape)
    expected = Enhancer.from_pretrained(model).enhance(noisy.T, rate, seed=3)
    np.testing.assert_allclose(out.T, expected, atol=1 / 32768)
    limited = ["--model", model, "--seed", "3", "--limit", "6"]
    assert main(["enhance", str(tmp_path / "in.wav"), str(tmp_path / "limited.flac"), *limited]) == 0
    out, _ = sf.read(tmp_path / "limited.flac", dtype="float32", always_2d=True)
    expected = Enhancer.from_pretrained(model).enhance(noisy.T, rate, seed=3, sampling=Sampling(steps=1, limit_db=6.0))
    np.testing.assert_allclose(out.T, expected, atol=1 / 32768)


def test_a_telephones_recording_is_enhanced_alone_and_in_a_folder(model: str, tmp_path: Path) -> None:
    noisy = 0.1 * generator(1).standard_normal((2, 30_000)).astype(np.float32)
    (tmp_path / "in").mkdir()
    write_aac(tmp_path / "in" / "memo.m4a", noisy, 44_100)
    assert main(["enhance", str(tmp_path / "in" / "memo.m4a"), str(tmp_path / "alone.wav"), "--model", model]) == 0
    assert main(["enhance", str(tmp_path / "in"), str(tmp_path / "out"), "--model", model]) == 0
    alone, rate = sf.read(tmp_path / "alone.wav")
    assert rate == 44_100
    assert alone.shape == (probe(tmp_path / "in" / "memo.m4a").frames, 2)
    np.testing.assert_allclose(sf.read(tmp_path / "out" / "memo.flac")[0], alone, atol=2 / 32768)


def test_the_evaluations_of_the_network_are_counted_and_shown(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "in.wav")
    shown = {"1": "1 evaluation of", "3": "3 evaluations of"}
    for steps, words in shown.items():
        call = ["enhance", str(tmp_path / "in.wav"), str(tmp_path / "out.wav"), "--model", model, "--overwrite"]
        assert main([*call, "--steps", steps]) == 0
        assert f", {words} the network a window\n" in capsys.readouterr().err


def test_what_the_model_cannot_do_is_said_once_and_before_any_recording(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.wav", "b.wav"):
        write(tmp_path / "in" / name)
    assert main(["enhance", str(tmp_path / "in"), str(tmp_path / "out"), "--model", model, "--steps", "0"]) == 2
    assert capsys.readouterr().err == "flowse: steps=0 is for models with a predictor; give 1 or more\n"
    assert not (tmp_path / "out").exists()


def test_a_distilled_model_takes_the_scale_it_brings_and_refuses_one_it_was_not_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_vocoder(tmp_path / "vocoder")
    small = DiTConfig(dim=32, depth=1, heads=2, conv_groups=4)
    spec = ModelSpec(model=small, mel_mean=-6.0, mel_std=3.0, jumps=True)
    config = ModelConfig(spec=spec, sampling=Sampling(steps=1, guidance=1.0))
    save(tmp_path / "model", config, build(spec).state_dict(), tmp_path / "vocoder", "# Card\n")
    write(tmp_path / "in.wav")
    call = ["enhance", str(tmp_path / "in.wav"), str(tmp_path / "out.wav"), "--model", str(tmp_path / "model")]
    assert main(call) == 0
    assert main([*call, "--overwrite", "--guidance", "2"]) == 2
    assert "guidance=2: this distilled model takes no scale" in capsys.readouterr().err


def test_same_seed_same_bytes(model: str, tmp_path: Path) -> None:
    write(tmp_path / "in.wav")
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert (
            main(["enhance", str(tmp_path / "in.wav"), str(tmp_path / f"{name}.wav"), "--model", model, "--seed", seed])
            == 0
        )
    a, b, c = ((tmp_path / f"{name}.wav").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_a_folder_keeps_its_tree_and_one_bad_file_does_not_stop_it(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noisy = tmp_path / "noisy"
    for name, rate in (("a.wav", 16_000), ("deep/er/b.flac", 24_000), ("deep/c.ogg", 44_100)):
        write(noisy / name, 9_001, rate)
    (noisy / "deep" / "broken.wav").write_bytes(b"<!doctype html>")
    (noisy / "notes.txt").write_text("not audio")
    (noisy / "._a.wav").write_text("what macOS adds to archives")
    assert main(["enhance", str(noisy), str(tmp_path / "out"), "--model", model]) == 2
    written = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert written == {"a.wav", "deep/er/b.flac", "deep/c.ogg"}
    for name in written:
        before, after = sf.info(noisy / name), sf.info(tmp_path / "out" / name)
        assert (before.frames, before.samplerate, before.format) == (after.frames, after.samplerate, after.format)
    said = capsys.readouterr().err
    assert "deep/broken.wav: html_instead_of_audio" in said
    assert "3 recordings" in said
    assert "1 failed" in said


def test_folder_inside_its_own_output_is_not_read_again(model: str, tmp_path: Path) -> None:
    write(tmp_path / "a.wav")
    for _ in range(2):
        assert main(["enhance", str(tmp_path), str(tmp_path / "out"), "--model", model, "--overwrite"]) == 0
    assert sorted(path.name for path in tmp_path.rglob("*.wav")) == ["a.wav", "a.wav"]


def test_a_subfolder_is_enhanced_into_the_folder_above_it(model: str, tmp_path: Path) -> None:
    write(tmp_path / "noisy" / "a.wav", 4000)
    assert main(["enhance", str(tmp_path / "noisy"), str(tmp_path), "--model", model]) == 0
    assert (tmp_path / "a.wav").exists()


def test_transcripts_are_matched_by_path(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "in" / "x" / "a.wav")
    table = tmp_path / "texts.csv"
    table.write_text("path,text\nx/a.wav,bad cab 9\n", encoding="utf-8")
    arguments = ["enhance", str(tmp_path / "in"), str(tmp_path / "out"), "--model", model, "--transcripts", str(table)]
    assert main(arguments) == 0
    assert "x/a.wav: 1 symbol(s) of the text are unknown to the model: 9" in capsys.readouterr().err
    table.write_text("path,text\nno/such.wav,hello\n", encoding="utf-8")
    assert main([*arguments, "--overwrite"]) == 2
    assert "names no/such.wav" in capsys.readouterr().err
    write(tmp_path / "in" / "x" / "b.wav")
    table.write_text("path,text\n./x/A.wav,bad cab 9\n", encoding="utf-8")
    assert main([*arguments, "--overwrite"]) == 0
    said = capsys.readouterr().err
    assert "x/a.wav: 1 symbol(s)" in said
    assert "1 of 2 recordings have no row, e.g. x/b.wav" in said
    table.write_text("path,text\nx/a.wav,hello, there\n", encoding="utf-8")
    assert main([*arguments, "--overwrite"]) == 2
    assert "line 2: has 3 cells" in capsys.readouterr().err


def test_pipe_through_a_real_process(model: str, tmp_path: Path) -> None:
    write(tmp_path / "in.wav", 12_345, 16_000)
    command = [sys.executable, "-m", "flowse.cli", "enhance", "-", "-", "--model", model, "--quiet"]
    done = subprocess.run(command, input=(tmp_path / "in.wav").read_bytes(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr == b""
    piped, rate = sf.read(io.BytesIO(done.stdout), dtype="int16")
    assert (len(piped), rate) == (12_345, 16_000)
    assert main(["enhance", str(tmp_path / "in.wav"), str(tmp_path / "out.wav"), "--model", model]) == 0
    np.testing.assert_allclose(sf.read(tmp_path / "out.wav", dtype="int16")[0], piped, atol=1)


def _mistakes(folder: Path) -> dict[str, list[str]]:
    good, out = str(folder / "good.wav"), str(folder / "out.wav")
    return {
        "no such file or folder": [str(folder / "nothing.wav"), out],
        "the suffix names the format": [good, str(folder / "out.mp4")],
        "exists; --overwrite replaces it": [good, str(folder / "there.wav")],
        "is the input itself": [good, good],
        "is the input itself; name another folder": [str(folder), str(folder) + "/", "--overwrite"],
        "good.wav/x.wav cannot be written": [good, str(folder / "good.wav" / "x.wav")],
        "no audio is found in it": [str(folder / "noise.mp3"), out],
        "empty_file": [str(folder / "empty.wav"), out],
        "not finite": [str(folder / "nan.wav"), out],
        "no recording in it": [str(folder / "void"), str(folder / "out")],
        "cannot go to standard output": [str(folder), "-"],
        "--text is for a single recording": [str(folder), str(folder / "out"), "--text", "hello"],
        "--transcripts is for a folder": [good, out, "--transcripts", "x.csv"],
        "steps=-1 must be in 0..10000": [good, out, "--steps", "-1"],
        "limit_db=-3.0 must be finite, 0 or more": [good, out, "--limit", "-3"],
        "--device warp cannot be used": [good, out, "--device", "warp"],
        "--batch 0 must be": [good, out, "--batch", "0"],
        "embedded model": [good, out, "--model", "nobody"],
        "no package here fetches ftp:/": [good, out, "--model", "ftp://host/model"],
        "is no model folder": [good, out, "--model", str(folder / "void")],
    }


@pytest.mark.parametrize("message", _mistakes(Path()))
def test_mistakes_are_one_line(message: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "good.wav")
    write(tmp_path / "there.wav")
    (tmp_path / "empty.wav").touch()
    (tmp_path / "noise.mp3").write_bytes(bytes(range(1, 255)) * 20)
    (tmp_path / "void").mkdir()
    sf.write(tmp_path / "nan.wav", np.full(3000, np.nan, np.float32), 16_000, subtype="FLOAT")
    arguments = _mistakes(tmp_path)[message]
    before = sorted(tmp_path.iterdir())
    assert main(["enhance", *arguments, *([] if "--model" in arguments else ["--model", model])]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("flowse: ")
    assert message in said
    assert "\n" not in said
    assert sorted(tmp_path.iterdir()) == before


def test_a_recording_beyond_full_scale_is_lowered_and_not_clipped(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = (3000 * generator(0).standard_normal(20_000)).astype(np.float32)
    sf.write(tmp_path / "in.wav", samples, 24_000, subtype="FLOAT")
    arguments = ["enhance", str(tmp_path / "in.wav"), "--model", model, "--quiet"]
    assert main([*arguments[:2], str(tmp_path / "out.flac"), *arguments[2:]]) == 0
    assert "so that nothing is clipped" in capsys.readouterr().err
    assert main([*arguments[:2], str(tmp_path / "out.wav"), *arguments[2:]]) == 0
    assert "clipped" not in capsys.readouterr().err
    kept, _ = sf.read(tmp_path / "out.wav", dtype="float32")
    lowered, _ = sf.read(tmp_path / "out.flac", dtype="float32")
    assert np.mean(np.abs(lowered) > 0.9999) < 1e-3
    np.testing.assert_allclose(lowered, kept / np.abs(samples).max(), atol=2e-6)


def test_a_large_wav_is_written_as_rf64(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "in.wav")
    arguments = ["--model", model, "--quiet"]
    assert main(["enhance", str(tmp_path / "in.wav"), str(tmp_path / "small.wav"), *arguments]) == 0
    monkeypatch.setattr("flowse.enhanced_files._WAV_BYTES", 40_000)
    assert main(["enhance", str(tmp_path / "in.wav"), str(tmp_path / "large.wav"), *arguments]) == 0
    assert (tmp_path / "small.wav").read_bytes()[:4] == b"RIFF"
    assert (tmp_path / "large.wav").read_bytes()[:4] == b"RF64"
    np.testing.assert_array_equal(sf.read(tmp_path / "large.wav")[0], sf.read(tmp_path / "small.wav")[0])
    assert probe(tmp_path / "large.wav").frames == 20_000


def test_fewer_bits_are_for_flows_and_a_mask_that_is_asked_for_them_is_one_line(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "noisy.wav", 1600)
    for number, precision in enumerate(("bf16", "int8")):
        out = str(tmp_path / f"{number}.wav")
        assert main(["enhance", str(tmp_path / "noisy.wav"), out, "--model", model, "--precision", precision]) == 0
    assert main(["enhance", str(tmp_path / "noisy.wav"), str(tmp_path / "x.wav"), "--precision", "int8"]) == 2
    assert "precision='int8' is for transformers" in capsys.readouterr().err


_ALONE = """
import sys
from flowse.extras import EXTRA_OF
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in EXTRA_OF:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from flowse.cli import main
sys.exit(main(["enhance", sys.argv[1], sys.argv[2], "--protect", "asr"]))
"""


def test_the_library_alone_enhances_a_file(tmp_path: Path) -> None:
    """No package of an extra is needed, as the README's first commands install none."""
    noisy = Path(__file__).parents[3] / "docs" / "example" / "noisy.wav"
    done = subprocess.run(
        [sys.executable, "-c", _ALONE, noisy, tmp_path / "out.wav"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.wav").exists()


def test_a_terminal_has_a_bar_and_what_is_said_stands_above_it_once(model: str, tmp_path: Path) -> None:
    for name in ("a.wav", "b.wav"):
        write(tmp_path / "in" / name, 9000)
    (tmp_path / "in" / "broken.wav").write_bytes(b"<!doctype html>")
    call = ["enhance", str(tmp_path / "in"), str(tmp_path / "out"), "--model", model]
    screen = on_terminal(f"from flowse.cli import main\nmain({call!r})")
    for part in ("enhance ", "loads ", "━"):  # which of the short recordings it is drawn for depends on the machine
        assert part in screen
    lines = [line for line in lines_left(screen) if line]
    assert lines[0].startswith("flowse: broken.wav: html_instead_of_audio")
    assert lines[-1].startswith("2 recordings, ")
    assert screen.count("html_instead_of_audio") == screen.count("2 recordings, ") == 1
    assert screen.rindex("\x1b[?25h") > screen.rindex("\x1b[?25l")  # the cursor is back


def test_a_log_gets_a_plain_line_now_and_then(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.wav", "b\n.wav"):
        write(tmp_path / "in" / name, 9000)
    monkeypatch.setattr(enhance, "LOG_EVERY_S", 0.0)
    assert main(["enhance", str(tmp_path / "in"), str(tmp_path / "out"), "--model", model]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert all("\r" not in line and "\x1b" not in line for line in lines)
    assert lines[0].startswith("enhance  0:00  0%  0/2")
    assert re.match(r"enhance  0:0\d  100%  1/2  \d+× real time  0:00 left  ", lines[-2])
    assert lines[-2].endswith("b\\n.wav")
    assert lines[-1].startswith("2 recordings")


def test_audio_is_neither_typed_nor_shown_on_a_terminal(tmp_path: Path) -> None:
    write(tmp_path / "in.wav", 2000)
    code = f"from flowse.cli import main\nmain(['enhance', {str(tmp_path / 'in.wav')!r}, '-'])"
    assert lines_left(on_terminal(code))[0].startswith("flowse: standard output is a terminal")
