"""The ledger of a run: segments of training, each with its own settings and data, one after the other.

A run is what one set of weights went through. Its identity is what checkpoints cannot change: the network, the mel, the
vocabulary, the flow, where it started. All else (optimiser, schedule, length, data) belongs to a segment. The list of
segments is part of every checkpoint's state, so that list and weights never disagree. Importable without torch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowse.json_records import WrongShape, from_json, to_json
from flowse.training.config import TrainConfig

CHECKPOINTS = "checkpoints"
SEGMENTS = "segments.json"
"""Name of the file that tells readers of a finished training what its segments were."""
NOTES = "notes.txt"
"""Name of the file with what a person should know of a training, a line each, e.g. that a checkpoint was damaged."""
_CHECKPOINT = re.compile(r"step-(\d{8})")
RETIRED = "retired"
"""Name of the file that says that no training goes on with a run."""

IDENTITY_FIELDS = (
    "mel",
    "model",
    "flow",
    "objective",
    "predictor",
    "dual_path",
    "text",
    "init_from",
    "freeze",
)
"""Settings that a checkpoint cannot change; with another value of one of them another run begins."""
_PLAN_FIELDS = ("frames_per_step", "max_frames", "divisible_by")
"""Settings that decide which utterances a step takes: a position in the data means nothing under others."""
_VALIDATION_FIELDS = ("validation_utterances", "loss", "max_frames", "draw", "distil")
"""Settings under which validation losses can be compared."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A stretch of a run with the same settings and data.

    Attributes:
        from_step: Optimiser steps done when it began.
        from_lr: Learning rate of the step before; 0 for the first segment.
        settings: Settings that are not the run's identity, as plain values.
        dataset: Digest of the dataset.
        code_commit: Commit of the code that began it; empty: unknown.
        world_sizes: Numbers of ranks that trained it, in the order of the restarts, each change once.
        to_step: Optimiser steps done when it ended, or so far.
        finished: Why it ended ("max_steps", "patience"); empty: it was left, or it goes on.
        base: Rank of the adapters that are trained, and the model beside whose frozen weights they are, with its hash;
            empty: all weights are trained.
    """

    from_step: int = 0
    from_lr: float = 0.0
    settings: Mapping[str, Any] = field(default_factory=dict)
    dataset: str = ""
    code_commit: str = ""
    world_sizes: tuple[int, ...] = ()
    to_step: int = 0
    finished: str = ""
    base: str = field(default="", metadata={"optional": True})

    def is_of(self, settings: Mapping[str, Any], dataset: str) -> bool:
        """Whether it trains with these settings on this dataset; a setting that one of them lacks has its default."""
        return _filled(self.settings) == _filled(settings) and self.dataset == dataset

    def same_plan(self, other: Segment) -> bool:
        """Whether both take the same utterances in the same steps, so that a position of one is one of the other."""
        return self.dataset == other.dataset and _agree(self, other, _PLAN_FIELDS)

    def same_validation(self, other: Segment) -> bool:
        """Whether validation losses of both can be compared."""
        return self.dataset == other.dataset and _agree(self, other, _VALIDATION_FIELDS)

    @property
    def digest(self) -> str:
        """Hash of all that changes the weights, 16 hexadecimal digits."""
        facts = [self.from_step, self.to_step, _filled(self.settings), self.dataset]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    def describe(self) -> str:
        """Return one line: steps, data and the settings that people change."""
        optim = self.settings.get("optim", {})
        rate = f", lr {optim['lr']:g}, {optim['schedule']}" if optim else ""
        ranks = f", {'/'.join(map(str, self.world_sizes))} rank(s)" if self.world_sizes else ""
        base = f", adapters of {self.base}" if self.base else ""
        commit = f", commit {self.code_commit[:12]}" if self.code_commit else ""
        data = f"dataset {self.dataset[:12] or 'unknown'}"
        return f"steps {self.from_step} to {self.to_step}{rate}, {data}{base}{ranks}{commit}"


def _agree(segment: Segment, other: Segment, names: Sequence[str]) -> bool:
    mine, theirs = _filled(segment.settings), _filled(other.settings)
    return all(mine.get(name) == theirs.get(name) for name in names)


def _filled(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Add the settings that are younger than a record, with their defaults; as plain JSON values."""
    return _fill(settings, segment_settings(TrainConfig()))


