"""Laws of enhanced recordings on disk: samples come back unchanged, and no path leads out of the target folder."""

from __future__ import annotations

import dataclasses
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from flowse.data.enhanced import Enhanced, TarWriter, copy_flac, file_name, unpack, write_flac
from flowse.data.manifest import Utterance, make_utt_id
from flowse.data.parquet import read_rows
from flowse.refusal import Refusal
from flowse.seeding import generator


def row(path: str, **values: float) -> Utterance:
    known = {"sample_rate": 16_000, "channels": 2, "duration_s": 1.0, **values}
    return Utterance(utt_id="c/an-id", corpus="c", kind="speech", path=path, **known)  # type: ignore[arg-type]


@pytest.mark.parametrize("bits", [16, 24])
def test_the_bytes_of_flac_do_not_depend_on_the_pieces_and_hold_the_samples(bits: int, tmp_path: Path) -> None:
    exact = generator(0).integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (2, 9_000)) / 2.0 ** (bits - 1)
    samples = exact.astype(np.float32)
    for name, cuts in (("whole", []), ("pieces", [1, 700, 5_000])):
        assert write_flac(tmp_path / name, iter(np.split(samples, cuts, axis=1)), 16_000, 2, bits) == 9_000
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "pieces").read_bytes()
    again, rate = soundfile.read(tmp_path / "whole", dtype="float32")
    assert rate == 16_000
    np.testing.assert_array_equal(again.T, samples)


def test_rounding_beyond_full_scale_saturates_and_more_is_refused(tmp_path: Path) -> None:
    write_flac(tmp_path / "loud", [np.array([[1.005, -1.005]], np.float32)], 16_000, 1, 16)
    np.testing.assert_array_equal(soundfile.read(tmp_path / "loud", dtype="int16")[0], [32_767, -32_768])
    with pytest.raises(Refusal, match="beyond_full_scale"):
        write_flac(tmp_path / "clipped", [np.array([[0.5, -1.5]], np.float32)], 16_000, 1, 16)


@pytest.mark.parametrize(
    ("path", "whole", "name"),
    [
        ("a/B c.flac", True, "c/a/B c.flac"),
        ("a/b.WAV", True, "c/a/b.WAV"),
        ("b.mp3", True, "c/b.mp3.flac"),
        ("b.ogg", True, "c/b.ogg.flac"),
        ("b.wav", False, "c/b-000002500-000003500.wav"),
        ("../b.flac", True, "c/an-id.flac"),
        ("/etc/b.wav", True, "c/an-id.flac"),
        ("a\\..\\b.wav", True, "c/an-id.flac"),
        ("C:/b.wav", True, "c/an-id.flac"),
        ("a\nb.wav", True, "c/an-id.flac"),
        ("Mr. Smith Jr./b.wav", True, "c/Mr. Smith Jr./b.wav"),
    ],
)
def test_a_file_keeps_its_path_and_stays_in_the_target_folder(path: str, whole: bool, name: str) -> None:
    assert file_name(row(path, offset_s=2.5), 16_000, 16, whole) == name


def test_a_wav_that_would_be_too_long_becomes_flac() -> None:
    assert file_name(row("b.wav"), 2_000_000_000, 16, True) == "c/b.wav.flac"


def test_unpack_restores_the_file_and_a_truncated_tar_is_named(tmp_path: Path) -> None:
    samples = generator(1).uniform(-1, 1, (1, 500)).astype(np.float32)
    write_flac(tmp_path / "x.flac", [samples], 8_000, 1, 16)
    long = row("deep/" + "x" * 120 + ".flac", channels=1)
    facts = {"file": "c/x.flac", "samples": 500, "bits": 16, "peak_before": 1.0, "peak": 1.0}
    with TarWriter(tmp_path / "u.tar", tmp_path / "u.parquet", "u.tar") as tar:
        tar.add(long, tmp_path / "x.flac", {}, **facts)
    (found,) = read_rows(tmp_path / "u.parquet", Enhanced)
    assert [unpacked.file for unpacked in unpack([tmp_path / "u.parquet"], tmp_path / "out")] == ["c/x.flac"]
    assert (tmp_path / "out" / "c" / "x.flac").read_bytes() == (tmp_path / "x.flac").read_bytes()
    (tmp_path / "u.tar").write_bytes((tmp_path / "u.tar").read_bytes()[: found.audio_offset + 20])
    with pytest.raises(ValueError, match=r"u\.tar ends before"):
        copy_flac(found, tmp_path, tmp_path / "y.flac")


def packed(folder: Path, long: Utterance, file: str, tar_name: str = "u.tar") -> Path:
    """Pack one recording under a name; return the part of the manifest."""
    write_flac(folder / "x.flac", [np.zeros((1, 500), np.float32)], 8_000, 1, 16)
    facts = {"file": file, "samples": 500, "bits": 16, "peak_before": 1.0, "peak": 1.0}
    with TarWriter(folder / "u.tar", folder / "u.parquet", tar_name) as tar:
        tar.add(long, folder / "x.flac", {}, **facts)
    return folder / "u.parquet"


@pytest.mark.parametrize("suffix", [".wav", ".mp3", ".flac"])
@pytest.mark.parametrize("stem", ["a", "你"], ids=["ascii", "hanzi"])
@pytest.mark.parametrize("whole", [True, False])
def test_the_longest_names_are_packed_and_unpacked(stem: str, suffix: str, whole: bool, tmp_path: Path) -> None:
    name = stem * ((255 - len(suffix)) // len(stem.encode())) + suffix
    long = dataclasses.replace(row(name, channels=1), utt_id=make_utt_id("c", name))
    part = packed(tmp_path, long, file_name(long, 500, 16, whole))
    (unpacked,) = unpack([part], tmp_path / "out")
    assert (tmp_path / "out" / unpacked.file).is_file()
    assert len(Path(unpacked.file).name.encode()) <= 255
    with tarfile.open(tmp_path / "u.tar") as tar:
        tar.extractall(tmp_path / "tar", filter="data")


@pytest.mark.parametrize(
    "file", ["/tmp/evil.wav", "../evil.wav", "c/../../evil.wav", "c/link/evil.wav", "c\\evil", "c/\0"]
)
def test_a_changed_part_writes_nothing_anywhere(file: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "out" / "c").mkdir(parents=True)
    (tmp_path / "out" / "c" / "link").symlink_to(outside)
    part = packed(tmp_path, row("x.flac", channels=1), file)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=r"u\.parquet: .* must not be written .*; the part was changed"):
        list(unpack([part], tmp_path / "out"))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_tar_elsewhere_and_two_recordings_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must not be written or read"):
        list(unpack([packed(tmp_path, row("x.flac"), "c/x.flac", "../secret.tar")], tmp_path / "out"))
    part = packed(tmp_path, row("x.flac"), "c/x.flac")
    with pytest.raises(ValueError, match=r"two recordings are named c/x\.flac"):
        list(unpack([part, part], tmp_path / "out", overwrite=True))
    assert not (tmp_path / "out").exists()
