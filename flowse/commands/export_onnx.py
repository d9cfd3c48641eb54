"""Write a model's networks as ONNX files."""

from __future__ import annotations

import argparse
from pathlib import Path

from flowse.pretrained import DEFAULT


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the model and the folder to write."""
    parser.description = (
        "Write what a model predicts in one pass (predictor.onnx) and one step of its flow (step.onnx), each checked "
        "against the model with onnxruntime. Mel and synthesis stay outside; the metadata 'flowse' says what they are."
    )
    parser.add_argument("output", type=Path, metavar="OUT", help="folder for the files")
    parser.add_argument(
        "--model", default=DEFAULT, metavar="MODEL",
        help="folder that the export stage wrote, or name of an embedded model (default: %(default)s)",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Export the networks and say how close the files are.

    Raises:
        UserError: There is no such model, or a file differs from it.
    """
    from flowse.export import load
    from flowse.onnx_export import export_onnx
    from flowse.pretrained import resolve

    system, config = load(resolve(arguments.model))
    for name, difference in export_onnx(system, config.spec, arguments.output, config.sampling).items():
        size = (arguments.output / name).stat().st_size
        print(f"{arguments.output / name}: {size / 1e6:.1f} MB, differs from the model by {difference:.1e} at most")
    return 0
