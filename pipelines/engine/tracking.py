"""MLflow tracking: a parent run for one call of the program, and a nested run for every stage that it really runs."""

from __future__ import annotations

import getpass
import importlib.util
import json
import logging
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from flowse.console import say
from flowse.errors import UserError
from pipelines.engine.shown import ARTIFACTS
from pipelines.engine.system_metrics import sampled

_PARAM_LIMIT = 6000  # MLflow refuses longer parameter values
_PARAMS_PER_CALL = 100  # as many as MLflow takes at once
_NAME_LIMIT = 200  # characters of a run's name; MLflow takes 250
_DIGEST_DIGITS = 16  # as the notes of simulate and the model card show it; MLflow takes 36
_KIND = {"mlflow.experimentKind": "custom_model_development"}  # the UI opens its runs then, not its traces
_VIEW = "headline"  # of the list of runs, see `Experiment.headline`


def default_uri(workspace: Path) -> str:
    """Return the address of the sqlite store inside the workspace; it is absolute, as workers run in other folders."""
    path = str(workspace.resolve() / "mlflow.db")
    if "?" not in path and "%" not in path:
        return f"sqlite:///{path}"
    # In an address a question mark begins the options, and %2F is a slash: SQLAlchemy quotes them as it reads them.
    from sqlalchemy import URL

    return URL.create("sqlite", database=path).render_as_string()


def ui_command(uri: str, port: int) -> list[str]:
    """Return the command line that serves the MLflow UI on a store, for one person."""
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--registry-store-uri", uri]
    command += ["--port", str(port)]
    return [*command, "--workers", "1", "--uvicorn-opts", "--log-level warning"]


def ui_environment() -> dict[str, str]:
    """Return the environment of `ui_command`: no telemetry, no jobs that only judge language models, few lines."""
    quiet = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "PYTHONWARNINGS": "ignore",
    }
    return quiet | os.environ


def runs_page(server: str, uri: str, experiment: str) -> str:
    """Return the address of the list of an experiment's runs.

    Args:
        server: Address of the UI.
        uri: Address of the store.
        experiment: Name; if there is none of that name, the address is that of the whole UI.

    Raises:
        UserError: The store cannot be used.
    """
    with _as_user_error(uri):
        found = _client(uri).get_experiment_by_name(experiment)
    page = ""
    if found is not None:
        view = f"viewStateShareKey={_VIEW}&" if _view_tag() in found.tags else ""
        page = f"/#/experiments/{found.experiment_id}/runs?{view}workflowType=machine_learning"
    return f"{server.rstrip('/')}{page}"


def _view_tag() -> str:
    """Return the tag of an experiment in which the UI keeps a view of the list of runs that people share."""
    return f"mlflow.sharedViewState.{_VIEW}"


@contextmanager
def _as_user_error(uri: str) -> Iterator[None]:
    """Turn MLflow's exceptions into one line.

    Raises:
        UserError: Instead of what MLflow raises.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        # SQLAlchemy's first line says what it could not do afterwards; the cause stands further down.
        why = "the disk is full" if "disk is full" in str(error) else lines[0]
        raise UserError(f"MLflow at {uri}: {why}; mend the store or cluster.mlflow_uri and run again") from None
    except Exception as error:
        # What MLflow's client of S3 raises has no class in common with anything else.
        if type(error).__module__.partition(".")[0] not in ("boto3", "botocore", "s3transfer"):
            raise
        why = str(error).splitlines()[0]
        raise UserError(
            f"MLflow's artifacts: {why}; mend cluster.mlflow_artifacts or its store, and run again"
        ) from None


def _require_client_of(artifacts: str) -> None:
    """Make sure that MLflow can reach artifacts in a store.

    Raises:
        UserError: The package that it needs for S3 is missing.
    """
    if artifacts.startswith("s3://") and importlib.util.find_spec("boto3") is None:
        raise UserError(f"cluster.mlflow_artifacts={artifacts}: MLflow reaches S3 by boto3; pip install boto3")


@dataclass(frozen=True)
class Dataset:
    """A finished output, or the mixtures in it, as MLflow lists what a run has read.

    Attributes:
        name: E.g. "demo/simulate".
        digest: Hash of its content, hexadecimal; MLflow shows its first 16 digits.
        folder: Where its files are.
        utterances: How many it holds.
        hours: Their length together.
    """

    name: str
    digest: str
    folder: Path
    utterances: int
    hours: float

    def as_input(self, context: str) -> Any:
        """Return MLflow's form of it, for a run that reads it as `context`, e.g. "train"."""
        from mlflow.entities import Dataset as Listed
        from mlflow.entities import DatasetInput, InputTag

        return DatasetInput(
            Listed(
                name=self.name,
                digest=self.digest[:_DIGEST_DIGITS],
                source_type="local",
                source=json.dumps({"uri": str(self.folder)}),
                profile=json.dumps({"utterances": self.utterances, "hours": round(self.hours, 3)}),
            ),
            [InputTag("mlflow.data.context", context)],
        )


