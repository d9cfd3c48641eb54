"""A training to do: everything that its ranks have to agree on, and how it follows from settings and data."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from flowse.audio.mel import LogMel
from flowse.data.batching import fixed_batches, mel_statistics
from flowse.data.shards import IndexRow
from flowse.errors import UserError
from flowse.files import write_json
from flowse.flow.loss import frame_sum
from flowse.model.spec import ModelSpec
from flowse.model.system import build, frame_mask
from flowse.seeding import derive_seed, generator
from flowse.simulation.redraw import Redraw
from flowse.tokenizer import Tokenizer
from flowse.training.checkpoint import newest_whole, read_state
from flowse.training.config import DISTIL, TrainConfig
from flowse.training.ledger import CHECKPOINTS, Segment, run_identity, segment_settings
from flowse.training.listening import Listening, prepare_listening
from flowse.training.lora import layers_to_adapt
from flowse.training.mixtures import Mixtures, example_reader
from flowse.training.start import (
    Start,
    becomes_predictor,
    distilled_spec,
    initial_system,
    refining_spec,
    starting_point,
)


@dataclass(frozen=True)
class Job:
    """All that a rank needs; small and picklable.

    Attributes:
        config: The settings.
        spec: What to train.
        start: Weights to start from; None: random ones.
        seed: Root of all random draws.
        shards: Folder of the shards and their index.
        folder: Folder of checkpoints, history and progress; shared by all ranks.
        identity: What checkpoints cannot change, as plain values; a checkpoint of another identity is refused.
        threads: Threads of a rank.
        segment: Settings and data that the run is trained with from now on.
        listening: What the training is judged by while it runs; None: nothing.
        redraw: What mixtures are drawn anew from in every epoch; None: the stored ones are read.
        index: Folder of the files that index rows are mapped from; None: each rank reads them into memory.
        collective_timeout_s: Longest wait of a rank for the others in one exchange.
    """

    config: TrainConfig
    spec: ModelSpec
    start: Start | None
    seed: int
    shards: Path
    folder: Path
    identity: Mapping[str, Any]
    threads: int
    segment: Segment = field(default_factory=Segment)
    listening: Listening | None = None
    redraw: Redraw | None = None
    index: Path | None = None
    collective_timeout_s: float = 1800.0

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.folder / CHECKPOINTS

    @property
    def is_finished(self) -> bool:
        """Whether the newest whole checkpoint is this training's last: an earlier process trained to the end."""
        path, _ = newest_whole(self.checkpoints)
        if path is None:
            return False
        state = read_state(path)
        last = state.segments[-1:] or (Segment(),)
        of_this = last[0].is_of(self.segment.settings, self.segment.dataset)
        return bool(state.finished) and of_this and state.belongs_to(self.identity)


def prepare(
    config: TrainConfig,
    mixtures: Mixtures,
    folder: Path,
    *,
    seed: int = 0,
    threads: int = 1,
    dataset: str = "",
    start_digest: str = "",
    code_commit: str = "",
    redraw: Redraw | None = None,
) -> Job:
    """Fix what is trained: from the start's spec, an earlier call's, or newly measured statistics of the log-mel.

    Args:
        config: The settings.
        mixtures: The dataset.
        folder: Folder of checkpoints, history and progress; created if it is absent. A call with the folder of an
            training gives its spec again, and its ranks go on from the newest checkpoint.
        seed: Root of all random draws.
        threads: Threads of a rank.
        dataset: Digest that the dataset is known by; empty: that of `mixtures`.
        start_digest: Hash of what `init_from` names; empty: that of its weights.
        code_commit: Commit of the code; empty: unknown.
        redraw: What mixtures are drawn anew from, if `mixing` is "dynamic".

    Raises:
        UserError: The shards have another sample rate, or `init_from` cannot be read, has another mel, or
            cannot be trained further by this objective; or what `listen` names cannot be used.
    """
    _require_rate(config, mixtures.train[0])
    folder.mkdir(parents=True, exist_ok=True)
    spec, start = _spec_and_start(config, mixtures, folder, seed)
    if start is not None and not start_digest:
        start_digest = start.digest
    identity = {"spec": spec.to_dict(), "run": run_identity(config, seed, start_digest)}
    base = _base(config, spec, start, start_digest) if start is not None and config.lora.rank else ""
    listening = prepare_listening(config.listen, config.select, spec, mixtures.dev, mixtures.folder)
    drawn_from = redraw.digest if redraw else ""
    if bool(drawn_from) != (config.mixing == "dynamic"):
        raise UserError(
            "train.mixing=dynamic needs the recordings that the shards were made of, which the pipeline's stage train "
            "has; a folder of shards alone can only be trained on as it is stored"
        )
    segment = Segment(
        settings=segment_settings(config, drawn_from),
        dataset=dataset or mixtures.digest,
        code_commit=code_commit,
        base=base,
    )
    return Job(
        config,
        spec,
        start,
        seed,
        mixtures.folder.resolve(),
        folder.resolve(),
        identity,
        threads,
        segment,
        listening,
        redraw,
        mixtures.cache,
    )


