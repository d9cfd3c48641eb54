"""Copy-synthesis scores of a vocoder: recordings are turned into mels and back, and compared with the originals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from flowse.audio.mel import LogMel
from flowse.audio.vocoder import Vocoder
from flowse.audio.waveform import read_mono
from flowse.metrics.dnsmos import Dnsmos
from flowse.metrics.intrusive import intrusive


@dataclass(frozen=True, kw_only=True)
class CopyScore:
    """Scores averaged over recordings.

    Attributes:
        count: Number of recordings.
        seconds: Total length, in seconds.
        pesq_wb: PESQ-WB of the copies with the originals as references.
        estoi: ESTOI of the copies with the originals as references.
        ovrl_original: DNSMOS OVRL of the originals.
        ovrl: DNSMOS OVRL of the copies.
        log_mel_l1: Mean distance of the log-mels of copy and original, in nepers.
    """

    count: int
    seconds: float
    pesq_wb: float
    estoi: float
    ovrl_original: float
    ovrl: float
    log_mel_l1: float

    def __str__(self) -> str:
        """Return the scores in one line."""
        return (
            f"{self.count} recordings, {self.seconds:.0f} s: PESQ-WB {self.pesq_wb:.2f}, ESTOI {self.estoi:.3f}, "
            f"DNSMOS OVRL {self.ovrl:.2f} (original {self.ovrl_original:.2f}), log-mel L1 {self.log_mel_l1:.3f}"
        )


def copy_scores(vocoder: Vocoder, paths: Sequence[Path], threads: int = 1) -> CopyScore:
    """Score a vocoder on recordings; a recording that is too short for PESQ counts only in the other means."""
    log_mel, dnsmos, rate = LogMel(vocoder.mel), Dnsmos(threads=threads), vocoder.mel.sample_rate
    rows: list[tuple[float, float, float, float, float]] = []
    seconds = 0.0
    for path in paths:
        original = read_mono(path, rate)
        frames = log_mel(torch.from_numpy(original)[None])
        generated = vocoder.decode(frames)
        copy = np.zeros_like(original)
        copy[: generated.shape[1]] = generated[0].numpy()[: len(original)]
        again = log_mel(torch.from_numpy(copy)[None])
        score = intrusive(original, copy, rate)
        rows.append(
            (
                score.pesq_wb,
                score.estoi,
                dnsmos(original, rate).ovrl,
                dnsmos(copy, rate).ovrl,
                float((again - frames).abs().mean()),
            )
        )
        seconds += len(original) / rate
    means = [float(np.nanmean(column)) if len(column) else math.nan for column in np.array(rows).T]
    return CopyScore(
        count=len(rows),
        seconds=seconds,
        pesq_wb=means[0],
        estoi=means[1],
        ovrl_original=means[2],
        ovrl=means[3],
        log_mel_l1=means[4],
    )
