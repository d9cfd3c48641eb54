"""What every command starts from: the two configurations, the workspace, and the state of each stage."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import re
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from flowse.errors import UserError
from flowse.outside import is_url, place_of
from pipelines.corpora import forgotten
from pipelines.engine import data_folder, tracking
from pipelines.engine.last_listing import LastListing
from pipelines.engine.mirror import mirror_of
from pipelines.engine.nearby import bring_files_here
from pipelines.engine.plan import StagePlan, plan
from pipelines.engine.scratch import use_scratch
from pipelines.engine.workspace import StageFolder
from pipelines.experiment import (
    STAGE_NAMES,
    STAGES,
    ClusterConfig,
    ExperimentConfig,
    load_cluster,
    load_experiment,
    split_overrides,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say which experiment is meant and where it is made."""
    where = parser.add_argument_group("which experiment, where")
    where.add_argument(
        "--experiment",
        type=Path,
        default=Path("configs/experiment/demo.yaml"),
        metavar="FILE",
        help="what is made (default: %(default)s)",
    )
    where.add_argument(
        "--cluster",
        type=Path,
        default=Path("configs/cluster/local.yaml"),
        metavar="FILE",
        help="where it is made: Ray, MLflow, workers (default: %(default)s)",
    )
    where.add_argument(
        "--workspace",
        metavar="DIR | URL",
        help="all outputs: a folder, or s3://bucket/prefix (default: runs/<experiment name>)",
    )
    where.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="KEY=VALUE",
        help="change one key, e.g. train.max_steps=500 or cluster.stages.simulate.workers=4; repeatable",
    )
    where.add_argument(
        "--set-all",
        action="extend",
        type=pairs_of,
        dest="overrides",
        metavar="'KEY=VALUE KEY=VALUE'",
        help="change several keys; a value may hold spaces, as it reaches to the next KEY=",
    )


_NEXT_PAIR = re.compile(r"""\s+(?=[A-Za-z_][\w.\[\]-]*=)""")


def pairs_of(line: str) -> list[str]:
    """Split `key=value key=value` before every key, so that values may hold spaces; as `make SET=…` gives them.

    Example:
        >>> pairs_of('export.title=A quiet room  ingest.speech[0].root=/my data seed=2')
        ['export.title=A quiet room', 'ingest.speech[0].root=/my data', 'seed=2']
    """
    pairs: list[str] = []
    for piece in _NEXT_PAIR.split(line.strip()):
        # What stands in open brackets or quotes is no key, but part of a JSON value.
        if pairs and not _closed(pairs[-1]):
            pairs[-1] += f" {piece}"
        elif piece:
            pairs.append(piece)
    return pairs


def _closed(pair: str) -> bool:
    """Whether every bracket and double quote of a value is closed."""
    plain = re.sub(r'"(?:[^"\\]|\\.)*"', "", pair.partition("=")[2])
    return '"' not in plain and all(plain.count(begin) <= plain.count(end) for begin, end in ("[]", "{}"))


def workspace_of(named: str, key: str, scratch: str = "") -> Path:
    """Return the folder of a workspace: of one in a store that of its copies, whose records are brought up to date.

    Args:
        named: As it is written: a folder, or the URL of a store.
        key: Where it is written, for the message.
        scratch: Folder of the copies; empty: `runs/.stores/<name made from the URL>`.

    Raises:
        UserError: It is another URL, the store cannot be reached, or a home folder does not exist.
    """
    named = named.strip() if is_url(named.strip()) else named
    if not is_url(named):
        return place_of(named, key).resolve()
    from pipelines.engine.mirror import above, open_mirror
    from pipelines.engine.store import Store

    try:
        store = Store(named)
        store.require_answer()
        if outer := above(store, STAGE_NAMES):
            raise UserError(
                f"{store.url}: lies inside of the workspace {outer}, which would count it as its own; take "
                "another prefix"
            )
    except UserError as error:
        raise UserError(f"{key}: {error}") from None
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", store.url)[:80]
    default = f"runs/.stores/{name}-{hashlib.sha256(store.url.encode()).hexdigest()[:8]}"
    folder = place_of(scratch or default, "cluster.scratch").resolve()
    open_mirror(store, folder, STAGE_NAMES).refresh()
    return folder


