"""Laws of enhance: every recording is enhanced as Enhancer does it, at its own length, or rejected with a reason."""

from __future__ import annotations

import dataclasses
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from flowse.data.enhanced import Enhanced, unpack
from flowse.data.manifest import Reject, Utterance
from flowse.data.parquet import read_rows, write_rows
from flowse.enhancer import Enhancer
from flowse.errors import UserError
from flowse.seeding import derive_seed, generator
from pipelines.corpora.config import CorpusConfig
from pipelines.engine import ray_units
from pipelines.engine.accounts import StageReport
from pipelines.engine.backend import Backend
from pipelines.engine.cluster import connected_capacity
from pipelines.engine.context import Context, UnrecordedOutput
from pipelines.engine.fingerprint import Identity
from pipelines.engine.resources import Resources
from pipelines.stages import enhance, ingest
from pipelines.stages.enhance import Config
from tests.tiny import write_model

SEED = 11


def noise(number: int, seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    samples = 0.1 * generator(number).standard_normal((round(seconds * rate), channels))
    return np.asarray(samples * (np.arange(len(samples)) * 7 // rate % 2 * 0.9 + 0.1)[:, None])


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    write_model(folder / "model")
    return folder


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of recordings of many formats, some of which cannot be enhanced."""
    root = tmp_path_factory.mktemp("recordings")
    (root / "deep" / "er").mkdir(parents=True)
    soundfile.write(root / "mono.wav", noise(1, 0.7, 16_000), 16_000)
    soundfile.write(root / "Two channels.flac", noise(2, 0.5, 44_100, 2), 44_100, subtype="PCM_24")
    soundfile.write(root / "deep" / "high.wav", noise(3, 0.4, 48_000), 48_000, subtype="FLOAT")
    soundfile.write(root / "deep" / "er" / "lossy.ogg", noise(4, 0.6, 24_000), 24_000)
    soundfile.write(root / "deep" / "er" / "short.wav", noise(5, 0.01, 8_000), 8_000)
    soundfile.write(root / "silent.wav", np.zeros(4_000), 16_000)
    soundfile.write(root / "nine.wav", noise(6, 0.1, 16_000, 9), 16_000)
    soundfile.write(root / "nan.wav", np.where(np.arange(1_000) == 7, np.nan, 0.1), 16_000, subtype="FLOAT")
    (root / "empty.wav").touch()
    (root / "page.mp3").write_text("<!DOCTYPE html><html></html>")
    whole = root / "whole.bin"
    soundfile.write(whole, noise(7, 1.0, 16_000), 16_000, format="FLAC")
    (root / "cut.flac").write_bytes(whole.read_bytes()[:9_000])
    whole.unlink()
    return root


REJECTED = {
    "c/nine-wav": ("dropped", "too_many_channels"),
    "c/nan-wav": ("dropped", "nan_samples"),
    "c/empty-wav": ("failed", "empty_file"),
    "c/page-mp3": ("failed", "html_instead_of_audio"),
    "c/cut-flac": ("failed", "truncated"),
}


def config(root: Path, **values: Any) -> Config:
    options = values.pop("options", {})
    reader = values.pop("reader", "folder")
    corpora = (CorpusConfig(name="c", reader=reader, root=str(root), options=options),)
    return Config(corpora=corpora, **{"recordings_per_unit": 4, **values})


def place(folder: Path, export: Path, backend: Backend | None = None, workers: int | None = None) -> Context:
    inputs = {"export": UnrecordedOutput(export)}
    return Context(
        folder, name="enhance", seed=SEED, inputs=inputs, backend=backend, resources=Resources(workers=workers)
    )


@pytest.fixture(scope="module")
def done(recordings: Path, export: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StageReport]:
    folder = tmp_path_factory.mktemp("done")
    return folder, enhance.run(config(recordings), place(folder, export))


def rows_of(folder: Path) -> dict[str, Enhanced]:
    parts = [
        part for part in sorted((folder / "units").glob("*.parquet")) if not part.name.endswith(".rejects.parquet")
    ]
    return {row.path: row for row in read_rows(parts, Enhanced)}


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in (folder / "units").iterdir()
        if path.is_file() and path.suffix in (".tar", ".parquet")
    }


def test_every_recording_is_enhanced_or_rejected_with_a_reason(done: tuple[Path, StageReport]) -> None:
    folder, report = done
    rejects = {
        reject.utt_id: reject for reject in read_rows(sorted((folder / "units").glob("*.rejects.parquet")), Reject)
    }
    assert {name: (reject.kind, reject.reason) for name, reject in rejects.items()} == REJECTED
    assert all(reject.detail for reject in rejects.values())
    assert report.kept.utterances == len(rows_of(folder)) == 6
    assert report.taken.utterances == 11
    assert {"rtf", "network evaluations a second", "bytes"} <= set(report.metrics)


def test_enhanced_recordings_are_those_of_enhancer_at_their_own_rate_channels_and_length(
    done: tuple[Path, StageReport], recordings: Path, export: Path, tmp_path: Path
) -> None:
    folder, _ = done
    parts = [part for part in sorted((folder / "units").glob("*.parquet")) if "rejects" not in part.name]
    assert len(list(unpack(parts, tmp_path))) == 6
    enhancer = Enhancer.from_pretrained(export / "model")
    for path, row in rows_of(folder).items():
        noisy, rate = soundfile.read(recordings / path, dtype="float32", always_2d=True)
        enhanced, new_rate = soundfile.read(tmp_path / row.file, dtype="float32", always_2d=True)
        assert (enhanced.shape, new_rate) == (noisy.shape, rate)
        expected = enhancer.enhance(noisy.T, rate, seed=derive_seed(SEED, "enhance", row.utt_id)).T
        assert np.abs(enhanced - expected).max() <= 2.0**-row.bits
        assert row.peak == pytest.approx(np.abs(expected).max(), abs=1e-6)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()) == [
        "c/Two channels.flac",
        "c/deep/er/lossy.ogg.flac",
        "c/deep/er/short.wav",
        "c/deep/high.wav",
        "c/mono.wav",
        "c/silent.wav",
    ]
    assert soundfile.info(tmp_path / "c" / "deep" / "high.wav").subtype == "PCM_24"
    assert soundfile.info(tmp_path / "c" / "mono.wav").subtype == "PCM_16"


def test_the_tars_are_webdataset_and_the_manifest_knows_every_byte(done: tuple[Path, StageReport]) -> None:
    folder, _ = done
    for row in rows_of(folder).values():
        with tarfile.open(folder / "units" / row.tar) as tar:
            info = tar.getmember(f"{row.utt_id}.flac")
            assert (info.offset_data, info.size, info.mtime) == (row.audio_offset, row.audio_bytes, 0)
            member = tar.getmember(f"{row.utt_id}.json")
            assert (member.offset_data, member.size) == (row.json_offset, row.json_bytes)
            about = json.load(tar.extractfile(member))  # type: ignore[arg-type]
        assert (about["path"], about["sampling"]["steps"], about["with_text"]) == (row.path, 2, False)


def test_what_is_done_is_not_done_again_and_comes_out_the_same(
    done: tuple[Path, StageReport], recordings: Path, export: Path, tmp_path: Path
) -> None:
    folder, report = done
    context = place(tmp_path / "again", export)
    enhance.run(config(recordings), context)
    assert files_of(context.folder) == files_of(folder)
    lost = context.parts(".tar")[1]
    lost.unlink()
    before = {path: path.stat().st_mtime_ns for path in context.units_folder.glob("*.tar")}
    resumed = enhance.run(config(recordings), place(context.folder, export))
    after = {path: path.stat().st_mtime_ns for path in context.units_folder.glob("*.tar")}
    assert {path.name for path in after if after[path] != before.get(path)} == {lost.name}
    assert (resumed.taken, resumed.kept) == (report.taken, report.kept)
    assert files_of(context.folder) == files_of(folder)


def test_two_workers_write_what_one_writes(
    done: tuple[Path, StageReport], recordings: Path, export: Path, tmp_path: Path, local_ray: None
) -> None:
    backend = Backend(connected_capacity(), ray_units.map_units)
    enhance.run(config(recordings), place(tmp_path / "ray", export, backend, workers=2))
    assert files_of(tmp_path / "ray") == files_of(done[0])


def test_a_long_recording_is_streamed_and_a_segment_is_cut(export: Path, tmp_path: Path) -> None:
    root = tmp_path / "long"
    root.mkdir()
    samples = noise(9, 23.0, 8_000)
    soundfile.write(root / "long.flac", samples, 8_000)
    (root / "t.csv").write_text("path,offset_s,duration_s\nlong.flac,1.5,0.5\nlong.flac,22.5,9.0\n")
    context = place(tmp_path / "out", export)
    whole = enhance.run(config(root), context)
    assert whole.kept.seconds == pytest.approx(23.0)
    (row,) = rows_of(context.folder).values()
    assert row.samples == len(samples)
    segments = place(tmp_path / "segments", export)
    report = enhance.run(config(root, options={"table": "t.csv"}), segments)
    (row,) = rows_of(segments.folder).values()
    assert (row.samples, row.file) == (4_000, "c/long-000001500-000002000.flac")
    assert list(report.failed) == ["truncated"]


def test_a_recording_beyond_full_scale_is_lowered_and_not_clipped(export: Path, tmp_path: Path) -> None:
    samples = 30_000 * noise(0, 2.0, 16_000)
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "integers.wav", samples, 16_000, subtype="FLOAT")
    report = enhance.run(config(tmp_path / "in"), place(tmp_path / "out", export))
    row = rows_of(tmp_path / "out")["integers.wav"]
    assert row.peak_before == pytest.approx(np.abs(samples).max(), rel=1e-5)
    assert 0.1 < row.peak <= 1
    assert report.metrics["lowered to full scale"] == 1
    assert any("not clipped" in note for note in report.notes)


def test_a_manifest_and_lhotse_cuts_select_what_is_enhanced(recordings: Path, export: Path, tmp_path: Path) -> None:
    lhotse = pytest.importorskip("lhotse")
    row = Utterance(utt_id="old/mono-wav", corpus="old", kind="speech", path="mono.wav", duration_s=0.7)
    other = dataclasses.replace(row, utt_id="other/x-wav", corpus="other", path="x.wav")
    write_rows(tmp_path / "part.parquet", Utterance, [row, other])
    options = {"manifest": str(tmp_path / "part.parquet"), "corpus": "old"}
    by_manifest = place(tmp_path / "by-manifest", export)
    assert enhance.run(config(recordings, reader="manifest", options=options), by_manifest).kept.utterances == 1
    recording = lhotse.Recording.from_file(recordings / "mono.wav", recording_id="mono-wav")
    cuts = lhotse.CutSet.from_manifests(recordings=lhotse.RecordingSet.from_recordings([recording]))
    cuts.to_file(tmp_path / "cuts.jsonl.gz")
    options = {"cuts": str(tmp_path / "cuts.jsonl.gz")}
    by_cuts = place(tmp_path / "by-cuts", export)
    assert enhance.run(config(recordings, reader="lhotse", options=options), by_cuts).kept.utterances == 1
    audio = []
    for context in (by_manifest, by_cuts):
        (found,) = rows_of(context.folder).values()
        (target,) = unpack(context.parts(".parquet"), context.folder / "files")
        audio.append((context.folder / "files" / target.file).read_bytes())
        assert found.samples == 11_200
    assert audio[0][44:] != b""


def test_text_is_given_to_a_model_that_has_a_vocabulary(export: Path, tmp_path: Path) -> None:
    root = tmp_path / "spoken"
    root.mkdir()
    soundfile.write(root / "a.wav", noise(1, 0.5, 16_000), 16_000)
    (root / "t.csv").write_text("path,text\na.wav,abba\n")
    write_model(tmp_path / "reader", vocabulary=(" ", "a", "b"))
    with_texts = {}
    for model, with_text in (("reader", True), ("reader", False), ("", True)):
        context = place(tmp_path / f"out-{model}-{with_text}", export)
        named = str(tmp_path / model) if model else ""
        what = config(root, options={"table": "t.csv"}, model=named, with_text=with_text)
        with_texts[model, with_text] = enhance.run(what, context).metrics["with text"]
    assert with_texts == {("reader", True): 1, ("reader", False): 0, ("", True): 0}


def test_the_sampling_of_the_config_overrides_that_of_the_model(recordings: Path, export: Path, tmp_path: Path) -> None:
    what = config(recordings, steps=1, synthesis="noisy_phase")
    worker = enhance.Worker(what, {"c": recordings}, export / "model", 0, "cpu")
    assert worker._enhancer.sampling.steps == 1
    assert worker._enhancer.sampling.synthesis == "noisy_phase"


def test_without_corpora_nothing_is_done_and_a_line_reports_it(
    export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = enhance.run(Config(), place(tmp_path / "out", export))
    assert (report.taken.utterances, report.kept.utterances) == (0, 0)
    (line,) = capsys.readouterr().out.splitlines()
    assert "enhance.corpora" in line


def test_more_to_enhance_changes_the_fingerprint_of_enhance_alone(recordings: Path, tmp_path: Path) -> None:
    def prints(what: Config) -> tuple[str, str]:
        own = Identity.of("enhance", enhance.REVISION, what, 0, {"export": "digest"})
        return own.fingerprint, Identity.of("ingest", 1, ingest.Config(), 0, {}).fingerprint

    (tmp_path / "a.wav").touch()
    before, with_one = prints(Config()), prints(config(tmp_path))
    (tmp_path / "b.wav").touch()
    with_two = prints(config(tmp_path))
    assert len({before[0], with_one[0], with_two[0]}) == 3
    assert len({before[1], with_one[1], with_two[1]}) == 1
    assert "ingest" not in enhance.READS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "nowhere"}, "neither a path nor an embedded model"),
        ({"steps": 0}, "only a model with a predictor"),
    ],
)
def test_a_model_that_cannot_be_used_is_refused_before_any_work(
    changes: Mapping[str, Any], message: str, recordings: Path, export: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        enhance.run(config(recordings, **changes), place(tmp_path / "out", export))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": -1}, "steps"),
        ({"synthesis": "magic"}, "synthesis is 'magic'"),
        ({"recordings_per_unit": 0}, "at least 1"),
        ({"corpora": (CorpusConfig(name="d", reader="demo"),)}, "is made"),
        ({"corpora": (CorpusConfig(name="d", root="a"), CorpusConfig(name="d", root="b"))}, "repeat: d"),
    ],
)
def test_a_bad_value_names_its_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**changes)


def test_unpacking_replaces_files_only_with_overwrite(done: tuple[Path, StageReport], tmp_path: Path) -> None:
    part = next(path for path in sorted((done[0] / "units").glob("*.parquet")) if "rejects" not in path.name)
    names = [row.file for row in unpack([part], tmp_path)]
    before = {name: (tmp_path / name).read_bytes() for name in names}
    with pytest.raises(FileExistsError, match="--overwrite"):
        list(unpack([part], tmp_path))
    assert [row.file for row in unpack([part], tmp_path, overwrite=True)] == names
    assert {name: (tmp_path / name).read_bytes() for name in names} == before
    assert not list(unpack([part], tmp_path, corpus="another"))
