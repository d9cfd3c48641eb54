"""Laws of the mixtures: rows by split in one order, examples with tokens, and clear words where there is nothing."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from flowse.data.shards import merge_indexes
from flowse.errors import UserError
from flowse.model.spec import ModelSpec
from flowse.tokenizer import Tokenizer
from flowse.training.mixtures import Mixtures, example_reader, split_rows

WITH_TEXT = ModelSpec(vocabulary=Tokenizer.default().vocabulary)


def test_mixtures_are_the_rows_of_train_and_dev_in_order_of_their_keys(shards: Path) -> None:
    mixtures = Mixtures.read(shards)
    assert [row.key for row in mixtures.train] == [f"train-{number:04d}" for number in range(20)]
    assert [row.key for row in mixtures.dev] == [f"dev-{number:04d}" for number in range(5)]
    assert mixtures.digest == json.loads((shards / "dataset.json").read_text())["digest"]


def test_a_dataset_without_its_description_is_named_after_its_index(shards: Path, tmp_path: Path) -> None:
    shutil.copyfile(shards / "index.parquet", tmp_path / "index.parquet")
    digest = hashlib.sha256((shards / "index.parquet").read_bytes()).hexdigest()
    assert Mixtures.read(tmp_path).digest == digest


def test_a_folder_without_training_mixtures_is_refused(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no index\.parquet"):
        Mixtures.read(tmp_path)
    merge_indexes([shards / "test-00000.index.parquet"], tmp_path / "index.parquet")
    with pytest.raises(UserError, match="no mixture of split train"):
        Mixtures.read(tmp_path)


def test_an_example_has_waveforms_and_the_tokens_of_its_text(shards: Path) -> None:
    (row, *_) = split_rows(shards, "train")
    example = example_reader(shards, WITH_TEXT)(row)
    assert len(example.noisy) == len(example.clean) == row.samples
    assert "".join(WITH_TEXT.vocabulary[token - 1] for token in example.text_ids) == "hello there"
    assert not example_reader(shards, ModelSpec())(row).text_ids


def test_rows_are_the_same_mapped_into_memory(shards: Path, tmp_path: Path) -> None:
    mapped, read = Mixtures.read(shards, tmp_path), Mixtures.read(shards)
    assert list(mapped.train) == list(read.train) == split_rows(shards, "train")
    assert sum(mapped.seconds) == sum(row.seconds for row in (*read.train, *read.dev))
