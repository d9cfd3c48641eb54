"""MLflow tracking: a parent run for one call of the program, and a nested run for every stage that it really runs."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from flowse.errors import UserError
from pipelines.engine.console import say
from pipelines.engine.shown import ARTIFACTS

_PARAM_LIMIT = 6000  # MLflow refuses longer parameter values


def default_uri(workspace: Path) -> str:
    """Return the address of the sqlite store inside the workspace; it is absolute, as workers run in other folders."""
    path = str(workspace.resolve() / "mlflow.db")
    if "?" not in path and "%" not in path:
        return f"sqlite:///{path}"
    # In an address a question mark begins the options, and %2F is a slash: SQLAlchemy quotes them as it reads them.
    from sqlalchemy import URL

    return URL.create("sqlite", database=path).render_as_string()


def ui_command(uri: str, port: int) -> list[str]:
    """Return the command line that opens the MLflow UI on a store."""
    return [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--port", str(port)]


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


class StageRun:
    """One stage's MLflow run; it satisfies the Protocol `pipelines.engine.stage.Tracker`."""

    def __init__(self, client: Any, run_id: str, uri: str) -> None:
        self._client = client
        self.run_id: str | None = run_id
        self.uri = uri

    def params(self, values: Mapping[str, Any]) -> None:
        """Log parameters; long values are cut at MLflow's limit."""
        with _as_user_error(self.uri):
            for key, value in values.items():
                self._client.log_param(self.run_id, _name(key), str(value)[:_PARAM_LIMIT])

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics, at a step if it is given."""
        with _as_user_error(self.uri):
            for key, value in values.items():
                self._client.log_metric(self.run_id, _name(key), float(value), step=step)

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""
        with _as_user_error(self.uri):
            for key, value in values.items():
                self._client.set_tag(self.run_id, key, value)

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
    with _as_user_error(uri):
        return mlflow.MlflowClient(tracking_uri=uri)


def _name(key: str) -> str:
    """Replace the characters that MLflow does not allow in names of parameters and metrics by underscores."""
    return "".join(character if character.isalnum() or character in "_-. /" else "_" for character in key)


class Experiment:
    """An MLflow experiment with the parent run of this call, which is created when the first stage really runs."""

    def __init__(self, uri: str, name: str, workspace: Path, tags: Mapping[str, str], artifacts: str = "") -> None:
        """Prepare; nothing is opened yet.

        Args:
            uri: Address of MLflow's store.
            name: Of the experiment.
            workspace: Folder of all outputs.
            tags: Of every run.
            artifacts: URL below which the artifacts of a new experiment go; empty: MLflow's server decides, or they lie
                in the workspace.
        """
        self.uri, self._name, self._workspace, self._tags = uri, name, workspace, dict(tags)
        self._artifacts = artifacts.rstrip("/")
        self._client: Any = None
        self._experiment_id = ""
        self._parent: str | None = None

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
            else:
                location = f"{self._artifacts}/{quote(self._name, safe='')}" if self._artifacts else None
                if not self._artifacts and self.uri.startswith(
                    "sqlite:"
                ):  # a server decides for itself where artifacts go
                    location = (self._workspace.resolve() / ARTIFACTS).as_uri()
                self._experiment_id = self._client.create_experiment(self._name, artifact_location=location)
            self._parent = self._client.create_run(
                self._experiment_id, run_name="pipeline", tags=self._tags
            ).info.run_id

    @contextmanager
    def stage(self, name: str, tags: Mapping[str, str]) -> Iterator[StageRun]:
        """Open a nested run for one stage; it ends FINISHED, KILLED (interrupt) or FAILED."""
        if self._client is None:
            self._open()
        tags = {**self._tags, **tags, "mlflow.parentRunId": str(self._parent)}
        with _as_user_error(self.uri):
            run_id = self._client.create_run(self._experiment_id, run_name=name, tags=tags).info.run_id
        status = "FAILED"
        try:
            yield StageRun(self._client, run_id, self.uri)
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            self._end(run_id, status)

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Log a file as an artifact of the parent run, if there is one; it may have ended."""
        if self._parent is not None:
            StageRun(self._client, self._parent, self.uri).artifact(path, folder)

    def __enter__(self) -> Experiment:
        """Return the experiment itself; nothing is opened yet."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End the parent run, if there is one: FINISHED, KILLED (interrupt) or FAILED."""
        if self._parent is not None:
            failed = "FAILED" if kind is not None else "FINISHED"
            self._end(self._parent, "KILLED" if kind is KeyboardInterrupt else failed)

    def _end(self, run_id: str, status: str) -> None:
        """End a run; an error of MLflow is printed and not raised, as it would hide what ended the stage."""
        try:
            with _as_user_error(self.uri):
                self._client.set_terminated(run_id, status)
        except UserError as error:
            say(f"MLflow was not told that the run ended ({status}): {error}")
