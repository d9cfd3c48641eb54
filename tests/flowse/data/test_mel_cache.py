"""Laws of the mel cache: cached mels equal computed mels, files are whole or absent, and stale files are not read."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from flowse.audio.mel import LogMel
from flowse.audio.mel_config import MelConfig
from flowse.data.batching import Example, Loader, collate
from flowse.data.mel_cache import STEPS_PER_UNIT, MelCache, machine_folder
from flowse.data.shards import IndexRow, Mixture, ShardWriter, read_mixture
from flowse.errors import DamagedFile, UserError


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[IndexRow]:
    """Two shards of four mixtures of different lengths, silence and full scale among them."""
    folder = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(0)
    found = []
    for shard in range(2):
        with ShardWriter(folder / f"train-{shard}.tar", f"train-{shard}.tar") as writer:
            for number in range(4):
                clean = rng.uniform(-1, 1, int(rng.integers(600, 30_000))) * (0.0, 1e-4, 0.1, 1.0)[number]
                noisy = np.clip(clean + 0.01 * rng.normal(size=clean.size), -1, 1)
                meta = {
                    "utt_id": f"{number}", "copy": 0, "split": "train", "text": "hi", "language": "en",
                    "speaker": "s", "corpus": "c", "licence": "", "snr_db": 5.0, "room_id": "",
                }  # fmt: skip
                waves = {"clean": clean.astype(np.float32), "noisy": noisy.astype(np.float32)}
                writer.add(Mixture(key=f"u-{shard}-{number}", **waves, sample_rate=24_000, meta=meta))
            found += writer.close()
    return [dataclasses.replace(row, shard=str(folder / row.shard)) for row in found]


def read(row: IndexRow) -> Example:
    path = Path(row.shard)
    mixture = read_mixture(path.parent, dataclasses.replace(row, shard=path.name))
    return Example(mixture.noisy, mixture.clean, (1, 2))


def cache(folder: Path, rows: list[IndexRow], log_mel: LogMel | None = None) -> MelCache:
    made = MelCache(folder, rows, read, log_mel or LogMel())
    made.fill()
    return made


def test_cached_mels_equal_computed_mels_within_half_a_quantisation_step(tmp_path: Path, rows: list[IndexRow]) -> None:
    made, log_mel = cache(tmp_path, rows), LogMel()
    for row in rows:
        stored = collate([row.key], [0], [made.read(row, (1, 2))], log_mel)
        computed = collate([row.key], [0], [read(row)], log_mel)
        assert stored.noisy.shape == computed.noisy.shape
        for name in ("noisy", "clean"):
            difference = (getattr(stored, name) - getattr(computed, name)).abs().max()
            assert float(difference) <= 0.5 / STEPS_PER_UNIT + 2e-6
        assert stored.text_ids is not None
        assert stored.text_ids.tolist() == [[1, 2]]


def test_a_loader_crops_the_same_stretches_from_the_cache_and_from_audio(tmp_path: Path, rows: list[IndexRow]) -> None:
    made = cache(tmp_path, rows)
    log_mel = LogMel()
    settings = {"frames_per_step": 80, "max_frames": 20, "seed": 3}
    taken = []
    for source in (read, lambda row: made.read(row, (1, 2))):
        steps = Loader(rows, source, log_mel, lambda batch: batch, **settings).steps()
        taken.append([next(steps) for _ in range(6)])
    for audio, stored in zip(*taken, strict=True):
        for computed, cached in zip(audio.batches, stored.batches, strict=True):
            assert computed.keys == cached.keys
            assert torch.equal(computed.lengths, cached.lengths)
            assert (computed.text_ids is None) == (cached.text_ids is None)
            # Two frames at each end differ: the STFT of cropped audio reflects there, a cropped mel does not.
            inner = slice(2, int(computed.lengths.min()) - 2)
            assert (computed.clean[:, inner] - cached.clean[:, inner]).abs().max() < 1e-2


def test_files_of_another_mel_or_of_other_shards_or_half_written_are_not_read(
    tmp_path: Path, rows: list[IndexRow]
) -> None:
    made = cache(tmp_path, rows)
    assert made.missing() == []
    assert len(list(tmp_path.glob("*.npy"))) == len(list(tmp_path.glob("*.sums.json"))) == 2
    assert len(MelCache(tmp_path, rows, read, LogMel(MelConfig(n_mels=80))).missing()) == 2
    changed = [dataclasses.replace(row, sha256="0" * 64) for row in rows]
    assert len(MelCache(tmp_path, changed, read, LogMel()).missing()) == 2

    def die(row: IndexRow) -> Example:
        raise KeyboardInterrupt

    dying = MelCache(tmp_path / "new", rows, die, LogMel())
    with pytest.raises(KeyboardInterrupt):
        dying.build(dying.shards[0])
    assert list((tmp_path / "new").iterdir()) == []
    assert len(dying.missing()) == 2


def test_a_flipped_bit_is_one_line_that_names_the_file(tmp_path: Path, rows: list[IndexRow]) -> None:
    made = cache(tmp_path, rows)
    (path,) = tmp_path.glob("train-0-*.npy")
    whole = path.read_bytes()
    for at in (1, 60, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        fresh = MelCache(tmp_path, rows, read, LogMel())
        with pytest.raises(DamagedFile, match=f"{path.name} is damaged: .*delete the file"):
            list(map(fresh.read, rows))
    path.write_bytes(whole[:-10])
    with pytest.raises(DamagedFile, match="is damaged"):
        MelCache(tmp_path, rows, read, LogMel()).read(rows[0])
    path.write_bytes(whole)
    assert made.read(rows[0]).stored.any()


def test_a_file_without_its_sums_is_made_again(tmp_path: Path, rows: list[IndexRow]) -> None:
    cache(tmp_path, rows)
    next(tmp_path.glob("*.sums.json")).unlink()
    assert len(MelCache(tmp_path, rows, read, LogMel()).missing()) == 1


def mels(made: MelCache, rows: list[IndexRow]) -> list[np.ndarray]:
    return [found.decode(found.stored) for found in map(made.read, rows)]


def test_what_does_not_fit_is_computed_to_the_same_values(tmp_path: Path, rows: list[IndexRow]) -> None:
    everything = mels(cache(tmp_path / "all", rows), rows)
    sizes = {path: path.stat().st_size for path in (tmp_path / "all").glob("*.npy")}
    for limit, count in ((0, 0), (max(sizes.values()), 1), (sum(sizes.values()), 2)):
        folder = tmp_path / str(limit)
        made = MelCache(folder, rows, read, LogMel(), limit)
        for _ in range(2):
            assert all(map(np.array_equal, mels(made, rows), everything))
            made.fill(threads=2)
        assert len(list(folder.glob("*.npy"))) == len(made.shards) == count
        assert sum(path.stat().st_size for path in folder.glob("*.npy")) <= limit


def test_room_is_made_by_what_was_not_used_for_the_longest_time(tmp_path: Path, rows: list[IndexRow]) -> None:
    first = cache(tmp_path, rows)
    limit = sum(path.stat().st_size for path in tmp_path.glob("*.npy"))
    old, new = sorted(tmp_path.glob("*.npy"))
    os.utime(old, (1, 1))
    fewer = MelCache(tmp_path, rows[:1], read, LogMel(), limit)
    fewer.fill()
    assert not old.exists()
    assert new.exists()
    assert len(list(tmp_path.glob("*.sums.json"))) == len(list(tmp_path.glob("*.npy"))) == 2
    # A process that was about to read it computes what is gone.
    assert first.read(rows[0]).stored.any() or not read(rows[0]).clean.any()


def test_a_full_disk_leaves_the_rest_to_be_computed(
    tmp_path: Path, rows: list[IndexRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: MelCache, shard: str) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(MelCache, "build", full)
        made = MelCache(tmp_path, rows, read, LogMel())
        made.fill()
    assert made.missing() == made.shards
    assert made.read(rows[3]).stored.any()


def _fill(folder: Path, rows: list[IndexRow], begin: float) -> None:
    built: list[str] = []
    made = MelCache(folder, rows, read, LogMel())
    build = made.build
    made.build = lambda shard: (time.sleep(0.2), built.append(shard), build(shard))  # type: ignore[method-assign,assignment,return-value,func-returns-value]
    made.fill(begin=begin)
    assert made.missing() == []
    (folder / f"built-{begin:g}").write_text("\n".join(built))


def test_processes_build_each_shard_once_between_them(tmp_path: Path, rows: list[IndexRow]) -> None:
    context = multiprocessing.get_context("forkserver")
    processes = [context.Process(target=_fill, args=(tmp_path, rows, begin)) for begin in (0.0, 0.5)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    built = [name for path in tmp_path.glob("built-*") for name in path.read_text().split("\n") if name]
    assert sorted(built) == sorted({row.shard for row in rows})


def test_the_folder_of_a_machine_is_its_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert machine_folder() == machine_folder()
    assert machine_folder().stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    (tmp_path / "flowse-mels-4711").mkdir()
    with pytest.raises(UserError, match="belongs to another user"):
        machine_folder()
