"""Upload an exported model to the Hugging Face Hub."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add which model goes where."""
    parser.description = (
        "Upload an exported model, with its card, to the Hugging Face Hub. `hf auth login` says who you are. Then "
        "'flowse enhance --model hf:OWNER/NAME' enhances with it on any machine."
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder that the export stage wrote")
    parser.add_argument("repository", metavar="OWNER/NAME", help="repository on the Hub; made if it is absent")
    parser.add_argument("--public", action="store_true", help="a repository that is made can be seen by everyone")


def run(arguments: argparse.Namespace) -> int:
    """Upload the model and print the address that `flowse enhance --model` takes.

    Raises:
        UserError: The folder is no model, or the Hub does not take it.
    """
    from flowse.hub import push_to_hub

    print(push_to_hub(arguments.folder, arguments.repository, private=not arguments.public))
    return 0
