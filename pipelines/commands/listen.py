"""Write a page with players for random and extreme mixtures of a dataset, with their recipes and DNSMOS scores."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np

from flowse.audio.flac import flac_bytes
from flowse.audio.level import level_dbfs
from flowse.data.manifest import SPLITS
from flowse.data.shards import IndexRow, ShardError, read_index, read_json_member, read_mixture
from flowse.errors import UserError
from flowse.files import write_text
from flowse.metrics.dnsmos import Dnsmos, DnsmosScore
from flowse.report.page import EMBEDDED_BYTES, Cell, Column, Listening, Recording, Table, Track, number_cell, render
from flowse.seeding import derive_seed, generator
from flowse.simulation.dataset import DatasetSummary
from flowse.simulation.facts import MixtureFacts
from pipelines.commands.session import Session
from pipelines.engine import tracking
from pipelines.engine.mirror import mirror_of
from pipelines.engine.workspace import StageFolder

FOLDER = "listen"
"""Folder of the pages, in the workspace and among the artifacts of the MLflow run."""

_LOOKED_AT = 2000  # mixtures, drawn at random, whose JSON is read to find extremes of values that the index lacks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add which mixtures are chosen and where the page is written."""
    parser.add_argument("--split", default="train", help="part of the data: train, dev or test (default: %(default)s)")
    parser.add_argument(
        "--count", type=int, default=10, help="random mixtures, and at most as many extreme ones (default: %(default)s)"
    )
    parser.add_argument(
        "--draw", type=int, default=0, help="another number draws other mixtures (default: %(default)s)"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write it here and nowhere else (default: workspace and MLflow)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the page and print where it is; without --output it also goes to the MLflow run of simulate.

    Raises:
        UserError: There is no dataset, or as `choose` says.
    """
    session = Session.of(arguments)
    plan = session.plans["simulate"]
    if plan.finished is None:
        why = "; ".join(plan.reasons[:2])
        raise UserError(f"there is no dataset to hear: simulate is {plan.state} ({why}); run it first")
    path = write_page(
        plan.finished, session.workspace, arguments.split, arguments.count, arguments.draw, arguments.output
    )
    print(f"listen: {path}")
    # MLflow's database is that of the machine that made the output, unless it is a server.
    elsewhere = mirror_of(session.workspace) is not None and not session.cluster.mlflow_uri
    if arguments.output is None and not elsewhere and (run_id := plan.finished.record.mlflow_run):
        tracking.attach(session.mlflow_uri, run_id, path, FOLDER)
        print(f"in MLflow: run {run_id} (simulate), artifact {FOLDER}/{path.name}")
    return 0


@dataclass(frozen=True)
class _Extreme:
    """A way to stand out: the mixture with the smallest `key` does so, unless that is 0 or not finite."""

    name: str
    key: Callable[[MixtureFacts], float]


def _deviation_db(facts: MixtureFacts) -> float:
    """Return the largest difference, in dB, between the SNR of a noise as measured and as the recipe asks for."""
    pairs = zip(facts.checks.noise_snrs_db, facts.recipe.noise_snrs_db, strict=True)
    return max((abs(measured - wanted) for measured, wanted in pairs), default=0.0)


# These values stand in the index, so the extremes are those of the whole split.
_BY_INDEX: tuple[tuple[str, Callable[[IndexRow], float]], ...] = (
    ("lowest SNR", lambda row: row.snr_db if row.has_speech else math.inf),
    ("highest SNR", lambda row: -row.snr_db if row.has_speech else math.inf),
    ("shortest", lambda row: row.seconds),
    ("longest", lambda row: -row.seconds),
)
_BY_FACTS: tuple[_Extreme, ...] = (
    _Extreme("lowest level", lambda facts: facts.checks.level_dbfs),
    _Extreme("longest reverberation", lambda facts: -(facts.rt60_s or 0.0)),
    _Extreme("farthest from its recipe", lambda facts: -_deviation_db(facts)),
    _Extreme("most turned down against clipping", lambda facts: -facts.checks.guard_db),
    _Extreme("largest lag", lambda facts: -abs(float(facts.checks.lag))),
    _Extreme("most lost packets", lambda facts: -float(len(facts.recipe.lost_packets))),
    _Extreme("most clipped", lambda facts: -(facts.recipe.clipping_share or 0.0)),
    _Extreme("narrowest band", lambda facts: facts.recipe.band_limit_hz or math.inf),
)


@dataclass(frozen=True)
class Choice:
    """Mixtures chosen for a page, and those that they were chosen from.

    Attributes:
        random: Mixtures drawn with the seed.
        extreme: Mixtures that stand out, each with all its ways to stand out, e.g. "lowest SNR, shortest".
        rows: All mixtures of the split.
        facts: Facts about the mixtures that were searched for extremes, by key.
    """

    random: list[IndexRow]
    extreme: list[tuple[IndexRow, str]]
    rows: list[IndexRow]
    facts: dict[str, MixtureFacts]


def choose(simulated: StageFolder, split: str, count: int, seed: int) -> Choice:
    """Choose random and extreme mixtures.

    Args:
        simulated: Output of simulate.
        split: "train", "dev" or "test".
        count: Number of random mixtures, and the most extreme mixtures.
        seed: Draws the random mixtures.

    Raises:
        UserError: The split is unknown or empty, or `count` is not positive.
    """
    if split not in SPLITS:
        raise UserError(f"no split {split!r}; they are {', '.join(SPLITS)}")
    if count < 1:
        raise UserError(f"--count {count}: ask for one mixture at least")
    rows = [row for row in read_index(simulated.file("index.parquet")) if row.split == split]
    if not rows:
        raise UserError(f"{simulated.folder}: the dataset has no mixture in split {split!r}; try another --split")
    order = generator(derive_seed(seed, FOLDER, split)).permutation(len(rows))
    looked = [rows[index] for index in order[:_LOOKED_AT]]
    for shard in sorted({row.shard for row in looked}):
        simulated.file(shard)
    facts = {row.key: _facts(simulated.folder, row) for row in looked}
    return Choice(looked[:count], _extremes(rows, looked, facts, count), rows, facts)


def page(simulated: StageFolder, split: str, count: int, seed: int, beside: Path) -> str:
    """Render the page as one HTML text; arguments and errors as of `choose`.

    Args:
        beside: Folder, in that of the page, for the audio of mixtures that are too many for the page to hold.
    """
    chosen = choose(simulated, split, count, seed)
    dnsmos = Dnsmos(threads=max(1, (os.cpu_count() or 2) // 2))
    sampled = len(chosen.facts) < len(chosen.rows)
    lead = f"{len(chosen.random)} random and {len(chosen.extreme)} extreme ones of {len(chosen.rows):,}. " + (
        f"Extremes of level, room and effects are those of {len(chosen.facts):,} that were looked at."
        if sampled
        else "Every mixture was looked at."
    )
    dataset = DatasetSummary.read(simulated.file("dataset.json"))
    return render(
        f"What the mixtures of split {split} sound like",
        lead=lead,
        facts={
            "dataset": dataset.digest,
            "simulate": simulated.folder.name,
            "split": split,
            "seed of the choice": str(seed),
            "target": dataset.target,
        },
        tables=[_spread(chosen.rows, list(chosen.facts.values()), sampled)],
        listening=Listening(
            title="Mixtures", columns=_COLUMNS, recordings=_recordings(simulated.folder, chosen, dnsmos, beside)
        ),
    )


def write_page(
    simulated: StageFolder, workspace: Path, split: str, count: int, seed: int, output: Path | None = None
) -> Path:
    """Write a page to `output`, or into the workspace; return the file.

    Raises:
        UserError: The split is unknown or empty, or `count` is not positive.
    """
    path = output or workspace / FOLDER / f"{simulated.folder.name}-{split}.html"
    beside = path.with_name(f"{path.stem}-audio")
    if output is None:
        shutil.rmtree(beside, ignore_errors=True)  # of the page that this one replaces
    write_text(path, page(simulated, split, count, seed, beside))
    return path


def _facts(folder: Path, row: IndexRow) -> MixtureFacts:
    """Read the facts about a mixture from its shard, without the audio.

    Raises:
        UserError: Another version wrote the shard, it is missing, or the index names none.
    """
    try:
        text = read_json_member(folder, row)
    except ShardError as error:
        raise UserError(f"{error}; run simulate again with --force") from None
    try:
        return MixtureFacts.of(json.loads(text))
    except ValueError as error:
        raise UserError(f"{folder / row.shard}: {row.key}: {error}; run simulate again with --force") from None


def _extremes(
    rows: Sequence[IndexRow], looked: Sequence[IndexRow], facts: dict[str, MixtureFacts], count: int
) -> list[tuple[IndexRow, str]]:
    """Choose at most `count` mixtures that stand out, each with all its ways to stand out.

    Args:
        rows: All mixtures, for values that stand in the index.
        looked: Mixtures whose facts were read, for the other values.
        facts: Facts about `looked`, by key.
        count: Most mixtures.
    """
    ways: dict[str, list[str]] = {}
    by_key: dict[str, IndexRow] = {}

    def note(row: IndexRow, why: str) -> None:
        ways.setdefault(row.key, []).append(why)
        by_key[row.key] = row

    for name, key in _BY_INDEX:
        note(min(rows, key=key), name)
    for extreme in _BY_FACTS:
        best = min(looked, key=lambda row: extreme.key(facts[row.key]))
        value = extreme.key(facts[best.key])
        # Zero means that no mixture has the effect: no room, no lag, no lost packet.
        if value != 0 and math.isfinite(value):
            note(best, extreme.name)
    return [(by_key[key], ", ".join(why)) for key, why in ways.items()][:count]


_DNSMOS = "The overall quality that listeners would give, predicted by DNSMOS P.835: 1 to 5. Higher is better."
_COLUMNS = (
    Column(head="chosen as", tip="Drawn at random, or the extreme of the split.", numbers=False, choices=True),
    Column(head="SNR, dB", tip="Of the mixture, measured."),
    Column(head="overall, noisy", tip=_DNSMOS),
    Column(head="overall, clean", tip=_DNSMOS),
    Column(head="RT60, s", tip="How long the room takes to fall silent by 60 dB."),
    Column(head="length, s"),
    Column(head="language", numbers=False, choices=True),
)


def _recordings(folder: Path, chosen: Choice, dnsmos: Dnsmos, beside: Path) -> Iterator[Recording]:
    """Yield the mixtures with noisy and clean signal, each with level and DNSMOS; one that is random and extreme once.

    The page holds the audio of the first ones, as far as `EMBEDDED_BYTES` goes; that of the others is written to the
    folder `beside`.
    """
    ways = {row.key: ["random"] for row in chosen.random}
    for row, why in chosen.extreme:
        ways.setdefault(row.key, []).append(why)
    rows = {row.key: row for row in (*chosen.random, *(row for row, _ in chosen.extreme))}
    held = 0
    for key, row in rows.items():
        mixture = read_mixture(folder, row)
        facts = MixtureFacts.of(mixture.meta)
        signals = {"noisy": mixture.noisy, "clean": mixture.clean}
        scores = {label: dnsmos(samples, mixture.sample_rate) for label, samples in signals.items()}
        flacs = {label: flac_bytes(np.clip(samples, -1, 1), mixture.sample_rate) for label, samples in signals.items()}
        held += sum(map(len, flacs.values()))
        tracks = []
        for label, flac in flacs.items():
            address = ""
            if held > EMBEDDED_BYTES:
                name = f"{hashlib.sha256(key.encode()).hexdigest()[:12]}.{label}.flac"
                beside.mkdir(parents=True, exist_ok=True)
                (beside / name).write_bytes(flac)
                address, flac = quote(f"{beside.name}/{name}"), b""
            said = {"level": f"{level_dbfs(signals[label]):.1f} dBFS", **_dnsmos_facts(scores[label])}
            tracks.append(Track(label=label, flac=flac, address=address, facts=said))
        cells = [
            Cell(text=", ".join(ways[key])),
            number_cell(facts.checks.snr_db if row.has_speech else None, 1),
            number_cell(scores["noisy"].ovrl, 2),
            number_cell(scores["clean"].ovrl, 2),
            number_cell(facts.rt60_s or None, 2),
            number_cell(row.seconds, 1),
            Cell(text=row.language),
        ]
        yield Recording(title=key, tracks=tracks, cells=cells, facts=recipe_facts(facts), text=row.text)


def _dnsmos_facts(score: DnsmosScore) -> dict[str, str]:
    """Return DNSMOS scores (mean opinion scores from 1 to 5) as texts by name."""
    names = {"DNSMOS overall": score.ovrl, "speech": score.sig, "background": score.bak, "P.808": score.p808}
    return {name: f"{value:.2f}" for name, value in names.items()}


def recipe_facts(stored: MixtureFacts) -> dict[str, str]:
    """Describe in words what a mixture was made of and what was measured on it; effects that are absent are left out.

    Args:
        stored: Facts about the mixture, as simulate stores them.
    """
    recipe, checks = stored.recipe, stored.checks
    facts = {"language": stored.language, "speaker": stored.speaker, "corpus": stored.corpus}
    facts["licence"] = stored.licence
    facts["length"] = f"{recipe.duration_s:.2f} s" + (f" from {recipe.crop_s:.2f} s on" if recipe.crop_s else "")
    facts["SNR measured"] = "no speech" if recipe.target == "silence" else f"{checks.snr_db:.1f} dB"
    for number, (noise, snr_db, offset_s, got_db) in enumerate(
        zip(
            recipe.noise_ids,
            recipe.noise_snrs_db,
            recipe.noise_offsets_s,
            checks.noise_snrs_db,
            strict=True,
        ),
        start=1,
    ):
        name = "noise" if len(recipe.noise_ids) == 1 else f"noise {number}"
        facts[name] = f"{noise} from {offset_s:.1f} s at {snr_db:.1f} dB (measured {got_db:.1f})"
    if recipe.competitor_id:
        facts["other speaker"] = f"{recipe.competitor_id} at {recipe.competitor_snr_db:.1f} dB"
    if recipe.room_id:
        rt60 = f"RT60 {stored.rt60_s:.2f} s" if stored.rt60_s else "RT60 unknown"
        away = f", {stored.distance_m:.1f} m away" if stored.distance_m else ""
        facts["room"] = f"{recipe.room_id}, {rt60}{away}; target: {recipe.target}"
    facts["level"] = f"{recipe.level_dbfs:.1f} dBFS (measured {checks.level_dbfs:.1f})"
    if recipe.equaliser_db:
        facts["equaliser"] = " ".join(f"{gain:+.1f}" for gain in recipe.equaliser_db) + " dB"
    if recipe.clipping_share:
        facts["clipping"] = f"{recipe.clipping_share:.1%} of the samples"
    if recipe.band_limit_hz:
        facts["band limit"] = f"{recipe.band_limit_hz:,.0f} Hz"
    if recipe.codec:
        facts["codec"] = f"{recipe.codec}, {recipe.codec_kbps:.0f} kbit/s"
    if recipe.lost_packets:
        facts["lost packets"] = f"{len(recipe.lost_packets)} of 20 ms"
    if checks.guard_db:
        facts["turned down"] = f"{checks.guard_db:.1f} dB, against clipping"
    if checks.lag:
        facts["lag"] = f"{checks.lag} samples"
    return {name: value for name, value in facts.items() if value}


def _spread(rows: Sequence[IndexRow], facts: Sequence[MixtureFacts], sampled: bool) -> Table:
    """Tabulate least, 5 %, median, 95 % and most of SNR, length, level, RT60, distance and deviation."""
    kinds: list[tuple[str, str, list[float]]] = [
        ("SNR, dB", ".1f", [row.snr_db for row in rows if row.has_speech]),
        ("length, s", ".2f", [row.seconds for row in rows]),
        ("level, dBFS", ".1f", [stored.checks.level_dbfs for stored in facts]),
        ("RT60, s", ".2f", [stored.rt60_s for stored in facts if stored.rt60_s]),
        ("distance, m", ".2f", [stored.distance_m for stored in facts if stored.distance_m]),
        ("measured − wanted SNR, dB", ".3f", [_deviation_db(stored) for stored in facts]),
    ]
    table = [
        [name, *(format(value, digits) for value in np.quantile(values, (0, 0.05, 0.5, 0.95, 1))), f"{len(values):,}"]
        for name, digits, values in kinds
        if values
    ]
    note = f"Level, room and deviation: of {len(facts):,} mixtures drawn at random." if sampled else ""
    columns = ["", "least", "5 %", "median", "95 %", "most", "mixtures"]
    return Table(title="All mixtures of the split", columns=columns, rows=table, note=note)
