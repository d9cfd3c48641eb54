"""Laws of shards: examples come back as they were added, equal examples give equal bytes, and damage is found."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset as wds
from hypothesis import given, settings
from hypothesis import strategies as st

from flowse.audio.flac import from_flac_bytes
from flowse.data.shards import (
    IndexRow,
    Mixture,
    ShardError,
    ShardWriter,
    check_shard,
    merge_indexes,
    read_index,
    read_mixture,
    write_index,
)
from flowse.errors import UserError

RATE = 24_000
# webdataset 1.0.2 leaves the shards that it reads open.
leaves_files_open = pytest.mark.filterwarnings("ignore:.*unclosed file.*train-00000.tar:ResourceWarning")


def _mixture(number: int, samples: int = 3000, name: str = "") -> Mixture:
    rng = np.random.default_rng(number)
    clean = (rng.integers(-20000, 20000, samples) / 32768).astype(np.float32)
    meta: dict[str, Any] = {
        "utt_id": name or f"demo/speaker_{number}/utt-{number}",
        "copy": 0,
        "split": "train",
        "text": "你好 world",
        "language": "zh",
        "speaker": f"speaker {number}",
        "corpus": "demo",
        "licence": "CC0-1.0",
        "snr_db": 5.0,
        "room_id": "",
    }
    return Mixture(key=f"{meta['utt_id']}-00", clean=clean, noisy=clean[::-1].copy(), sample_rate=RATE, meta=meta)


def _write(folder: Path, mixtures: list[Mixture], shard: str = "train-00000.tar") -> list[IndexRow]:
    writer = ShardWriter(folder / shard, shard)
    for mixture in mixtures:
        writer.add(mixture)
    return writer.close()


@pytest.mark.parametrize(
    "name",
    [
        "../train.tar",
        "../units/../x.tar",
        "../units/a/b.tar",
        "../units/",
        "/etc/passwd",
        "..",
        "a/b.tar",
        "a\\b.tar",
        "",
    ],
)
def test_an_index_that_names_a_file_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    (row,) = _write(tmp_path, [_mixture(0)])
    with pytest.raises(ShardError, match=r"the index names the shard .*; verify the dataset"):
        read_mixture(tmp_path, dataclasses.replace(row, shard=name))


def test_read_mixture_returns_the_example_that_was_added(tmp_path: Path) -> None:
    """Offsets alone give every example back to the bit, also under names longer than the 100 bytes of a tar header."""
    mixtures = [_mixture(1), _mixture(2, 777), _mixture(3, 1, name="demo/" + "=4e00" * 40), _mixture(4)]
    rows = _write(tmp_path, mixtures)
    for row, mixture in reversed(list(zip(rows, mixtures, strict=True))):
        back = read_mixture(tmp_path, row)
        np.testing.assert_array_equal(back.clean, mixture.clean)
        np.testing.assert_array_equal(back.noisy, mixture.noisy)
        assert back.meta == {"key": mixture.key, "sample_rate": RATE, **mixture.meta}
        assert (row.samples, row.seconds) == (len(mixture.clean), len(mixture.clean) / RATE)


def test_the_tar_has_the_bytes_that_tarfile_writes(tmp_path: Path) -> None:
    mixtures = [_mixture(1), _mixture(2, 777), _mixture(3, 1, name="demo/" + "=4e00" * 40)]
    _write(tmp_path, mixtures)
    expected = io.BytesIO()
    with (
        tarfile.open(tmp_path / "train-00000.tar") as found,
        tarfile.open(fileobj=expected, mode="w", format=tarfile.GNU_FORMAT) as reference,
    ):
        for member in found:
            info = tarfile.TarInfo(member.name)
            info.size, info.mode, info.mtime = member.size, 0o644, 0
            reference.addfile(info, found.extractfile(member))
    assert (tmp_path / "train-00000.tar").read_bytes() == expected.getvalue()


@leaves_files_open
def test_webdataset_reads_the_shard(tmp_path: Path) -> None:
    mixtures = [_mixture(number) for number in range(3)]
    _write(tmp_path, mixtures)
    samples = list(wds.WebDataset(str(tmp_path / "train-00000.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [mixture.key for mixture in mixtures]
    for sample, mixture in zip(samples, mixtures, strict=True):
        np.testing.assert_array_equal(from_flac_bytes(sample["noisy.flac"])[0], mixture.noisy)
        np.testing.assert_array_equal(from_flac_bytes(sample["clean.flac"])[0], mixture.clean)


def test_members_stand_in_sorted_order_without_time_or_owner(tmp_path: Path) -> None:
    _write(tmp_path, [_mixture(1)])
    with tarfile.open(tmp_path / "train-00000.tar") as tar:
        members = tar.getmembers()
    assert [member.name for member in members] == sorted(member.name for member in members)
    assert {(member.mtime, member.uid, member.gid, member.uname, member.mode) for member in members} == {
        (0, 0, 0, "", 0o644)
    }


def test_equal_examples_give_equal_bytes_and_the_index_holds_their_sha256(tmp_path: Path) -> None:
    mixtures = [_mixture(number) for number in range(4)]
    (tmp_path / "again").mkdir()
    rows, again = _write(tmp_path, mixtures), _write(tmp_path / "again", mixtures)
    content = (tmp_path / "train-00000.tar").read_bytes()
    assert content == (tmp_path / "again" / "train-00000.tar").read_bytes()
    assert rows == again
    assert {row.sha256 for row in rows} == {hashlib.sha256(content).hexdigest()}
    assert check_shard(tmp_path / "train-00000.tar", rows) == []


@leaves_files_open
def test_a_tar_truncated_at_a_member_boundary_is_found(tmp_path: Path) -> None:
    """Such a tar can be read without an error; the index names the missing members."""
    rows = _write(tmp_path, [_mixture(number) for number in range(3)])
    path = tmp_path / "train-00000.tar"
    header_of_last = rows[2].clean_offset - 512
    path.write_bytes(path.read_bytes()[:header_of_last])
    assert len(list(wds.WebDataset(str(path), shardshuffle=False))) == 2
    findings = check_shard(path, rows)
    assert any(f"{rows[2].key}.noisy.flac is missing" in finding for finding in findings)
    with pytest.raises(ShardError, match="cut off"):
        read_mixture(tmp_path, rows[2])


@pytest.mark.parametrize("member", ["clean", "json", "noisy"])
def test_a_flipped_byte_is_found(tmp_path: Path, member: str) -> None:
    rows = _write(tmp_path, [_mixture(number) for number in range(2)])
    path = tmp_path / "train-00000.tar"
    content = bytearray(path.read_bytes())
    content[getattr(rows[1], f"{member}_offset") + 5] ^= 0x10
    path.write_bytes(content)
    assert check_shard(path, rows) == ["train-00000.tar: its sha256 is not the index's"]


def test_a_missing_shard_and_a_foreign_shard_are_found(tmp_path: Path) -> None:
    rows = _write(tmp_path, [_mixture(1)])
    _write(tmp_path, [_mixture(2)], "train-00001.tar")
    assert check_shard(tmp_path / "absent.tar", rows) == ["absent.tar: missing"]
    findings = check_shard(tmp_path / "train-00001.tar", rows)
    assert any("is missing" in finding for finding in findings)
    assert any("is not in the index" in finding for finding in findings)


def test_another_example_at_the_offsets_is_refused(tmp_path: Path) -> None:
    rows = _write(tmp_path, [_mixture(1), _mixture(2)])
    with pytest.raises(ShardError, match="found"):
        read_mixture(tmp_path, dataclasses.replace(rows[0], key="other"))


def test_keys_that_webdataset_would_merge_are_refused(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "a.tar", "a.tar") as writer:
        with pytest.raises(ValueError, match="dot"):
            writer.add(dataclasses.replace(_mixture(1), key="book.00"))
        writer.add(_mixture(1))
        with pytest.raises(ValueError, match="twice"):
            writer.add(_mixture(1))


def test_index_rows_survive_parquet_and_merging(tmp_path: Path) -> None:
    rows = {}
    for shard in ("train-00000.tar", "train-00001.tar"):
        rows[shard] = _write(tmp_path, [_mixture(len(rows)), _mixture(10 + len(rows))], shard)
        write_index(tmp_path / f"{shard}.parquet", rows[shard])
    parts = [tmp_path / f"{shard}.parquet" for shard in rows]
    merge_indexes(parts, tmp_path / "index.parquet")
    assert read_index(tmp_path / "index.parquet") == [row for part in rows.values() for row in part]
    assert read_index(tmp_path / "index.parquet", split="dev") == []


@given(st.lists(st.integers(0, 2), min_size=6, max_size=6))
@settings(deadline=None, max_examples=20)
def test_the_digest_of_a_dataset_is_that_of_its_mixtures_in_whatever_shards(
    tmp_path_factory: pytest.TempPathFactory, shard_of: list[int]
) -> None:
    def digest(mixtures: Sequence[Mixture], shard_of: Sequence[int]) -> str:
        folder = tmp_path_factory.mktemp("shards")
        parts = []
        for shard in sorted(set(shard_of), reverse=True):
            parts.append(folder / f"{shard}.parquet")
            held = [mixture for mixture, number in zip(mixtures, shard_of, strict=True) if number == shard]
            write_index(parts[-1], _write(folder, held, f"{shard}.tar"))
        return merge_indexes(parts, folder / "index.parquet")

    mixtures = [_mixture(number, 50) for number in range(6)]
    whole = digest(mixtures, [0] * 6)
    assert digest(mixtures, shard_of) == digest(mixtures[::-1], shard_of) == whole
    assert digest(mixtures[:5], shard_of[:5]) != whole
    quieter = dataclasses.replace(mixtures[0], noisy=mixtures[0].noisy / 2)
    assert digest([quieter, *mixtures[1:]], shard_of) != whole


def test_an_index_of_shards_that_several_datasets_share_names_them_beside_its_folder(tmp_path: Path) -> None:
    units, dataset = tmp_path / "units", tmp_path / "dataset"
    units.mkdir()
    dataset.mkdir()
    rows = _write(units, [_mixture(0), _mixture(1)], "train-x.tar")
    write_index(units / "train-x.index.parquet", rows)
    merge_indexes([units / "train-x.index.parquet"], dataset / "index.parquet", "../units")
    for row, mixture in zip(read_index(dataset / "index.parquet"), (_mixture(0), _mixture(1)), strict=True):
        assert read_mixture(dataset, row).clean.tobytes() == mixture.clean.tobytes()
    shutil.move(units, dataset / "units")
    merge_indexes([dataset / "units" / "train-x.index.parquet"], dataset / "index.parquet", "units")
    assert [read_mixture(dataset, row).key for row in read_index(dataset / "index.parquet")] == [
        row.key for row in rows
    ]


@pytest.mark.parametrize("member", ["clean", "noisy", "json"])
def test_a_flipped_byte_of_any_member_is_one_line_that_names_the_shard(tmp_path: Path, member: str) -> None:
    rows = _write(tmp_path, [_mixture(0)])
    path = tmp_path / "train-00000.tar"
    content = bytearray(path.read_bytes())
    begin = getattr(rows[0], f"{member}_offset")
    content[begin + 1] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ShardError, match=r"train-00000.tar: .*; `verify --mend`") as caught:
        read_mixture(tmp_path, rows[0])
    assert isinstance(caught.value, UserError)


@pytest.mark.parametrize(
    "change", [{"clean_offset": -5}, {"noisy_bytes": 2**40}, {"json_bytes": -1}, {"samples": 7}, {"shard": "gone.tar"}]
)
def test_an_index_that_lies_is_one_line(tmp_path: Path, change: dict[str, Any]) -> None:
    row = dataclasses.replace(_write(tmp_path, [_mixture(0)])[0], **change)
    with pytest.raises(ShardError, match="verify --mend"):
        read_mixture(tmp_path, row)


def test_every_flipped_bit_of_a_member_is_one_line_or_changes_nothing(tmp_path: Path) -> None:
    """FLAC has a CRC in every frame; the facts of its header and of the JSON are compared with the index."""
    rows = _write(tmp_path, [_mixture(number) for number in range(2)])
    path, row = tmp_path / "train-00000.tar", rows[1]
    whole, before = path.read_bytes(), read_mixture(tmp_path, row)
    rng = np.random.default_rng(0)
    headers = [
        (start + byte, bit) for start in (row.clean_offset, row.noisy_offset) for byte in range(42) for bit in range(8)
    ]
    inside = [
        (int(rng.integers(row.clean_offset, row.noisy_offset + row.noisy_bytes)), int(rng.integers(8)))
        for _ in range(200)
    ]
    said = []
    for at, bit in headers + inside:
        content = bytearray(whole)
        content[at] ^= 1 << bit
        path.write_bytes(content)
        try:
            after = read_mixture(tmp_path, row)
        except ShardError as error:
            said.append(str(error))
        else:
            assert np.array_equal(after.clean, before.clean)
            assert np.array_equal(after.noisy, before.noisy)
            assert after.sample_rate == before.sample_rate
    assert len(said) > 250
    assert all("train-00000.tar: " in line and "verify --mend" in line for line in said)


def test_a_folder_in_the_place_of_a_shard_is_one_line(tmp_path: Path) -> None:
    rows = _write(tmp_path, [_mixture(1)])
    (tmp_path / "train-00000.tar").unlink()
    (tmp_path / "train-00000.tar").mkdir()
    with pytest.raises(ShardError, match=r"train-00000\.tar: cannot be read \(Is a directory\)"):
        read_mixture(tmp_path, rows[0])


def test_a_missing_shard_is_one_line(tmp_path: Path) -> None:
    rows = _write(tmp_path, [_mixture(1)])
    (tmp_path / "train-00000.tar").unlink()
    with pytest.raises(ShardError, match=r"train-00000\.tar: no such file"):
        read_mixture(tmp_path, rows[0])


def test_facts_that_differ_from_the_index_are_refused(tmp_path: Path) -> None:
    rows = _write(tmp_path, [_mixture(1)])
    with pytest.raises(ShardError, match=r"text, snr_db of .* differ from the index"):
        read_mixture(tmp_path, dataclasses.replace(rows[0], text="other words", snr_db=99.0))
