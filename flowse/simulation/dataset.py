"""The summary of a finished dataset: hours, corpora, languages and licences, as `dataset.json` states them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowse.data import licences
from flowse.data.licences import LicenceUse
from flowse.data.manifest import SPLITS
from flowse.data.parquet import read_columns
from flowse.data.shards import IndexRow
from flowse.errors import UserError
from flowse.json_records import from_json, to_json
from flowse.simulation.recipe import MixtureConfig
from flowse.simulation.sources import Sources


@dataclass(frozen=True, kw_only=True)
class SplitSummary:
    """What one split holds.

    Attributes:
        mixtures: Number of mixtures.
        shards: Number of shards.
        hours: Length of the mixtures in hours.
    """

    mixtures: int
    shards: int
    hours: float


@dataclass(frozen=True, kw_only=True)
class SpeechSummary:
    """What one corpus of speech gave to the dataset.

    Attributes:
        mixtures: Number of mixtures.
        licences: Licences of their utterances, sorted.
        languages: Languages of their utterances, sorted.
        hours: Length of the mixtures in hours.
    """

    mixtures: int
    licences: list[str]
    languages: list[str]
    hours: float


@dataclass(frozen=True, kw_only=True)
class SourceSummary:
    """What one corpus of noises or rooms offers to the dataset.

    Attributes:
        recordings: Number of recordings or impulse responses.
        licences: Their licences, sorted.
    """

    recordings: int
    licences: list[str]


@dataclass(frozen=True, kw_only=True)
class DatasetSummary:
    """What a dataset of mixtures consists of.

    Attributes:
        digest: Digest of all mixtures (`flowse.data.shards.merge_indexes`).
        seed: Seed of all choices.
        sample_rate: In Hz.
        target: What the clean waveforms are (`MixtureConfig.target`).
        early_s: How long after the direct path reflections count as early, in seconds.
        splits: What each split holds; splits without mixtures are left out.
        speech: What each corpus of speech gave, by name.
        noise: What each corpus of noises offers, by name.
        rooms: What each corpus of rooms offers, by name; "simulated" for simulated rooms.
        hours: Length of all mixtures in hours.
        mixtures: Number of all mixtures.
        licences: Hours by use, corpus and licence; None: the summary was written by a version that did not add them up.
    """

    digest: str
    seed: int
    sample_rate: int
    target: str
    early_s: float
    splits: dict[str, SplitSummary]
    speech: dict[str, SpeechSummary]
    noise: dict[str, SourceSummary]
    rooms: dict[str, SourceSummary]
    hours: float
    mixtures: int
    licences: list[LicenceUse] | None = field(default=None, metadata={"optional": True})

    def write(self, path: Path) -> None:
        """Write the summary as JSON."""
        path.write_text(json.dumps(to_json(self), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> DatasetSummary:
        """Read what `write` wrote.

        Raises:
            UserError: The file is absent or has another form; the message says what to do.
        """
        try:
            return from_json(cls, json.loads(path.read_bytes()))
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: not the summary of a dataset: {error}; run simulate again with --force") from None


@dataclass
class _Sum:
    """Sums over the mixtures of a split or of a corpus."""

    mixtures: int = 0
    samples: int = 0
    shards: int = 0
    licences: set[str] = field(default_factory=set)
    languages: set[str] = field(default_factory=set)

    def add(self, row: dict[str, Any]) -> None:
        """Add one group of mixtures."""
        self.mixtures += row["samples_count"]
        self.samples += row["samples_sum"]
        self.licences.add(row["licence"])
        self.languages.add(row["language"])


def summarise(
    indexes: Sequence[Path],
    recipes: Sequence[Path],
    sources: Sources,
    *,
    digest: str,
    seed: int,
    sample_rate: int,
    mixture: MixtureConfig,
) -> DatasetSummary:
    """Add up what a dataset consists of, one shard at a time.

    Args:
        indexes: Index of every shard (`flowse.data.shards.IndexRow`).
        recipes: Recipes of every shard (`flowse.simulation.recipe.Recipe`).
        sources: What the speech was mixed with.
        digest: Digest of all mixtures.
        seed: Seed of all choices.
        sample_rate: In Hz.
        mixture: How the mixtures were drawn.
    """
    splits = {str(split): _Sum() for split in SPLITS}
    corpora: dict[str, _Sum] = {}
    group = ["split", "corpus", "licence", "language"]
    for index in indexes:
        table = read_columns(index, IndexRow, [*group, "samples"])
        for row in table.group_by(group).aggregate([("samples", "sum"), ("samples", "count")]).to_pylist():
            splits[row["split"]].add(row)
            corpora.setdefault(row["corpus"], _Sum()).add(row)
        for split in set(table["split"].to_pylist()):
            splits[split].shards += 1

    def hours(samples: int) -> float:
        return samples / sample_rate / 3600

    return DatasetSummary(
        digest=digest,
        seed=seed,
        sample_rate=sample_rate,
        target=mixture.target,
        early_s=mixture.early_s,
        splits={
            name: SplitSummary(mixtures=total.mixtures, shards=total.shards, hours=hours(total.samples))
            for name, total in splits.items()
            if total.shards
        },
        speech={
            name: SpeechSummary(
                mixtures=total.mixtures,
                licences=sorted(total.licences),
                languages=sorted(total.languages),
                hours=hours(total.samples),
            )
            for name, total in sorted(corpora.items())
        },
        noise=_summarise_sources(sources.noises),
        rooms=_summarise_sources(sources.rooms),
        hours=hours(sum(total.samples for total in corpora.values())),
        mixtures=sum(total.mixtures for total in corpora.values()),
        licences=licences.roll_up(indexes, recipes, [sources.noises, sources.competitors], sources.rooms),
    )


def _summarise_sources(path: Path) -> dict[str, SourceSummary]:
    """Count the rows of a list of noises or rooms by corpus, with their licences."""
    table = read_columns(path, None, ["corpus", "licence"])
    counts: dict[str, int] = {}
    found: dict[str, set[str]] = {}
    for row in table.group_by(["corpus", "licence"]).aggregate([([], "count_all")]).to_pylist():
        corpus = row["corpus"] or licences.SIMULATED
        counts[corpus] = counts.get(corpus, 0) + row["count_all"]
        found.setdefault(corpus, set()).add(row["licence"])
    return {name: SourceSummary(recordings=counts[name], licences=sorted(found[name])) for name in sorted(counts)}
