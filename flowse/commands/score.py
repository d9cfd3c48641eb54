"""Predict how recordings sound to listeners: DNSMOS of audio files, as a table."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from flowse.audio.waveform import read_mono
from flowse.metrics.dnsmos import RATE, Dnsmos
from flowse.refusal import Refusal, refusing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the files."""
    parser.description = "Print DNSMOS P.835 (overall, speech, background) and P.808, 1 (bad) to 5."
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="audio files")


def run(arguments: argparse.Namespace) -> int:
    """Print a line of tab-separated scores for each file; name those that cannot be scored, and return 2 then."""
    dnsmos = Dnsmos()
    print("file\tovrl\tsig\tbak\tp808")
    failed = 0
    for path in arguments.files:
        try:
            with refusing(str(path)):
                score = dnsmos(read_mono(path, RATE), RATE)
        except Refusal as refusal:
            print(f"flowse: {path}: {refusal}", file=sys.stderr)
            failed += 1
            continue
        print(f"{path}\t{score.ovrl:.3f}\t{score.sig:.3f}\t{score.bak:.3f}\t{score.p808:.3f}")
    return 2 if failed else 0
