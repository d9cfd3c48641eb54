"""The command line of the pipeline: its commands, and what their errors become. Start reading here."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
from collections.abc import Sequence

from flowse import console, live_area
from flowse.errors import UserError
from flowse.lazy_commands import add_commands
from pipelines.commands import session
from pipelines.engine.user import ensure_name_and_home
from pipelines.experiment import STAGE_NAMES

COMMANDS = {
    "run": "run the stages that are not fresh; finished work is never done twice",
    "status": "show every stage: state, counts, hours",
    "explain": "say exactly why a stage will run, or that it will not",
    "rejects": "show what was turned away, by stage, corpus and reason",
    "doctor": "look at corpora, models, disk, MLflow and Ray before work starts",
    "lineage": "follow an utterance to all that used it, or a model back to all that it was made of",
    "listen": "write a page to hear the mixtures by: random and extreme ones, with recipes and scores",
    "forget": "make the workspace forget a recording, a speaker or a corpus, and say what holds it",
    "verify": "hash every output against its record",
    "export-cuts": "write a stage's manifest as a CutSet for lhotse",
    "unpack-enhanced": "write what enhance made as a tree of files, under their original paths",
    "gc": "list (and delete) outputs that this configuration does not need",
    "ui": "open the MLflow UI on this workspace",
}
"""Help of every command. Module `pipelines.commands.<name>` holds its `add_arguments(parser)` and `run(arguments)`."""


def parser() -> argparse.ArgumentParser:
    """Build the command line; the parsed arguments hold the command's `run`."""
    top = argparse.ArgumentParser(prog="python -m pipelines", description=f"FlowSE pipeline: {', '.join(STAGE_NAMES)}.")
    add_commands(top, "pipelines.commands", COMMANDS, common=session.add_arguments)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 good, 1 found wanting, 2 a mistake to mend, 130 interrupted."""
    console.make_printable()
    ensure_name_and_home()
    parsed = parser().parse_args(arguments)
    try:
        try:
            code: int = parsed.run(parsed)
        finally:
            live_area.close()
        sys.stdout.flush()  # a pipe whose reader has gone fails here, not when Python exits
        return code
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `… | head` has read enough; Python must not complain when it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        what = f"{error.filename or 'a file'}: {error.strerror}"
        print(f"error: {what}; mend that and run again: finished units are kept", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        console.say("interrupted; finished units are kept, run again to go on")
        return 130


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
