"""Some steps of a training tried out, to tell how long all of them would take."""

from __future__ import annotations

import dataclasses
import json
import statistics
from pathlib import Path

from safetensors.torch import save_file

from flowse.tokenizer import Tokenizer
from flowse.training.config import TrainConfig
from flowse.training.job import Job
from flowse.training.rank import Rank
from pipelines.commands.preview.trial import Trial

STEPS = 6  # the first is not counted
_LONGEST_MIXTURES = 4  # a tried step holds at most the frames of so many; the step's time grows with its frames


def time_steps(config: TrainConfig, shards: Path, trial: Trial, workers: int) -> tuple[float, str]:
    """Time some optimiser steps of one worker; leave its weights, for evaluate to be tried on.

    Args:
        config: The training's settings.
        shards: Folder of the mixtures.
        trial: Context of the stage; the weights go into its folder.
        workers: Ranks among which a step's frames are shared.

    Returns:
        Seconds of a whole step, as it would be with all workers and no time for their communication; what was done.
    """
    spec = config.spec()
    if config.text:
        spec = dataclasses.replace(spec, vocabulary=Tokenizer.default().vocabulary)
    share = max(config.max_frames, config.frames_per_step // workers)
    frames = min(share, _LONGEST_MIXTURES * config.max_frames)
    short = dataclasses.replace(
        config,
        max_steps=STEPS,
        log_every=1,
        validate_every=0,
        checkpoint_every=0,
        validation_utterances=0,
        examples=0,
        frames_per_step=frames,
        micro_frames=min(config.micro_frames, frames) if config.micro_frames else 0,
        compile=False,
        init_from="",
    )
    job = Job(
        config=short,
        spec=spec,
        start=None,
        seed=trial.seed,
        shards=shards,
        folder=trial.storage,
        identity={},
        threads=max(1, trial.resources.num_cpus),
    )
    trial.storage.mkdir(exist_ok=True)
    rates: list[float] = []
    rank = Rank(job, device=trial.resources.device)
    rank.train(lambda progress: rates.append(progress.frames_per_s))
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in rank.trainer.system.state_dict().items()}
    save_file(weights, trial.folder / "model.safetensors")
    (trial.folder / "spec.json").write_text(json.dumps(spec.to_dict()), encoding="utf-8")
    rate = statistics.median(rates[1:] or rates)
    text = f"tried {len(rates)} steps of {frames:,} frames; without validation and the workers' communication"
    return config.frames_per_step / workers / rate, text
