"""The DNS Challenge: both layouts, speakers and languages from the names, and responses that two collections hold."""

from __future__ import annotations

from typing import Any

import pytest

from flowse.errors import UserError
from pipelines.corpora import Unfit
from pipelines.corpora.dns import speaker_of

BOOK = "book_00000_chp_0009_reader_06709_0.wav"
ZH = "datasets/clean/mandarin_speech"


@pytest.fixture
def flat(bench: Any) -> Any:
    """The layout of 2020."""
    bench.audio(f"datasets/clean/{BOOK}", "datasets/clean/book_00002_chp_0005_reader_11980_10.wav")
    bench.audio("datasets/noise/--9VR_F7CtY.wav", "datasets/noise/-0JNMxLVqpk.wav")
    bench.audio(*(f"datasets/noise/door_Freesound_validated_414439_{n}.wav" for n in range(3)))
    bench.audio("datasets/test_set/synthetic/no_reverb/noisy/clnsp0_train_1_snr0_fileid_1.wav")
    bench.audio("datasets/clean/._x.wav", "__MACOSX/datasets/clean/x.wav")
    return bench


@pytest.fixture
def parts(bench: Any) -> Any:
    """The layout of 2021."""
    clean = "datasets/clean"
    bench.audio(f"{clean}/read_speech/{BOOK}", f"{ZH}/BAC009S0002W0122.wav", f"{ZH}/A11_000.wav")
    french = f"{clean}/french_data/M-AILABS_Speech_Dataset/fr_FR_190hrs_16k/female/ezwa"
    # Equal names in different books.
    bench.audio(f"{french}/book_a/wavs/f000001.wav", f"{french}/book_b/wavs/f000001.wav")
    bench.audio(f"{clean}/emotional_speech/crema_d/1025_IWL_SAD_XX.wav", f"{clean}/singing_voice/x.wav")
    for microphone in ("mic1", "mic2"):
        bench.audio(f"{clean}/vctk_wav48_silence_trimmed/p232/p232_001_{microphone}.flac")
    return bench


@pytest.fixture
def rooms(bench: Any) -> Any:
    own, both = "datasets/impulse_responses/SLR26/simulated_rirs_16k", "datasets/impulse_responses/SLR28/RIRS_NOISES"
    for size in ("smallroom", "mediumroom", "largeroom"):
        for folder in (own, f"{both}/simulated_rirs"):
            bench.audio(f"{folder}/{size}/Room001/Room001-00001.wav", seconds=0.2)
    bench.audio(f"{both}/simulated_rirs/smallroom/Room002/Room002-00001.wav", seconds=0.2)
    bench.audio(f"{both}/real_rirs_isotropic_noises/RVB2014_type1_rir_largeroom1_far_angla.wav", channels=8)
    bench.audio(f"{both}/real_rirs_isotropic_noises/RVB2014_type1_noise_largeroom1_1.wav", channels=8)
    return bench


def test_recordings_of_2020_are_english_and_the_reader_is_the_speaker(flat: Any) -> None:
    found = flat.measure("dns")
    assert [(row.path, row.speaker, row.language) for row in found.kept] == [
        (f"datasets/clean/{BOOK}", "reader_06709", "en"),
        ("datasets/clean/book_00002_chp_0005_reader_11980_10.wav", "reader_11980", "en"),
    ]
    assert {row.licence for row in found.kept} == {"public domain (LibriVox)"}


def test_the_pieces_of_a_freesound_recording_share_a_split(flat: Any) -> None:
    found = flat.measure("dns", "noise")
    assert len(found.kept) == 5
    pieces = [row for row in found.kept if "Freesound" in row.path]
    assert {(row.speaker, row.licence) for row in pieces} == {("Freesound_414439", "CC0-1.0")}
    assert len({row.split for row in pieces}) == 1
    assert {(row.speaker, row.licence) for row in found.kept if row not in pieces} == {("", "CC-BY-4.0")}


def test_the_part_states_the_language_and_the_file_name_the_speaker(parts: Any) -> None:
    found = parts.measure("dns")
    assert {
        (row.path.removeprefix("datasets/clean/").split("/")[0], row.speaker, row.language) for row in found.kept
    } == {
        ("read_speech", "reader_06709", "en"),
        ("mandarin_speech", "S0002", "zh"),
        ("mandarin_speech", "A11", "zh"),
        ("french_data", "ezwa", "fr"),
        ("emotional_speech", "1025", "en"),
        ("singing_voice", "", ""),
        ("vctk_wav48_silence_trimmed", "p232", "en"),
    }
    # Two books have files of the same name; one of two microphones is read.
    assert len(found.kept) == 8
    assert not found.rejects


