"""Open a page in the browser that enhances what is recorded or uploaded there."""

from __future__ import annotations

import argparse

from flowse.pretrained import DEFAULT


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add which model the page uses, and where it is served."""
    parser.description = (
        "Open a page in the browser: record or upload, hear before and after, see both spectrograms. The page is "
        "served on this machine alone, and no recording leaves it. Needs pip install 'flowse-pipeline[demo]'."
    )
    parser.add_argument(
        "--model", default=DEFAULT, metavar="MODEL", help="as for flowse enhance (default: %(default)s)"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps (default: %(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 serves other machines too (default: %(default)s)")
    parser.add_argument("--port", type=int, metavar="N", help="default: the first free one from 7860 on")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")


def run(arguments: argparse.Namespace) -> int:
    """Serve the page until an interrupt."""
    from flowse.demo_page import launch
    from flowse.enhancer import Enhancer

    launch(
        Enhancer.from_pretrained(arguments.model, arguments.device),
        server_name=arguments.host,
        server_port=arguments.port,
        inbrowser=not arguments.no_browser,
    )
    return 0
