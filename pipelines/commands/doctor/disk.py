"""Estimate what a pipeline writes, and compare it with what is free."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from flowse import console
from pipelines.commands.doctor.finding import Finding, Severity
from pipelines.commands.doctor.recordings import CorpusInspection
from pipelines.experiment import ExperimentConfig

_FLAC_SHARE = 0.6  # size of a FLAC file as a share of 16-bit PCM; measured on 15 h of mixtures: 0.53
_CHECKPOINT_FLOATS = 4  # for each parameter: weight, moving average, and AdamW's two moments
_MARGIN = 1.2  # less free space than this times the estimate is a warning


def bytes_needed(config: ExperimentConfig, speech_s: float) -> dict[str, float]:
    """Estimate how many bytes a pipeline writes: mixtures, rooms and checkpoints.

    Args:
        config: The experiment.
        speech_s: Length of all speech, in seconds; it is assumed that all of it is kept.
    """
    shares = config.ingest.splits
    elsewhere = min(1.0, shares.dev + shares.test)
    copies = (1 - elsewhere) * config.simulate.copies + elsewhere * config.simulate.eval_copies
    rate = config.simulate.sample_rate
    rooms = config.rooms
    responses = (rooms.train_rooms + rooms.dev_rooms + rooms.test_rooms) * rooms.draw.sources
    checkpoints = config.train.keep_last + 2  # the best one, and the next while it is written
    return {
        "mixtures": speech_s * copies * rate * 2 * 2 * _FLAC_SHARE,
        # A response is as long as its room's reverberation.
        "rooms": responses * rooms.draw.rt60_s[1] * rooms.sample_rate * 4.0,
        "checkpoints": float(checkpoints * _parameters(config) * _CHECKPOINT_FLOATS * 4),
    }


def _parameters(config: ExperimentConfig) -> int:
    """Count the model's parameters without allocating them."""
    import torch

    from flowse.model.system import build

    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(config.train.spec()).parameters())


def look(
    config: ExperimentConfig, corpora: Sequence[CorpusInspection], enhanced: Sequence[CorpusInspection], workspace: Path
) -> Finding:
    """Compare the bytes that are needed with those that are free.

    Args:
        config: The experiment.
        corpora: What was found in the corpora of ingest.
        enhanced: What was found in the recordings to enhance.
        workspace: The folder that everything is written into; it exists.
    """
    speech_s = sum(corpus.seconds for corpus in corpora if corpus.kind == "speech")
    made_s = sum(corpus.seconds for corpus in corpora if corpus.seconds and not corpus.sizes)
    parts = bytes_needed(config, speech_s) | ({"made corpora": made_s * 24_000.0} if made_s else {})
    if written := sum(corpus.seconds * max(corpus.rates, default=0) * 2 * _FLAC_SHARE for corpus in enhanced):
        parts |= {"enhanced recordings": written}
    needed, free = sum(parts.values()), shutil.disk_usage(workspace).free
    listed = ", ".join(f"{name} {console.size(count)}" for name, count in parts.items())
    text = f"about {console.size(needed)} are needed for {console.audio(speech_s)} of speech ({listed}), "
    text += f"{console.size(free)} are free in {workspace}"
    mend = "free some space, choose another --workspace, or lower simulate.copies"
    severity: Severity = "error" if needed > free else "warning" if needed * _MARGIN > free else "ok"
    return Finding(severity, "disk", text, "" if severity == "ok" else mend)
