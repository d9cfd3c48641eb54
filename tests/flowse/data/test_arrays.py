"""Laws of mapped arrays: what was saved comes back, and every damage is one line that names the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flowse.data.arrays import map_array
from flowse.errors import DamagedFile


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float32).reshape(6, 2)
    np.save(tmp_path / "a.npy", values)
    assert np.array_equal(map_array(tmp_path / "a.npy", np.float32, (None, 2), "copy it again"), values)


def test_every_damage_to_the_header_is_one_line_or_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    values = np.arange(12, dtype=np.float32)
    np.save(path, values)
    whole = path.read_bytes()
    damaged = [b"", b"\x80\x04K\x00.", b"PK\x03\x04", whole[:90], whole[:-1], b"\x93NUMPY\x01\x00v\x00" + b"(" * 118]
    damaged += [whole[:at] + bytes([whole[at] ^ (1 << bit)]) + whole[at + 1 :] for at in range(128) for bit in range(8)]
    said = []
    for content in damaged:
        path.write_bytes(content)
        try:
            assert np.array_equal(map_array(path, np.float32, (None,), "copy it again"), values)
        except DamagedFile as error:
            said.append(str(error))
    assert len(said) > 200
    assert all(line.startswith(str(path)) and "copy it again" in line and "\n" not in line for line in said)


def test_an_array_of_another_type_or_shape_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((2, 3)))
    with pytest.raises(DamagedFile, match="holds float64 of shape"):
        map_array(tmp_path / "a.npy", np.float32, (None, 3), "")
    with pytest.raises(DamagedFile, match="holds float64 of shape"):
        map_array(tmp_path / "a.npy", np.float64, (None,), "")


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        map_array(tmp_path / "a.npy", np.float32, (None,), "")
