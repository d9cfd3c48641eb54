"""Train a model in this process alone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import torch

from flowse.errors import UserError
from flowse.files import atomic_path
from flowse.training.config import TrainConfig
from flowse.training.history import History
from flowse.training.job import prepare
from flowse.training.mixtures import Mixtures
from flowse.training.progress import Progress
from flowse.training.rank import Rank
from flowse.training.stopping import StopRequest
from flowse.training.trained import Trained


def train(
    config: TrainConfig,
    dataset: str | Path,
    out: str | Path,
    *,
    seed: int = 0,
    device: str = "cpu",
    threads: int | None = None,
    report: Callable[[Progress], None] | None = None,
) -> Trained:
    """Train a model on the mixtures of a folder; the same call again resumes an interrupted training.

    A call with other settings or data (longer, another learning rate, more mixtures) goes on from the weights,
    averages and optimiser of `out`: a new segment of the same run.

    Args:
        config: The settings.
        dataset: Folder of shards and their index, as the stage simulate writes it.
        out: Folder to write: `model.safetensors` (averaged weights), `spec.json`, `history.parquet`, `loss.png`,
            `dataset.json`; checkpoints and examples in `.state/`. `TrainConfig.init_from` takes it.
        seed: Root of all random draws.
        device: Where to compute, e.g. "cuda".
        threads: Threads of this process; None: as many as torch uses now.
        report: Called at every record, validation and checkpoint; `print` prints a line each.

    Returns:
        The result; `Trained.system` loads the model.

    Raises:
        UserError: The dataset has no training mixture or another sample rate, `init_from` cannot be used, or SIGTERM
            stopped the training, which the same call goes on with.
        CheckpointError: `out` holds checkpoints of another network, mel, flow, vocabulary or seed.
        BudgetSpent: More steps or mixtures had to be left out than `max_skipped_steps` and `max_skipped_share` allow.

    Example:
        >>> trained = train(TrainConfig(max_steps=500), "runs/demo/simulate/8134bc086dee6616", "my-model", report=print)
    """
    folder = Path(out)
    mixtures = Mixtures.read(Path(dataset), folder / ".state" / "index")
    job = prepare(config, mixtures, folder / ".state", seed=seed, threads=threads or torch.get_num_threads())
    if not job.is_finished:
        with StopRequest(job.folder) as stop:
            rank = Rank(job, device=device, stop=stop)
            with contextlib.closing(History(job, rank.trainer.state, rank.frames_per_s_at_peak)) as history:
                rank.train(report, history)
        if rank.trainer.stopped:
            raise UserError(f"stopped after step {rank.trainer.state.step}, with a checkpoint; the same call goes on")
    trained = Trained.of(job)
    trained.write(lambda name: atomic_path(folder / name))
    return trained
