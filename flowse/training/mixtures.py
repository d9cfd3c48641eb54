"""The mixtures of a dataset folder (shards and their index) as training examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowse.data.batching import Example
from flowse.data.manifest import Split
from flowse.data.shards import IndexRow, read_index, read_mixture
from flowse.errors import UserError
from flowse.files import sha256_file
from flowse.model.spec import ModelSpec
from flowse.simulation.dataset import DatasetSummary
from flowse.tokenizer import Tokenizer

INDEX = "index.parquet"
DATASET = "dataset.json"


@dataclass(frozen=True)
class Mixtures:
    """The mixtures of a dataset that a training reads.

    Attributes:
        folder: Of the shards, their `index.parquet`, and `dataset.json` if the pipeline made them.
        train: Index rows of split train, ordered by key.
        dev: Index rows of split dev, ordered by key.
        digest: Hash of the dataset: `dataset.json`'s, or that of the index.
    """

    folder: Path
    train: list[IndexRow]
    dev: list[IndexRow]
    digest: str

    @classmethod
    def read(cls, folder: Path) -> Mixtures:
        """Read the index of a dataset folder.

        Raises:
            UserError: There is no index, it has no mixture of split train, or `dataset.json` has another form.
        """
        if not (folder / INDEX).is_file():
            raise UserError(f"train: {folder} has no {INDEX}; give the folder that simulate wrote")
        train, dev = (split_rows(folder, split) for split in ("train", "dev"))
        if not train:
            raise UserError(f"train: {folder} holds no mixture of split train; look at the splits of ingest")
        about = folder / DATASET
        digest = DatasetSummary.read(about).digest if about.is_file() else sha256_file(folder / INDEX)
        return cls(folder, train, dev, digest)


def split_rows(folder: Path, split: Split) -> list[IndexRow]:
    """Return the index rows of one split, ordered by key."""
    return sorted(read_index(folder / INDEX, split), key=lambda row: row.key)


def token_reader(spec: ModelSpec) -> Callable[[IndexRow], Sequence[int]]:
    """Return a function that encodes a row's text as token ids; as none, if the model has no vocabulary."""
    tokenizer = Tokenizer(spec.vocabulary) if spec.vocabulary else None
    return lambda row: tokenizer.encode(row.text, row.language).ids if tokenizer and row.text else ()


def example_reader(folder: Path, spec: ModelSpec) -> Callable[[Any], Example]:
    """Return a function that reads one index row's waveforms and, if the model has a vocabulary, its token ids.

    The function raises `ShardError` where a shard is not what its index says.
    """
    tokens = token_reader(spec)

    def read(row: IndexRow) -> Example:
        mixture = read_mixture(folder, row)
        return Example(mixture.noisy, mixture.clean, tokens(row))

    return read


def count_unknown_symbols(spec: ModelSpec, rows: Iterable[IndexRow]) -> int:
    """Count the symbols of the rows' texts that the model's vocabulary lacks; 0 if the model has none."""
    if not spec.vocabulary:
        return 0
    tokenizer = Tokenizer(spec.vocabulary)
    return sum(tokenizer.encode(row.text, row.language).n_unknown for row in rows if row.text)
