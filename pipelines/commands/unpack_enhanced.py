"""Write what the stage enhance made as a tree of files, under their original paths."""

from __future__ import annotations

import argparse
from pathlib import Path

from flowse.errors import UserError
from pipelines.commands.session import Session


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the folder to write and what goes into it."""
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write: OUT/<corpus>/<path>")
    parser.add_argument("--corpus", default="", metavar="NAME", help="only this corpus (default: all)")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")


def run(arguments: argparse.Namespace) -> int:
    """Write the files and print how many they are.

    Raises:
        UserError: enhance is not fresh or has made nothing, or a file exists and may not be replaced, or a
            manifest part names files outside OUT.
    """
    from flowse.data.enhanced import unpack

    enhanced = Session.of(arguments).finished("enhance")
    enhanced.parts(".tar", here=True)  # hashed against their records before anything is written
    parts = enhanced.parts(".parquet")
    try:
        written = sum(1 for _ in unpack(parts, arguments.out, overwrite=arguments.overwrite, corpus=arguments.corpus))
    except (OSError, ValueError) as error:
        raise UserError(str(error)) from None
    if not written:
        of = f" of corpus {arguments.corpus!r}" if arguments.corpus else ""
        raise UserError(f"enhance has made nothing{of}; name recordings in enhance.corpora")
    print(f"{arguments.out}: {written:,} files")
    return 0