def _fill(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    filled: dict[str, Any] = json.loads(json.dumps({**defaults, **values}))
    for key, default in defaults.items():
        if isinstance(default, Mapping) and isinstance(filled[key], dict):
            filled[key] = _fill(filled[key], default)
    return filled


def run_identity(config: TrainConfig, seed: int, start: str = "") -> dict[str, Any]:
    """Return what checkpoints cannot change, as plain values.

    Args:
        config: The settings.
        seed: Root of all random draws.
        start: Hash of the weights that the run starts from; they may be another file's of the same name.
    """
    plain = dataclasses.asdict(config)
    values = {name: plain[name] for name in IDENTITY_FIELDS}
    values |= {"seed": seed, "init_from": start or values["init_from"]}
    if config.lora.rank:  # runs of before there were adapters have no such key
        values["lora"] = plain["lora"]
    identity: dict[str, Any] = json.loads(json.dumps(values))
    return identity


def segment_settings(config: TrainConfig, drawn_from: str = "") -> dict[str, Any]:
    """Return the settings that belong to a segment and can change the weights, as plain values.

    Args:
        config: The settings.
        drawn_from: Digest of the recordings that mixtures are drawn anew from; empty: they are not.
    """
    plain = dataclasses.asdict(config)
    settings: dict[str, Any] = {
        item.name: plain[item.name]
        for item in dataclasses.fields(TrainConfig)
        if item.metadata.get("fingerprint", True)
        and (enters := item.metadata.get("segment", True))
        and not (enters == "unless default" and getattr(config, item.name) == item.default)
        and item.name not in IDENTITY_FIELDS
    }
    if drawn_from:
        settings["drawn_from"] = drawn_from
    values: dict[str, Any] = json.loads(json.dumps(settings))
    return values


@dataclass(frozen=True)
class RunState:
    """How far a run is, by its newest checkpoint.

    Attributes:
        step: Optimiser steps done.
        segments: Its segments, the last one as far as it is.
    """

    step: int
    segments: tuple[Segment, ...]

    @classmethod
    def read(cls, folder: Path) -> RunState | None:
        """Read the state of a run's folder; None: it has no checkpoint that can be read."""
        for record in _records(folder):
            try:
                return cls(int(record["step"]), segments_from(record["segments"]))
            except (ValueError, KeyError, TypeError):
                continue
        return None


def _records(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield what a run's checkpoints say of themselves, the newest first; none of one that cannot be read."""
    checkpoints = folder / CHECKPOINTS
    for path in sorted(checkpoints.iterdir(), reverse=True) if checkpoints.is_dir() else ():
        if _CHECKPOINT.fullmatch(path.name):
            with contextlib.suppress(OSError, ValueError):
                record = json.loads((path / "state.json").read_text(encoding="utf-8"))
                if isinstance(record, dict):
                    yield record


def segments_from(values: object) -> tuple[Segment, ...]:
    """Build segments from their plain JSON form.

    Raises:
        WrongShape: They have another form.
    """
    if not isinstance(values, list):
        raise WrongShape(f"segments are {values!r}, not a list")
    return tuple(from_json(Segment, value) for value in values)


def write_segments(path: Path, segments: Sequence[Segment]) -> None:
    """Write segments as JSON."""
    from flowse.files import write_json

    write_json(path, [to_json(segment) for segment in segments])


def read_segments(path: Path) -> tuple[Segment, ...]:
    """Read what `write_segments` wrote.

    Raises:
        WrongShape: It has another form.
    """
    return segments_from(json.loads(path.read_text(encoding="utf-8")))


@dataclass(frozen=True)
class Choice:
    """Which run a training goes on with.

    Attributes:
        folder: Folder of the run; it may not exist yet.
        before: Segments that are done before the one that is to be trained.
        note: Why a run that could be meant is not gone on with; empty: there is none.
    """

    folder: Path
    before: tuple[Segment, ...] = ()
    note: str = ""


def choose_run(
    runs: Path,
    identity: Mapping[str, Any],
    config: TrainConfig,
    dataset: str,
    *,
    drawn_from: str = "",
    proceed: bool = True,
    has_output: Callable[[tuple[Segment, ...]], bool] = lambda before: False,
) -> Choice:
    """Choose the run of a folder that a training goes on with, or a new one.

    It goes on with the newest run of this identity. If an earlier segment of that run is finished, has these very
    settings and data, and its output is still there, the training is done already: what came later is left out.

    Args:
        runs: Folder of all runs.
        identity: See `run_identity`.
        config: The settings.
        dataset: Digest of the dataset.
        drawn_from: Digest of the recordings that mixtures are drawn anew from; empty: they are not.
        proceed: Whether a run with other settings or data is gone on with; False: one is only resumed.
        has_output: Whether the output of the training is there that followed these segments.
    """
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    known = sorted(path for path in runs.glob(f"{name}-*") if path.is_dir())
    new = Choice(runs / f"{name}-{len(known):03d}", note="" if known else _why_new(runs, identity))
    open_runs = [path for path in known if not (path / RETIRED).exists()]
    if not open_runs:
        return new
    newest = open_runs[-1]
    state = RunState.read(newest)
    if state is None:
        return Choice(newest)
    settings, segments = segment_settings(config, drawn_from), state.segments
    if segments[-1].is_of(settings, dataset) and (proceed or len(segments) == 1):
        return Choice(newest, segments[:-1])
    for number, segment in enumerate(segments):
        done = segment.finished and segment.is_of(settings, dataset) and (proceed or number == 0)
        if done and has_output(segments[:number]):
            return Choice(newest, segments[:number])
    if not proceed:
        return new
    if config.max_steps <= state.step:
        note = f"{newest.name} has {state.step} steps and train.max_steps={config.max_steps}: another run begins"
        return dataclasses.replace(new, note=note)
    return Choice(newest, segments)


def _why_new(runs: Path, identity: Mapping[str, Any]) -> str:
    """Say why the newest run is not gone on with, where none of this identity is there; empty: there is none at all."""
    others = [path for path in runs.glob("*-*") if path.is_dir() and not (path / RETIRED).exists()]
    for path in sorted(others, key=lambda path: path.stat().st_mtime, reverse=True):
        record = next(_records(path), None)
        known = record.get("identity", {}).get("run") if record else None
        if isinstance(known, Mapping):
            differ = [name for name in dict.fromkeys((*identity, *known)) if identity.get(name) != known.get(name)]
            return f"another run begins: {path.name} has another {', '.join(differ)}, which its weights cannot follow"
    return ""


def _segments_of(run: Path) -> tuple[Segment, ...]:
    state = RunState.read(run)
    return () if state is None else state.segments


def retire_runs(runs: Path, learned: Callable[[str], bool] | None = None) -> int:
    """Mark runs of a folder as retired: no training goes on with them; return how many were not yet.

    Args:
        runs: Folder of all runs.
        learned: Says of a dataset's digest whether runs that learned from it are meant; None: all runs are.
    """
    fresh = [path for path in runs.glob("*-*") if path.is_dir() and not (path / RETIRED).exists()]
    if learned is not None:
        # Mixtures that were drawn anew may have held any recording; nothing is written down of them.
        fresh = [
            path
            for path in fresh
            if any(learned(segment.dataset) or "drawn_from" in segment.settings for segment in _segments_of(path))
        ]
    for path in fresh:
        (path / RETIRED).touch()
    return len(fresh)
