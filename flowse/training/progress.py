"""Progress of a training: figures of the steps since the last record, as numbers by name and as one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

Record = dict[str, int | float]
"""Figures of a training at one step, by name."""

_FIGURES = (
    "epoch",
    "lr",
    "grad_norm",
    "frames_per_s",
    "audio_hours_per_hour",
    "data_wait",
    "rank_wait",
    "slowest_rank",
    "padding",
    "skipped",
    "memory_gib",
    "eta_s",
)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Figures of the optimiser steps since the last `Progress`.

    Attributes:
        step: Optimiser steps done in all.
        max_steps: Steps to do.
        epoch: Passes over the data, with its fraction.
        losses: Mean of every loss term over all ranks' frames.
        lr: Learning rate of the last step.
        grad_norm: Mean gradient norm before clipping.
        frames_per_s: Mel frames a second over all ranks, without padding.
        audio_hours_per_hour: The same rate as hours of audio an hour.
        data_wait: Share of the time that this rank waited for data, 0..1.
        padding: Share of this rank's frames that were padding, 0..1.
        rank_wait: Share of the time, 0..1, that the rank waited for others that waited most.
        slowest_rank: Rank for which the others waited.
        skipped: Steps that were not applied, since the last `Progress`.
        memory_gib: Peak memory of this rank in GiB: of the GPU, or of the process.
        eta_s: Seconds left at this rate.
        validation: Mean of every loss term over the validation set, with averaged weights; None: not validated
            now.
        best: Whether that was the lowest validation loss so far.
        heard: Scores of recordings enhanced with averaged weights, by metric, those of the noisy versions as
            ``noisy_…``; None: not judged by ear now.
        checkpoint: Folder of the checkpoint written now; None: none was written.
        finished: Why the training ended with this step ("max_steps", "patience"); empty: it goes on.
    """

    step: int
    max_steps: int
    epoch: float
    losses: Mapping[str, float]
    lr: float
    grad_norm: float
    frames_per_s: float
    audio_hours_per_hour: float
    data_wait: float
    padding: float
    memory_gib: float
    eta_s: float
    rank_wait: float = 0.0
    slowest_rank: int = 0
    skipped: int = 0
    validation: Mapping[str, float] | None = None
    best: bool = False
    heard: Mapping[str, float] | None = None
    checkpoint: Path | None = None
    finished: str = ""

    def record(self) -> Record:
        """Return the figures as numbers by name: losses ``train_…`` and ``validation_…``, scores ``listen_…``."""
        losses = {"loss": self.losses["loss"], **self.losses} if "loss" in self.losses else self.losses
        figures: Record = {"step": self.step, **{f"train_{name}": value for name, value in losses.items()}}
        figures |= {f"validation_{name}": value for name, value in (self.validation or {}).items()}
        figures |= {f"listen_{name}": value for name, value in (self.heard or {}).items()}
        return figures | {name: float(getattr(self, name)) for name in _FIGURES}

    def __str__(self) -> str:
        """Return the figures in one line."""
        line = progress_line({**self.record(), "max_steps": self.max_steps})
        return f"{line}  {timedelta(seconds=round(self.eta_s))} left"


def curve_name(figure: str) -> str:
    """Return the name of a figure's curve in MLflow and TensorBoard, which put the curves of a folder together.

    Losses are "train/…" and "validation/…", scores "listen/…"; the figures about the training itself are "training/…".
    """
    for part in ("train", "validation", "listen"):
        if figure.startswith(f"{part}_"):
            return f"{part}/{figure.removeprefix(f'{part}_')}"
    return f"training/{figure}"


def waiting(history: Sequence[Record]) -> Record:
    """Return how long ranks waited for others, and for which, over a history; nothing if there was one rank.

    Returns:
        `rank_wait`: share of the time, 0..1, that the rank waited that waited most; `slowest_rank`: the rank for which
        most of it was; `slowest_rank_share`: how much of it that was, 0..1.
    """
    by_rank: dict[float, float] = {}
    records = [record for record in history if "rank_wait" in record]
    for record in records:
        slowest = record.get("slowest_rank", 0.0)
        by_rank[slowest] = by_rank.get(slowest, 0.0) + record["rank_wait"]
    total = sum(by_rank.values())
    if not total:
        return {}
    slowest = max(by_rank, key=lambda rank: by_rank[rank])
    return {
        "rank_wait": total / len(records),
        "slowest_rank": slowest,
        "slowest_rank_share": by_rank[slowest] / total,
    }


def progress_line(record: Mapping[str, int | float]) -> str:
    """Write a record and its `max_steps` as one line: steps, losses and rate."""
    validation = f"  validation {record['validation_loss']:.4f}" if "validation_loss" in record else ""
    heard = f"  DNSMOS {record['listen_ovrl']:.2f}" if "listen_ovrl" in record else ""
    mfu = f", MFU {record['mfu']:.0%}" if "mfu" in record else ""
    return (
        f"{record['step']:.0f}/{record['max_steps']:.0f} steps  loss {record['train_loss']:.4f}{validation}{heard}  "
        f"{record['frames_per_s']:,.0f} frames/s ({record['audio_hours_per_hour']:,.0f}× real time{mfu})"
    )
