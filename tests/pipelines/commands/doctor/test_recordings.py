"""Looking at corpora: planted defects are found by name, clean trees raise no alarm, and every look is bounded."""

from __future__ import annotations

import io
import tarfile
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from flowse.seeding import generator
from pipelines.commands.doctor import recordings
from pipelines.commands.doctor.recordings import Sample, archive_fault, compare, look
from pipelines.stages.ingest import Config, CorpusConfig

RATE = 24_000


def noise(number: int, seconds: float = 1.0) -> np.ndarray:
    return 0.1 * generator(number).standard_normal(round(seconds * RATE))


def write(path: Path, number: int, seconds: float = 1.0, rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, noise(number, seconds), rate)
    return path


def cut(path: Path, share: float = 0.5) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def corpora(root: Path, **options: str) -> Config:
    return Config(speech=(CorpusConfig(name="s", root=str(root), options=options),))


def alarms(config: Config, root: Path) -> list[str]:
    looks = list(look(config.corpora(), dict.fromkeys([corpus.name for _, corpus in config.corpora()], root), 0))
    found = [finding for scanned in looks for finding in scanned.findings] + list(compare(looks, RATE))
    return [str(finding) for finding in found if finding.severity != "ok"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Thirty clean recordings, a table that names them, and whole archives beside them."""
    root = tmp_path / "corpus"
    for number in range(30):
        write(root / f"good{number}.flac", number)
    names = "\n".join(f"good{number}.flac,hello" for number in range(30))
    (root / "table.csv").write_text(f"path,text\n{names}\n")
    for name in ("whole.tar", "whole.tar.gz"):
        with tarfile.open(root / name, "w:gz" if name.endswith("gz") else "w") as tar:
            for number in range(3):
                tar.add(root / f"good{number}.flac", f"good{number}.flac")
    with zipfile.ZipFile(root / "whole.zip", "w") as archive:
        archive.write(root / "good0.flac", "good0.flac")
    return root


def test_a_clean_tree_raises_no_alarm(root: Path) -> None:
    assert alarms(corpora(root, table="table.csv"), root) == []


def test_ten_planted_defects_and_more_are_all_found(root: Path) -> None:
    write(root / "cut-flac.flac", 40, 3.0)
    cut(root / "cut-flac.flac")
    write(root / "cut-wav.wav", 41)
    cut(root / "cut-wav.wav")
    write(root / "cut-ogg.ogg", 42, 3.0)
    cut(root / "cut-ogg.ogg", 0.6)
    (root / "pointer.flac").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    (root / "page.wav").write_text("<!DOCTYPE html><html><body>not found</body></html>")
    (root / "empty.wav").touch()
    (root / "rubbish.mp3").write_bytes(generator(1).bytes(4000))
    soundfile.write(root / "nan.wav", np.where(np.arange(RATE) == 7, np.nan, noise(43)), RATE, subtype="FLOAT")
    soundfile.write(root / "silent.wav", np.zeros(RATE), RATE)
    write(root / "telephone.wav", 44, rate=8000)
    (root / "copy.flac").write_bytes((root / "good7.flac").read_bytes())
    write(root / "Twin.wav", 45)
    write(root / "twin.wav", 46)
    (root / "table.csv").write_text((root / "table.csv").read_text() + "gone.flac,hello\n")
    (root / "page.tar").write_text("<html>denied</html>")
    for name in ("whole.tar", "whole.tar.gz", "whole.zip"):
        (root / name.replace("whole", "cut")).write_bytes((root / name).read_bytes())
        cut(root / name.replace("whole", "cut"), 0.8)
    found = alarms(corpora(root, table="table.csv"), root)
    planted = {
        "cut-flac.flac": "truncated",
        "cut-wav.wav": "truncated",
        "cut-ogg.ogg": "truncated",
        "pointer.flac": "git_lfs_pointer",
        "page.wav": "html_instead_of_audio",
        "empty.wav": "empty_file",
        "rubbish.mp3": "undecodable",
        "nan.wav": "nan_samples",
        "silent.wav": "silent",
        "gone.flac": "not_found",
        "Twin.wav": "repeated ids",
        "copy.flac": "same bytes",
        "page.tar": "web page",
        "cut.tar:": "cut short",
        "cut.tar.gz": "cut short",
        "cut.zip": "cut short",
        "8,000 Hz": "look whether these headers are right",
        "4 kHz": "telephone",
    }
    for name, word in planted.items():
        assert sum(name.lower() in line.lower() and word in line for line in found) == 1, (name, word, found)
    assert len(found) == len(planted), found
    assert all(line.count("\n") == 0 and "; " in line for line in found)


def test_a_corpus_without_the_top_of_the_band_is_told_once(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / f"{number}.wav", number, rate=16_000)
    (found,) = alarms(corpora(tmp_path), tmp_path)
    assert "nothing above 8,000 Hz can be learnt" in found


def test_links_and_shared_roots_are_the_same_files(tmp_path: Path) -> None:
    write(tmp_path / "a.flac", 1)
    (tmp_path / "b.flac").symlink_to(tmp_path / "a.flac")
    speech = corpora(tmp_path).speech[0]
    both = Config(speech=(speech, replace(speech, name="again")))
    first, *others = alarms(both, tmp_path)
    assert "corpus s: same_file: b.flac: is the same file as" in first
    assert [line.split(":")[1] for line in others] == [" same_file", " same_file"]
    assert "of corpus s" in others[0]


def test_long_recordings_are_read_at_both_ends_only(tmp_path: Path) -> None:
    write(tmp_path / "long.flac", 1, 40.0)
    assert alarms(corpora(tmp_path), tmp_path) == []
    cut(tmp_path / "long.flac", 0.9)
    (found,) = alarms(corpora(tmp_path), tmp_path)
    assert "truncated" in found


def test_the_look_at_a_large_corpus_is_bounded_and_says_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "LOOKED_AT", 8)
    (scanned,) = look(corpora(root).corpora(), {"s": root}, 5)
    assert sum(scanned.rates.values()) == 8
    assert "looked at 8 of 30 recordings (seed 5)" in scanned.findings[-1].text
    assert scanned.seconds == pytest.approx(30.0)
    for number in range(20):
        (root / f"bad{number}.wav").touch()
    (scanned,) = look(corpora(root).corpora(), {"s": root}, 5)
    bad = [finding.text for finding in scanned.findings if finding.severity == "error"]
    # Size alone gives empty files away, so all are found; five are named.
    assert len(bad) == 6
    assert bad[-1].startswith("empty_file: 15 more files")


def test_a_sample_is_even_and_fixed_by_its_seed() -> None:
    counts = np.zeros(20)
    for seed in range(2000):
        sample: Sample[int] = Sample(5, seed)
        for item in range(20):
            sample.add(item)
        assert len(set(sample.items)) == 5
        counts[sample.items] += 1
    assert np.abs(counts / 2000 - 0.25).max() < 0.05
    again: Sample[int] = Sample(5, 1999)
    for item in range(20):
        again.add(item)
    assert again.items == sample.items


@pytest.mark.parametrize("members", [0, 3])
def test_a_tar_cut_at_a_member_boundary_lacks_its_end_mark(tmp_path: Path, members: int) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        for number in range(members):
            info = tarfile.TarInfo(f"{number}")
            info.size = 700
            tar.addfile(info, io.BytesIO(bytes(700)))
        end = tar.offset
    assert archive_fault(path, time.monotonic() + 60) == ""
    path.write_bytes(path.read_bytes()[:end])
    assert archive_fault(path, time.monotonic() + 60) != ""
