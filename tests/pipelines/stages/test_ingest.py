"""Laws of ingest: every file is completed or rejected with a reason, and the split follows the speaker."""

from __future__ import annotations

import dataclasses
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile

from flowse.data import measure as measure_module
from flowse.data.content import content_of
from flowse.data.manifest import Reject, Utterance, make_utt_id
from flowse.data.parquet import read_rows, write_rows
from flowse.errors import UserError
from pipelines.engine.accounts import StageReport, UnitReport
from pipelines.engine.context import Context
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


def digests(config: Config) -> dict[str, str]:
    return {name: outside.digest() for name, outside in config.outside().items()}


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
    before = digests(Config(speech=(CorpusConfig(name="c", root=str(tmp_path / "one")),)))
    (tmp_path / "one").rename(tmp_path / "two")
    moved = Config(speech=(CorpusConfig(name="c", root=str(tmp_path / "two")),))
    assert digests(moved) == before
    soundfile.write(tmp_path / "two" / "y.wav", TONE, 16000)
    assert digests(moved) != before


def test_rejects_are_rows_of_their_own_type(tmp_path: Path) -> None:
    _, report = measure(tmp_path, [row("gone.wav")])
    assert all(isinstance(reject, Reject) and reject.stage == "ingest" for reject in report.rejects)


def write_tones(folder: Path, *names: str) -> None:
    """Write recordings, each of another tone."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        tone = np.sin(np.arange(8000) / (5 + zlib.crc32(name.encode()) % 1000 / 100)).astype(np.float32) / 2
        soundfile.write(path, tone, 16000)


def ingested(root: Path, out: str = "out", **corpora: tuple[str, ...]) -> tuple[Context, StageReport]:
    """Run ingest on folders of `root`: corpora named after them, by kind."""
    found = {
        kind: tuple(CorpusConfig(name=name, root=str(root / name)) for name in names) for kind, names in corpora.items()
    }
    config = Config(**found, utterances_per_unit=2)  # type: ignore[arg-type]
    context = Context(root / out, name="ingest", roots=ingest.corpus_roots(config, root))
    return context, ingest.run(config, context)


def test_of_recordings_with_the_same_bytes_the_first_is_kept_and_only_their_units_are_written_again(
    tmp_path: Path,
) -> None:
    names = tuple(f"{number}.wav" for number in range(8))
    write_tones(tmp_path / "a", *names)
    write_tones(tmp_path / "b", "x.wav", "y.wav")
    write_tones(tmp_path / "n", "n.wav")
    before, _ = ingested(tmp_path, speech=("a", "b"), noise=("n",))
    shutil.copyfile(tmp_path / "a" / "3.wav", tmp_path / "a" / "7x.wav")
    shutil.copyfile(tmp_path / "a" / "0.wav", tmp_path / "b" / "a.wav")
    shutil.copyfile(tmp_path / "a" / "0.wav", tmp_path / "n" / "speech.wav")  # another kind
    context, report = ingested(tmp_path, speech=("a", "b"), noise=("n",))
    rejects = {row.utt_id: row for row in read_rows(context.parts(".rejects.parquet"), Reject)}
    assert {name: row.reason for name, row in rejects.items()} == dict.fromkeys(
        ("a/7x-wav", "b/a-wav"), "duplicate_content"
    )
    assert rejects["b/a-wav"].detail == "a.wav: holds the same bytes as 0.wav of corpus a; remove one of the two"
    kept = [row.path for row in read_rows(context.parts(".parquet"), Utterance)]
    assert kept == [*names, "x.wav", "y.wav", "n.wav", "speech.wav"]
    assert (report.taken.utterances, report.kept.utterances) == (14, 12)
    assert report.dropped["duplicate_content"].utterances == 2
    assert report.taken == context.account().taken
    hidden = context.unit_files(".parquet", hidden=True)
    assert 1 <= len(hidden) <= 2
    # All other units are those of before.
    replaced = {file.unit for file in [*hidden, *context.unit_files(".parquet")]} - {*before.units}
    assert len(replaced) <= 5


def test_when_the_first_goes_the_second_takes_its_place(tmp_path: Path) -> None:
    write_tones(tmp_path / "a", "x.wav", "y.wav", "z.wav")
    shutil.copyfile(tmp_path / "a" / "x.wav", tmp_path / "a" / "w.wav")
    context, report = ingested(tmp_path, speech=("a",))
    assert [row.path for row in read_rows(context.parts(".parquet"), Utterance)] == ["w.wav", "y.wav", "z.wav"]
    (tmp_path / "a" / "w.wav").unlink()
    context, report = ingested(tmp_path, speech=("a",))
    assert [row.path for row in read_rows(context.parts(".parquet"), Utterance)] == ["x.wav", "y.wav", "z.wav"]
    assert report.dropped == {}
    again, _ = ingested(tmp_path, "anew", speech=("a",))
    assert [file.sha256 for file in context.unit_files(".parquet")] == [
        file.sha256 for file in again.unit_files(".parquet")
    ]


def test_a_copy_with_rejects_of_its_own_keeps_them(tmp_path: Path) -> None:
    """The unit that takes the place of another accounts for all that the other took."""
    write_tones(tmp_path / "a", "x.wav")
    shutil.copyfile(tmp_path / "a" / "x.wav", tmp_path / "a" / "y.wav")
    (tmp_path / "a" / "broken.wav").write_bytes(b"RIFF")
    config = Config(speech=(CorpusConfig(name="a", root=str(tmp_path / "a")),))
    context = Context(tmp_path / "out", name="ingest", roots=ingest.corpus_roots(config, tmp_path))
    report = ingest.run(config, context)
    assert report.taken.utterances == 3
    assert (set(report.dropped), set(report.failed)) == ({"duplicate_content"}, {"undecodable"})
    assert len(list(read_rows(context.parts(".rejects.parquet"), Reject))) == 2


def test_two_corpora_over_one_root_hold_each_file_once(tmp_path: Path) -> None:
    write_tones(tmp_path / "a", "x.wav", "sub/y.wav")
    (tmp_path / "b").symlink_to("a")
    context, report = ingested(tmp_path, speech=("a", "b"))
    assert [row.utt_id for row in read_rows(context.parts(".parquet"), Utterance)] == ["a/sub/y-wav", "a/x-wav"]
    assert report.dropped["same_file"].utterances == 2


def test_a_file_that_is_written_to_while_it_is_decoded_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tones(tmp_path, "x.wav", "y.wav")
    whole = measure_module.check_recording

    def written_to(row: Utterance, path: Path, **limits: float) -> Utterance:
        found = whole(row, path, **limits)
        if path.name == "x.wav":
            path.write_bytes(path.read_bytes() + b"more")
        return found

    monkeypatch.setattr(measure_module, "check_recording", written_to)
    kept, report = measure(tmp_path, [row("x.wav"), row("y.wav")])
    assert list(kept) == ["y.wav"]
    assert [reject.reason for reject in report.rejects] == ["changed_while_read"]
