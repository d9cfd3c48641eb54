"""Make noisy and reverberant mixtures of the speech, and write them as WebDataset shards.

Reads the transcribed speech from transcribe, the noises from ingest and the impulse responses from rooms.
Writes a unit's `.tar`, `.index.parquet` and `.recipes.parquet`, then `index.parquet` and `dataset.json` over all.
Drops utterances that are too short, crops of utterances that are silent, and mixtures whose noise is silent.
Fails what cannot be decoded, and mixtures that did not become what their recipe says.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from flowse.data.manifest import SPLITS, Reject, Split, Utterance
from flowse.errors import UserError
from flowse.files import sha256_file
from flowse.refusal import Refusal, refusing
from flowse.simulation.recipe import CODEC_RATES, MixtureConfig, Recipe, planned_duration_s
from pipelines.engine.accounts import StageReport, Tally, UnitReport
from pipelines.engine.fingerprint import content_of
from pipelines.engine.stage import StageContext, Unit, UnitOutput

if TYPE_CHECKING:
    from flowse.data.shuffle import ShardPlan
    from flowse.simulation.render import Rendered
    from flowse.simulation.sources import Sources

NAME = "simulate"
READS: tuple[str, ...] = ("ingest", "rooms", "transcribe")
REVISION = 4


@dataclass(frozen=True, kw_only=True)
class Config:
    """How mixtures are drawn and stored.

    Attributes:
        mixture: How a mixture is drawn.
        copies: Mixtures of every utterance in the training split.
        eval_copies: Mixtures of every utterance in the other splits.
        min_s: Utterances that are shorter, in seconds, are dropped.
        sample_rate: In Hz; it must be that of the rooms and of the model's mel.
        mixtures_per_shard: Most mixtures of one shard; the shards of a split differ by one mixture at most.
    """

    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    copies: int = 1
    eval_copies: int = 1
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


class Worker:
    """Makes the mixtures of one shard a call."""

    def __init__(self, config: Config, seed: int, roots: Mapping[str, Path], sources: Sources) -> None:
        from flowse.simulation.mixer import Mixer

        self._config = config
        self._mixer = Mixer(config.mixture, seed, roots, sources, sample_rate=config.sample_rate, min_s=config.min_s)

    def __call__(self, payload: ShardPlan, output: UnitOutput) -> UnitReport:
        """Write one shard with its index and recipes."""
        from flowse.data.parquet import write_rows
        from flowse.data.shards import ShardWriter, write_index
        from flowse.data.shuffle import read_shard_plan

        rejects: list[Reject] = []
        recipes: list[Recipe] = []
        kept_s: list[float] = []
        counts: Counter[str] = Counter()
        with ShardWriter(output.path(".tar"), f"{output.name}.tar") as shard:
            for row, copy in read_shard_plan(payload.path):
                duration_s = planned_duration_s(row.duration_s, self._config.mixture)
                try:
                    with refusing(row.path):
                        recipe, rendered = self._mixer.mix(row, copy)
                        shard.add(self._mixer.to_store(row, recipe, rendered))
                except Refusal as error:
                    refusal = Refusal(error.reason, f"copy {copy}: {error.detail}", error.kind)
                    rejects.append(Reject.of(row, NAME, refusal, duration_s))
                    continue
                recipes.append(recipe)
                kept_s.append(duration_s)
                counts.update(_count(recipe, rendered, row))
        rows = shard.close()
        write_index(output.path(".index.parquet"), rows)
        write_rows(output.path(".recipes.parquet"), Recipe, recipes)
        counts["bytes"] = rows[0].shard_bytes if rows else 0
        return UnitReport(Tally.of(kept_s), tuple(rejects), dict(counts))


def _count(recipe: Recipe, rendered: Rendered, row: Utterance) -> dict[str, int]:
    return {
        "samples": rendered.checks.samples,
        "reverberant": int(bool(recipe.room_id)),
        "with_effects": int(recipe.has_effects),
        "guarded": int(rendered.checks.guard_db > 0),
        "cropped": int(recipe.duration_s < row.duration_s),
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


def run(config: Config, context: StageContext) -> StageReport:
    """Assign the speech to shards, check that nothing leaks between splits, make the mixtures, join the indexes."""
    from flowse.data import licences
    from flowse.data.shards import merge_indexes
    from flowse.data.shuffle import plan_shards
    from flowse.simulation.dataset import summarise
    from flowse.simulation.sources import Sources, write_competitors, write_noises

    speech = context.inputs["transcribe"].parts(".parquet")
    context.storage.mkdir(parents=True, exist_ok=True)
    sources = Sources(
        noises=context.storage / "noises.parquet",
        competitors=context.storage / "competitors.parquet",
        rooms=context.inputs["rooms"].file("index.parquet"),
        bank=context.inputs["rooms"].folder,
    )
    context.inputs["rooms"].parts(".npy")  # the bank's files are hashed here; workers map them
    noises = write_noises(context.inputs["ingest"].parts(".parquet"), sources.noises)
    write_competitors(speech if config.mixture.competitor > 0 else (), sources.competitors)
    _refuse_leaks(speech, sources)
    plans = plan_shards(
        speech,
        context.storage / "plans",
        seed=context.seed,
        copies={split: config.copies_of(split) for split in SPLITS},
        per_shard=config.mixtures_per_shard,
        max_s=config.mixture.max_s,
    )
    _refuse_missing(config, plans, noises, sources)
    with_what = [sha256_file(sources.noises), sha256_file(sources.competitors), context.inputs["rooms"].digest]
    units = [
        Unit(plan.split, plan, Tally(plan.mixtures, plan.seconds), content_of(sha256_file(plan.path), with_what))
        for plan in plans
    ]
    report = context.map_units(Worker, (config, context.seed, dict(context.roots), sources), units)
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
