"""Predict how recordings sound to listeners: DNSMOS of audio files, as a table."""

from __future__ import annotations

import argparse
from pathlib import Path

from flowse.audio.waveform import read_mono
from flowse.metrics.dnsmos import RATE, Dnsmos


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the files."""
    parser.description = "Print DNSMOS P.835 (overall, speech, background) and P.808, 1 (bad) to 5."
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="audio files")


def run(arguments: argparse.Namespace) -> int:
    """Print a line of tab-separated scores for each file."""
    dnsmos = Dnsmos()
    print("file\tovrl\tsig\tbak\tp808")
    for path in arguments.files:
        score = dnsmos(read_mono(path, RATE), RATE)
        print(f"{path}\t{score.ovrl:.3f}\t{score.sig:.3f}\t{score.bak:.3f}\t{score.p808:.3f}")
    return 0
