"""The bytes that a pipeline needs follow its configuration, and a disk that is too small is found."""

from __future__ import annotations

from collections import Counter, namedtuple
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.commands.doctor import disk
from pipelines.commands.doctor.disk import bytes_needed
from pipelines.commands.doctor.recordings import CorpusInspection
from pipelines.experiment import ExperimentConfig


def test_needed_bytes_grow_with_speech_and_copies(config: ExperimentConfig) -> None:
    once = bytes_needed(config, 3600.0)
    twice = bytes_needed(config, 7200.0)
    assert twice["mixtures"] == 2 * once["mixtures"]
    assert twice["rooms"] == once["rooms"]
    more = replace(config, simulate=replace(config.simulate, copies=2, eval_copies=2))
    assert bytes_needed(more, 3600.0)["mixtures"] == 2 * once["mixtures"]
    # Two streams of 16-bit PCM at 24 kHz bound it from above.
    assert once["mixtures"] < 3600 * 24_000 * 2 * 2


def test_a_disk_too_small_is_an_error_and_a_tight_one_a_warning(
    config: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = CorpusInspection("s", "speech", tmp_path, seconds=6.0, sizes={"a.wav": 144_000})
    needed = sum(bytes_needed(config, 6.0).values())
    usage = namedtuple("usage", "total used free")
    for share, severity in ((0.9, "error"), (1.1, "warning"), (1.3, "ok")):
        free = usage(0, 0, int(needed * share))
        monkeypatch.setattr(disk.shutil, "disk_usage", lambda _, free=free: free)
        found = disk.look(config, [corpus], [], tmp_path)
        assert (found.severity, found.where) == (severity, "disk")
        assert found.text.startswith("about ")
        assert ("free some space" in found.mend) == (severity != "ok")


def test_made_corpora_and_enhanced_recordings_need_space_too(config: ExperimentConfig, tmp_path: Path) -> None:
    made = CorpusInspection("m", "speech", tmp_path, seconds=60.0)  # no file has a size yet
    enhanced = CorpusInspection("e", "speech", tmp_path, seconds=60.0, rates=Counter({48_000: 1}), sizes={"a.wav": 1})
    assert "made corpora 1.4 MiB" in disk.look(config, [made], [], tmp_path).text
    assert "enhanced recordings 3.3 MiB" in disk.look(config, [], [enhanced], tmp_path).text
