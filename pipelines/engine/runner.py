"""Run the stages that are not fresh, in order, and record the output of each."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from flowse import console
from flowse.data.manifest import Reject
from flowse.data.parquet import read_rows, write_rows
from flowse.errors import UserError
from flowse.outside import DigestOf, digest_now
from pipelines.engine.accounts import StageReport, Tally
from pipelines.engine.backend import Backend, connect
from pipelines.engine.cluster import ClusterSettings
from pipelines.engine.context import Context
from pipelines.engine.fingerprint import UnitKeys, settings_of, unit_settings
from pipelines.engine.follower import Follower
from pipelines.engine.mirror import RUNS, Mirror, mirror_of, published
from pipelines.engine.plan import StagePlan, plan_stage
from pipelines.engine.processor import level
from pipelines.engine.records import IDENTITY_RECORD, REJECTS_SUFFIX, STAGE_RECORD, RunFacts, write_record
from pipelines.engine.stage import ExperimentSettings, Stage, Tracker, reads_of
from pipelines.engine.tracking import Dataset, Experiment, StageRun, default_uri
from pipelines.engine.units import UNITS, forget_units
from pipelines.engine.workspace import StageFolder, commit_stage, open_stage, planned_units, units_of

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


def code_commit() -> str:
    """Return the commit of this code, with `-dirty` if files differ from it; "unknown" outside a repository."""
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
    """Return the versions of the installed packages that outputs depend on, and the level of the driver's processor."""
    found = {"processor": level()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


class RunSettings(ClusterSettings, Protocol):
    """All that a run takes from the cluster's configuration; see `pipelines.experiment.ClusterConfig`."""

    @property
    def mlflow_uri(self) -> str: ...
    @property
    def mlflow_artifacts(self) -> str: ...
    @property
    def scratch_gb(self) -> float: ...
    @property
    def retries(self) -> int: ...
    @property
    def max_failed_fraction(self) -> float: ...
    @property
    def stages(self) -> Any:
        """Resources, by the stage's name."""


class Runner:
    """Runs stages in one workspace."""

    def __init__(
        self,
        stages: Sequence[Stage],
        config: ExperimentSettings,
        cluster: RunSettings,
        workspace: Path,
        roots: Mapping[str, Path],
        digest_of: DigestOf = digest_now,
        may_lack: Collection[str] = (),
        changes: Sequence[str] = (),
        command: str = "",
    ) -> None:
        """Prepare a run; nothing runs yet.

        Args:
            stages: All stages in order.
            config: A section for each.
            cluster: Where units run, and what a worker of each stage takes.
            workspace: Folder of all outputs.
            roots: Folder of every corpus, by name.
            digest_of: Returns the hash of corpora and other files outside of the workspace.
            may_lack: Units that outputs may do without if they are quarantined: "<unit>" or "<stage>/<unit>".
            changes: What this call changes in the experiment's file, as `key=value`; MLflow's run is named after it.
            command: The call as it was typed, for MLflow; empty: unknown.
        """
        self._may_lack = frozenset(may_lack)
        self._stages, self._config, self._settings = stages, config, cluster
        self._workspace, self._roots, self._digest_of = workspace, roots, digest_of
        self._commit = code_commit()
        uri = cluster.mlflow_uri or default_uri(workspace)
        tags, commit = {"code_commit": self._commit}, self._commit.removesuffix("-dirty").replace("unknown", "")
        self.experiment = Experiment(
            uri, config.name, workspace, tags, cluster.mlflow_artifacts, changes=changes, command=command, commit=commit
        )

    def run(self, wanted: Sequence[str], force: bool, forced: Sequence[str] = ()) -> dict[str, StagePlan]:
        """Run the wanted stages that are not fresh, or with `force` all wanted ones; return the state of every stage.

        Args:
            wanted: Names of the stages.
            force: Whether fresh ones run, too.
            forced: Those of the wanted that run, fresh or not.

        Raises:
            UserError: A wanted stage reads one that is neither fresh nor wanted, or something a person must mend.
        """
        plans: dict[str, StagePlan] = {}
        backend: Backend | None = None
        with ExitStack() as stack:
            stack.enter_context(self.experiment)
            for stage in self._stages:
                now = plan_stage(stage, self._config, self._workspace, plans, self._digest_of)
                if stage.NAME in wanted:
                    if now.fingerprint is None:
                        why = "; ".join(now.reasons[:2])
                        raise UserError(f"{stage.NAME} cannot run: it {why}; use `run ..{stage.NAME}`")
                    again = force or stage.NAME in forced
                    if again or now.finished is None:
                        backend = backend or stack.enter_context(connect(self._settings))
                        follower = self._follower(stage, {*wanted} - {*(wanted if force else forced)}, backend)
                        self._run_stage(stage, now, plans, again, backend, follower)
                        now = plan_stage(stage, self._config, self._workspace, plans, self._digest_of)
                    else:
                        console.say(f"{stage.NAME:<16} fresh")
                plans[stage.NAME] = now
                if now.finished is not None and hasattr(stage, "headline"):
                    self.experiment.headline(stage.headline(now.finished.report.metrics))
        return plans

    def _bring(self, mirror: Mirror, stage: Stage, inputs: Mapping[str, StageFolder]) -> None:
        """Copy here what the driver reads of a workspace in a store, and make room first if it has to be.

        Files of units come when they are asked for.
        """
        units = [units_of(done.folder) for done in inputs.values()]
        if self._settings.scratch_gb and (freed := mirror.trim(int(self._settings.scratch_gb * 1e9), units)):
            console.say(f"{stage.NAME:<16} {freed / 1e9:.1f} GB of copies deleted in {mirror.folder}")
        for done in inputs.values():
            done.bring_own()
        mirror.bring_tree(self._workspace / stage.NAME / RUNS)

    def _follower(self, stage: Stage, wanted: Collection[str], backend: Backend) -> Follower | None:
        """Return the stage whose units may be begun while `stage` runs, if there is one.

        Args:
            stage: The stage that runs.
            wanted: Names of the stages that run later and keep their finished units.
            backend: What runs units.
        """
        if backend.local:
            return None
        for other in self._stages:
            config = getattr(self._config, other.NAME)
            if other.NAME not in wanted or not hasattr(other, "following") or reads_of(other, config) != (stage.NAME,):
                continue
            resources = backend.granted(getattr(self._settings.stages, other.NAME))
            try:
                reader = backend.reader(resources, self._roots, self._workspace)
                following = other.following(config, self._roots, resources.device, reader)
            except UserError:  # the stage itself will say so
                return None
            keys = UnitKeys(other.NAME, other.REVISION, unit_settings(config), self._config.seed)
            return Follower(other.NAME, following, keys, self._workspace / other.NAME / UNITS, resources)
        return None

    def _run_stage(
        self,
        stage: Stage,
        now: StagePlan,
        plans: Mapping[str, StagePlan],
        force: bool,
        backend: Backend,
        follower: Follower | None,
    ) -> None:
        """Run one stage, log it to MLflow and commit its output.

        Args:
            stage: What is run.
            now: Its state before.
            plans: States of the stages before it.
            force: Whether its finished units are made again.
            backend: What runs its units.
            follower: The stage whose units may be begun meanwhile.
        """
        assert now.folder is not None
        assert now.fingerprint is not None
        folder = now.folder
        folder.mkdir(parents=True, exist_ok=True)
        config = getattr(self._config, stage.NAME)
        if force:
            _forget(folder)
        write_record(folder / IDENTITY_RECORD, now.identity)
        console.say(
            f"{stage.NAME:<16} {'forced' if force else now.state}: {now.reasons[0] if now.reasons else 'runs again'}"
        )
        begun = time.time()
        inputs = {name: done for name in reads_of(stage, config) if (done := plans[name].finished) is not None}
        mirror = mirror_of(folder)
        if mirror:
            self._bring(mirror, stage, inputs)
        tags = {"stage": stage.NAME, "fingerprint": now.fingerprint}
        with self.experiment.stage(stage.NAME, tags) as tracker:
            tracker.params(
                {**{setting.key: setting.value for setting in settings_of(config)}, "seed": self._config.seed}
            )
            self._log_reads(tracker, stage.NAME, inputs)
            context = Context(
                folder,
                name=stage.NAME,
                seed=self._config.seed,
                units_folder=units_of(folder),
                keys=UnitKeys(stage.NAME, stage.REVISION, unit_settings(config), self._config.seed),
                inputs=inputs,
                roots=self._roots,
                resources=backend.granted(getattr(self._settings.stages, stage.NAME)),
                backend=backend,
                retries=self._settings.retries,
                may_lack=self._may_lack,
                tracker=tracker,
                code_commit=self._commit,
                follower=follower,
            )
            with published(mirror, stage.NAME) if mirror else nullcontext():
                report = stage.run(config, context)
            seconds = time.time() - begun
            _log_account(tracker, report, seconds)
            self._commit_stage(stage, context, report, seconds, inputs)
        console.say(_line(stage.NAME, report, seconds))
        for note in report.notes:
            console.say(f"{'':<16} {note}")

    def _log_reads(self, tracker: StageRun, reader: str, inputs: Mapping[str, StageFolder]) -> None:
        """List what a stage reads at its MLflow run; datasets at the parent run as well, where runs are compared."""
        digests = {stage.NAME: stage.dataset_digest for stage in self._stages if hasattr(stage, "dataset_digest")}
        for name, done in inputs.items():
            kept = done.report.kept
            digest = digests[name](done) if name in digests else done.digest
            read = Dataset(f"{self._config.name}/{name}", digest, done.folder, kept.utterances, kept.hours)
            tracker.reads([read], reader)
            if name in digests:
                self.experiment.reads(read, reader)

    def _commit_stage(
        self, stage: Stage, context: Context, report: StageReport, seconds: float, inputs: Mapping[str, StageFolder]
    ) -> None:
        """Write the rejects and, if the stage is complete and sound, its record.

        Raises:
            UserError: Too many utterances failed.
        """
        folder = context.folder
        with context.write("rejects.parquet") as path:
            write_rows(path, Reject, read_rows(context.parts(REJECTS_SUFFIX), Reject))
        context.tracker.artifact(folder / "rejects.parquet")
        self._refuse_failures(stage, context, report)
        record = commit_stage(
            folder,
            report,
            context.records(),
            context.files,
            RunFacts(
                code_commit=self._commit,
                versions=_versions(),
                seconds=round(seconds, 3),
                finished_at=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                parents={name: done.folder.name for name, done in inputs.items()},
                mlflow_run=context.tracker.run_id,
                worked_s=round(context.worked_s, 3),
            ),
            hidden=context.hidden,
            lacks=context.lacks,
        )
        context.tracker.tags({"output_digest": record.digest})

    def _refuse_failures(self, stage: Stage, context: Context, report: StageReport) -> None:
        """Refuse a stage in which too much failed: of all utterances, or of those of one corpus.

        Raises:
            UserError: Naming corpus and reasons; the units with failures are forgotten, so that a rerun tries them.
        """
        limit = self._settings.max_failed_fraction
        for corpus, account in {**context.accounts(), "": report}.items():
            failed = sum(tally.utterances for tally in account.failed.values())
            if failed > limit * account.taken.utterances:
                _forget_failed(context)
                reasons = ", ".join(f"{reason} {tally.utterances}" for reason, tally in account.failed.items())
                of_corpus = f" of {corpus}" if corpus else ""
                raise UserError(
                    f"{stage.NAME} is not committed: {failed} of {account.taken.utterances} utterances{of_corpus} "
                    f"failed ({reasons}), more than cluster.max_failed_fraction={limit:g}; see "
                    f"{context.folder / 'rejects.parquet'}, mend the files or raise the limit, and run again"
                )


def _forget(folder: Path) -> None:
    """Delete the records of a stage and of its units, so that everything is made again in place."""
    finished = open_stage(folder)
    names = planned_units(folder)[0] if finished is None else finished.table.names
    (folder / STAGE_RECORD).unlink(missing_ok=True)
    if mirror := mirror_of(folder):
        mirror.publish(folder.parent.name)
    forget_units(units_of(folder), names)
    shutil.rmtree(folder / ".state", ignore_errors=True)


def _forget_failed(context: Context) -> None:
    """Delete the records of the units that hold failures: a rerun after the mend has to try them again."""
    failed = [record.unit for record in context.records() if record.report.failed]
    forget_units(context.units_folder, failed)


def _log_account(tracker: Tracker, report: StageReport, seconds: float) -> None:
    """Log what became of the stage's utterances, by reason, and its own figures."""
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
    """Write the stage's one line: what came in and what became of it."""
    line = f"{name:<16} {_amount(report.taken, 'in')} → {_amount(report.kept, 'kept')}"
    for kind, sums in (("dropped", report.dropped), ("failed", report.failed)):
        if sums:
            reasons = ", ".join(f"{reason} {tally.utterances:,}" for reason, tally in sums.items())
            line += f", {kind}: {reasons}"
    return f"{line}  [{console.duration(seconds)}]"


def _amount(tally: Tally, verb: str) -> str:
    """Write a tally: 1,203 kept (15.2 min)."""
    return f"{tally.utterances:,} {verb} ({console.audio(tally.seconds)})"
