"""Laws of the demo corpus: options and seed decide the plan, and the plan decides the files."""

import hashlib
import multiprocessing
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import soundfile

from flowse.data.manifest import Utterance
from pipelines.corpora import demo
from pipelines.corpora.demo import Clip, Options

SMALL = Options(speech_minutes=1.0, noise_minutes=0.2, noise_clip_s=1.0)


def test_a_plan_follows_from_options_and_seed() -> None:
    assert demo.plan(SMALL, 0) == demo.plan(SMALL, 0)
    assert not {clip.path for clip in demo.plan(SMALL, 0)} & {clip.path for clip in demo.plan(SMALL, 1)}


def test_more_minutes_change_no_clip() -> None:
    more = Options(speech_minutes=2.0, noise_minutes=0.4, noise_clip_s=1.0)
    assert set(demo.plan(SMALL, 0)) < set(demo.plan(more, 0))


def test_ids_are_unique_and_shares_are_kept() -> None:
    clips = demo.plan(Options(), 0)
    assert len({clip.utt_id for clip in clips}) == len(clips)
    seconds: dict[str, float] = defaultdict(float)
    for clip in clips:
        if clip.voice:
            seconds[clip.language] += demo.estimated_s(clip.text, clip.voice)
    total = sum(seconds.values())
    assert total == pytest.approx(15 * 60, rel=0.15)
    assert seconds["en"] / total == pytest.approx(0.4, abs=0.05)
    assert seconds["zh"] / total == pytest.approx(0.35, abs=0.05)
    assert sum(clip.seconds for clip in clips if clip.kind == "noise") == pytest.approx(6 * 60, abs=8)


def test_there_are_forty_speakers_and_no_two_have_the_same_timbre() -> None:
    voices = {clip.voice for clip in demo.plan(Options(), 0) if clip.voice}
    assert len(voices) >= 40
    assert len({voice.variant for voice in voices}) == len(voices)


def test_every_kind_of_noise_is_there() -> None:
    assert {clip.noise for clip in demo.plan(Options(), 0)} == {"", *demo.KINDS}


def digest(clip: Clip, path: Path) -> str:
    demo.make_clip(clip, path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_files_are_the_same_bytes_in_any_order_and_process(tmp_path: Path) -> None:
    plan = demo.plan(SMALL, 0)
    babble = next(clip for clip in plan if clip.noise == "babble")
    clips = [plan[0], babble, next(clip for clip in plan if clip.language == "zh")]
    here = [digest(clip, tmp_path / "here" / clip.path) for clip in clips]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as other:
        paths = [tmp_path / "there" / clip.path for clip in clips]
        there = list(other.map(digest, reversed(clips), reversed(paths)))
    assert here == there[::-1]
    assert len(set(here)) == 3
    assert not list(tmp_path.rglob(".*"))


def test_the_planned_clips_are_read_and_made(tmp_path: Path) -> None:
    speech, noise = (list(demo.read(tmp_path, "made", kind, SMALL, 0)) for kind in ("speech", "noise"))
    assert [row.path for row in (*speech, *noise)] == [clip.path for clip in demo.plan(SMALL, 0)]
    assert all(row.text and row.language and row.speaker and row.licence == demo.LICENCE for row in speech)
    assert len({row.speaker for row in noise}) == len(noise)
    assert all(row.split is None for row in (*speech, *noise))
    for row in (speech[0], noise[0]):
        assert isinstance(row, Utterance)
        demo.make(tmp_path, "made", SMALL, 0, row)
        audio, rate = soundfile.read(tmp_path / row.path)
        assert audio.ndim == 1
        assert rate >= 22_050
        assert abs(audio).max() == pytest.approx(0.5, abs=1e-3)


def test_the_listing_changes_with_the_options_only(tmp_path: Path) -> None:
    same = Options(speech_minutes=1.0, noise_minutes=0.2, noise_clip_s=1.0)
    assert demo.listing_digest(tmp_path, SMALL) == demo.listing_digest(Path(), same)
    assert demo.listing_digest(tmp_path, SMALL) != demo.listing_digest(tmp_path, Options())


@pytest.mark.parametrize(
    "wrong",
    [
        {"speech_minutes": -1.0},
        {"mandarin_share": 0.8, "other_share": 0.3},
        {"english_voices": 0},
        {"english_voices": 80},
    ],
)
def test_impossible_options_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must be|voice"):
        Options(**wrong)  # type: ignore[arg-type]