class StageRun:
    """One stage's MLflow run; it satisfies the Protocol `pipelines.engine.stage.Tracker`."""

    def __init__(self, client: Any, run_id: str, uri: str) -> None:
        self._client = client
        self.run_id: str | None = run_id
        self.uri = uri

    def params(self, values: Mapping[str, Any]) -> None:
        """Log parameters in few calls; long values are cut at MLflow's limit."""
        from mlflow.entities import Param

        listed = [Param(_name(key), str(value)[:_PARAM_LIMIT]) for key, value in values.items()]
        for begin in range(0, len(listed), _PARAMS_PER_CALL):
            self._batch(params=listed[begin : begin + _PARAMS_PER_CALL])

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics in one call, at a step if it is given; MLflow takes no value that is not finite."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._batch(
            metrics=[
                Metric(_name(key), float(value), now, step or 0)
                for key, value in values.items()
                if math.isfinite(value)
            ]
        )

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags in one call."""
        from mlflow.entities import RunTag

        self._batch(tags=[RunTag(key, value) for key, value in values.items()])

    def _batch(self, **listed: Sequence[Any]) -> None:
        if any(listed.values()):
            with _as_user_error(self.uri):
                self._client.log_batch(self.run_id, **listed)

    def reads(self, datasets: Sequence[Dataset], context: str) -> None:
        """List what the run reads, e.g. as `context` "train"."""
        if datasets:
            with _as_user_error(self.uri):
                self._client.log_inputs(self.run_id, datasets=[dataset.as_input(context) for dataset in datasets])

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Log a file, or a folder with all that is in it."""
        with _as_user_error(self.uri):
            if path.is_dir():
                self._client.log_artifacts(self.run_id, str(path), folder)
            else:
                self._client.log_artifact(self.run_id, str(path), folder)


class Untracked:
    """A tracker that logs nothing; it satisfies the Protocol `pipelines.engine.stage.Tracker`."""

    run_id: str | None = None
    uri = ""

    def params(self, values: Mapping[str, Any]) -> None:
        """Log nothing."""

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Log nothing."""

    def tags(self, values: Mapping[str, str]) -> None:
        """Log nothing."""

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Log nothing."""

    def reads(self, datasets: Sequence[Dataset], context: str) -> None:
        """Log nothing."""


def attach(uri: str, run_id: str, path: Path, folder: str) -> None:
    """Log a file as an artifact of a run that has ended.

    Raises:
        UserError: The store cannot be used, or it has no such run.
    """
    client = _client(uri)
    with _as_user_error(uri):
        client.get_run(run_id)
    StageRun(client, run_id, uri).artifact(path, folder)


