"""Plans of shards: the recipes of all mixtures, with the content of every recording and response that they name.

A shard is a function of its plan alone. Equal plans have equal bytes, so the hash of a plan tells whether a shard that
was rendered before still is what would be rendered now.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from flowse.data.manifest import Split, Utterance
from flowse.data.parquet import RowsError, read_columns, read_rows, schema_of
from flowse.simulation.recipe import MixtureConfig, Recipe, draw_recipe
from flowse.simulation.rir_bank import RirRow
from flowse.simulation.sources import Sources, SplitSources

_RECIPE = pa.struct(list(schema_of(Recipe)))
_LISTS = tuple(field.name for field in schema_of(Recipe) if pa.types.is_list(field.type))
_SCHEMA = (
    schema_of(Utterance)
    .append(pa.field("copy", pa.int64(), nullable=False))
    .append(pa.field("recipe", _RECIPE, nullable=True))
    .append(pa.field("sources", pa.list_(pa.string()), nullable=False))
)


@dataclass(frozen=True)
class PlannedMixture:
    """One mixture of a plan.

    Attributes:
        row: The speech.
        copy: Number of the mixture among those of this utterance, from 0.
        recipe: All choices; None: the utterance is too short to be mixed.
        sources: What the recipe names besides the speech, each with its content: a line a recording or response.
    """

    row: Utterance
    copy: int
    recipe: Recipe | None
    sources: tuple[str, ...] = ()

    @property
    def duration_s(self) -> float:
        """Length of the mixture in seconds; of an utterance that is too short, its own."""
        return self.row.duration_s if self.recipe is None else self.recipe.duration_s


class Planner:
    """Draws the recipes of utterances; the same seed gives the same recipes.

    Example:
        >>> planner = Planner(MixtureConfig(), 1, sources)
        >>> planner.plan(utterance, copy=0).recipe
    """

    def __init__(self, config: MixtureConfig, seed: int, sources: Sources, *, min_s: float = 0.0) -> None:
        """Read nothing yet; the lists of a split are read when its first mixture is planned.

        Args:
            config: How mixtures are drawn.
            seed: Root seed of all choices.
            sources: What the speech is mixed with.
            min_s: Utterances that are shorter get no recipe, in seconds.
        """
        self._config, self._seed, self._sources, self._min_s = config, seed, sources, min_s
        self._splits: dict[Split, SplitSources] = {}

    def plan(self, row: Utterance, copy: int) -> PlannedMixture:
        """Draw one mixture.

        Args:
            row: The speech.
            copy: Number of the mixture among those of this utterance, from 0.

        Raises:
            ValueError: The utterance has no split, or its split has no noise.
        """
        if row.split is None:
            raise ValueError(f"{row.utt_id} has no split; ingest assigns it")
        if row.duration_s < self._min_s:
            return PlannedMixture(row, copy, None)
        if row.split not in self._splits:
            self._splits[row.split] = SplitSources.read(self._sources, row.split)
        sources = self._splits[row.split]
        recipe = draw_recipe(self._config, self._seed, row, copy, sources.candidates)
        return PlannedMixture(row, copy, recipe, tuple(_named(recipe, sources)))


def _named(recipe: Recipe, sources: SplitSources) -> Iterator[str]:
    """Yield a line for each recording and each response that a recipe names, with its content."""
    for name in recipe.noise_ids:
        yield recording_line(sources.noises[name])
    if recipe.competitor_id:
        yield recording_line(sources.competitors[recipe.competitor_id])
    for source in sorted({recipe.speech_source, recipe.competitor_source, *recipe.noise_sources} - {-1}):
        yield response_line(sources.rirs[recipe.room_id][source])


def recording_line(row: Utterance) -> str:
    """Name a noise or a competing utterance, where it lies, and its content: all that a mixture takes of it."""
    return json.dumps([row.utt_id, row.corpus, row.path, row.offset_s, row.duration_s, row.content])


def response_line(row: RirRow) -> str:
    """Name a room's response, its content, and what a shard states of it; not where in the bank it lies."""
    return json.dumps([row.room_id, row.source, row.content, row.delay, row.rt60_s, row.distance_m])


def write_plan(path: Path, mixtures: Iterable[PlannedMixture]) -> None:
    """Write the plan of a shard; equal plans give equal bytes."""
    listed = list(mixtures)
    columns: dict[str, list[Any]] = {
        name: [getattr(mixture.row, name) for mixture in listed] for name in schema_of(Utterance).names
    }
    columns["copy"] = [mixture.copy for mixture in listed]
    columns["recipe"] = [None if mixture.recipe is None else vars(mixture.recipe) for mixture in listed]
    columns["sources"] = [mixture.sources for mixture in listed]
    arrays = [pa.array(columns[field.name], field.type) for field in _SCHEMA]
    pq.write_table(pa.Table.from_arrays(arrays, schema=_SCHEMA), path, compression="zstd")


def read_plan(path: Path) -> Iterator[PlannedMixture]:
    """Yield the mixtures of a plan.

    Raises:
        RowsError: The file cannot be read, or is no plan of this version.
    """
    extra = read_columns(path, None, ["copy", "recipe", "sources"]).to_pylist()
    for row, values in zip(read_rows(path, Utterance), extra, strict=True):
        recipe = values["recipe"]
        try:
            drawn = None if recipe is None else Recipe(**recipe | {name: tuple(recipe[name]) for name in _LISTS})
        except (TypeError, KeyError) as error:
            raise RowsError(
                f"{path}: not a plan of this version: {error}; delete the file, a run makes it again"
            ) from None
        yield PlannedMixture(row, values["copy"], drawn, tuple(values["sources"]))


def _drawn_by(config: MixtureConfig) -> dict[str, Any]:
    """Return the settings, but for defaults of those that are younger than the first plans: they mean what was then."""
    later = {item.name: item.default for item in dataclasses.fields(config) if "fingerprint" in item.metadata}
    values = dataclasses.asdict(config)
    return {name: value for name, value in values.items() if name not in later or value != later[name]}


def sources_digest(config: MixtureConfig, sources: Sources, split: Split, corpora: Iterable[str]) -> dict[str, str]:
    """Return, for each corpus of speech, a hash of all that recipes of a split are drawn from, and of how.

    Args:
        config: How mixtures are drawn.
        sources: What the speech is mixed with.
        split: The split of the speech.
        corpora: Corpora of the speech; other speakers come from the utterance's own corpus.
    """
    known = SplitSources.read(sources, split)
    common = hashlib.sha256(json.dumps(_drawn_by(config), sort_keys=True).encode())
    for row in sorted(known.noises.values(), key=lambda row: row.utt_id):
        common.update(f"{recording_line(row)}\n".encode())
    for room_id in sorted(known.rirs):
        for source in sorted(known.rirs[room_id]):
            common.update(f"{response_line(known.rirs[room_id][source])}\n".encode())
    digests = {}
    for corpus in corpora:
        of_corpus = common.copy()
        for row in sorted(known.competitors.values(), key=lambda row: row.utt_id):
            if row.corpus == corpus:
                of_corpus.update(f"{json.dumps(row.speaker)} {recording_line(row)}\n".encode())
        digests[corpus] = of_corpus.hexdigest()
    return digests
