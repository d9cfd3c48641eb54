"""Writes AAC, as telephones record it, for the tests of what reads it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


def write_aac(path: Path, samples: np.ndarray, rate: int = 24_000, first: int = 0, **options: str) -> Path:
    """Encode channels ``[C, N]`` as AAC, in the container that the suffix names, with `first` as the first's number."""
    av = pytest.importorskip("av", reason="PyAV is not installed")
    layout = "mono" if len(samples) == 1 else "stereo"
    with av.open(str(path), "w", format="adts" if path.suffix == ".aac" else "mp4", options=options) as container:
        stream = container.add_stream("aac", rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=layout)
        frame.sample_rate, frame.pts = rate, first
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return path
