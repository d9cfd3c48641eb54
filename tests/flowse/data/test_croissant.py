"""Laws of Croissant metadata: it states the dataset's own figures, and every column of the index is a field."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flowse.data.croissant import FILE, croissant, write_croissant
from flowse.errors import UserError
from flowse.files import sha256_file
from tests.small_shards import make_shards


def test_it_states_figures_licences_and_the_hash_of_the_index(tmp_path: Path) -> None:
    values = croissant(make_shards(tmp_path), "small")
    assert values["name"] == "small"
    assert values["identifier"] == json.loads((tmp_path / "dataset.json").read_text())["digest"]
    assert "100 (train 100), 0.50 h, 24000 Hz" in values["description"]
    assert values["license"] == ["CC-BY-NC-4.0", "CC0-1.0"]
    assert values["inLanguage"] == ["en"]
    (index,) = values["distribution"]
    assert index["sha256"] == sha256_file(tmp_path / "index.parquet")
    assert index["contentSize"] == f"{(tmp_path / 'index.parquet').stat().st_size} B"


def test_every_column_of_the_index_is_a_field_with_its_type(tmp_path: Path) -> None:
    (records,) = croissant(make_shards(tmp_path), "small")["recordSet"]
    fields = {field["name"]: field["dataType"] for field in records["field"]}
    assert list(fields) == pq.read_schema(tmp_path / "index.parquet").names
    assert [fields[name] for name in ("key", "samples", "snr_db")] == ["sc:Text", "sc:Integer", "sc:Float"]
    assert records["key"]["@id"] in {field["@id"] for field in records["field"]}


def test_the_same_dataset_gives_the_same_bytes_beside_its_summary(tmp_path: Path) -> None:
    path = write_croissant(make_shards(tmp_path), "small")
    assert path == tmp_path / FILE
    before = path.read_bytes()
    assert write_croissant(tmp_path, "small", tmp_path / "other.json").read_bytes() == before


def test_a_folder_without_a_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no dataset"):
        croissant(tmp_path, "none")
