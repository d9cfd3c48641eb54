"""The stages in order, and the two configurations: `ExperimentConfig` says what is made, `ClusterConfig` says where."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from flowse.errors import UserError
from pipelines.engine.stage import Resources, Stage
from pipelines.stages import enhance, evaluate, export, filter_language, ingest, rooms, simulate, train, transcribe

STAGES: tuple[Stage, ...] = (ingest, rooms, filter_language, transcribe, simulate, train, evaluate, export, enhance)
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
    filter_language: filter_language.Config = field(default_factory=filter_language.Config)
    transcribe: transcribe.Config = field(default_factory=transcribe.Config)
    simulate: simulate.Config = field(default_factory=simulate.Config)
    train: train.Config = field(default_factory=train.Config)
    evaluate: evaluate.Config = field(default_factory=evaluate.Config)
    export: export.Config = field(default_factory=export.Config)
    enhance: enhance.Config = field(default_factory=enhance.Config)


@dataclass(frozen=True, kw_only=True)
class StageResources:
    """What one worker of each stage takes; see `pipelines.engine.stage.Resources`."""

    ingest: Resources = field(default_factory=Resources)
    rooms: Resources = field(default_factory=Resources)
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
        ray_address: Address of a running cluster ("auto", "host:6379"); empty starts Ray on this machine. The
            environment's RAY_ADDRESS counts where this is empty.
        num_cpus: Cores that a Ray of our own takes; None: all.
        workspace: Folder of all outputs, seen by every node; empty: `runs/<experiment name>`.
        mlflow_uri: Tracking server; empty: sqlite in the workspace.
        ship_code: Upload this code to the nodes, for images that do not hold it.
        retries: How often a unit whose worker died is tried again before it is quarantined.
        max_failed_fraction: A stage with a larger share of failed utterances is never committed.
        stages: Resources by stage.
    """

    ray_address: str = ""
    num_cpus: int | None = None
    workspace: str = ""
    mlflow_uri: str = ""
    ship_code: bool = False
    retries: int = 2
    max_failed_fraction: float = 0.2
    stages: StageResources = field(default_factory=StageResources)

    def __post_init__(self) -> None:
        if not 0 <= self.max_failed_fraction <= 1:
            raise ValueError(f"max_failed_fraction is {self.max_failed_fraction}; it is a share between 0 and 1")


Config = TypeVar("Config")


def load_experiment(path: Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Read an experiment: YAML over the dataclasses' defaults, then `key=value` overrides.

    Raises:
        UserError: A file is missing or not YAML, a key is unknown, a value has the wrong type or is refused.
    """
    config = _load(ExperimentConfig, path, overrides)
    _check_shared(config)
    return config


def load_cluster(path: Path, overrides: Sequence[str] = ()) -> ClusterConfig:
    """Read a cluster's configuration like `load_experiment`."""
    return _load(ClusterConfig, path, overrides)


def split_overrides(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part `--set` values into those of the experiment and those of the cluster (`cluster.…`).

    Raises:
        UserError: A value has no `=`.
    """
    for override in overrides:
        if "=" not in override:
            raise UserError(f"--set {override}: write it as key=value, e.g. --set train.max_steps=500")
    cluster = [override.removeprefix("cluster.") for override in overrides if override.startswith("cluster.")]
    return [override for override in overrides if not override.startswith("cluster.")], cluster


def _load(kind: type[Config], path: Path, overrides: Sequence[str]) -> Config:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; the examples are in configs/") from None
    try:
        content = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        raise UserError(
            f"{path}: not YAML{f', line {where.line + 1}' if where else ''}: {error}".splitlines()[0]
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: must hold keys and values, not a {type(content).__name__}")
    try:
        merged = OmegaConf.create(content)
        for override in overrides:
            key, _, value = override.partition("=")
            OmegaConf.update(merged, key, yaml.safe_load(value), merge=False)
        plain = OmegaConf.to_container(merged, resolve=True)
    except (OmegaConfBaseException, yaml.YAMLError, IndexError) as error:
        raise UserError(f"{path}: {str(error).splitlines()[0]}") from None
    built: Config = build(kind, plain, where=str(path))
    return built


def build(kind: Any, value: Any, *, where: str, key: str = "") -> Any:
    """Build frozen dataclasses from plain values, checking every key and type.

    Args:
        kind: A dataclass, or the type of one of its fields.
        value: Plain value from YAML.
        where: File, for messages.
        key: Dotted key of the value, for messages.

    Raises:
        UserError: An unknown key (names the nearest known one), a wrong type, or a value that the dataclass refuses.
    """
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, value, where, key)
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(kind)
        if value is None and type(None) in options:
            return None
        inner = [option for option in options if option is not type(None)]
        return build(inner[0], value, where=where, key=key)
    if origin in (list, tuple):
        if not isinstance(value, list | tuple):
            raise UserError(f"{where}: {key} is {value!r}; a list is needed")
        item_types = typing.get_args(kind)
        fixed = origin is tuple and Ellipsis not in item_types
        if fixed and len(item_types) != len(value):
            raise UserError(f"{where}: {key} has {len(value)} values; {len(item_types)} are needed")
        kinds = item_types if fixed else item_types[:1] * len(value)
        items = [
            build(item, one, where=where, key=f"{key}[{index}]")
            for index, (item, one) in enumerate(zip(kinds, value, strict=True))
        ]
        return tuple(items) if origin is tuple else items
    if origin is dict:
        if not isinstance(value, dict):
            raise UserError(f"{where}: {key} is {value!r}; keys and values are needed")
        return dict(value)
    if origin is typing.Literal:
        if value not in typing.get_args(kind):
            raise UserError(f"{where}: {key} is {value!r}; allowed: {', '.join(map(str, typing.get_args(kind)))}")
        return value
    if kind is Any:
        return value
    if kind is str and value is None:  # `key:` and `--set key=` mean an empty string
        return ""
    if kind is float and isinstance(value, str):  # YAML 1.1 reads 1e-4 as a string
        try:
            return float(value)
        except ValueError:
            pass
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UserError(f"{where}: {key} is {value!r}, a {type(value).__name__}; a {kind.__name__} is needed")
    return value


def _build_dataclass(kind: Any, value: Any, where: str, key: str) -> Any:
    if not isinstance(value, dict):
        raise UserError(f"{where}: {key or 'the file'} is {value!r}; keys and values are needed")
    hints = typing.get_type_hints(kind)
    names = [one.name for one in dataclasses.fields(kind)]
    values = {}
    for name, item in value.items():
        dotted = f"{key}.{name}" if key else str(name)
        if name not in names:
            raise UserError(f"{where}: unknown key {dotted!r}; {_nearest(str(name), names, key)}")
        values[name] = build(hints[name], item, where=where, key=dotted)
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {f'{key}: ' if key else ''}{error}") from None


def _nearest(name: str, names: Sequence[str], prefix: str) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    full = [f"{prefix}.{one}" if prefix else one for one in (near or names)]
    return f"did you mean {full[0]!r}?" if near else f"known: {', '.join(full)}"


def leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every (dotted key, value) of a config, for MLflow's parameters."""
    for one in dataclasses.fields(config):
        value = getattr(config, one.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{one.name}.")
        else:
            yield f"{prefix}{one.name}", value


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