def _base(config: TrainConfig, spec: ModelSpec, start: Start, digest: str) -> str:
    """Name the model that adapters are trained beside.

    Raises:
        UserError: The start is not the whole model, or has no layers as the settings name them.
    """
    if start.spec != spec:
        raise UserError(
            f"train.lora adapts a whole model, and train.init_from={config.init_from} only becomes the predictor of a "
            "new flow; set train.lora.rank=0"
        )
    try:
        with torch.device("meta"):
            layers_to_adapt(build(spec), config.lora)
    except ValueError as error:
        raise UserError(f"train.{error}") from None
    # Model cards say it to everybody: they are told no folder of this machine.
    return f"rank {config.lora.rank} on {Path(config.init_from).name} ({digest[:16]})"


def _require_rate(config: TrainConfig, row: IndexRow) -> None:
    if not row.seconds > 0:
        raise UserError(f"train: the index gives {row.key} a length of {row.seconds:g} s; verify the dataset")
    rate = round(row.samples / row.seconds)
    if rate != config.mel.sample_rate:
        raise UserError(
            f"train.mel.sample_rate is {config.mel.sample_rate}, but the shards have {rate}; make them equal"
        )


def _spec_and_start(config: TrainConfig, mixtures: Mixtures, folder: Path, seed: int) -> tuple[ModelSpec, Start | None]:
    if config.init_from:
        start = starting_point(config.init_from)
        if start.spec.mel != config.mel:
            raise UserError(f"train.mel differs from the mel of {config.init_from}: {config.mel} and {start.spec.mel}")
        if config.objective == DISTIL:
            _require_teachers_own(config, start.spec)
            try:
                return distilled_spec(start.spec, config.distil), start
            except ValueError as error:
                raise UserError(f"train.init_from={config.init_from}: {error}") from None
        if start.spec.jumps:
            raise UserError(
                f"train.init_from={config.init_from} was distilled: the loss of train.objective={config.objective} "
                "would blur its jumps; set train.objective=distil, or start from the flow that was its teacher"
            )
        if becomes_predictor(start.spec, config.spec()):
            spec = refining_spec(start.spec, config.spec())
            return (
                _with_measured_sigma(spec, start, config, mixtures, folder, seed) if config.measure_sigma else spec
            ), start
        return start.spec, start
    path = folder / "spec.json"
    if (known := _known_spec(path)) is not None:
        return known, None
    spec = config.spec()
    if config.text:
        spec = dataclasses.replace(spec, vocabulary=Tokenizer.default().vocabulary)
    mean, deviation = _mel_statistics(config, mixtures, seed)
    spec = dataclasses.replace(spec, mel_mean=mean, mel_std=deviation)
    write_json(path, spec.to_dict())
    return spec, None


