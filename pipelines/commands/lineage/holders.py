"""What holds any of many recordings: the mixtures in which they are heard, and the models that used these."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from flowse.data.manifest import Utterance
from flowse.data.parquet import read_columns, read_rows
from flowse.data.shards import IndexRow
from flowse.simulation.recipe import Recipe
from pipelines.commands.lineage.utterance import Appearance, Reader, readers_of
from pipelines.commands.lineage.workspace import Workspace
from pipelines.engine.workspace import Output


@dataclass(frozen=True)
class Holders:
    """What holds any of some recordings.

    Attributes:
        shards: Number of the mixtures in which one of them is heard, by dataset (stage/fingerprint) and shard.
        readers: Trainings, tests and exports that used these mixtures.
        free: Digests of the datasets in which none of them is heard.
    """

    shards: Mapping[tuple[str, str], int]
    readers: tuple[Reader, ...]
    free: frozenset[str] = frozenset()


def known_rows(workspace: Workspace, column: str, value: str) -> dict[str, Utterance]:
    """Return the rows of recordings that any output of ingest holds, by id.

    Args:
        workspace: Where to look.
        column: Column of the manifest, e.g. "speaker".
        value: Its value in the rows that are wanted.
    """
    rows: dict[str, Utterance] = {}
    for output in workspace.of("ingest"):
        for path in output.parts(".parquet"):
            if pc.any(pc.equal(read_columns(path, Utterance, [column])[column], value)).as_py():
                rows |= {row.utt_id: row for row in read_rows(path, Utterance) if getattr(row, column) == value}
    return rows


def holders_of(workspace: Workspace, rows: Collection[Utterance]) -> Holders:
    """Find the mixtures in which any of some recordings is heard, over all datasets of the workspace, and their users.

    Args:
        workspace: Where to look.
        rows: The recordings. Of an impulse response, all mixtures in its room count.
    """
    ids = pa.array(sorted({row.utt_id for row in rows}), pa.string())
    in_rooms = {f"{row.corpus}/{row.speaker or row.path}" for row in rows if row.kind == "rir"}
    rooms = pa.array(sorted(in_rooms), pa.string())
    shards: Counter[tuple[str, str]] = Counter()
    readers: list[Reader] = []
    free: set[str] = set()
    for output in workspace.of("simulate"):
        heard = {appearance.key: appearance for appearance in _heard(output, ids, rooms)}
        shards.update((output.name, appearance.shard) for appearance in heard.values())
        if heard:
            readers += readers_of(workspace, output, list(heard.values()))
        elif output.finished is not None:
            free.add(output.finished.digest)
    return Holders(dict(sorted(shards.items())), tuple(readers), frozenset(free))


def _heard(output: Output, ids: pa.Array, rooms: pa.Array) -> Iterator[Appearance]:
    """Yield the mixtures of one dataset in which one of the recordings is heard; some come more than once."""
    for path in output.parts(".index.parquet"):
        table = read_columns(path, IndexRow, ["key", "split", "shard", "utt_id"])
        yield from _as_appearances(output, table.filter(pc.is_in(table["utt_id"], ids)), "")
    for path in output.parts(".recipes.parquet"):
        table = read_columns(path, Recipe, ["key", "split", "noise_ids", "competitor_id", "room_id"])
        noises = table["noise_ids"].combine_chunks() if table.num_rows else pa.array([], pa.list_(pa.string()))
        hits = pc.filter(pc.list_parent_indices(noises), pc.is_in(pc.list_flatten(noises), ids))
        other = pc.or_(pc.is_in(table["competitor_id"], ids), pc.is_in(table["room_id"], rooms))
        chosen = sorted({*hits.to_pylist(), *pc.indices_nonzero(other).to_pylist()})
        yield from _as_appearances(output, table.take(pa.array(chosen, pa.int64())), _shard_of(path))


def _shard_of(recipes: Path) -> str:
    return recipes.name.replace(".recipes.parquet", ".tar")


def _as_appearances(output: Output, table: pa.Table, shard: str) -> Iterator[Appearance]:
    for mixture in table.to_pylist():
        name = shard or mixture["shard"]
        yield Appearance(output.fingerprint, mixture["key"], mixture["split"], name, "speech or background", None)
