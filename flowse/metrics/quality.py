"""Measures the quality of a recording without a reference: bandwidth, noise, clipping and DNSMOS."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float32

from flowse.audio.bandwidth import bandwidth_hz
from flowse.audio.clipping import clipped_share
from flowse.audio.snr import snr_db
from flowse.audio.waveform import check, read, to_mono
from flowse.data.content import require_unchanged
from flowse.data.manifest import Utterance
from flowse.metrics.dnsmos import Dnsmos
from flowse.quality import Quality
from flowse.refusal import Refusal, refusing


class QualityMeter:
    """Measures recordings; the networks of DNSMOS are loaded once.

    Args:
        dnsmos: Whether DNSMOS is computed: 0.12 s of one core a second of audio, 99.9 % of all that is done here.
        longest_s: Of a longer utterance, so many seconds in its middle are measured.
    """

    def __init__(self, *, dnsmos: bool = True, longest_s: float = 30.0) -> None:
        self._dnsmos = Dnsmos() if dnsmos else None
        self._longest_s = longest_s

    def of_row(self, row: Utterance, path: Path) -> Quality:
        """Read and measure an utterance; what cannot be read gets its reason instead of values.

        Args:
            row: The utterance, with its length.
            path: Its file.
        """
        try:
            with refusing(row.path):
                require_unchanged(row, path)
                begin_s, length_s = self._stretch(row)
                samples, rate = read(path, offset_s=begin_s, duration_s=length_s)
                check(to_mono(samples), row.path)
                return self.of_samples(samples, rate, row.utt_id, row.corpus)
        except Refusal as refusal:
            return Quality(
                utt_id=row.utt_id,
                corpus=row.corpus,
                refused=refusal.reason,
                detail=refusal.detail,
                kind=refusal.kind,
            )

    def of_samples(
        self, samples: Float32[np.ndarray, "C N"], sample_rate: int, utt_id: str = "", corpus: str = ""
    ) -> Quality:
        """Measure samples; values are rounded, so that another processor's last bits change no verdict.

        Args:
            samples: Channels, all finite and not silent; all but clipping are measured of their mean.
            sample_rate: In Hz.
            utt_id: Id that the result gets.
            corpus: Corpus that the result gets.
        """
        mono = to_mono(samples)
        dnsmos = None if self._dnsmos is None else round(self._dnsmos(mono, sample_rate).ovrl, 3)
        return Quality(
            utt_id=utt_id,
            corpus=corpus,
            dnsmos=dnsmos,
            bandwidth_hz=round(bandwidth_hz(mono, sample_rate), 1),
            snr_db=round(snr_db(mono, sample_rate), 2),
            clipped=round(clipped_share(samples), 6),
        )

    def _stretch(self, row: Utterance) -> tuple[float, float | None]:
        """Return start and length, in seconds, of what is measured of an utterance."""
        if row.duration_s <= self._longest_s:
            return row.offset_s, row.duration_s or None
        return row.offset_s + (row.duration_s - self._longest_s) / 2, self._longest_s
