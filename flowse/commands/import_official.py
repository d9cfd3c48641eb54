"""Turn the checkpoint that FlowSE's authors published into a model folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from flowse import __version__
from flowse.audio.vocoder import load_vocoder
from flowse.errors import UserError
from flowse.export import ModelConfig, save
from flowse.flow.sampling import Sampling
from flowse.model.official import OfficialError, read_official
from flowse.pretrained import resolve


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the checkpoint, its vocabulary, the vocoder and the folder to write."""
    parser.description = (
        "Read the checkpoint that FlowSE's authors published and write a folder that 'flowse enhance --model' "
        "takes and training starts from (train.init_from)."
    )
    parser.add_argument("checkpoint", type=Path, metavar="CKPT", help="the .pt file")
    parser.add_argument(
        "vocabulary", type=Path, metavar="VOCAB", help="its vocabulary, a text file of one symbol a line"
    )
    parser.add_argument("output", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument(
        "--vocoder", default="vocos-mel-24khz-small", metavar="DIR",
        help="Vocos folder to put in, best the published charactr/vocos-mel-24khz (default: the embedded %(default)s)",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace the folder if it exists")


def run(arguments: argparse.Namespace) -> int:
    """Translate the published weights and write them as an export.

    Raises:
        UserError: The checkpoint or its vocabulary cannot be read, or the folder exists and may not be replaced.
    """
    vocoder = resolve(arguments.vocoder)
    try:
        official = read_official(arguments.checkpoint, arguments.vocabulary)
    except OfficialError as error:
        raise UserError(str(error)) from error
    load_vocoder(vocoder, mel=official.spec.mel)
    # The published defaults: 32 Euler steps, guidance 1.
    config = ModelConfig(spec=official.spec, sampling=Sampling(steps=32, guidance=1.0))
    card = (
        "# FlowSE, published weights\n\n"
        f"Imported from {arguments.checkpoint.name} by flowse-pipeline {__version__}: {len(official.used)} tensors "
        f"became weights, {len(official.implied)} follow from the config. Their authors give no licence: ask before "
        "you pass it on.\n"
    )
    save(arguments.output, config, official.state, vocoder, card, overwrite=arguments.overwrite)
    print(f"{arguments.output}: {sum(tensor.numel() for tensor in official.state.values()) / 1e6:.1f} M parameters")
    return 0
