"""Make noisy and reverberant mixtures of the speech, and write them as WebDataset shards.

Reads the transcribed speech from transcribe, the noises from ingest and the impulse responses from rooms.
Writes a unit's `.tar`, `.index.parquet` and `.recipes.parquet`, then `index.parquet` and `dataset.json` over all.
Drops speech that is too short or silent where it was cropped, and mixtures whose noise is silent.
Fails what cannot be decoded, and mixtures that did not become what their recipe says.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from flowse.audio.waveform import read_mono
from flowse.data import licences
from flowse.data.leaks import Leak, find_leaks
from flowse.data.manifest import SPLITS, Reject, Split, Utterance
from flowse.data.parquet import read_rows, schema_of, write_rows
from flowse.data.shards import Mixture, ShardWriter, merge_indexes, write_index
from flowse.data.shuffle import ShardPlan, plan_shards, read_shard_plan
from flowse.errors import UserError
from flowse.refusal import Refusal
from flowse.simulation.recipe import Candidates, MixtureConfig, Noise, Pool, Recipe, draw_recipe, planned_duration_s
from flowse.simulation.render import Rendered, render
from flowse.simulation.rir_bank import RirBank, RirRow
from flowse.simulation.rirs import Rir
from pipelines.engine.accounts import StageReport, Tally, UnitReport
from pipelines.engine.stage import StageContext, Unit, UnitOutput

NAME = "simulate"
READS: tuple[str, ...] = ("ingest", "rooms", "transcribe")
REVISION = 3

_COMPETITORS = 4096
"""Utterances of a corpus and split that may compete with others: a fixed number, so that memory is bounded."""
_WHOLE_NOISE_S = 30.0
"""Longer noises are read in part; shorter ones whole, as they may have to be looped."""
_CACHE_BYTES = 256 * 2**20


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is mixed and how it is stored.

    Attributes:
        mixture: How a mixture is drawn.
        copies: Mixtures of every utterance in the training split.
        eval_copies: Mixtures of every utterance in the other splits.
        min_s: Shorter utterances are dropped.
        sample_rate: In Hz; the mel's and the rooms'.
        mixtures_per_shard: At most; shards of a split differ by one at most.
    """

    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    copies: int = 1
    eval_copies: int = 1
    min_s: float = 0.5
    sample_rate: int = 24_000
    mixtures_per_shard: int = 500

    def __post_init__(self) -> None:
        for name, least in (("copies", 1), ("eval_copies", 1), ("sample_rate", 8000), ("mixtures_per_shard", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: {getattr(self, name)} must be at least {least}")
        if not 0 <= self.min_s < self.mixture.max_s:
            raise ValueError(f"min_s: {self.min_s} must lie in 0..mixture.max_s, which is {self.mixture.max_s}")

    def copies_of(self, split: Split) -> int:
        """Return how many mixtures are made of an utterance."""
        return self.copies if split == "train" else self.eval_copies


@dataclass(frozen=True)
class Sources:
    """Where a worker finds what it mixes speech with: lists that the driver wrote, too long for a payload.

    Attributes:
        noises: Parquet of the noise rows.
        competitors: Parquet of the utterances that may compete.
        rooms: Index of the bank.
        bank: Folder of the bank.
    """

    noises: Path
    competitors: Path
    rooms: Path
    bank: Path


class _Recordings:
    """The waveforms last used, up to a number of bytes: noises come again and again, speech does not."""

    def __init__(self, limit: int = _CACHE_BYTES) -> None:
        self._limit, self._bytes = limit, 0
        self._held: OrderedDict[str, np.ndarray] = OrderedDict()

    def get(self, name: str, load: Callable[[], np.ndarray]) -> np.ndarray:
        """Return a held waveform, or load and hold it."""
        if name in self._held:
            self._held.move_to_end(name)
            return self._held[name]
        samples = load()
        self._held[name] = samples
        self._bytes += samples.nbytes
        while self._bytes > self._limit and len(self._held) > 1:
            self._bytes -= self._held.popitem(last=False)[1].nbytes
        return samples


@dataclass(frozen=True)
class _Cast:
    """Everything that may appear in the mixtures of one split."""

    candidates: Candidates
    noises: Mapping[str, Utterance]
    competitors: Mapping[str, Utterance]
    rirs: Mapping[str, Mapping[int, RirRow]]


def _read_cast(sources: Sources, split: Split) -> _Cast:
    noises = {row.utt_id: row for row in read_rows(sources.noises, Utterance) if row.split == split}
    competitors = {row.utt_id: row for row in read_rows(sources.competitors, Utterance) if row.split == split}
    rirs: dict[str, dict[int, RirRow]] = {}
    for row in read_rows(sources.rooms, RirRow):
        if row.split == split:
            rirs.setdefault(row.room_id, {})[row.source] = row
    candidates = Candidates(
        [Noise(name, row.duration_s) for name, row in noises.items()],
        [(room_id, len(rows)) for room_id, rows in rirs.items()],
        [(row.corpus, row.speaker, name) for name, row in competitors.items()],
    )
    return _Cast(candidates, noises, competitors, rirs)


class Worker:
    """Draws recipes, renders them and writes one shard a call."""

    def __init__(self, config: Config, seed: int, roots: Mapping[str, Path], sources: Sources) -> None:
        self._config, self._seed, self._roots, self._sources = config, seed, roots, sources
        self._bank = RirBank(sources.bank)
        self._recordings = _Recordings()
        self._casts: dict[Split, _Cast] = {}

    def __call__(self, payload: ShardPlan, output: UnitOutput) -> UnitReport:
        """Write one shard with its index and recipes."""
        rejects: list[Reject] = []
        recipes: list[Recipe] = []
        seconds: list[float] = []
        counts: Counter[str] = Counter()
        writer = ShardWriter(output.path(".tar"), f"{payload.name}.tar")
        with writer:
            for row, copy in read_shard_plan(payload.path):
                length_s = planned_duration_s(row.duration_s, self._config.mixture)
                try:
                    recipe, rendered = self._mix(row, copy)
                except Refusal as error:
                    which = Refusal(error.reason, f"copy {copy}: {error.detail}", error.kind)
                    rejects.append(Reject.of(row, NAME, which, length_s))
                    continue
                writer.add(self._mixture(row, recipe, rendered))
                recipes.append(recipe)
                seconds.append(length_s)
                counts.update(_counts(recipe, rendered, row))
        rows = writer.close()
        write_index(output.path(".index.parquet"), rows)
        write_rows(output.path(".recipes.parquet"), Recipe, recipes)
        counts["bytes"] = rows[0].shard_bytes if rows else 0
        return UnitReport(Tally.of(seconds), tuple(rejects), dict(counts))

    def _mix(self, row: Utterance, copy: int) -> tuple[Recipe, Rendered]:
        """Draw and render one mixture.

        Raises:
            Refusal: The utterance is too short.
            Refusal: A recording cannot be read.
            Refusal: Something is silent, or the product is wrong.
        """
        if row.duration_s < self._config.min_s:
            raise Refusal("too_short", f"{row.path}: {row.duration_s:.3f} s, under {self._config.min_s:g} s")
        recipe = draw_recipe(self._config.mixture, self._seed, row, copy, self._cast(row.split).candidates)
        return recipe, self.render(recipe, row)

    def render(self, recipe: Recipe, row: Utterance) -> Rendered:
        """Read what a recipe names and render it; the recipe may come from a finished dataset, to hear it again.

        Raises:
            Refusal: A recording cannot be read.
            Refusal: Something is silent, or the product is wrong.
        """
        rate, cast = self._config.sample_rate, self._cast(recipe.split)
        speech = self._read(row, recipe.crop_s, recipe.duration_s)
        noises, starts = [], []
        for name, offset_s in zip(recipe.noise_ids, recipe.noise_offsets_s, strict=True):
            noise = cast.noises[name]
            if noise.duration_s > max(_WHOLE_NOISE_S, recipe.duration_s):
                noises.append(self._read(noise, offset_s, recipe.duration_s))
                starts.append(0)
            else:
                noises.append(self._recordings.get(name, functools.partial(self._read, noise, 0.0, noise.duration_s)))
                starts.append(min(round(offset_s * rate), len(noises[-1]) - 1))
        competitor = None
        if recipe.competitor_id:
            other = cast.competitors[recipe.competitor_id]
            competitor = self._read(other, 0.0, min(other.duration_s, recipe.duration_s))
        rirs = self._rirs(recipe, cast)
        return render(recipe, speech, noises, rirs, rate, noise_starts=starts, competitor=competitor)

    def _cast(self, split: Split | None) -> _Cast:
        assert split is not None, "plan_shards() refuses rows without a split"
        if split not in self._casts:
            self._casts[split] = _read_cast(self._sources, split)
        return self._casts[split]

    def _read(self, row: Utterance, offset_s: float, duration_s: float) -> np.ndarray:
        path = self._roots[row.corpus] / row.path
        return read_mono(path, self._config.sample_rate, row.offset_s + offset_s, duration_s)

    def _rirs(self, recipe: Recipe, cast: _Cast) -> dict[int, Rir]:
        used = {recipe.speech_source, recipe.competitor_source, *recipe.noise_sources} - {-1}
        return {source: self._bank.read(cast.rirs[recipe.room_id][source]) for source in used}

    def _mixture(self, row: Utterance, recipe: Recipe, rendered: Rendered) -> Mixture:
        cropped = recipe.duration_s < row.duration_s
        room = self._cast(recipe.split).rirs[recipe.room_id][recipe.speech_source] if recipe.room_id else None
        meta = {
            "utt_id": row.utt_id,
            "copy": recipe.copy,
            "split": recipe.split,
            # The words of a crop are not known.
            "text": "" if cropped else row.text,
            "text_source": "" if cropped else row.text_source,
            "language": row.language,
            "speaker": row.speaker,
            "corpus": row.corpus,
            "licence": row.licence,
            "snr_db": rendered.checks.snr_db,
            "room_id": recipe.room_id,
            "rt60_s": room.rt60_s if room else None,
            "distance_m": room.distance_m if room else None,
            "recipe": dataclasses.asdict(recipe),
            "checks": dataclasses.asdict(rendered.checks),
        }
        return Mixture(
            key=recipe.key,
            clean=rendered.clean,
            noisy=rendered.noisy,
            sample_rate=self._config.sample_rate,
            meta=meta,
        )


def _counts(recipe: Recipe, rendered: Rendered, row: Utterance) -> dict[str, int]:
    return {
        "samples": rendered.checks.samples,
        "reverberant": int(bool(recipe.room_id)),
        "with_effects": int(recipe.has_effects),
        "guarded": int(rendered.checks.guard_db > 0),
        "cropped": int(recipe.duration_s < row.duration_s),
    }


def _write_noises(parts: Sequence[Path], path: Path) -> dict[str, int]:
    """Copy the noise rows of the manifest to a file of their own; return how many each split has."""
    counts: Counter[str] = Counter()
    with pq.ParquetWriter(path, schema_of(Utterance), compression="zstd") as writer:
        for part in parts:
            table = pq.read_table(part, columns=schema_of(Utterance).names, filters=[("kind", "==", "noise")])
            writer.write_table(table.cast(schema_of(Utterance)))
            counts.update(split or "" for split in table["split"].to_pylist())
    return dict(counts)


def _write_competitors(parts: Sequence[Path], path: Path) -> None:
    """Choose the utterances that may compete: of every corpus and split those first in the order of their hashes."""
    chosen: dict[tuple[str, str | None], list[Utterance]] = {}
    for part in parts:
        for row in read_rows(part, Utterance):
            if row.kind == "speech" and row.speaker:
                chosen.setdefault((row.corpus, row.split), []).append(row)
        for key, rows in chosen.items():
            if len(rows) > _COMPETITORS:
                best = Pool([row.utt_id for row in rows]).choose(0, _COMPETITORS)
                chosen[key] = [rows[index] for index in best]
    write_rows(path, Utterance, (row for key in sorted(chosen, key=str) for row in chosen[key]))


def _refuse_leaks(speech: Sequence[Path], sources: Sources) -> None:
    """Stop before any work where something stands in two splits.

    Raises:
        UserError: Naming what, and where it stands.
    """
    leaks: list[Leak] = [
        *find_leaks(speech, "speaker", ("corpus", "speaker")),
        *find_leaks(speech, "recording", ("corpus", "path")),
        *find_leaks([sources.noises], "noise recording", ("corpus", "path")),
        *find_leaks([sources.noises], "noise place", ("corpus", "speaker")),
        *find_leaks([sources.rooms], "room", ("room_id",)),
    ]
    if leaks:
        named = "; ".join(str(leak) for leak in leaks[:5])
        raise UserError(
            f"{NAME}: {named}{' …' if len(leaks) > 5 else ''}; what is in two splits makes scores worthless: "
            "give each one split (column `split`, or ingest's `split` of the corpus), or leave `split` out"
        )


def _refuse_missing(config: Config, plans: Sequence[ShardPlan], noises: Mapping[str, int], rooms: Path) -> None:
    """Stop before any work where a split has speech but nothing to mix it with.

    Raises:
        UserError: Naming the split and the mend.
    """
    if "" in noises:
        raise UserError(f"{NAME}: {noises['']} noises have no split; run ingest again with --force")
    if not plans:
        raise UserError(f"{NAME}: transcribe kept no speech; see its rejects")
    bank = pq.read_table(rooms, columns=["split", "sample_rate"])
    rates = set(bank["sample_rate"].to_pylist()) - {config.sample_rate}
    if rates:
        raise UserError(
            f"simulate.sample_rate is {config.sample_rate}, rooms.sample_rate is {rates.pop()}; make them equal"
        )
    rooms_of = Counter(bank["split"].to_pylist())
    for split in sorted({plan.split for plan in plans}):
        if not noises.get(split):
            speech = sum(plan.mixtures for plan in plans if plan.split == split)
            raise UserError(
                f"{NAME}: split {split!r} has {speech} mixtures to make and no noise; add noise recordings, raise "
                "ingest.splits' shares, or give a noise corpus this `split`"
            )
        if config.mixture.reverberation > 0 and not rooms_of[split]:
            raise UserError(
                f"{NAME}: split {split!r} has no room; set rooms.{split}_rooms above 0, or "
                "simulate.mixture.reverberation to 0"
            )


def _describe(config: Config, seed: int, digest: str, parts: Sequence[Path], sources: Sources) -> dict[str, Any]:
    """Add up what a dataset consists of, a shard at a time."""
    splits: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
    corpora: dict[str, dict[str, Any]] = {}
    for part in parts:
        table = pq.read_table(part, columns=["split", "corpus", "licence", "language", "samples"])
        for row in (
            table.group_by(["split", "corpus", "licence", "language"])
            .aggregate([("samples", "sum"), ("samples", "count")])
            .to_pylist()
        ):
            splits[row["split"]].update(mixtures=row["samples_count"], samples=row["samples_sum"])
            about = corpora.setdefault(
                row["corpus"], {"mixtures": 0, "samples": 0, "licences": set(), "languages": set()}
            )
            about["mixtures"] += row["samples_count"]
            about["samples"] += row["samples_sum"]
            about["licences"].add(row["licence"])
            about["languages"].add(row["language"])
        for split in set(table["split"].to_pylist()):
            splits[split]["shards"] += 1
    return {
        "digest": digest,
        "seed": seed,
        "sample_rate": config.sample_rate,
        "target": config.mixture.target,
        "early_s": config.mixture.early_s,
        "splits": {split: _hours(dict(about), config) for split, about in splits.items() if about},
        "speech": {name: _hours(about, config) for name, about in sorted(corpora.items())},
        "noise": _licences(sources.noises),
        "rooms": _licences(sources.rooms),
        "hours": sum(about["samples"] for about in corpora.values()) / config.sample_rate / 3600,
        "mixtures": sum(about["mixtures"] for about in corpora.values()),
    }


def _hours(about: dict[str, Any], config: Config) -> dict[str, Any]:
    """Return the same with hours for samples, and sorted lists for sets."""
    hours = about["samples"] / config.sample_rate / 3600
    others = {key: value for key, value in about.items() if key != "samples"}
    return {key: sorted(value) if isinstance(value, set) else value for key, value in others.items()} | {"hours": hours}


def _licences(path: Path) -> dict[str, Any]:
    """Count a list's recordings by corpus, with their licences."""
    table = pq.read_table(path, columns=["corpus", "licence"])
    found: dict[str, dict[str, Any]] = {}
    for row in table.group_by(["corpus", "licence"]).aggregate([([], "count_all")]).to_pylist():
        about = found.setdefault(row["corpus"] or "simulated", {"recordings": 0, "licences": set()})
        about["recordings"] += row["count_all"]
        about["licences"].add(row["licence"])
    return {
        name: {"recordings": about["recordings"], "licences": sorted(about["licences"])}
        for name, about in sorted(found.items())
    }


def run(config: Config, context: StageContext) -> StageReport:
    """Assign the speech to shards, check that nothing leaks between splits, make the mixtures, join the indexes."""
    speech = context.inputs["transcribe"].parts(".parquet")
    context.storage.mkdir(parents=True, exist_ok=True)
    sources = Sources(
        noises=context.storage / "noises.parquet",
        competitors=context.storage / "competitors.parquet",
        rooms=context.inputs["rooms"].file("index.parquet"),
        bank=context.inputs["rooms"].folder,
    )
    noises = _write_noises(context.inputs["ingest"].parts(".parquet"), sources.noises)
    _write_competitors(speech if config.mixture.competitor > 0 else (), sources.competitors)
    _refuse_leaks(speech, sources)
    plans = plan_shards(
        speech,
        context.storage / "plans",
        seed=context.seed,
        copies={split: config.copies_of(split) for split in SPLITS},
        per_shard=config.mixtures_per_shard,
        max_s=config.mixture.max_s,
    )
    _refuse_missing(config, plans, noises, sources.rooms)
    units = [Unit(plan.name, plan, Tally(plan.mixtures, plan.seconds)) for plan in plans]
    report = context.map_units(Worker, (config, context.seed, dict(context.roots), sources), units)
    parts = [context.folder / f"{unit.name}.index.parquet" for unit in units if unit.name not in report.quarantined]
    with context.write("index.parquet") as path:
        digest = merge_indexes(parts, path)
    about = _describe(config, context.seed, digest, parts, sources)
    recipes = [part.with_name(part.name.replace(".index.", ".recipes.")) for part in parts]
    uses = licences.roll_up(parts, recipes, [sources.noises, sources.competitors], sources.rooms)
    about["licences"] = licences.to_json(uses)
    with context.write("dataset.json") as path:
        path.write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    context.tracker.tags({"dataset_digest": digest})
    metrics = {**report.metrics, "hours": about["hours"], "shards": len(parts)}
    notes = (f"dataset {digest[:16]}", *(f"part of the data {line}" for line in licences.warnings(uses)))
    return dataclasses.replace(report, metrics=metrics, notes=(*report.notes, *notes))
