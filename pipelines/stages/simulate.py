"""Make noisy and reverberant mixtures of the speech, and write them as WebDataset shards.

Reads the transcribed speech from transcribe, the noises from ingest and the impulse responses from rooms.
Writes a unit's `.tar`, `.index.parquet` and `.recipes.parquet`, then `index.parquet`, `dataset.json`, `mixing.json`
and `croissant.json` over all.
Drops utterances that are too short, crops of utterances that are silent, and mixtures whose noise is silent.
Fails what cannot be decoded, and mixtures that did not become what their recipe says.

The recipes are drawn before anything is rendered, by units of their own: a shard is known by its plan (the recipes, and
the content of every recording and response that they name), so it is made again only if one of these is another.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from flowse.data.manifest import SPLITS, Reject, Split, Utterance
from flowse.errors import UserError
from flowse.fetching import ahead
from flowse.refusal import Refusal, refusing
from flowse.simulation.recipe import CODEC_RATES, MixtureConfig, Recipe
from pipelines.engine.accounts import StageReport, Tally, UnitReport
from pipelines.engine.fingerprint import content_of
from pipelines.engine.stage import StageContext, StageOutput, Unit, UnitOutput

if TYPE_CHECKING:
    from flowse.data.shuffle import ShardPlan
    from flowse.simulation.plans import PlannedMixture
    from flowse.simulation.render import Rendered
    from flowse.simulation.sources import Sources

NAME = "simulate"
READS: tuple[str, ...] = ("ingest", "rooms", "transcribe")
REVISION = 5

PLAN = ".plan.parquet"


@dataclass(frozen=True, kw_only=True)
class Config:
    """How mixtures are drawn and stored.

    Attributes:
        mixture: How a mixture is drawn.
        copies: Mixtures of every utterance in the training split.
        eval_copies: Mixtures of every utterance in the other splits.
        min_s: Utterances that are shorter, in seconds, are dropped.
        sample_rate: In Hz; it must be that of the rooms and of the model's mel.
        mixtures_per_shard: Most mixtures of one shard, unless one utterance has more copies; most shards hold between
            half as many and as many.
    """

    # These decide what the plans hold; a shard is known by its plan.
    mixture: MixtureConfig = field(default_factory=MixtureConfig, metadata={"unit": False})
    copies: int = field(default=1, metadata={"unit": False})
    eval_copies: int = field(default=1, metadata={"unit": False})
    min_s: float = 0.5
    sample_rate: int = 24_000
    mixtures_per_shard: int = field(default=500, metadata={"unit": False})

    def __post_init__(self) -> None:
        for name, least in (("copies", 1), ("eval_copies", 1), ("sample_rate", 8000), ("mixtures_per_shard", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: {getattr(self, name)} must be at least {least}")
        for codec in self.mixture.codecs if self.mixture.codec > 0 else ():
            if self.sample_rate not in CODEC_RATES[codec]:
                known = ", ".join(map(str, CODEC_RATES[codec]))
                raise ValueError(
                    f"simulate.sample_rate is {self.sample_rate}, and simulate.mixture.codecs names {codec!r}, which "
                    f"knows {known} Hz only; take {codec!r} out of the codecs, or give one of these rates"
                )
        if not 0 <= self.min_s < self.mixture.max_s:
            raise ValueError(f"min_s: {self.min_s} must lie in 0..mixture.max_s, which is {self.mixture.max_s}")

    def copies_of(self, split: Split) -> int:
        """Return how many mixtures are made of each utterance of a split."""
        return self.copies if split == "train" else self.eval_copies


@dataclass(frozen=True)
class PlannedShard:
    """Payload of a shard.

    Attributes:
        path: Its plan (`flowse.simulation.plans`).
        rows: Number of mixtures in the plan.
        refused: Mixtures that are not to be made, by their place in the plan: reason and detail of each.
    """

    path: Path
    rows: int
    refused: Mapping[int, tuple[str, str]] = field(default_factory=dict)

    def refuse(self, rows: Mapping[int, tuple[str, str]]) -> PlannedShard:
        """Return the shard without some of its mixtures, each of which becomes a reject row."""
        return dataclasses.replace(self, refused={**self.refused, **rows})


class Drawer:
    """Draws the recipes of one shard a call."""

    def __init__(self, mixture: MixtureConfig, min_s: float, seed: int, sources: Sources) -> None:
        from flowse.simulation.plans import Planner

        self._planner = Planner(mixture, seed, sources, min_s=min_s)

    def __call__(self, payload: ShardPlan, output: UnitOutput) -> UnitReport:
        """Write the plan of one shard."""
        from flowse.data.shuffle import read_shard_plan
        from flowse.simulation.plans import write_plan

        mixtures = []
        for row, copy in read_shard_plan(payload.path):
            mixtures.append(self._planner.plan(row, copy))
            output.count(mixtures[-1].duration_s)
        write_plan(output.path(PLAN), mixtures)
        return UnitReport(Tally.of(mixture.duration_s for mixture in mixtures))


class Worker:
    """Makes the mixtures of one shard a call."""

    def __init__(self, sample_rate: int, min_s: float, roots: Mapping[str, Path], sources: Sources) -> None:
        from flowse.simulation.mixer import Mixer

        self._min_s, self._roots = min_s, roots
        self._mixer = Mixer(roots, sources, sample_rate=sample_rate)

    def __call__(self, payload: PlannedShard, output: UnitOutput) -> UnitReport:
        """Write one shard with its index and recipes."""
        from flowse.data.parquet import write_rows
        from flowse.data.shards import ShardWriter, write_index
        from flowse.data.token_ids import with_tokens
        from flowse.simulation.plans import read_plan

        rejects: list[Reject] = []
        recipes: list[Recipe] = []
        kept_s: list[float] = []
        counts: Counter[str] = Counter()
        with ShardWriter(output.path(".tar"), f"{output.name}.tar") as shard:
            planned = ahead(read_plan(payload.path), lambda mixture: self._roots[mixture.row.corpus] / mixture.row.path)
            for place, mixture in enumerate(planned):
                row = mixture.row
                try:
                    with refusing(row.path):
                        recipe = self._recipe(mixture, payload.refused.get(place))
                        rendered = self._mixer.render(recipe, row)
                        shard.add(self._mixer.to_store(row, recipe, rendered))
                except Refusal as error:
                    refusal = Refusal(error.reason, f"copy {mixture.copy}: {error.detail}", error.kind)
                    rejects.append(Reject.of(row, NAME, refusal, mixture.duration_s))
                    continue
                finally:
                    output.count(mixture.duration_s)
                recipes.append(recipe)
                kept_s.append(recipe.duration_s)
                counts.update(_count(recipe, rendered, row))
        rows = with_tokens(shard.close())
        write_index(output.path(".index.parquet"), rows)
        write_rows(output.path(".recipes.parquet"), Recipe, recipes)
        counts["bytes"] = rows[0].shard_bytes if rows else 0
        return UnitReport(Tally.of(kept_s), tuple(rejects), dict(counts))

    def _recipe(self, mixture: PlannedMixture, refused: tuple[str, str] | None) -> Recipe:
        """Return the recipe of a mixture.

        Raises:
            Refusal: The utterance is too short, or whoever gave the work refuses it.
        """
        if refused is not None:
            raise Refusal.failed(*refused)
        if mixture.recipe is None:
            row = mixture.row
            raise Refusal("too_short", f"{row.path}: {row.duration_s:.3f} s, under {self._min_s:g} s")
        return mixture.recipe


def _count(recipe: Recipe, rendered: Rendered, row: Utterance) -> dict[str, int]:
    return {
        "samples": rendered.checks.samples,
        "reverberant": int(bool(recipe.room_id)),
        "with_effects": int(recipe.has_effects),
        "guarded": int(rendered.checks.guard_db > 0),
        "cropped": int(recipe.duration_s < row.duration_s),
        **({"noise_only": 1} if recipe.target == "silence" else {}),
    }


def _refuse_leaks(speech: Sequence[Path], sources: Sources) -> None:
    """Stop before any work if something stands in two splits.

    Raises:
        UserError: Naming what stands in which splits.
    """
    from flowse.simulation.sources import find_split_leaks

    leaks = find_split_leaks(speech, sources)
    if leaks:
        named = "; ".join(str(leak) for leak in leaks[:5])
        raise UserError(
            f"{NAME}: {named}{' …' if len(leaks) > 5 else ''}; what is in two splits makes scores worthless: "
            "give each one split (column `split`, or ingest's `split` of the corpus), or leave `split` out"
        )


def _refuse_missing(config: Config, plans: Sequence[ShardPlan], noises: Mapping[str, int], sources: Sources) -> None:
    """Stop before any work if a split has speech but nothing to mix it with.

    Raises:
        UserError: Naming the split, and what to change.
    """
    if "" in noises:
        raise UserError(f"{NAME}: {noises['']} noises have no split; run ingest again with --force")
    if not plans:
        raise UserError(f"{NAME}: transcribe kept no speech; see its rejects")
    other_rates = sources.sample_rates() - {config.sample_rate}
    if other_rates:
        raise UserError(
            f"simulate.sample_rate is {config.sample_rate}, rooms.sample_rate is {other_rates.pop()}; make them equal"
        )
    rooms = sources.rooms_by_split()
    for split in sorted({plan.split for plan in plans}):
        if not noises.get(split):
            mixtures = sum(plan.mixtures for plan in plans if plan.split == split)
            raise UserError(
                f"{NAME}: split {split!r} has {mixtures} mixtures to make and no noise; add noise recordings, raise "
                "ingest.splits' shares, or give a noise corpus this `split`"
            )
        if config.mixture.reverberation > 0 and not rooms.get(split):
            raise UserError(
                f"{NAME}: split {split!r} has no room; set rooms.{split}_rooms above 0, or "
                "simulate.mixture.reverberation to 0"
            )


def _plans(
    config: Config, context: StageContext, shards: Sequence[ShardPlan], sources: Sources
) -> list[Unit[PlannedShard]]:
    """Draw the recipes of all shards, and return the shards as units that are known by what their plans hold."""
    from flowse.simulation.plans import sources_digest

    drawn_from: dict[tuple[Split, str], str] = {}
    for split in SPLITS:
        corpora = sorted({shard.corpus for shard in shards if shard.split == split})
        if corpora:
            for corpus, digest in sources_digest(config.mixture, sources, split, corpora).items():
                drawn_from[split, corpus] = digest
    # A label of its own tells which plan is which shard's.
    labels = [f"plan-{shard.label}-{shard.sha256[:12]}" for shard in shards]
    units = [
        Unit(
            label,
            shard,
            Tally(shard.mixtures, shard.seconds),
            content_of(shard.sha256, drawn_from[shard.split, shard.corpus]),
            shard.corpus,
        )
        for label, shard in zip(labels, shards, strict=True)
    ]
    context.map_units(Drawer, (config.mixture, config.min_s, context.seed, sources), units, hidden=True)
    of_label = dict(zip(labels, shards, strict=True))
    return [
        Unit(
            (shard := of_label[plan.label]).label,
            PlannedShard(plan.path, shard.mixtures),
            Tally(shard.mixtures, shard.seconds),
            plan.sha256,
            shard.corpus,
        )
        for plan in context.unit_files(PLAN, hidden=True)
    ]


def dataset_digest(output: StageOutput) -> str:
    """Return the hash over the mixtures of a finished output, as its readers log it.

    Raises:
        UserError: The record of the dataset cannot be read.
    """
    from flowse.simulation.dataset import DatasetSummary

    return DatasetSummary.read(output.file("dataset.json")).digest


def run(config: Config, context: StageContext) -> StageReport:
    """Assign the speech to shards, check that nothing leaks, draw the recipes, make the mixtures, join the indexes."""
    from flowse.data import licences
    from flowse.data.croissant import write_croissant
    from flowse.data.shards import merge_indexes
    from flowse.data.shuffle import plan_shards
    from flowse.simulation.dataset import summarise
    from flowse.simulation.redraw import MIXING, Mixing
    from flowse.simulation.sources import Sources, write_competitors, write_noises

    speech = context.inputs["transcribe"].parts(".parquet")
    context.storage.mkdir(parents=True, exist_ok=True)
    sources = Sources(
        noises=context.storage / "noises.parquet",
        competitors=context.storage / "competitors.parquet",
        rooms=context.inputs["rooms"].file("index.parquet"),
    )
    context.inputs["rooms"].parts(".npy")  # the bank's files are hashed here; workers map them
    noises = write_noises(context.inputs["ingest"].parts(".parquet"), sources.noises)
    write_competitors(speech if config.mixture.competitor > 0 else (), sources.competitors)
    _refuse_leaks(speech, sources)
    folder = context.storage / "shards"
    shards = plan_shards(
        speech,
        folder,
        copies={split: config.copies_of(split) for split in SPLITS},
        per_shard=config.mixtures_per_shard,
        max_s=config.mixture.max_s,
    )
    _refuse_missing(config, shards, noises, sources)
    units = _plans(config, context, shards, sources)
    arguments = (config.sample_rate, config.min_s, dict(context.roots), sources)
    report = context.map_units(Worker, arguments, units)
    shutil.rmtree(folder)  # as large as the manifest; a later run writes it again
    indexes = context.parts(".index.parquet")
    with context.write("index.parquet") as path:
        digest = merge_indexes(indexes, path, os.path.relpath(indexes[0].parent, context.folder))
    summary = summarise(
        indexes,
        context.parts(".recipes.parquet"),
        sources,
        digest=digest,
        seed=context.seed,
        sample_rate=config.sample_rate,
        mixture=config.mixture,
    )
    with context.write("dataset.json") as path:
        summary.write(path)
    with context.write(MIXING) as path:
        Mixing(mixture=config.mixture, seed=context.seed, sample_rate=config.sample_rate).write(path)
    with context.write("croissant.json") as path:
        write_croissant(context.folder, f"flowse-{digest[:16]}", path)
    context.tracker.tags({"dataset_digest": digest})
    return dataclasses.replace(
        report,
        metrics={**report.metrics, "hours": summary.hours, "shards": len(indexes)},
        notes=(
            *report.notes,
            f"dataset {digest[:16]}",
            *(f"part of the data {line}" for line in licences.warnings(summary.licences or [])),
        ),
    )
