"""Run the stages that are not fresh, in order, on Ray, and close the books of each."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from flowse.data.manifest import Reject
from flowse.data.parquet import read_rows, write_rows
from flowse.errors import UserError
from flowse.files import write_json
from pipelines.engine import console, ledger
from pipelines.engine.accounts import StageReport
from pipelines.engine.ledger import REJECTS_SUFFIX, FileFacts, StageFolder
from pipelines.engine.plan import StagePlan, plan_stage
from pipelines.engine.stage import Payload, Resources, Stage, StageOutput, Tracker, Unit, Worker, reads_of
from pipelines.engine.tracking import Experiment, StageRun, default_uri
from pipelines.experiment import ClusterConfig, ExperimentConfig, leaves
from pipelines.stages.ingest import corpus_roots

_PACKAGES = (
    "torch",
    "torchaudio",
    "ray",
    "mlflow",
    "openai-whisper",
    "pyroomacoustics",
    "vocos",
    "webdataset",
    "flowse-pipeline",
)


class Context:
    """What a stage is given; see `pipelines.engine.stage.StageContext`."""

    def __init__(
        self,
        *,
        name: str,
        folder: Path,
        seed: int,
        inputs: Mapping[str, StageFolder],
        roots: Mapping[str, Path],
        resources: Resources,
        retries: int,
        storage: Path,
        tracker: StageRun,
    ) -> None:
        self.name, self.folder, self.seed = name, folder, seed
        self.inputs: Mapping[str, StageOutput] = inputs
        self.roots, self.resources, self.storage = roots, resources, storage
        self.tracker: Tracker = tracker
        self.units: list[str] = []
        self.files: dict[str, FileFacts] = {}
        self._retries = retries

    def map_units(
        self, worker: Callable[..., Worker[Payload]], arguments: Sequence[Any], units: Sequence[Unit[Payload]]
    ) -> StageReport:
        """Run a worker over the units that are not done yet; see `pipelines.engine.ray_units.map_units`.

        Raises:
            UserError: Units are quarantined: the stage stays incomplete; what is done is kept.
        """
        from pipelines.engine.ray_units import map_units

        self.units += [unit.name for unit in units]
        report = map_units(
            self.name,
            worker,
            arguments,
            units,
            folder=self.folder,
            resources=self.resources,
            retries=self._retries,
        )
        if report.quarantined:
            note = self.folder / f"{report.quarantined[0]}{ledger.QUARANTINE_SUFFIX}"
            raise UserError(
                f"{self.name} is incomplete: {len(report.quarantined)} of {len(units)} units are in quarantine "
                f"({', '.join(report.quarantined[:5])}); read {note}, mend the cause, run again: only these units are "
                "done then"
            )
        return report

    @contextmanager
    def write(self, name: str) -> Iterator[Path]:
        """Give a temporary path that becomes the stage-level file `name` (may have sub-folders)."""
        with ledger.atomic_file(self.folder / name) as (path, facts):
            yield path
        self.files[name] = facts

    def say(self, line: str) -> None:
        """Print one line."""
        console.say(line)


def code_commit() -> str:
    """The commit of the code that runs, with `-dirty` if files differ from it; "unknown" outside a repository."""
    root = Path(__file__).parents[1]
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
        status = subprocess.run(
            ["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, check=True, timeout=10
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return f"{commit}-dirty" if status.strip() else commit


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


@contextmanager
def ray_cluster(cluster: ClusterConfig) -> Iterator[None]:
    """Connect to the configured Ray cluster, or start one on this machine.

    Raises:
        UserError: The cluster cannot be reached.
    """
    # Set before import: Ray reads them once.
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "1")
    import ray

    address = cluster.ray_address or os.environ.get("RAY_ADDRESS", "")
    options: dict[str, Any] = {"log_to_driver": False, "configure_logging": True, "logging_level": "ERROR"}
    if cluster.ship_code:
        root = Path(__file__).parents[2]
        options["runtime_env"] = {"py_modules": [str(root / "flowse"), str(root / "pipelines")]}
    try:
        if address:
            ray.init(address=address, **options)
        else:
            ray.init(address="local", num_cpus=cluster.num_cpus, include_dashboard=False, **options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        where = f"at {address}" if address else "on this machine"
        raise UserError(
            f"no Ray {where}: {str(error).splitlines()[0]}; check `ray status`, or mend cluster.ray_address"
        ) from None
    nodes = [node for node in ray.nodes() if node["Alive"]]
    resources = ray.cluster_resources()
    gpus = f", {resources['GPU']:g} GPUs" if resources.get("GPU") else ""
    where = f"cluster {address}" if address else "on this machine"
    console.say(f"Ray {where}: {len(nodes)} node(s), {resources.get('CPU', 0):g} CPUs{gpus}")
    try:
        yield
    finally:
        ray.shutdown()


class Runner:
    """Runs stages in one workspace."""

    def __init__(
        self, stages: Sequence[Stage], config: ExperimentConfig, cluster: ClusterConfig, workspace: Path
    ) -> None:
        self._stages, self._config, self._cluster = stages, config, cluster
        self._workspace = workspace
        self._commit = code_commit()
        uri = cluster.mlflow_uri or default_uri(workspace)
        self.experiment = Experiment(uri, config.name, workspace, {"code_commit": self._commit})

    def run(self, wanted: Sequence[str], force: bool) -> dict[str, StagePlan]:
        """Run the wanted stages that are not fresh (with `force`: all wanted ones); return where every stage stands.

        Raises:
            UserError: A wanted stage reads one that is neither fresh nor wanted, or something a person must mend.
        """
        plans: dict[str, StagePlan] = {}
        status = "FAILED"
        started = None
        try:
            for stage in self._stages:
                now = plan_stage(stage, self._config, self._workspace, plans)
                if stage.NAME in wanted:
                    if now.fingerprint is None:
                        why = "; ".join(now.reasons[:2])
                        raise UserError(f"{stage.NAME} cannot run: it {why}; use `run ..{stage.NAME}`")
                    if force or now.finished is None:
                        if started is None:
                            started = ray_cluster(self._cluster)
                            started.__enter__()
                        self._run_stage(stage, now, plans, force)
                        now = plan_stage(stage, self._config, self._workspace, plans)
                    else:
                        console.say(f"{stage.NAME:<16} fresh")
                plans[stage.NAME] = now
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            self.experiment.close(status)
            if started is not None:
                started.__exit__(None, None, None)
        return plans

    def _run_stage(self, stage: Stage, now: StagePlan, plans: Mapping[str, StagePlan], force: bool) -> None:
        assert now.folder is not None
        assert now.fingerprint is not None
        folder = now.folder
        folder.mkdir(parents=True, exist_ok=True)
        config = getattr(self._config, stage.NAME)
        if force:
            _forget(folder)
        write_json(folder / ledger.IDENTITY_RECORD, now.identity)
        console.say(
            f"{stage.NAME:<16} {'forced' if force else now.state}: {now.reasons[0] if now.reasons else 'runs again'}"
        )
        begun = time.time()
        inputs = {name: done for name in reads_of(stage, config) if (done := plans[name].finished) is not None}
        tags = {"stage": stage.NAME, "fingerprint": now.fingerprint}
        with self.experiment.stage(stage.NAME, tags) as tracker:
            tracker.params({**dict(leaves(config)), "seed": self._config.seed})
            context = Context(
                name=stage.NAME,
                folder=folder,
                seed=self._config.seed,
                inputs=inputs,
                roots=corpus_roots(self._config.ingest, self._workspace / "made"),
                resources=_shared_out(getattr(self._cluster.stages, stage.NAME)),
                retries=self._cluster.retries,
                storage=folder / ".state",
                tracker=tracker,
            )
            report = stage.run(config, context)
            seconds = time.time() - begun
            _log_books(tracker, report, seconds)
            self._close_books(stage, context, report, seconds, inputs)
        console.say(_line(stage.NAME, report, seconds))
        for note in report.notes:
            console.say(f"{'':<16} {note}")

    def _close_books(
        self, stage: Stage, context: Context, report: StageReport, seconds: float, inputs: Mapping[str, StageFolder]
    ) -> None:
        """Write the rejects and, if the stage is complete and sound, its record.

        Raises:
            UserError: Too many utterances failed.
        """
        folder = context.folder
        rejected = [folder / f"{unit}{REJECTS_SUFFIX}" for unit in context.units]
        with context.write("rejects.parquet") as path:
            write_rows(path, Reject, read_rows([one for one in rejected if one.exists()], Reject))
        context.tracker.artifact(folder / "rejects.parquet")
        failed = sum(tally.utterances for tally in report.failed.values())
        if failed > self._cluster.max_failed_fraction * report.taken.utterances:
            _forget_failed(folder, context.units)
            reasons = ", ".join(f"{reason} {tally.utterances}" for reason, tally in report.failed.items())
            raise UserError(
                f"{stage.NAME} is not committed: {failed} of {report.taken.utterances} utterances failed ({reasons}), "
                f"more than cluster.max_failed_fraction={self._cluster.max_failed_fraction:g}; see "
                f"{folder / 'rejects.parquet'}, mend the files or raise the limit, and run again"
            )
        record = ledger.commit_stage(
            folder,
            report,
            context.units,
            context.files,
            stage=stage.NAME,
            parents={name: done.folder.name for name, done in inputs.items()},
            code_commit=self._commit,
            versions=_versions(),
            seconds=round(seconds, 3),
            finished_at=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            mlflow_run=context.tracker.run_id,
        )
        context.tracker.tags({"output_digest": str(record["digest"])})


def _shared_out(resources: Resources) -> Resources:
    """Replace "an equal share of the cores" by its number on the connected cluster."""
    if resources.num_cpus or resources.workers is None:
        return resources
    import ray

    cores = int(ray.cluster_resources().get("CPU", 1))
    return dataclasses.replace(resources, num_cpus=max(1, cores // resources.workers))


def _forget(folder: Path) -> None:
    """Forget that a stage's units are done, so that they are made again in place."""
    (folder / ledger.STAGE_RECORD).unlink(missing_ok=True)
    for unit in ledger.done_units(folder):
        (folder / f"{unit}.json").unlink()
        (folder / f"{unit}{REJECTS_SUFFIX}").unlink(missing_ok=True)
    shutil.rmtree(folder / ".state", ignore_errors=True)


