"""The stages in order, and the two configurations: `ExperimentConfig` says what is made, `ClusterConfig` says where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flowse.errors import UserError
from pipelines.engine.cluster import BackendName
from pipelines.engine.remote_tree import is_in_store
from pipelines.engine.resources import Resources
from pipelines.engine.settings import load
from pipelines.engine.stage import Stage
from pipelines.stages import (
    enhance,
    evaluate,
    export,
    filter_language,
    ingest,
    quality,
    rooms,
    simulate,
    train,
    transcribe,
)

STAGES: tuple[Stage, ...] = (
    ingest, rooms, quality, filter_language, transcribe, simulate, train, evaluate, export, enhance,
)  # fmt: skip
STAGE_NAMES = tuple(stage.NAME for stage in STAGES)


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """All that can change an output; one section a stage, each the stage's own Config.

    Attributes:
        name: Names the workspace (`runs/<name>`) and the MLflow experiment; changes no output.
        seed: The only source of randomness.
    """

    name: str = "demo"
    seed: int = 20250519
    ingest: ingest.Config = field(default_factory=ingest.Config)
    rooms: rooms.Config = field(default_factory=rooms.Config)
    quality: quality.Config = field(default_factory=quality.Config)
    filter_language: filter_language.Config = field(default_factory=filter_language.Config)
    transcribe: transcribe.Config = field(default_factory=transcribe.Config)
    simulate: simulate.Config = field(default_factory=simulate.Config)
    train: train.Config = field(default_factory=train.Config)
    evaluate: evaluate.Config = field(default_factory=evaluate.Config)
    export: export.Config = field(default_factory=export.Config)
    enhance: enhance.Config = field(default_factory=enhance.Config)


@dataclass(frozen=True, kw_only=True)
class StageResources:
    """What one worker of each stage takes; see `pipelines.engine.resources.Resources`."""

    ingest: Resources = field(default_factory=Resources)
    rooms: Resources = field(default_factory=Resources)
    quality: Resources = field(default_factory=Resources)
    filter_language: Resources = field(default_factory=Resources)
    transcribe: Resources = field(default_factory=Resources)
    simulate: Resources = field(default_factory=Resources)
    train: Resources = field(default_factory=lambda: Resources(workers=2, num_cpus=0))
    evaluate: Resources = field(default_factory=Resources)
    export: Resources = field(default_factory=lambda: Resources(workers=1))
    # A unit may hold recordings of hours.
    enhance: Resources = field(default_factory=lambda: Resources(unit_timeout_s=21_600.0))


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """All that cannot change an output.

    Attributes:
        backend: "ray": units run on a Ray cluster, or on a Ray that is started on this machine. "local": they run in
            this process, one after the other, without Ray, and the data stages write the same bytes. That is for
            debugging (a breakpoint in a Worker is reached), for small data and where Ray cannot run; a run does not
            survive a unit that hangs or kills its process. `num_cpus` and a stage's `num_cpus` count then, a stage's
            `workers` and `unit_timeout_s` do not.
        ray_address: Address of a running cluster ("auto", "host:6379"); empty starts Ray on this machine. The
            environment's RAY_ADDRESS counts where this is empty.
        num_cpus: Cores that a Ray of our own takes; None: all.
        workspace: Folder of all outputs, seen by every node, or `s3://bucket/prefix`, with which nodes need no common
            folder; empty: `runs/<experiment name>`.
        data: What `data/` means in an experiment's paths of corpora, test sets and models: a folder that all nodes see,
            or (corpora) `s3://bucket/prefix`. If it holds a folder `models`, downloaded models are kept there. Empty:
            `data/` of the working folder.
        scratch: Where the workspace is in a store: folder of its copies on each machine; empty: below `runs/.stores` on
            the driver's, among the temporary files on others.
        scratch_gb: Most gigabytes (1e9 bytes) that copies may take on a machine; 0: no limit.
        mlflow_uri: Tracking server; empty: sqlite in the workspace.
        mlflow_artifacts: Where artifacts of new MLflow experiments go, `s3://bucket/prefix`; empty: where the server
            says, or to the workspace.
        ship_code: Upload this code to the nodes, for images that do not hold it.
        await_nodes_s: How long a stage waits for nodes that can hold its workers, and asks an autoscaler for them, in
            seconds; 0: a stage that no node can hold is refused at once. Set it where nodes come when there is work
            (`min_workers: 0`).
        retries: How often a unit whose worker died is tried again before it is quarantined.
        max_failed_fraction: A stage in which a larger share of all utterances, or of one corpus', failed is never
            committed.
        stages: Resources by stage.
    """

    backend: BackendName = "ray"
    ray_address: str = ""
    num_cpus: int | None = None
    workspace: str = ""
    data: str = ""
    scratch: str = ""
    scratch_gb: float = 0.0
    mlflow_uri: str = ""
    mlflow_artifacts: str = ""
    ship_code: bool = False
    await_nodes_s: float = 0.0
    retries: int = 2
    max_failed_fraction: float = 0.2
    stages: StageResources = field(default_factory=StageResources)

    def __post_init__(self) -> None:
        if not 0 <= self.max_failed_fraction <= 1:
            raise ValueError(f"max_failed_fraction is {self.max_failed_fraction}; it is a share between 0 and 1")
        if self.mlflow_artifacts and not is_in_store(self.mlflow_artifacts):
            raise ValueError(
                f"mlflow_artifacts is {self.mlflow_artifacts!r}; write s3://bucket/prefix, or leave it out"
            )
        if not 0 <= self.await_nodes_s < float("inf"):
            raise ValueError(f"await_nodes_s is {self.await_nodes_s}; it is a number of seconds, 0 or more")


def load_experiment(path: Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Read an experiment: YAML over the dataclasses' defaults, then `key=value` overrides.

    Raises:
        UserError: A file is missing or not YAML, a key is unknown, a value has the wrong type or is refused.
    """
    config = load(ExperimentConfig, path, overrides)
    _check_shared(config)
    return config


def load_cluster(path: Path, overrides: Sequence[str] = ()) -> ClusterConfig:
    """Read a cluster's configuration like `load_experiment`."""
    return load(ClusterConfig, path, overrides)


def split_overrides(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Divide `--set` values into those of the experiment and those of the cluster (`cluster.…`).

    Raises:
        UserError: A value has no `=`.
    """
    for override in overrides:
        if "=" not in override:
            raise UserError(f"--set {override}: write it as key=value, e.g. --set train.max_steps=500")
    cluster = [override.removeprefix("cluster.") for override in overrides if override.startswith("cluster.")]
    return [override for override in overrides if not override.startswith("cluster.")], cluster


def _check_shared(config: ExperimentConfig) -> None:
    """Check values where two sections meet, naming both keys.

    Raises:
        UserError: They disagree.
    """
    simulated, trained = config.simulate.sample_rate, config.train.mel.sample_rate
    if simulated != trained:
        raise UserError(
            f"simulate.sample_rate is {simulated}, but train.mel.sample_rate is {trained}; they must be equal"
        )
    speech = [corpus.name for corpus in config.ingest.speech]
    unknown = [limits.name for limits in config.quality.corpora if limits.name not in speech]
    if unknown:
        raise UserError(
            f"quality.corpora names {', '.join(unknown)}, but ingest.speech names {', '.join(speech) or 'no corpus'}; "
            "thresholds are for corpora of speech"
        )
