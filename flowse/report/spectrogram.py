"""Spectrograms as small pictures."""

from __future__ import annotations

import io

import numpy as np
from jaxtyping import Float

_RANGE_DB = 80.0


def spectrogram_png(samples: Float[np.ndarray, " N"], sample_rate: int, width: int = 480, height: int = 150) -> bytes:
    """Draw a spectrogram as a PNG image, with a range of 80 dB below full-scale speech and 0 Hz at the bottom.

    Args:
        samples: Mono samples; full scale is ±1.
        sample_rate: In Hz; half of it is at the top.
        width: In pixels.
        height: In pixels.
    """
    from matplotlib import colormaps
    from PIL import Image

    size = 1024
    padded = np.pad(samples.astype(np.float64), size // 2)
    starts = np.linspace(0, len(padded) - size, width).round().astype(int)
    frames = padded[starts[:, None] + np.arange(size)] * np.hanning(size)
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2 / (np.hanning(size).sum() / 2) ** 2
    edges = np.linspace(0, size // 2, height, endpoint=False).astype(int)
    level_db = 10 * np.log10(np.maximum.reduceat(power[:, : size // 2], edges, axis=1).T[::-1] + 1e-12)
    shade = np.clip((level_db + 20 + _RANGE_DB) / _RANGE_DB, 0, 1)
    # One byte a pixel with a table of colours: a third of the bytes that the colours themselves take.
    picture = Image.fromarray(np.rint(shade * 255).astype(np.uint8)).convert("P")
    picture.putpalette((colormaps["magma"](np.arange(256))[:, :3] * 255).round().astype(np.uint8).tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
