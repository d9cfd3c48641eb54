"""Laws of token ids: those of the index are those of the text, and where there are none the text is encoded."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flowse.data.parquet import schema_of
from flowse.data.row_table import RowTable
from flowse.data.shards import IndexRow
from flowse.data.token_ids import count_unknown_symbols, token_reader, vocabulary_id, with_tokens
from flowse.tokenizer import Tokenizer
from flowse.training.mixtures import split_rows
from tests.small_shards import make_shards

VOCABULARY = Tokenizer.default().vocabulary


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards"))


def test_ids_are_read_from_the_index_and_not_made_again(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row, *_ = split_rows(shards, "train")
    assert row.vocabulary == vocabulary_id(VOCABULARY)
    assert Tokenizer(VOCABULARY).decode(row.tokens) == list("hello there")
    monkeypatch.setattr(Tokenizer, "encode", None)
    assert token_reader(VOCABULARY)(row) == row.tokens
    assert token_reader(())(row) == ()


def test_a_model_with_another_vocabulary_and_a_dataset_of_before_get_theirs_from_the_text(
    shards: Path, tmp_path: Path
) -> None:
    row, *_ = split_rows(shards, "train")
    other = tuple("abcdefghijklmnopqrstuvwxyz ")
    assert vocabulary_id(other) not in ("", row.vocabulary)
    assert token_reader(other)(row) == Tokenizer(other).encode("hello there").ids
    table = pq.read_table(shards / "index.parquet").drop_columns(["tokens", "unknown_symbols", "vocabulary"])
    pq.write_table(table, tmp_path / "index.parquet")
    old, *_ = split_rows(tmp_path, "train")
    assert (old.tokens, old.vocabulary) == ((), "")
    assert token_reader(VOCABULARY)(old) == row.tokens
    for rows in (
        RowTable.read(tmp_path / "index.parquet", "train"),
        RowTable.open(tmp_path / "index.parquet", "train", tmp_path),
    ):
        assert list(rows) == [dataclasses.replace(new, tokens=(), vocabulary="") for new in split_rows(shards, "train")]
        assert count_unknown_symbols(VOCABULARY, rows) == 0


@pytest.mark.parametrize(
    ("texts", "language"),
    [
        (["hello there", "HELLO ☃☃", "caf\u00e9 cafe\u0301", ""], "en"),
        (["今天天气很好", "ni3 hao3 xyz3", "你好☃", "a1"], "zh"),
        (["今天", "ひらがな"], "ja"),
    ],
)
def test_symbols_that_the_vocabulary_lacks_are_counted(shards: Path, texts: list[str], language: str) -> None:
    (row, *_) = split_rows(shards, "train")
    rows = [dataclasses.replace(row, text=text, language=language, tokens=(), vocabulary="") for text in texts]
    tokenizer = Tokenizer(VOCABULARY)
    expected = sum(tokenizer.encode(text, language).n_unknown for text in texts)
    table = table_of(rows)
    half = table_of([*with_tokens(rows[:1]), *rows[1:]])
    assert count_unknown_symbols(VOCABULARY, half) == expected
    assert count_unknown_symbols(VOCABULARY, table_of(with_tokens(rows))) == expected
    assert with_tokens(rows)[0].tokens == tokenizer.encode(texts[0], language).ids
    assert count_unknown_symbols(VOCABULARY, table) == expected
    assert count_unknown_symbols((), table) == 0


def table_of(rows: list[IndexRow]) -> RowTable:
    columns = {name: [getattr(row, name) for row in rows] for name in schema_of(IndexRow).names}
    return RowTable(pa.table(columns, schema=schema_of(IndexRow)), np.arange(len(rows)))
