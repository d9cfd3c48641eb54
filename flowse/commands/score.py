"""Predict how recordings sound to listeners: DNSMOS of audio files, as a table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

from flowse import console
from flowse.audio.recordings import AUDIO_SUFFIXES, find_recordings
from flowse.errors import UserError
from flowse.live_area import Bar
from flowse.names import readable
from flowse.refusal import Refusal, refusing

_SCORES = ("ovrl", "sig", "bak", "p808")
_NAME_SHOWN = 30  # last characters of a file's name beside the bar

_Row = tuple[str, list[float]]
"""A file's name and its scores, in the order of `_SCORES`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the files."""
    parser.description = (
        "Print DNSMOS P.835 (overall, speech, background) and P.808, 1 (bad) to 5: a table on a terminal, "
        "tab-separated lines in a pipe or a file."
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="audio files, or folders of them")


def run(arguments: argparse.Namespace) -> int:
    """Print the scores of each file; name those that cannot be scored, and return 2 then.

    Raises:
        UserError: A folder holds no recording.
    """
    paths = list(_recordings(arguments.files))
    bar = Bar("score")
    try:
        rows, failed = _scored(paths, bar)
    finally:
        bar.end()
    if bar.live and rows:
        _print_table(rows)
    return 2 if failed else 0


def _scored(paths: Sequence[Path], bar: Bar) -> tuple[list[_Row], int]:
    """Score files; return the names and scores of those that can be scored, and the number of the others.

    Where there is no terminal, the scores of a file are printed at once: whoever reads the pipe need not wait for the
    last of a thousand files.
    """
    # They import the networks, which help and completion do without.
    bar.show(0.0, "loads the networks")
    from flowse.audio.waveform import read_mono
    from flowse.metrics.dnsmos import RATE, Dnsmos

    dnsmos = Dnsmos()
    rows: list[_Row] = []
    failed = 0
    if not bar.live:
        print("\t".join(("file", *_SCORES)), flush=True)
    for number, path in enumerate(paths):
        name = readable(str(path))
        bar.show(number / len(paths), f"{number}/{len(paths)}  {name[-_NAME_SHOWN:]}")
        try:
            with refusing(str(path)):
                score = dnsmos(read_mono(path, RATE), RATE)
        except Refusal as refusal:
            print(f"flowse: {name}: {readable(str(refusal))}", file=sys.stderr)
            failed += 1
            continue
        values = [getattr(score, measure) for measure in _SCORES]
        if not bar.live:
            print("\t".join((name, *_digits(values))), flush=True)
        rows.append((name, values))
    return rows, failed


def _recordings(given: Sequence[Path]) -> Iterator[Path]:
    """List the files, with those of folders.

    Raises:
        UserError: A folder holds no recording.
    """
    for path in given:
        if not path.is_dir():
            yield path
            continue
        found = list(find_recordings(path))
        if not found:
            raise UserError(f"{path}: no recording in it ({', '.join(AUDIO_SUFFIXES)})")
        yield from found


def _digits(values: Sequence[float]) -> list[str]:
    return [f"{value:.3f}" for value in values]


def _print_table(rows: Sequence[_Row]) -> None:
    """Print the scores for people, with their means below."""
    cells = [[name, *_digits(values)] for name, values in rows]
    if len(rows) > 1:
        means = [fmean(values) for values in zip(*(values for _, values in rows), strict=True)]
        cells.append([f"mean of {len(rows):,}", *_digits(means)])
    print(console.table(("file", *_SCORES), cells, right=range(1, 1 + len(_SCORES))))
