"""Settings of a training, importable without torch.

Fields with the metadata ``fingerprint=False`` cannot change the trained weights: a training may be resumed with other
values of them. ``segment=False`` marks one that changes no weights, only which of them are the result;
``segment="unless default"`` one that came later and whose default means what was before. ``model=True`` marks a field
that names a model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from flowse.audio.mel_config import MelConfig
from flowse.data.augment_config import AugmentConfig
from flowse.flow.config import DistilConfig, DrawConfig, FlowConfig, LossConfig
from flowse.model.spec import OBJECTIVES, DiTConfig, DualPathConfig, ModelSpec
from flowse.training.listen_config import BY_METRIC, ListenConfig, metric_of
from flowse.training.lora_config import LoraConfig

SCHEDULES = ("linear", "cosine", "constant")
PRECISIONS = ("fp32", "bf16")
PARALLEL = ("ddp", "fsdp")
SELECT = ("best", "last")
MIXINGS = ("stored", "dynamic")
DISTIL = "distil"


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW, its learning rate schedule, and the moving average of the weights.

    Attributes:
        lr: Peak learning rate.
        warmup_steps: Steps of linear rise to the peak.
        schedule: After the peak: "linear" or "cosine" decay to `final_fraction` at the last step, or "constant".
        final_fraction: Learning rate of the last step as a fraction of the peak.
        weight_decay: On matrices and convolutions; never on biases, norms and embeddings.
        beta_1: Decay rate of the gradient's first moment.
        beta_2: Decay rate of the gradient's second moment.
        clip: Gradients are scaled down to this norm; 0: never.
        ema_decay: Decay rate of the moving average of the weights; after ``n`` updates at most
            ``(1 + n) / (10 + n)``.
    """

    lr: float = 3e-4
    warmup_steps: int = 100
    schedule: str = "cosine"
    final_fraction: float = 0.01
    weight_decay: float = 0.01
    beta_1: float = 0.9
    beta_2: float = 0.99
    clip: float = 1.0
    ema_decay: float = 0.999

    def __post_init__(self) -> None:
        """Refuse impossible settings.

        Raises:
            ValueError: Naming the key, its value and what is allowed.
        """
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule={self.schedule!r} must be one of {', '.join(SCHEDULES)}")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr={self.lr} must be above 0 and finite")
        for name in ("warmup_steps", "weight_decay", "clip"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")
        for name in ("beta_1", "beta_2", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be in [0, 1)")
        if not 0 <= self.final_fraction <= 1:
            raise ValueError(f"final_fraction={self.final_fraction} must be in 0..1")


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long to train, and the intervals of logging, validation and checkpoints.

    Attributes:
        max_steps: Optimiser steps in all.
        log_every: Steps between two records of the training's history (`Progress`).
        validate_every: Steps between two validations; 0: only at the end.
        checkpoint_every: Steps between two checkpoints; 0: only at the end.
        keep_last: Checkpoints kept besides the best.
        patience: Validations without a lower loss until training stops; 0: never.
        precision: "fp32", or "bf16": autocast, weights and optimiser stay in float32.
        explode_norm: A step whose gradient's norm is above this is not applied, as with NaN; 0: never.
        max_skipped_steps: Steps that may be left unapplied; one more ends the training.
        max_skipped_share: Share of the training's utterances, 0..1, that may be left out because they cannot be read
            or have no finite loss; more end the training, but one may always be.
        divisible_by: The number of utterances of a full step is a multiple of this; 0: of the number of ranks that
            begin the run, so that none waits for another. A run keeps it when more or fewer ranks resume it.
    """

    max_steps: int = 1000
    log_every: int = field(default=10, metadata={"fingerprint": False})
    validate_every: int = 200
    checkpoint_every: int = field(default=200, metadata={"fingerprint": False})
    keep_last: int = field(default=2, metadata={"fingerprint": False})
    patience: int = 0
    precision: str = "fp32"
    explode_norm: float = 1e4
    max_skipped_steps: int = field(default=20, metadata={"fingerprint": False})
    max_skipped_share: float = field(default=0.05, metadata={"fingerprint": False})
    divisible_by: int = field(default=0, metadata={"fingerprint": "unless default"})

    def __post_init__(self) -> None:
        """Refuse impossible settings.

        Raises:
            ValueError: Naming the key, its value and what is allowed.
        """
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision={self.precision!r} must be one of {', '.join(PRECISIONS)}")
        for name in ("max_steps", "log_every", "keep_last"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        intervals = ("validate_every", "checkpoint_every", "patience")
        for name in (*intervals, "explode_norm", "max_skipped_steps", "divisible_by"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")
        if not 0 <= self.max_skipped_share <= 1:
            raise ValueError(f"max_skipped_share={self.max_skipped_share} must be in 0..1")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(LoopConfig):
    """How to train a model; the defaults suit a laptop and a small dataset.

    Attributes, besides those of `LoopConfig`:
        mel: The log-mel; the vocoder must have the same, and the shards its `sample_rate`.
        model: Size and form of the DiT.
        flow: Where the probability path begins.
        objective: "flow"; "regression": the clean mel in one pass, by the predictor alone; or "distil": the average
            velocity of the flow `init_from`, which stays as the frozen teacher, for sampling in one to four steps.
        predictor: Network of the one-pass estimate, for "regression" and for ``flow.source`` "predicted": "dit", as
            for the flow, or "dual_path", a mask, which needs far less training.
        dual_path: Size of the dual-path mask.
        loss: Weights of the loss terms.
        augment: How pairs of noisy and clean mels are augmented as they are read.
        draw: How flow time and withheld conditions are drawn.
        distil: Targets, intervals and guidance of the objective "distil".
        optim: Optimiser, schedule, moving average.
        text: Condition on transcripts as well.
        frames_per_step: Mel frames of an optimiser step at most, padding included, over all ranks; every rank takes at
            least one utterance.
        mixing: "stored": the mixtures of the shards, the same in every epoch; "dynamic": of the same utterances, with
            noise, room and effects drawn anew in each epoch by the recipes of simulate, from the same recordings; epoch
            0 has the stored ones. It takes more of the processor than shards, see `loader_processes`. Validation is on
            stored mixtures.
        max_frames: Longer mixtures are cropped to this many mel frames, elsewhere in each epoch.
        validation_utterances: Mixtures of split dev to validate on; always the same.
        select: Which averaged weights are the result: "best" by validation loss, "last", or "metric:<name>", the best
            by a metric of `listen`, e.g. "metric:dnsmos_overall" or "metric:wer"; which way is better is known.
        listen: How the averaged weights are judged by ear while the training runs.
        statistics_utterances: Mixtures that mean and standard deviation of the log-mel are measured on.
        mel_cache: Compute all log-mels once on each machine, before the first step, and read them from its disk in
            every epoch (16 bits a value; about as large as the shards): for GPUs that would otherwise wait for audio
            to be decoded.
        mel_cache_folder: Folder of the cache on each machine; empty: one in its folder for temporary files. All ranks
            and all trainings of a machine share it.
        mel_cache_gb: Gigabytes that the folder may hold; mixtures beyond them are computed whenever they are read.
        init_from: Start from these weights: an exported model, the output folder of a training, or a checkpoint;
            empty: from random weights. Mel, model, flow, objective and vocabulary are then those of the start. One
            exception: where ``flow.source`` is "predicted" and the start was trained by regression, the start becomes
            the predictor, and the flow's network is new, of the start's width and ``model.depth`` blocks.
        measure_sigma: Where `init_from` becomes the predictor: `flow.sigma` is not what is given but the root of the
            mean squared error of its normalised estimates on mixtures of split dev. `freeze: ["predictor.*"]` keeps it.
        lora: Train low-rank adapters beside the frozen weights of `init_from`, instead of these. Checkpoints hold the
            adapters alone; what is handed on has them merged, and is a model like any other.
        freeze: Shell-style patterns of parameters that are not trained, e.g. ``network.blocks.[0-2].*``.
        micro_frames: Frames of one forward pass of a rank at most; gradients of more are accumulated. 0: no limit.
        examples: Enhanced examples of split dev that are drawn at every validation.
        vocoder: Model that makes their audio; empty: spectrograms only.
        profile_steps: Steps of rank 0 that are recorded by torch's profiler, after five without: `profile.json` in the
            run's folder, for chrome://tracing or Perfetto; 0: none.
        tensorboard: Write the curves as event files for TensorBoard, too, in the run's folder `tensorboard`.
        loader_threads: Threads of a rank that read ahead.
        loader_processes: Processes of a rank that read ahead, instead of threads; 0: none. They do not share Python's
            lock with the training; their batches pass through shared memory (`/dev/shm`). Threads read what lies in a
            store.
        parallel: "ddp", or "fsdp": weights and optimiser sharded over the ranks.
        compile: Compile the networks.
        activation_checkpointing: Trade a third of the speed for memory.
    """

    mel: MelConfig = field(default_factory=MelConfig)
    model: DiTConfig = field(default_factory=DiTConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)
    objective: str = "flow"
    predictor: str = "dit"
    dual_path: DualPathConfig = field(default_factory=DualPathConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    draw: DrawConfig = field(default_factory=DrawConfig)
    distil: DistilConfig = field(default=DistilConfig(), metadata={"fingerprint": "unless default"})
    optim: OptimConfig = field(default_factory=OptimConfig)
    text: bool = False
    frames_per_step: int = 6000
    mixing: str = field(default="stored", metadata={"fingerprint": "unless default", "segment": "unless default"})
    max_frames: int = 1500
    validation_utterances: int = 32
    select: str = "best"
    listen: ListenConfig = field(default=ListenConfig(), metadata={"fingerprint": "unless default", "segment": False})
    statistics_utterances: int = 200
    mel_cache: bool = False
    mel_cache_folder: str = field(default="", metadata={"fingerprint": False})
    mel_cache_gb: float = field(default=100.0, metadata={"fingerprint": False})
    init_from: str = field(default="", metadata={"model": True})
    measure_sigma: bool = field(default=False, metadata={"fingerprint": "unless default"})
    lora: LoraConfig = field(default=LoraConfig(), metadata={"fingerprint": "unless default", "segment": False})
    freeze: tuple[str, ...] = ()
    micro_frames: int = field(default=0, metadata={"fingerprint": False})
    examples: int = field(default=2, metadata={"fingerprint": False})
    vocoder: str = field(default="", metadata={"fingerprint": False})
    profile_steps: int = field(default=0, metadata={"fingerprint": False})
    tensorboard: bool = field(default=True, metadata={"fingerprint": False})
    loader_threads: int = field(default=1, metadata={"fingerprint": False})
    loader_processes: int = field(default=0, metadata={"fingerprint": False})
    parallel: str = field(default="ddp", metadata={"fingerprint": False})
    compile: bool = field(default=False, metadata={"fingerprint": False})
    activation_checkpointing: bool = field(default=False, metadata={"fingerprint": False})

    def __post_init__(self) -> None:
        """Refuse impossible settings.

        Raises:
            ValueError: Naming the key, its value and what is allowed.
        """
        super().__post_init__()
        metric = metric_of(self.select)
        if metric is not None:
            self.listen.require(metric)
        elif self.select not in SELECT:
            raise ValueError(f"select is {self.select!r}; allowed: {', '.join(SELECT)} and {BY_METRIC}<name>")
        if self.mixing not in MIXINGS:
            raise ValueError(f"mixing is {self.mixing!r}; allowed: {', '.join(MIXINGS)}")
        if self.mixing == "dynamic" and self.mel_cache:
            raise ValueError("mel_cache is true, which keeps log-mels, and mixing is 'dynamic', which makes others")
        if self.parallel not in PARALLEL:
            raise ValueError(f"parallel is {self.parallel!r}; allowed: {', '.join(PARALLEL)}")
        if not 2 <= self.max_frames <= self.frames_per_step:
            raise ValueError(
                f"max_frames is {self.max_frames}; it must be at least 2 and at most frames_per_step, "
                f"{self.frames_per_step}"
            )
        if 0 < self.micro_frames < self.max_frames:
            raise ValueError(
                f"micro_frames is {self.micro_frames}; it must be 0 or at least max_frames, {self.max_frames}"
            )
        if self.objective not in (*OBJECTIVES, DISTIL):
            raise ValueError(f"objective={self.objective!r} must be one of {', '.join((*OBJECTIVES, DISTIL))}")
        if self.objective == DISTIL and not self.init_from:
            raise ValueError("objective='distil' needs init_from, the trained flow that is the teacher")
        if self.objective == DISTIL and self.parallel != "ddp":
            raise ValueError(
                f"parallel={self.parallel!r} must be ddp with objective='distil': no rank shards its teacher"
            )
        if self.lora.rank:
            self._require_adaptable()
        for name in ("statistics_utterances", "loader_threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("loader_processes", "mel_cache_gb"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")
        self.spec()

    def _require_adaptable(self) -> None:
        """Refuse adapters that have no base, or that another setting contradicts.

        Raises:
            ValueError: Naming both keys.
        """
        rank = f"lora.rank={self.lora.rank}"
        if not self.init_from:
            raise ValueError(f"{rank} needs init_from, the model that is adapted")
        if self.objective == DISTIL:
            raise ValueError(f"{rank} must be 0 with objective='distil', whose network is new in part")
        if self.freeze:
            raise ValueError(f"freeze={list(self.freeze)} must be empty with {rank}: all of the base is frozen")
        if self.parallel != "ddp":
            raise ValueError(f"parallel={self.parallel!r} must be ddp with {rank}: what is trained is small")

    def spec(self) -> ModelSpec:
        """Return the model's spec as far as the settings say; vocabulary and statistics come from the data.

        Raises:
            ValueError: Naming the key, its value and what is allowed.
        """
        return ModelSpec(
            mel=self.mel,
            model=self.model,
            flow=self.flow,
            objective="flow" if self.objective == DISTIL else self.objective,
            predictor=self.predictor,
            dual_path=self.dual_path,
            jumps=self.objective == DISTIL,
        )