def _forget_failed(folder: Path, units: Sequence[str]) -> None:
    """Forget the units that hold failures: a rerun after the mend has to look at them again."""
    for unit in units:
        record = ledger.done_unit(folder, unit)
        if record is not None and record["books"]["failed"]:
            (folder / f"{unit}.json").unlink()


def _log_books(tracker: StageRun, report: StageReport, seconds: float) -> None:
    values = {
        "taken utterances": report.taken.utterances,
        "taken hours": report.taken.hours,
        "kept utterances": report.kept.utterances,
        "kept hours": report.kept.hours,
        "seconds": seconds,
        **dict(report.metrics),
    }
    for kind, sums in (("dropped", report.dropped), ("failed", report.failed)):
        for reason, tally in sums.items():
            values[f"{kind}/{reason} utterances"] = tally.utterances
            values[f"{kind}/{reason} hours"] = tally.hours
    tracker.metrics({key: value for key, value in values.items() if isinstance(value, int | float)})


def _line(name: str, report: StageReport, seconds: float) -> str:
    """The stage's one line: what came in and what became of it."""
    taken, kept = (f"{one.utterances:,} {{}} ({console.audio(one.seconds)})" for one in (report.taken, report.kept))
    line = f"{name:<16} {taken.format('in')} → {kept.format('kept')}"
    for kind, sums in (("dropped", report.dropped), ("failed", report.failed)):
        if sums:
            reasons = ", ".join(f"{reason} {tally.utterances:,}" for reason, tally in sums.items())
            line += f", {kind}: {reasons}"
    return f"{line}  [{console.duration(seconds)}]"
