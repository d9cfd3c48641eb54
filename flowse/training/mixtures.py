"""The mixtures of a dataset folder (shards and their index) as training examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowse.data.batching import Example
from flowse.data.manifest import Split
from flowse.data.row_table import RowTable
from flowse.data.shards import IndexRow, read_index, read_mixture
from flowse.data.token_ids import token_reader
from flowse.errors import UserError
from flowse.fetching import fetched
from flowse.files import sha256_file
from flowse.model.spec import ModelSpec
from flowse.simulation.dataset import DatasetSummary
from flowse.simulation.redraw import Redraw, Redrawer
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
        cache: Folder of the files that the rows are mapped from; None: the rows are in memory.
    """

    folder: Path
    train: RowTable
    dev: RowTable
    digest: str
    cache: Path | None = None

    @classmethod
    def read(cls, folder: Path, cache: Path | None = None) -> Mixtures:
        """Read the index of a dataset folder.

        Args:
            folder: The dataset.
            cache: Folder for files that rows are mapped from, so that millions of them take little memory; None: they
                are read into memory.

        Raises:
            UserError: There is no index, it has no mixture of split train, or `dataset.json` has another form.
        """
        if not (folder / INDEX).is_file():
            raise UserError(f"train: {folder} has no {INDEX}; give the folder that simulate wrote")
        train, dev = (open_rows(folder, split, cache) for split in ("train", "dev"))
        if not train:
            raise UserError(f"train: {folder} holds no mixture of split train; look at the splits of ingest")
        about = folder / DATASET
        digest = DatasetSummary.read(about).digest if about.is_file() else sha256_file(folder / INDEX)
        return cls(folder, train, dev, digest, cache)

    @property
    def seconds(self) -> Iterator[float]:
        """Length of every mixture of both splits, in seconds."""
        return iter([*self.train.column("seconds").tolist(), *self.dev.column("seconds").tolist()])


def open_rows(folder: Path, split: Split, cache: Path | None) -> RowTable:
    """Return the index rows of one split, ordered by key, mapped into memory where there is a cache."""
    index = fetched(folder / INDEX)
    return RowTable.read(index, split) if cache is None else RowTable.open(index, split, cache)


def split_rows(folder: Path, split: Split) -> list[IndexRow]:
    """Return the index rows of one split, ordered by key."""
    return sorted(read_index(folder / INDEX, split), key=lambda row: row.key)


def example_reader(folder: Path, spec: ModelSpec) -> Callable[[Any], Example]:
    """Return a function that reads one index row's waveforms and, if the model has a vocabulary, its token ids.

    The function raises `ShardError` where a shard is not what its index says.
    """
    tokens = token_reader(spec.vocabulary)

    def read(row: IndexRow) -> Example:
        mixture = read_mixture(folder, row)
        return Example(mixture.noisy, mixture.clean, tokens(row))

    return read


def redrawing_reader(redraw: Redraw, spec: ModelSpec) -> Callable[[Any, int], Example]:
    """Return a function that makes an index row's mixture of an epoch anew; it has the row's length, or less.

    The function raises `Refusal` where the recordings cannot be used.
    """
    redrawer, tokens = Redrawer(redraw), token_reader(spec.vocabulary)
    tokenizer = Tokenizer(spec.vocabulary) if spec.vocabulary else None

    def make(row: IndexRow, epoch: int) -> Example:
        made = redrawer(row.utt_id, row.copy, epoch)
        ids: Sequence[int] = ()
        if tokenizer and made.text:
            as_stored = (made.text, made.language) == (row.text, row.language)
            ids = tokens(row) if as_stored else tokenizer.encode(made.text, made.language).ids
        # Where in a recording a crop begins may make it a sample longer; the plan knows the stored length.
        return Example(made.noisy[: row.samples], made.clean[: row.samples], ids)

    return make