@dataclass(frozen=True)
class Session:
    """An experiment, the cluster that it runs on, and the workspace of its outputs.

    Attributes:
        config: The experiment.
        cluster: Where it runs.
        workspace: Folder of all outputs.
        looks: Whether the corpora are looked at; if not, what the last run saw stands for them.
        changes: What the arguments change in the experiment's file, as `key=value`.
    """

    config: ExperimentConfig
    cluster: ClusterConfig
    workspace: Path
    looks: bool = False
    changes: tuple[str, ...] = ()

    @classmethod
    def of(cls, arguments: argparse.Namespace, *, looks: bool = False) -> Session:
        """Read the configurations that the arguments name; `looks` as the attribute.

        Raises:
            UserError: A configuration cannot be read, or a key or value in it is wrong.
        """
        experiment_overrides, cluster_overrides = split_overrides(arguments.overrides)
        config = load_experiment(arguments.experiment, experiment_overrides)
        cluster = load_cluster(arguments.cluster, cluster_overrides)
        config = data_folder.placed(config, cluster.data)
        named, key = str(arguments.workspace or ""), "--workspace"
        if not named:
            named, key = cluster.workspace or f"runs/{config.name}", "cluster.workspace"
        use_scratch(cluster.scratch, cluster.scratch_gb)
        bring_files_here()
        folder = workspace_of(named, key, cluster.scratch)
        return cls(_without_forgotten(config, folder), cluster, folder, looks, tuple(experiment_overrides))

    @cached_property
    def listing(self) -> LastListing:
        """What the corpora hold, now or as the last run saw them."""
        return LastListing(self.workspace, self.looks)

    @cached_property
    def plans(self) -> dict[str, StagePlan]:
        """State of every stage, by name, read from the records on first use."""
        mirror = mirror_of(self.workspace)
        with mirror.listed_at_once() if mirror else nullcontext():
            return plan(STAGES, self.config, self.workspace, self.listing.digest)

    @property
    def mlflow_uri(self) -> str:
        """Address of the MLflow store: the cluster's server, or the database in the workspace."""
        return self.cluster.mlflow_uri or tracking.default_uri(self.workspace)

    def new_units(self, stage: str) -> str:
        """Say how many units a stage would do, e.g. "3 of 4,112 units are new"; empty if that is not known.

        Without `looks`, nothing is said of stages that would list corpora.
        """
        from pipelines.engine.unit_count import count_units
        from pipelines.stages.ingest import corpus_roots

        module = next(module for module in STAGES if stage == module.NAME)
        if self.plans[stage].finished is not None or self.plans[stage].folder is None:
            return ""
        if not self.looks and hasattr(getattr(self.config, stage), "outside"):
            return ""
        roots = corpus_roots(self.config.ingest, self.workspace / "made")
        return str(count_units(module, self.config, self.plans, roots))

    def finished(self, stage: str) -> StageFolder:
        """Return the output of a stage.

        Raises:
            UserError: The stage is not fresh.
        """
        standing = self.plans[stage]
        if standing.finished is None:
            raise UserError(f"{stage} is {standing.state} ({'; '.join(standing.reasons[:2])}); run it first")
        return standing.finished


def _without_forgotten(config: ExperimentConfig, workspace: Path) -> ExperimentConfig:
    """Add what the workspace must forget to what the experiment's file names.

    Raises:
        UserError: The list cannot be read.
    """
    keys = forgotten.keys_of(forgotten.read_list(workspace))
    if not keys:
        return config
    together = tuple(sorted({*config.ingest.forgotten, *keys}))
    return dataclasses.replace(config, ingest=dataclasses.replace(config.ingest, forgotten=together))