def _mel_statistics(config: TrainConfig, mixtures: Mixtures, seed: int) -> tuple[float, float]:
    """Return mean and standard deviation of the log-mel; beside the mapped index a dataset keeps them for all runs."""
    about = [mixtures.digest, dataclasses.asdict(config.mel), config.statistics_utterances, seed]
    name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    path = None if mixtures.cache is None else mixtures.cache / f"mel-{name}.json"
    if path is not None and path.exists():
        with contextlib.suppress(ValueError, TypeError):  # damaged: they are measured again
            mean, deviation = map(float, json.loads(path.read_text(encoding="utf-8")))
            return mean, deviation
    found = mel_statistics(
        mixtures.train,
        example_reader(mixtures.folder, config.spec()),
        LogMel(config.mel),
        limit=config.statistics_utterances,
        seed=derive_seed(seed, "train"),
    )
    if path is not None:
        write_json(path, list(found))
    return found


def _known_spec(path: Path) -> ModelSpec | None:
    """Return what an earlier call measured; where the file is damaged, what the newest checkpoint says of it.

    Raises:
        UserError: Another version wrote the file.
    """
    if not path.exists():
        return None
    try:
        return ModelSpec.read(path)
    except (json.JSONDecodeError, UnicodeDecodeError):
        newest, _ = newest_whole(path.parent / CHECKPOINTS)
        if newest is None:
            return None  # it is measured again, to the same values
        spec = ModelSpec.from_dict(read_state(newest).identity["spec"])
        write_json(path, spec.to_dict())
        return spec
    except ValueError as error:
        raise UserError(f"{path}: {error}; train with the version that began the run, or begin anew") from None


def _require_teachers_own(config: TrainConfig, teacher: ModelSpec) -> None:
    """Refuse settings of another model than the teacher, which decides them: they would be passed over in silence.

    Raises:
        UserError: Naming the key, its value and the teacher's.
    """
    default = TrainConfig()
    given = {"model": vars(config.model), "flow": vars(config.flow)}
    usual = {"model": vars(default.model), "flow": vars(default.flow)}
    for key, own in (("model", vars(teacher.model)), ("flow", vars(teacher.flow))):
        differing = [name for name, value in given[key].items() if value != own[name]]
        if differing and given[key] != usual[key]:
            name = differing[0]
            raise UserError(
                f"train.{key}.{name}={given[key][name]} differs from the teacher's {own[name]} "
                f"(train.init_from={config.init_from}), whose average velocity is learned: leave train.{key} out"
            )
    if config.text and not teacher.vocabulary:
        raise UserError(
            f"train.text=true: the teacher takes no text (train.init_from={config.init_from}); leave it out"
        )


def _with_measured_sigma(
    spec: ModelSpec, start: Start, config: TrainConfig, mixtures: Mixtures, folder: Path, seed: int
) -> ModelSpec:
    """Measure the predictor's error on held-out mixtures once; a later call reads what the first wrote down.

    Raises:
        UserError: Split dev is empty.
    """
    path = folder / "spec.json"
    if (known := _known_spec(path)) is not None:
        return known
    if not len(mixtures.dev):
        raise UserError("train.measure_sigma needs mixtures of split dev, and there are none; set train.flow.sigma")
    order = generator(derive_seed(seed, "train", "sigma")).permutation(len(mixtures.dev))
    batches = fixed_batches(
        [mixtures.dev[int(index)] for index in order[: max(1, config.validation_utterances)]],
        example_reader(mixtures.folder, spec),
        LogMel(spec.mel),
        frames_per_batch=config.frames_per_step,
        max_frames=config.max_frames,
        seed=seed,
    )
    system = initial_system(spec, start).eval()
    squares, frames = 0.0, 0
    for batch in batches:
        error = system.normalise(batch.clean) - system.predict(batch.noisy, batch.lengths)
        squares += float(frame_sum(error.square(), frame_mask(batch.lengths, error.shape[1])).sum())
        frames += int(batch.lengths.sum())
    spec = dataclasses.replace(spec, flow=dataclasses.replace(spec.flow, sigma=(squares / frames) ** 0.5))
    write_json(path, spec.to_dict())
    return spec
