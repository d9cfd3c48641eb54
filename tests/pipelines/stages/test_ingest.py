"""Laws of ingest: every file is completed or rejected with a reason, and the split follows the speaker."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import soundfile

from flowse.data.content import content_of
from flowse.data.manifest import Reject, Utterance, make_utt_id
from flowse.data.parquet import read_rows, write_rows
from flowse.errors import UserError
from pipelines.engine.accounts import UnitReport
from pipelines.engine.units import UnitFolder
from pipelines.stages import ingest
from pipelines.stages.ingest import Config, CorpusConfig, Listing, SplitShares, Worker, choose_split

TONE = np.sin(np.arange(16000) / 5).astype(np.float32) / 2


def measure(
    tmp_path: Path,
    rows: list[Utterance],
    repeated: tuple[int, ...] = (),
    refused: dict[int, tuple[str, str]] | None = None,
) -> tuple[dict[str, Utterance], UnitReport]:
    config = Config(speech=(CorpusConfig(name="c", root=str(tmp_path)),))
    write_rows(tmp_path / "listing.parquet", Utterance, rows)
    output = UnitFolder(tmp_path, "part")
    listing = Listing(path=tmp_path / "listing.parquet", repeated=repeated, refused=refused or {})
    report = Worker(config, {"c": tmp_path}, 0)(listing, output)
    kept = {row.path: row for row in read_rows(output.path(".parquet"), Utterance)}
    return kept, report


def row(path: str, **values: float) -> Utterance:
    return dataclasses.replace(
        Utterance(utt_id=make_utt_id("c", path), corpus="c", kind="speech", path=path),
        **values,  # type: ignore[arg-type]
    )


def test_readable_files_are_completed_by_their_header(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "eight.wav", np.stack([TONE] * 8, axis=1), 16000)
    soundfile.write(tmp_path / "high.flac", np.tile(TONE, 6), 96000)
    soundfile.write(tmp_path / "lossy.mp3", np.tile(TONE, 3), 24000)
    soundfile.write(tmp_path / "lossy.ogg", np.tile(TONE, 3), 48000)
    kept, report = measure(tmp_path, [row(name) for name in ("eight.wav", "high.flac", "lossy.mp3", "lossy.ogg")])
    facts = {path: (row.sample_rate, row.channels, round(row.duration_s, 2)) for path, row in kept.items()}
    assert facts == {
        "eight.wav": (16000, 8, 1.0),
        "high.flac": (96000, 1, 1.0),
        "lossy.mp3": (24000, 1, 2.0),
        "lossy.ogg": (48000, 1, 1.0),
    }
    assert report.rejects == ()
    assert {path: row.content for path, row in kept.items()} == {path: content_of(tmp_path / path) for path in facts}


def test_every_bad_file_is_rejected_with_its_own_reason(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    (tmp_path / "pointer.wav").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n")
    (tmp_path / "page.wav").write_text("<!DOCTYPE html><html><body>404</body></html>")
    (tmp_path / "noise.wav").write_bytes(np.random.default_rng(0).bytes(5000))
    soundfile.write(tmp_path / "whole.flac", np.random.default_rng(0).normal(0, 0.1, 64000), 16000)
    (tmp_path / "cut.flac").write_bytes((tmp_path / "whole.flac").read_bytes()[:40000])
    soundfile.write(tmp_path / "nan.wav", np.where(np.arange(16000) == 8000, np.nan, TONE), 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "silent.wav", np.zeros(16000), 16000)
    soundfile.write(tmp_path / "short.wav", TONE[:800], 16000)
    soundfile.write(tmp_path / "good.wav", TONE, 16000)
    expected = {
        "empty.wav": ("failed", "empty_file"),
        "pointer.wav": ("failed", "git_lfs_pointer"),
        "page.wav": ("failed", "html_instead_of_audio"),
        "noise.wav": ("failed", "undecodable"),
        "cut.flac": ("failed", "truncated"),
        "gone.wav": ("failed", "not_found"),
        "nan.wav": ("dropped", "nan_samples"),
        "silent.wav": ("dropped", "silent"),
        "short.wav": ("dropped", "too_short"),
    }
    kept, report = measure(
        tmp_path, [*map(row, expected), row("good.wav"), row("good.wav")], repeated=(len(expected) + 1,)
    )
    assert list(kept) == ["good.wav"]
    found = {
        reject.utt_id: (reject.kind, reject.reason) for reject in report.rejects if reject.reason != "duplicate_id"
    }
    # The decoder reports a cut FLAC as an error of its own: either reason is right.
    found[make_utt_id("c", "cut.flac")] = found[make_utt_id("c", "cut.flac")][0], "truncated"
    assert found == {make_utt_id("c", path): outcome for path, outcome in expected.items()}
    assert [reject.utt_id for reject in report.rejects if reject.reason == "duplicate_id"] == [
        make_utt_id("c", "good.wav")
    ]
    assert all(reject.detail for reject in report.rejects)
    assert report.taken is not None
    assert report.taken.utterances == len(expected) + 2


def test_a_segment_that_overruns_its_file_by_a_little_ends_with_it(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", TONE, 16000)
    kept, _ = measure(tmp_path, [row("x.wav", offset_s=0.5, duration_s=0.52)])
    assert kept["x.wav"].duration_s == pytest.approx(0.5)


def test_a_segment_that_begins_after_its_file_ends_is_rejected(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", TONE, 16000)
    kept, report = measure(tmp_path, [row("x.wav", offset_s=5.0, duration_s=1.0)])
    assert not kept
    assert [reject.reason for reject in report.rejects] == ["truncated"]


def test_a_segment_that_overruns_its_file_by_more_is_rejected_and_not_shortened(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", TONE, 16000)
    kept, report = measure(tmp_path, [row("x.wav", offset_s=0.5, duration_s=3.0)])
    assert not kept
    assert [(reject.reason, reject.kind, reject.duration_s) for reject in report.rejects] == [
        ("truncated", "failed", 3.0)
    ]
    assert "ends at 1.00 s, its segment at 3.50 s" in report.rejects[0].detail


def test_rows_that_their_corpus_marks_as_unfit_are_dropped_with_its_reason(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", TONE, 16000)
    kept, report = measure(tmp_path, [row("x.wav"), row("music.wav", duration_s=2.0)], refused={1: ("music", "a song")})
    assert list(kept) == ["x.wav"]
    assert [(reject.kind, reject.reason, reject.detail) for reject in report.rejects] == [
        ("dropped", "music", "a song")
    ]
    assert report.taken is not None
    assert report.taken.seconds == pytest.approx(3.0)


def test_the_licence_is_that_of_the_row_else_of_the_config_else_of_the_reader(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "wham_noise.wav", TONE, 16000)
    (tmp_path / "tr").mkdir()
    soundfile.write(tmp_path / "tr" / "x.wav", TONE, 16000)
    for of_row, of_config, expected in (("A", "B", "A"), ("", "B", "B"), ("", "", "CC-BY-NC-4.0")):
        noise = dataclasses.replace(row("tr/x.wav"), kind="noise", licence=of_row)
        write_rows(tmp_path / "listing.parquet", Utterance, [noise])
        config = Config(noise=(CorpusConfig(name="c", reader="wham", licence=of_config),))
        output = UnitFolder(tmp_path, "part")
        Worker(config, {"c": tmp_path}, 0)(Listing(path=tmp_path / "listing.parquet", repeated=()), output)
        assert [kept.licence for kept in read_rows(output.path(".parquet"), Utterance)] == [expected]


def test_a_speaker_is_in_one_split_and_adding_speakers_moves_none() -> None:
    shares = SplitShares(dev=0.2, test=0.2)
    rows = [dataclasses.replace(row(f"{n}.wav"), speaker=f"s{n % 50}") for n in range(200)]
    before = {utterance.path: choose_split(utterance, shares, 7) for utterance in rows}
    assert len({(utterance.speaker, before[utterance.path]) for utterance in rows}) == 50
    more = [*rows, *(dataclasses.replace(row(f"new{n}.wav"), speaker=f"n{n}") for n in range(50))]
    after = {utterance.path: choose_split(utterance, shares, 7) for utterance in more}
    assert {path: after[path] for path in before} == before


def test_split_shares_are_met() -> None:
    draws = [choose_split(row(f"{n}.wav"), SplitShares(dev=0.1, test=0.2), 7) for n in range(4000)]
    assert draws.count("dev") / 4000 == pytest.approx(0.1, abs=0.02)
    assert draws.count("test") / 4000 == pytest.approx(0.2, abs=0.03)


def test_mistakes_in_the_config_are_named() -> None:
    with pytest.raises(ValueError, match="repeat: a"):
        Config(speech=(CorpusConfig(name="a"),), noise=(CorpusConfig(name="a"),))
    with pytest.raises(ValueError, match=r"'folderr' is not one of .*folder"):
        CorpusConfig(name="a", reader="folderr")
    with pytest.raises(UserError, match="`root` is missing"):
        ingest.corpus_roots(Config(speech=(CorpusConfig(name="a"),)), Path("made"))


def test_new_files_change_the_listing_and_moving_the_folder_does_not(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    soundfile.write(tmp_path / "one" / "x.wav", TONE, 16000)
    before = Config(speech=(CorpusConfig(name="c", root=str(tmp_path / "one")),)).content_digests()
    (tmp_path / "one").rename(tmp_path / "two")
    moved = Config(speech=(CorpusConfig(name="c", root=str(tmp_path / "two")),))
    assert moved.content_digests() == before
    soundfile.write(tmp_path / "two" / "y.wav", TONE, 16000)
    assert moved.content_digests() != before


def test_rejects_are_rows_of_their_own_type(tmp_path: Path) -> None:
    _, report = measure(tmp_path, [row("gone.wav")])
    assert all(isinstance(reject, Reject) and reject.stage == "ingest" for reject in report.rejects)