def _client(uri: str) -> Any:
    """Connect to a store without the log lines that announce every table.

    Raises:
        UserError: The store cannot be used.
    """
    # Imported here: a run that finds everything fresh must not pay seconds for MLflow.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    import mlflow

    for name in ("alembic", "mlflow", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")  # a server that hangs is named in a minute and a half
    with _as_user_error(uri):
        return mlflow.MlflowClient(tracking_uri=uri)


def _name(key: str) -> str:
    """Replace the characters that MLflow does not allow in names of parameters and metrics by underscores."""
    return "".join(character if character.isalnum() or character in "_-. /" else "_" for character in key)


def run_name(experiment: str, changes: Sequence[str]) -> str:
    """Name a run after its experiment and what was changed in it, e.g. "demo: train.max_steps=500, seed=2"."""
    name = f"{experiment}: {', '.join(changes)}" if changes else experiment
    return name if len(name) <= _NAME_LIMIT else f"{name[: _NAME_LIMIT - 1]}…"


class Experiment:
    """An MLflow experiment with the parent run of this call, which is created when the first stage really runs.

    The parent run is named after the experiment and what was changed in this call, has these changes as parameters,
    and carries the headline scores, so that two runs compare in MLflow's list.
    """

    def __init__(
        self,
        uri: str,
        name: str,
        workspace: Path,
        tags: Mapping[str, str],
        artifacts: str = "",
        *,
        changes: Sequence[str] = (),
        command: str = "",
        commit: str = "",
    ) -> None:
        """Prepare; nothing is opened yet.

        Args:
            uri: Address of MLflow's store.
            name: Of the experiment.
            workspace: Folder of all outputs.
            tags: Of every run.
            artifacts: URL below which the artifacts of a new experiment go; empty: MLflow's server decides, or they lie
                in the workspace.
            changes: What this call changes in the experiment's file, as `key=value`.
            command: The call as it was typed; empty: unknown.
            commit: Commit of the code, hexadecimal, for MLflow's own tag; empty: unknown.
        """
        self.uri, self._name, self._workspace = uri, name, workspace
        self._artifacts = artifacts.rstrip("/")
        self._changes, self._command = tuple(changes), command
        self._tags = {
            **tags,
            "mlflow.user": getpass.getuser(),
            "mlflow.source.name": "python -m pipelines",
            "mlflow.source.type": "LOCAL",
            **({"mlflow.source.git.commit": commit} if commit else {}),
        }
        self._client: Any = None
        self._experiment_id = ""
        self._parent: StageRun | None = None
        self._headline: dict[str, float] = {}
        self._datasets: list[tuple[Dataset, str]] = []

    def _open(self) -> None:
        """Connect to the store, find or create the experiment, and create the parent run."""
        self._client = _client(self.uri)
        _require_client_of(self._artifacts)
        with _as_user_error(self.uri):
            found = self._client.get_experiment_by_name(self._name)
            if found is not None and found.lifecycle_stage == "deleted":
                raise UserError(
                    f"MLflow at {self.uri}: the experiment {self._name!r} was deleted; restore it "
                    f"(`mlflow experiments restore --experiment-id {found.experiment_id}`) or give `name` another value"
                )
            if found is not None:
                self._experiment_id = found.experiment_id
                if self._artifacts and not str(found.artifact_location).startswith(f"{self._artifacts}/"):
                    say(
                        f"MLflow: artifacts of {self._name!r} stay at {found.artifact_location}, where it began; "
                        "cluster.mlflow_artifacts is for new experiments"
                    )
                for key, value in _KIND.items():
                    if key not in found.tags:  # of a workspace of before; a person's own choice stays
                        self._client.set_experiment_tag(self._experiment_id, key, value)
            else:
                location = f"{self._artifacts}/{quote(self._name, safe='')}" if self._artifacts else None
                if not self._artifacts and self.uri.startswith(
                    "sqlite:"
                ):  # a server decides for itself where artifacts go
                    location = (self._workspace.resolve() / ARTIFACTS).as_uri()
                self._experiment_id = self._client.create_experiment(self._name, artifact_location=location, tags=_KIND)
            tags = {**self._tags, **({"command": self._command} if self._command else {})}
            run_id = self._client.create_run(
                self._experiment_id, run_name=run_name(self._name, self._changes), tags=tags
            ).info.run_id
        self._parent = StageRun(self._client, run_id, self.uri)
        self._parent.params(dict(change.split("=", 1) for change in self._changes))
        self.headline({})
        for dataset, context in self._datasets:
            self._parent.reads([dataset], context)

    def headline(self, values: Mapping[str, float]) -> None:
        """Give the parent run the scores by which runs are compared; those of before it is created are kept for it."""
        self._headline |= values
        if self._parent is None or not self._headline:
            return
        self._parent.metrics(self._headline)
        # Without such a view the list shows no score before a person has asked for its columns.
        columns = [f"metrics.`{name}`" for name in self._headline]
        with _as_user_error(self.uri):
            self._client.set_experiment_tag(self._experiment_id, _view_tag(), json.dumps({"selectedColumns": columns}))

    def reads(self, dataset: Dataset, context: str) -> None:
        """List a dataset of this call at its parent run, once."""
        if (dataset, context) not in self._datasets:
            self._datasets.append((dataset, context))
            if self._parent is not None:
                self._parent.reads([dataset], context)

    @contextmanager
    def stage(self, name: str, tags: Mapping[str, str]) -> Iterator[StageRun]:
        """Open a nested run for one stage; it ends FINISHED, KILLED (interrupt) or FAILED."""
        if self._parent is None:
            self._open()
        assert self._parent is not None
        tags = {**self._tags, **tags, "mlflow.parentRunId": str(self._parent.run_id)}
        with _as_user_error(self.uri):
            run_id = self._client.create_run(self._experiment_id, run_name=name, tags=tags).info.run_id
        run, status = StageRun(self._client, run_id, self.uri), "FAILED"
        try:
            with sampled(run.metrics):
                yield run
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            self._end(run_id, status)

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Log a file as an artifact of the parent run, if there is one; it may have ended."""
        if self._parent is not None:
            self._parent.artifact(path, folder)

    def __enter__(self) -> Experiment:
        """Return the experiment itself; nothing is opened yet."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End the parent run, if there is one: FINISHED, KILLED (interrupt) or FAILED."""
        if self._parent is not None:
            failed = "FAILED" if kind is not None else "FINISHED"
            self._end(str(self._parent.run_id), "KILLED" if kind is KeyboardInterrupt else failed)

    def _end(self, run_id: str, status: str) -> None:
        """End a run; an error of MLflow is printed and not raised, as it would hide what ended the stage."""
        try:
            with _as_user_error(self.uri):
                self._client.set_terminated(run_id, status)
        except UserError as error:
            say(f"MLflow was not told that the run ended ({status}): {error}")
