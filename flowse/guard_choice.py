"""The choice of a refinement's guard: the share of it that scores best on recordings nobody trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float32

from flowse.enhancer import Enhancer
from flowse.flow.guard import Guard, GuardConfig
from flowse.metrics.dnsmos import DnsmosScore

Quality = Callable[[np.ndarray, int], DnsmosScore]
"""DNSMOS of a waveform at a sample rate in Hz, see `flowse.metrics.dnsmos.Dnsmos`."""


def choose_guard(
    enhancer: Enhancer, noisy: Sequence[Float32[np.ndarray, " _"]], rate: int, config: GuardConfig, quality: Quality
) -> Guard:
    """Enhance recordings with every share of the refinement, and take the share whose mean score is best.

    As the predictor's estimate alone is one of them, the result is never below it on these recordings.

    Args:
        enhancer: A flow that refines a predictor's estimate.
        noisy: Recordings.
        rate: Their sample rate, in Hz.
        config: Shares to try, and how to sample.
        quality: Scores what is enhanced.

    Raises:
        ValueError: There is no recording, or the model has no predictor.
    """
    if not noisy:
        raise ValueError("a guard needs recordings to be chosen on")
    if enhancer.system.predictor is None:
        raise ValueError("a guard is for a flow whose source is 'predicted'; this model has no predictor")

    def mean(share: float) -> float:
        # The share 0 is the predictor alone, without a single evaluation of the flow.
        changes = {"guard": share} if share else {"steps": 0}
        sampling = dataclasses.replace(config.sampling, **changes)
        enhanced = (enhancer.enhance(samples, rate, sampling=sampling) for samples in noisy)
        return float(np.mean([quality(samples, rate).ovrl for samples in enhanced]))

    return Guard.of({share: mean(share) for share in sorted({0.0, *config.shares})}, len(noisy))
