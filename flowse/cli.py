"""The `flowse` command: enhance recordings, score them, import the published model and share models."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from flowse import __version__
from flowse.errors import UserError
from flowse.lazy_commands import add_commands, complete
from flowse.refusal import Refusal

COMMANDS = {
    "demo": "open a page that enhances what is recorded or uploaded there",
    "enhance": "remove noise and reverberation from recordings",
    "export-onnx": "write a model's networks as ONNX files",
    "import-official": "turn the published FlowSE checkpoint into a model folder",
    "push": "upload an exported model to the Hugging Face Hub",
    "score": "predict how recordings sound to listeners (DNSMOS)",
}
"""Help of every command. Module `flowse.commands.<name>` holds its `add_arguments(parser)` and `run(arguments)`."""


def parser() -> argparse.ArgumentParser:
    """Build the command line; the parsed arguments hold the command's `run`."""
    top = argparse.ArgumentParser(prog="flowse", description="FlowSE speech enhancement.")
    top.add_argument("--version", action="version", version=f"flowse {__version__}")
    add_commands(top, "flowse.commands", COMMANDS)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code: 0, 2 after a one-line error, or 130 after an interrupt."""
    # OpenMP reads this when torch is imported. Its threads wait for each other at every step of a recurrent network; by
    # default they spin, and where other programs want the cores that makes enhancement ten times as slow.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        top = parser()
        complete(top)
        arguments = top.parse_args(argv)
        code: int = arguments.run(arguments)
        sys.stdout.flush()  # a pipe whose reader has gone fails here, not when Python exits
    except BrokenPipeError:  # `… | head` has read enough; Python must not complain when it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (UserError, Refusal, OSError, ValueError, ImportError) as error:
        message = " ".join(str(error).split())
        print(f"flowse: {message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("flowse: interrupted", file=sys.stderr)
        return 130
    return code


if __name__ == "__main__":
    sys.exit(main())
