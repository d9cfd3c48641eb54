"""Laws of containers: what is in a file is read to the sample, whatever its header says, or is refused."""

from __future__ import annotations

import errno
import io
import math
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowse.audio.containers import HEAD_BYTES, PLAIN, Spliced, Stretch, layout_of
from flowse.audio.waveform import probe, read, read_span
from flowse.refusal import Refusal

N = 16_000
SAMPLES = (np.random.default_rng(0).standard_normal(N) * 3000).astype("<i2")
FMT = struct.pack("<HHIIHH", 1, 1, 16_000, 32_000, 2, 16)
PCM_GUID = bytes.fromhex("000000001000800000aa00389b71")
EXTENSIBLE = struct.pack("<HHIIHHHHIH14s", 0xFFFE, 1, 16_000, 32_000, 2, 16, 22, 16, 4, 1, PCM_GUID)


def chunk(name: bytes, content: bytes, size: int | None = None) -> bytes:
    return name + struct.pack("<I", len(content) if size is None else size) + content


def wav(
    samples: bytes = SAMPLES.tobytes(), *, data: int | None = None, riff: int | None = None, before: bytes = b"",
    after: bytes = b"", fmt: bytes = FMT,
) -> bytes:  # fmt: skip
    body = b"WAVE" + chunk(b"fmt ", fmt) + before + chunk(b"data", samples, data) + after
    return b"RIFF" + struct.pack("<I", len(body) if riff is None else riff) + body


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def assert_whole(path: Path, expected: np.ndarray = SAMPLES) -> None:
    """The file holds exactly the expected samples: for `probe`, for `read`, and for segments."""
    frames = len(expected)
    info = probe(path)
    assert info.frames == frames
    got, rate = read(path)
    np.testing.assert_array_equal(np.rint(got[0] * 32768), expected)
    late = read_span(path, frames // 2 + 7, frames, rate)
    np.testing.assert_array_equal(late, got[:, frames // 2 + 7 :])
    same, _ = read(path, duration_s=info.duration_s)
    np.testing.assert_array_equal(same, got)


BEXT = chunk(b"bext", bytes(602))
INFO = chunk(b"LIST", b"INFOISFT\x04\0\0\0Lavf")
WAVS = {
    "plain": wav(),
    "extensible": wav(fmt=EXTENSIBLE),
    "a recorder that died": wav(data=0, riff=0),
    "a recorder that died after its first header": wav(data=0, riff=36),
    "data size 0, RIFF size right": wav(data=0),
    "RIFF size 0": wav(riff=0),
    "ffmpeg to a pipe": wav(data=0xFFFF_FFFF, riff=0xFFFF_FFFF, before=INFO),
    "sox to a pipe": wav(data=0x7FFF_F000, riff=0x7FFF_F024),
    "arecord to a pipe": wav(data=0x8000_0000, riff=0x8000_0024),
    "other programs to a pipe": wav(data=0xFFFF_FFDB, riff=0xFFFF_FFFF),
    "data size of the whole file": wav(data=2 * N + 44),
    "data size of the RIFF chunk": wav(data=2 * N + 36),
    "data size a few bytes too large": wav(data=2 * N + 12),
    "data size a few bytes too small": wav(data=2 * N - 4),
    "data size a few bytes too small before a chunk": wav(data=2 * N - 4, after=INFO),
    "data size too small by half, RIFF size right": wav(data=N),
    "chunks behind the samples": wav(after=INFO + chunk(b"id3 ", b"ID3abc")),
    "a chunk behind the samples, cut": wav(after=INFO[:-6]),
    "a tag behind the samples": wav(after=b"TAG" + bytes(125)),
    "zeros behind the samples": wav(after=bytes(468)),
    "bext": wav(before=BEXT),
    "a large chunk before the samples": wav(before=chunk(b"junk", bytes(28_000)) + INFO),
    "an odd chunk": wav(before=chunk(b"LIST", b"INFOa") + b"\0"),
    "an odd chunk without its padding": wav(before=chunk(b"LIST", b"INFOa")),
    "an empty chunk": wav(before=chunk(b"PAD ", b"")),
    "zeros before the samples": wav(before=bytes(24)),
    "a chunk of a wrong size": wav(before=chunk(b"LIST", b"INFO", 99_999_999)),
    "BW64": b"BW64\xff\xff\xff\xffWAVE"
    + chunk(b"ds64", struct.pack("<QQQI", 2 * N + 72, 2 * N, N, 0))
    + wav(data=0xFFFF_FFFF)[12:],
    "RF64": b"RF64\xff\xff\xff\xffWAVE"
    + chunk(b"ds64", struct.pack("<QQQI", 2 * N + 72, 2 * N, N, 0))
    + wav(data=0xFFFF_FFFF)[12:],
    "RF64 that was not closed": b"RF64\xff\xff\xff\xffWAVE"
    + chunk(b"ds64", struct.pack("<QQQI", 0, 0, 0, 0))
    + wav(data=0xFFFF_FFFF)[12:],
    "RF64 of unknown length": b"RF64\xff\xff\xff\xffWAVE"
    + chunk(b"ds64", struct.pack("<QQQI", 2**64 - 1, 2**64 - 1, 0, 0))
    + wav(data=0xFFFF_FFFF)[12:],
}


@pytest.mark.parametrize("name", WAVS)
def test_all_samples_of_a_wav_are_read_whatever_its_sizes_say(tmp_path: Path, name: str) -> None:
    assert_whole(written(tmp_path / "a.wav", WAVS[name]))


@pytest.mark.parametrize("name", ["plain", "extensible", "bext", "chunks behind the samples", "RF64"])
def test_a_wav_whose_header_is_right_is_left_to_the_decoder(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / "a.wav", WAVS[name])
    assert layout_of(path, WAVS[name][:HEAD_BYTES], len(WAVS[name]), whole=True) == PLAIN


def test_samples_that_no_header_counts_stay_out(tmp_path: Path) -> None:
    """RIFF and data agree, so what follows is foreign."""
    assert_whole(written(tmp_path / "a.wav", wav(riff=2 * N + 36, after=b"\x07\x81" * 100)))


def test_an_empty_wav_stays_empty(tmp_path: Path) -> None:
    for content in (wav(b""), wav(b"", after=INFO), wav(b"", riff=0)):
        with pytest.raises(Refusal, match="empty_file"):
            probe(written(tmp_path / "a.wav", content))


@pytest.mark.parametrize("declared", [2**31 - 4096 + 2, 2_999_999_998, 3_000_000_000, 4_000_000_000])
def test_a_large_wav_that_was_cut_is_truncated(tmp_path: Path, declared: int) -> None:
    path = written(tmp_path / "a.wav", wav(data=declared, riff=declared + 36))
    for call in (probe, read):
        with pytest.raises(Refusal, match="truncated"):
            call(path)
    # What is there can be read, as before.
    assert read(path, offset_s=0.5, duration_s=0.25)[0].shape == (1, 4000)


@pytest.mark.parametrize("k", [1, 2])
def test_a_wav_above_4_gib_whose_sizes_wrapped_around_is_read_to_the_end(tmp_path: Path, k: int) -> None:
    total = k * 2**32 + 2 * N
    path = tmp_path / "a.wav"
    with path.open("wb") as file:  # a sparse file: nearly nothing is written
        file.write(wav(b"", data=total % 2**32, riff=(total + 36) % 2**32))
        file.seek(44 + total - 2 * N)
        file.write(SAMPLES.tobytes())
    info = probe(path)
    assert info.frames == total // 2
    last = read_span(path, info.frames - N, info.frames, 16_000)
    np.testing.assert_array_equal(np.rint(last[0] * 32768), SAMPLES)
    with pytest.raises(Refusal, match="too_large"):
        read(path)


def big_endian_wav() -> bytes:
    body = b"WAVEfmt " + struct.pack(">IHHIIHH", 16, 1, 1, 16_000, 32_000, 2, 16) + b"data\0\0\0\0"
    return b"RIFX\0\0\0\0" + body + SAMPLES.astype(">i2").tobytes()


def w64(data: int) -> bytes:
    buffer = io.BytesIO()
    sf.write(buffer, SAMPLES, 16_000, format="W64", subtype="PCM_16")
    content = bytearray(buffer.getvalue())
    at = content.index(b"data\xf3\xac") + 16
    content[at : at + 8] = struct.pack("<Q", data)
    return bytes(content)


def aiff(ssnd: int, frames: int) -> bytes:
    buffer = io.BytesIO()
    sf.write(buffer, SAMPLES, 16_000, format="AIFF", subtype="PCM_16")
    content = bytearray(buffer.getvalue())
    at = content.index(b"SSND") + 4
    content[at : at + 4] = struct.pack(">I", ssnd)
    at = content.index(b"COMM") + 10
    content[at : at + 4] = struct.pack(">I", frames)
    return bytes(content)


def au(size: int) -> bytes:
    return struct.pack(">4sIIIII", b".snd", 24, size, 3, 16_000, 1) + SAMPLES.astype(">i2").tobytes()


OTHERS = {
    "RIFX that was not closed.wav": big_endian_wav(),
    "right.w64": w64(2 * N + 24),
    "not closed.w64": w64(0),
    "empty by its header.w64": w64(24),
    "unknown.w64": w64(2**63 - 1),
    "right.aiff": aiff(2 * N + 8, N),
    "not closed.aiff": aiff(0, 0),
    "not counted.aiff": aiff(2 * N + 8, 0),
    "unknown.aiff": aiff(0xFFFF_FFFF, 0xFFFF_FFFF),
    "right.au": au(2 * N),
    "unknown.au": au(0xFFFF_FFFF),
    "not closed.au": au(0),
}


@pytest.mark.parametrize("name", OTHERS)
def test_all_samples_of_other_containers_are_read_too(tmp_path: Path, name: str) -> None:
    assert_whole(written(tmp_path / name, OTHERS[name]))


@pytest.mark.parametrize("name", ["right.w64", "right.aiff", "right.au"])
def test_other_containers_that_were_cut_are_truncated(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / name, OTHERS[name][:N])
    for call in (probe, read):
        with pytest.raises(Refusal, match="truncated"):
            call(path)


def flac(samples: np.ndarray = SAMPLES, rate: int = 16_000) -> bytes:
    buffer = io.BytesIO()
    sf.write(buffer, samples, rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def streamed(content: bytes) -> bytes:
    """Return a FLAC file as it is written to a pipe: with 0 samples in its header."""
    return content[:21] + bytes([content[21] & 0xF0]) + bytes(4) + content[26:]


def test_a_flac_of_unknown_length_is_read_to_the_end(tmp_path: Path) -> None:
    assert_whole(written(tmp_path / "a.flac", streamed(flac())))


@pytest.mark.parametrize("change", [streamed, bytes], ids=["unknown length", "known length"])
def test_flac_files_that_were_joined_are_read_to_the_end(tmp_path: Path, change: type) -> None:
    other = SAMPLES[::-2].copy()
    path = written(tmp_path / "a.flac", change(flac()) + flac(other))
    assert_whole(path, np.concatenate([SAMPLES, other]))


def test_a_flac_with_a_tag_before_it_is_read(tmp_path: Path) -> None:
    tag = b"ID3\x03\0\0\0\0\x04\0" + bytes(512)
    assert_whole(written(tmp_path / "a.flac", tag + flac()))
    assert_whole(written(tmp_path / "b.flac", tag + streamed(flac())))


def ogg(samples: np.ndarray, subtype: str, rate: int = 16_000) -> bytes:
    buffer = io.BytesIO()
    sf.write(buffer, samples, rate, format="OGG", subtype=subtype)
    return buffer.getvalue()


TONES = [(0.3 * np.sin(2 * np.pi * hertz * np.arange(N + 123 * hertz) / 16_000)) for hertz in (2, 4, 3)]


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
@pytest.mark.parametrize("alike", [False, True])
def test_all_links_of_a_chained_ogg_are_read_to_the_sample(tmp_path: Path, subtype: str, alike: bool) -> None:
    links = [ogg(TONES[0], subtype)] * 3 if alike else [ogg(tone, subtype) for tone in TONES]
    apart = [read(written(tmp_path / f"{number}.ogg", link))[0] for number, link in enumerate(links)]
    expected = np.concatenate(apart, axis=1)
    path = written(tmp_path / "chained.ogg", b"".join(links))
    info = probe(path)
    assert (info.channels, info.frames) == expected.shape
    np.testing.assert_array_equal(read(path)[0], expected)
    first = apart[0].shape[1]
    for start, stop in ((first - 500, first + 500), (first + 100, first + 9000), (0, info.frames)):
        np.testing.assert_allclose(read_span(path, start, stop, 16_000), expected[:, start:stop], atol=1e-6)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_links_of_other_rates_or_channels_are_refused_with_one_reason(tmp_path: Path, subtype: str) -> None:
    stereo = np.stack([TONES[1], TONES[1]], axis=1)
    for other in (ogg(TONES[1], subtype, 48_000), ogg(stereo, subtype)):
        path = written(tmp_path / "a.ogg", ogg(TONES[0], subtype) + other)
        for call in (probe, read):
            with pytest.raises(Refusal, match=r"mixed_links: .*16000 Hz with 1 channel"):
                call(path)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_a_chain_whose_first_link_was_cut_is_truncated(tmp_path: Path, subtype: str) -> None:
    link = ogg(TONES[0], subtype)
    path = written(tmp_path / "a.ogg", link[: link.rindex(b"OggS")] + link)
    with pytest.raises(Refusal, match="truncated"):
        read(path)


def test_many_channels_in_a_format_that_only_ffmpeg_reads_are_no_crash(tmp_path: Path) -> None:
    frames = np.arange(30 * 500, dtype="<f4").reshape(500, 30) / 15_000
    # libsndfile refuses the block size, which FFmpeg corrects.
    fmt = struct.pack("<HHIIHH", 3, 30, 8000, 8000 * 120, 4, 32)
    path = written(tmp_path / "a.wav", wav(frames.tobytes(), fmt=fmt))
    try:
        got, _ = read(path)
    except Refusal:
        return
    np.testing.assert_array_equal(got, frames.T)


def sphere(samples: np.ndarray = SAMPLES) -> bytes:
    buffer = io.BytesIO()
    sf.write(buffer, samples, 16_000, format="NIST", subtype="PCM_16")
    return buffer.getvalue()


def test_a_sphere_file_is_read_and_a_cut_or_compressed_one_refused(tmp_path: Path) -> None:
    assert_whole(written(tmp_path / "a.sph", sphere()))
    cut = written(tmp_path / "cut.sph", sphere()[:N])
    compressed = written(
        tmp_path / "shorten.sph", sphere().replace(b"s3 pcm\n", b"s26 pcm,embedded-shorten-v2.00\n")[:N]
    )
    for call in (probe, read):
        with pytest.raises(Refusal, match="truncated"):
            call(cut)
        with pytest.raises(Refusal, match="undecodable"):
            call(compressed)
    assert read(cut, duration_s=0.25)[0].shape == (1, 4000)


def test_what_does_not_fit_into_memory_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "sparse.wav"
    stereo = struct.pack("<HHIIHH", 1, 2, 48_000, 192_000, 4, 16)
    with path.open("wb") as file:  # some KiB on the disk
        file.write(wav(b"", data=4_000_000_000, riff=4_000_000_036, fmt=stereo))
        file.truncate(4_000_000_044)
    assert probe(path).frames == 1_000_000_000
    for segment in ({}, {"duration_s": 20_000.0}, {"offset_s": 5.0}):
        with pytest.raises(Refusal, match="too_large"):
            read(path, **segment)
    assert read(path, offset_s=20_000.0, duration_s=0.5)[0].shape == (2, 24_000)


def test_an_error_of_the_storage_is_no_verdict_on_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.wav", wav(data=0, riff=0))

    def fails(self: Path, *args: object, **kwargs: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle", str(path))

    monkeypatch.setattr(Path, "open", fails)
    for call in (probe, read):
        with pytest.raises(OSError, match="Stale"):
            call(path)


@pytest.mark.parametrize(
    "segment", [{"offset_s": math.nan}, {"offset_s": math.inf}, {"duration_s": math.nan}, {"duration_s": math.inf}]
)
def test_a_segment_that_is_no_number_raises_a_value_error(tmp_path: Path, segment: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="offset_s"):
        read(written(tmp_path / "a.wav", wav()), **segment)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["caf\udce9.wav", "ü 😀.wav", "x" * 251 + ".wav"])
def test_files_of_any_name_are_read(tmp_path: Path, name: str) -> None:
    assert_whole(written(tmp_path / name, wav()))
    assert_whole(written(tmp_path / name, wav(data=0, riff=0)))


@pytest.mark.parametrize("name", ["x" * 300 + ".wav", "a\0b.wav", "a.wav/b.wav"])
def test_names_that_no_file_can_have_are_refused(tmp_path: Path, name: str) -> None:
    written(tmp_path / "a.wav", wav())
    for call in (probe, read):
        with pytest.raises(Refusal, match="not_found"):
            call(tmp_path / name)


UNSEEKABLE = [("WAV", "GSM610"), ("WAV", "G721_32"), ("WAV", "NMS_ADPCM_16"), ("AU", "G721_32"), ("AU", "G723_24"),
    ("AU", "G723_40"), ("AIFF", "GSM610"), ("WAV", "IMA_ADPCM"), ("WAV", "MS_ADPCM"), ("W64", "GSM610"),
    ("WAV", "ULAW"), ("WAV", "ALAW"), ("NIST", "ULAW"), ("NIST", "PCM_16")]  # fmt: skip


@pytest.mark.parametrize(("container", "subtype"), UNSEEKABLE)
def test_the_codecs_of_telephony_are_read_and_a_segment_is_a_slice(
    tmp_path: Path, container: str, subtype: str
) -> None:
    path = tmp_path / "a.wav"
    tone = 0.2 * np.sin(2 * np.pi * 300 * np.arange(N) / 8000)
    sf.write(path, tone, 8000, format=container, subtype=subtype)
    whole, rate = read(path)
    assert whole.shape == (1, probe(path).frames)
    assert abs(whole.shape[1] - N) < 320
    assert np.corrcoef(whole[0, :N], tone)[0, 1] > 0.98
    np.testing.assert_array_equal(read(path, offset_s=0.5, duration_s=0.5)[0], whole[:, 4000:8000])
    assert rate == 8000


def test_the_bytes_of_a_stretch_are_a_file_of_their_own(tmp_path: Path) -> None:
    path = written(tmp_path / "a", bytes(range(100)))
    spliced = Spliced(path.open("rb", buffering=0), Stretch(b"head", 10, 20))
    content = b"head" + bytes(range(10, 20))
    assert spliced.read() == content
    for start in range(15):
        spliced.seek(start)
        assert (spliced.read(5), spliced.tell()) == (content[start : start + 5], min(start + 5, max(start, 14)))


def lossy(frames: int) -> bytes:
    buffer = io.BytesIO()
    sf.write(buffer, TONES[0][:frames], 24_000, format="MP3", subtype="MPEG_LAYER_III")
    return buffer.getvalue()


def damaged(content: bytes, changes: list[tuple[int, int]], stop: int, extra: bytes) -> bytes:
    changed = bytearray(content)
    for place, value in changes:
        changed[place % len(changed)] = value
    return bytes(changed[: len(changed) - stop % len(changed)]) + extra


SMALL = {
    "a.wav": wav(SAMPLES[:500].tobytes(), before=INFO, after=INFO),
    "a.flac": flac(SAMPLES[:3000]),
    "b.flac": streamed(flac(SAMPLES[:3000])) + flac(SAMPLES[:3000]),
    "a.ogg": ogg(TONES[0][:3000], "VORBIS") * 2,
    "a.opus": ogg(TONES[0][:3000], "OPUS") * 2,
    "a.aiff": aiff(0, 0)[:2000],
    "a.w64": w64(0)[:2000],
    "a.au": au(0)[:2000],
    "b.wav": WAVS["RF64"][:2000],
    "a.sph": sphere(SAMPLES[:500]),
    "cut.aiff": aiff(0, 0)[:60],
    "a.mp3": lossy(3000) * 2,
}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(sorted(SMALL)),
    changes=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=6),
    stop=st.one_of(st.just(0), st.integers(0, 5000)),
    extra=st.binary(max_size=40),
)
def test_random_damage_gives_samples_or_a_refusal_and_nothing_else(
    tmp_path: Path, name: str, changes: list[tuple[int, int]], stop: int, extra: bytes
) -> None:
    path = written(tmp_path / name, damaged(SMALL[name], changes, stop, extra))
    try:
        frames = probe(path).frames
        got, _ = read(path)
    except Refusal:
        return
    assert abs(got.shape[1] - frames) <= 0.05 * 200_000
