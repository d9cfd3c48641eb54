"""OpenSLR 28: responses and noises in one folder, rooms in the file names, and OpenSLR 26 inside."""

from __future__ import annotations

from typing import Any

import pytest

from flowse.errors import UserError
from pipelines.corpora import openslr28

REAL = {
    "RVB2014_type1_rir_largeroom1_far_angla.wav": "RVB2014 largeroom1",
    "RVB2014_type1_rir_largeroom1_near_anglb.wav": "RVB2014 largeroom1",
    "RWCP_type1_rir_cirline_jr1_imp110.wav": "RWCP jr1",
    "air_type1_air_binaural_aula_carolina_1_3_135_3.wav": "air aula_carolina",
}
NOISE = {
    "RVB2014_type1_noise_largeroom1_1.wav": "RVB2014 largeroom1",
    "RWCP_type5_noise_cirline_ofc_ambient1.wav": "RWCP ofc",
}
POINT = ["noise-free-sound-0000.wav", "noise-free-sound-0001.wav"]


@pytest.fixture
def corpus(bench: Any) -> Any:
    bench.audio(*(f"RIRS_NOISES/real_rirs_isotropic_noises/{name}" for name in (*REAL, *NOISE)), channels=8)
    bench.audio(*(f"RIRS_NOISES/pointsource_noises/{name}" for name in POINT))
    for size in ("smallroom", "mediumroom", "largeroom"):
        bench.audio(f"RIRS_NOISES/simulated_rirs/{size}/Room001/Room001-00001.wav", seconds=0.2)
    bench.text("RIRS_NOISES/real_rirs_isotropic_noises/rir_list", "")
    return bench


def names(rows: Any) -> dict[str, str]:
    return {row.path.rpartition("/")[2]: row.speaker for row in rows}


def test_responses_are_read_with_their_room(corpus: Any) -> None:
    found = corpus.measure("openslr28", "rir")
    assert {name: room for name, room in names(found.kept).items() if name in REAL} == REAL
    assert {row.speaker for row in found.kept if "simulated" in row.path} == {
        "smallroom/Room001",
        "mediumroom/Room001",
        "largeroom/Room001",
    }
    assert len(found.kept) == 7
    assert {row.licence for row in found.kept} == {"Apache-2.0"}


def test_noises_are_read_with_their_room_or_recording(corpus: Any) -> None:
    found = corpus.measure("openslr28", "noise")
    assert names(found.kept) == NOISE | {name: name.removesuffix(".wav") for name in POINT}


def test_the_files_are_those_of_lhotses_recipe(corpus: Any) -> None:
    from lhotse.recipes.rir_noise import prepare_rir_noise

    manifests = prepare_rir_noise(corpus.root / "RIRS_NOISES")
    for kind, parts in (("rir", ("real_rir", "sim_rir")), ("noise", ("iso_noise", "point_noise"))):
        recordings = [recording for part in parts for recording in manifests[part]["recordings"]]
        expected = {str(recording.sources[0].source) for recording in recordings}
        ours = {str(corpus.root / row.path) for row in corpus.read("openslr28", kind)}
        # The recipe looks for "rir" in the names, which Aachen's do not have.
        assert {path.rpartition("/")[2][:4] for path in ours ^ expected} <= {"air_"}
        assert expected <= ours


def test_parts_can_be_left_out(corpus: Any) -> None:
    assert names(corpus.read("openslr28", "rir", simulated=False)) == REAL
    assert names(corpus.read("openslr28", "noise", pointsource=False)) == NOISE
    assert len(corpus.read("openslr28", "rir", real=False, sizes=["smallroom"])) == 1


@pytest.mark.parametrize(
    ("stem", "room"),
    [
        ("RWCP_type4_rir_p30l", "RWCP type4"),
        ("RWCP_type2_rir_circle_e2b_imp010", "RWCP e2b"),
        ("RVB2014_type2_noise_simroom3_4", "RVB2014 simroom3"),
        ("air_type1_air_phone_stairway2_hfrp", "air stairway"),
        ("air_type1_air_binaural_stairway_1_1_90", "air stairway"),
        ("air_type1_air_phone_BT_corridor_hhp", "air corridor"),
        ("something_else", "something_else"),
    ],
)
def test_the_room_is_in_the_name(stem: str, room: str) -> None:
    assert openslr28.room_of(stem) == room


def test_the_digest_sees_files(corpus: Any) -> None:
    assert corpus.changes("openslr28", lambda: corpus.audio("RIRS_NOISES/pointsource_noises/new.wav"))


def test_a_missing_part_is_named(corpus: Any) -> None:
    (corpus.root / "RIRS_NOISES/pointsource_noises").rename(corpus.root / "gone")
    with pytest.raises(UserError, match="has no folder pointsource_noises"):
        corpus.read("openslr28", "noise")
