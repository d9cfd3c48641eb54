"""Hugging Face data sets in parquet: every row becomes a recording with its text, speaker, language and split."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from obstore.store import MemoryStore

from flowse.errors import UserError
from flowse.seeding import generator
from pipelines.corpora import hf_datasets
from pipelines.engine.store import Store


def encoded(seed: int, kind: str = "FLAC") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, 0.1 * generator(seed).standard_normal(12_000), 16_000, format=kind)
    return buffer.getvalue()


def write(path: Path, rows: list[dict[str, Any]], group: int = 2) -> None:
    """Write a file as `Dataset.to_parquet` does."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    audio = pa.array([row.pop("audio") for row in rows], kind)
    others = {name: [row[name] for row in rows] for name in rows[0]}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"audio": audio, **others}), path, row_group_size=group)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "hub" / "data"
    rows = [
        {
            "audio": {"bytes": encoded(seed), "path": f"{seed}.flac"},
            "text": f"word {seed}",
            "speaker_id": seed % 2,
            "language": "en",
        }
        for seed in range(5)
    ]
    write(folder / "train-00000-of-00001.parquet", rows)
    write(folder / "validation-00000-of-00001.parquet", [{"audio": {"bytes": encoded(9, "WAV"), "path": None}}])
    return folder


def test_every_row_becomes_a_recording_with_what_the_row_says(bench: Any, data: Path) -> None:
    found = bench.measure("hf_datasets", data=str(data), language="de")
    rows = sorted(found.kept, key=lambda row: row.path)
    assert [(row.path, row.text, row.speaker, row.language, row.split) for row in rows] == [
        *((f"train-00000-of-00001/{n:08d}.flac", f"word {n}", str(n % 2), "en", "train") for n in range(5)),
        ("validation-00000-of-00001/00000000.wav", "", "", "de", "dev"),
    ]
    assert {row.duration_s for row in rows} == {0.75}
    for number, row in enumerate(rows[:5]):
        assert (bench.root / row.path).read_bytes() == encoded(number)
    assert not found.rejects


def test_a_row_without_bytes_and_damaged_bytes_are_rejected(bench: Any, tmp_path: Path) -> None:
    broken = [{"bytes": None, "path": "a.wav"}, {"bytes": b"no audio", "path": "b.wav"}, None]
    write(tmp_path / "x.parquet", [{"audio": audio} for audio in broken])
    found = bench.measure("hf_datasets", data=str(tmp_path / "x.parquet"))
    assert found.reasons == ["not_found", "not_found", "undecodable"]


def test_what_cannot_be_read_is_one_line(bench: Any, tmp_path: Path, data: Path) -> None:
    with pytest.raises(UserError, match="has no parquet file there"):
        bench.read("hf_datasets", data=str(tmp_path / "absent"))
    with pytest.raises(UserError, match=r"no audio column 'sound' of .*name one in options\.audio"):
        bench.read("hf_datasets", data=str(data), audio="sound")
    with pytest.raises(UserError, match="no audio column 'text'"):
        bench.read("hf_datasets", data=str(data), audio="text")
    (data / "train-00000-of-00001.parquet").write_bytes(b"PAR1 damaged")
    with pytest.raises(UserError, match="is damaged, or no parquet"):
        bench.read("hf_datasets", data=str(data))


def test_columns_may_have_other_names_and_splits_may_be_left_to_ingest(bench: Any, tmp_path: Path) -> None:
    row = {"audio": {"bytes": encoded(1), "path": "1.flac"}, "sentence": "hello", "client_id": "ann", "locale": "zh-CN"}
    write(tmp_path / "test.parquet", [row])
    names = {"text": "sentence", "speaker": "client_id", "language_column": "locale", "use_split": False}
    (found,) = bench.read("hf_datasets", data=str(tmp_path), **names)
    assert (found.text, found.speaker, found.language, found.split) == ("hello", "ann", "zh", None)


def test_new_rows_change_the_digest(bench: Any, data: Path) -> None:
    more = [{"audio": {"bytes": encoded(7), "path": None}}]
    assert bench.changes("hf_datasets", lambda: write(data / "test-0.parquet", more), data=str(data))


def test_files_of_one_name_in_two_folders_do_not_meet(bench: Any, tmp_path: Path) -> None:
    for number, language in enumerate(("de", "en")):
        row = {"audio": {"bytes": encoded(number), "path": "1.flac"}, "text": language}
        write(tmp_path / "d" / language / "train.parquet", [row])
    found = bench.measure("hf_datasets", data=str(tmp_path / "d"))
    assert {row.text: (bench.root / row.path).read_bytes() for row in found.kept} == {
        "de": encoded(0),
        "en": encoded(1),
    }


def test_rows_whose_audio_is_replaced_are_made_and_decoded_again(bench: Any, data: Path) -> None:
    before = {row.path: row.content for row in bench.measure("hf_datasets", data=str(data)).kept}
    keys = bench.keys("hf_datasets", data=str(data))
    path = data / "train-00000-of-00001.parquet"
    rows = pq.read_table(path).to_pylist()
    rows[3]["audio"]["bytes"] = encoded(77)
    write(path, rows)
    after = {row.path: row.content for row in bench.measure("hf_datasets", data=str(data)).kept}
    assert {name for name in after if after[name] != before[name]} == {"train-00000-of-00001/00000003.flac"}
    assert not keys & bench.keys("hf_datasets", data=str(data)), "units that are done would keep the old audio"


def test_files_in_a_store_are_read_as_in_a_folder(
    bench: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store("memory://hub", MemoryStore())
    for path in data.iterdir():
        store.put(path.name, path)
    store.put("README.md", path)
    monkeypatch.setattr(hf_datasets, "Store", lambda url: store)
    here, there = bench.measure("hf_datasets", data=str(data)), bench.measure("hf_datasets", data="s3://bucket/hub")
    assert there.kept == here.kept
    assert not there.rejects
    assert bench.changes("hf_datasets", lambda: _replaced(store, data), data="s3://bucket/hub")


def _replaced(store: Store, data: Path) -> None:
    store.put("validation-00000-of-00001.parquet", data / "train-00000-of-00001.parquet")
    hf_datasets._objects.cache_clear()