def test_parts_and_speakers_can_be_chosen_and_left_out(parts: Any) -> None:
    assert {row.speaker for row in parts.read("dns", parts=["mandarin_speech"])} == {"S0002", "A11"}
    assert "p232" not in {row.speaker for row in parts.read("dns", leave_out=["vctk_wav48_silence_trimmed"])}
    assert "p232" not in {row.speaker for row in parts.read("dns", leave_out_speakers=["p232"])}
    with pytest.raises(UserError, match="has no folder klingon_speech"):
        parts.read("dns", parts=["klingon_speech"])
    with pytest.raises(UserError, match=r"a list is needed: \[read_speech\]"):
        parts.read("dns", leave_out="read_speech")


def test_the_fullband_layout_is_preferred_to_its_wideband_copy(flat: Any) -> None:
    flat.audio(f"datasets_fullband/clean_fullband/read_speech/{BOOK}", rate=48_000)
    flat.audio("datasets_fullband/noise_fullband/x.wav", rate=48_000)
    assert flat.measure("dns").paths == [f"datasets_fullband/clean_fullband/read_speech/{BOOK}"]
    assert flat.measure("dns", "noise").paths == ["datasets_fullband/noise_fullband/x.wav"]


def test_a_copy_of_a_part_inside_the_part_is_rejected(parts: Any) -> None:
    parts.audio(f"datasets/clean/read_speech/read_speech/{BOOK}")
    found = parts.measure("dns", parts=["read_speech"])
    assert found.paths == [f"datasets/clean/read_speech/{BOOK}"]
    assert found.reasons == ["second_copy"]


def test_responses_that_both_collections_hold_are_read_once(rooms: Any) -> None:
    found = rooms.measure("dns", "rir")
    assert sorted(row.speaker for row in found.kept) == [
        "RVB2014 largeroom1",
        "largeroom/Room001",
        "mediumroom/Room001",
        "smallroom/Room001",
        "smallroom/Room002",
    ]
    assert found.reasons == ["second_copy"] * 3
    assert {row.licence for row in found.kept} == {"Apache-2.0"}
    assert [row.speaker for row in rooms.read("dns", "rir", simulated=False)] == ["RVB2014 largeroom1"]
    kept = [row for row in rooms.read("dns", "rir", real=False, sizes=["largeroom"]) if not isinstance(row, Unfit)]
    assert [row.speaker for row in kept] == ["largeroom/Room001"]


@pytest.mark.parametrize(
    ("path", "speaker"),
    [
        ("read_speech/book_00000_chp_0009_reader_06709_0_seg_0.wav", "reader_06709"),
        ("italian_speech/M-AILABS_Speech_Dataset/it_IT_128hrs_16k/mix/novelle_02/wavs/x_f000039.wav", "mix/novelle_02"),
        (
            "german_speech/data/German_Wikipedia_Martin_Luther_audio2_48kHz_seg_157.wav",
            "German_Wikipedia_Martin_Luther",
        ),
        ("spanish_speech/SLR39_48kHz/SLR39_100_11_48kHz.wav", "SLR39_100"),
        ("spanish_speech/SLR39_native-f-Mexico-190-45-62-NA-mgh8170_s120_48kHz.wav", "mgh8170"),
        ("spanish_speech/SLR61_es_ar_female_arf_03397_01665251952_48kHz.wav", "arf_03397"),
        ("VocalSet_48kHz_mono/vocalset_female7_scales_fast_forte_f7_48kHz.wav", "vocalset_female7"),
        ("read_speech/unknown.wav", ""),
    ],
)
def test_speakers_are_found_in_the_file_names_of_every_source(path: str, speaker: str) -> None:
    assert speaker_of(path) == speaker


def test_the_digest_sees_files(flat: Any) -> None:
    assert flat.changes("dns", lambda: flat.audio("datasets/noise/new.wav"))


def test_mistakes_are_named(bench: Any) -> None:
    for kind in ("speech", "noise", "rir"):
        with pytest.raises(UserError, match="has no folder datasets_fullband/"):
            bench.read("dns", kind)
