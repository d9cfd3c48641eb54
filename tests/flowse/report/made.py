"""A made report: recordings whose versions are tones, so that a test can tell which version sounds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flowse.audio.flac import flac_bytes
from flowse.report.page import Cell, Column, Listening, Recording, Table, Track, number_cell, render
from flowse.report.plots import grouped_plot, histogram_plot, scatter_plot

TONES_HZ = {"noisy": 500, "enhanced": 1000, "clean": 2000}
RATE = 16_000


def tone(label: str, seconds: float = 4.0) -> bytes:
    """Return FLAC of the tone of a version."""
    t = np.arange(round(seconds * RATE)) / RATE
    return flac_bytes((0.2 * np.sin(2 * np.pi * TONES_HZ[label] * t)).astype(np.float32), RATE)


def recording(title: str, gain: float | None, language: str, tracks: Sequence[Track] = ()) -> Recording:
    """Return a recording with a row of two cells."""
    cells = [number_cell(gain, 2, sign=True, kind="bad" if gain is not None and gain < 0 else ""), Cell(text=language)]
    return Recording(
        title=title, tracks=tracks, cells=cells, facts={"SNR": "5.0 dB"}, text="what is said in the recording"
    )


def tracks(seconds: float = 4.0) -> list[Track]:
    """Return the three versions, which the page holds."""
    return [
        Track(label=label, flac=tone(label, seconds), facts={"overall": "2.31", "WER": "12%"}, text=f"heard in {label}")
        for label in TONES_HZ
    ]


def report(recordings: Sequence[Recording]) -> str:
    """Return a page with all that a page can have."""
    rows = [
        [Cell(text=name, tip=tip), Cell(text=gain, detail=interval, kind=kind), noisy, enhanced, clean]
        for name, tip, gain, interval, kind, noisy, enhanced, clean in (
            ("DNSMOS overall", "1 to 5. Higher is better.", "+0.50", "[+0.41, +0.58]", "good", "2.10", "2.60", "3.20"),
            ("WER/CER", "Lower is better.", "+0.10", "[+0.02, +0.18]", "bad", "0.100", "0.200", "0.000"),
            ("ESTOI *", "0 to 1.", "-0.01", "[-0.05, +0.02]", "dim", "0.700", "0.690", "–"),
        )
    ]
    return render(
        "Speech enhancement: scores and recordings",
        lead="DNSMOS overall goes from 2.10 to 2.60.",
        facts={"model": "made", "a rather long name of a fact": "/a/path/" + "without-a-space" * 8},
        tables=[
            Table(title="Scores", columns=["metric", "gain", "noisy", "enhanced", "clean"], rows=rows, note="A note.")
        ],
        plots=[
            scatter_plot("One dot a recording.", [1.0, 2.0, 2.5], [2.0, 1.8, 3.0], "DNSMOS overall"),
            grouped_plot("By SNR.", ["-5…0", "0…5"], {n: [1.0 + k, 2.0 + k] for k, n in enumerate(TONES_HZ)}, "DNSMOS"),
            histogram_plot("SNR", edges=[0.0, 1.0, 2.0, 3.0], counts=[5, 0, 2000], label="SNR, dB", threshold=1.0),
        ],
        listening=Listening(
            title="Recordings, those that gained least first",
            columns=[
                Column(head="gain", tip="Enhanced − noisy. Higher is better.", sorted=True),
                Column(head="language", numbers=False, choices=True),
            ],
            recordings=recordings,
        ),
    )
