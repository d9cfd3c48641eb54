"""Look at corpora, models, disk, MLflow and Ray before hours of work start; every finding says what mends it."""

from __future__ import annotations

import argparse
import secrets
from collections.abc import Iterator
from pathlib import Path

from flowse.errors import UserError
from pipelines.commands.doctor import disk, mlflow_store, models, nodes, recordings
from pipelines.commands.doctor.disk import bytes_needed as bytes_needed
from pipelines.commands.doctor.finding import Finding, report
from pipelines.commands.doctor.recordings import CorpusInspection
from pipelines.commands.session import Session
from pipelines.corpora.config import roots_of
from pipelines.experiment import ClusterConfig, ExperimentConfig
from pipelines.stages.ingest import corpus_roots


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: doctor looks at everything that the configurations name."""


def run(arguments: argparse.Namespace) -> int:
    """Print every finding; the exit code is 1 if work cannot start."""
    session = Session.of(arguments)
    findings = list(examine(session.config, session.cluster, session.workspace))
    print(report(findings))
    return 0 if all(finding.sound for finding in findings) else 1


def examine(config: ExperimentConfig, cluster: ClusterConfig, workspace: Path) -> Iterator[Finding]:
    """Yield findings, cheap ones first."""
    usable = list(_workspace(workspace))
    yield from usable
    yield from models.look(config)
    yield from models.look_at_test_sets(config)
    yield from mlflow_store.look(cluster, workspace)
    inspections: list[CorpusInspection] = []
    needed = {key: path for key, value in models.model_fields(config) if (path := Path(value).expanduser()).exists()}
    try:
        roots = corpus_roots(config.ingest, workspace / "made")
    except UserError as error:
        yield Finding("error", "ingest", str(error))
    else:
        for look in recordings.look(config.ingest.corpora(), roots, config.seed):
            yield from look.findings
            inspections.append(look)
        yield from recordings.compare(inspections, config.train.mel.sample_rate)
    enhanced: list[CorpusInspection] = []
    try:
        roots = roots_of(config.enhance.speech(), workspace)
    except UserError as error:
        yield Finding("error", "enhance.corpora", str(error))
    else:
        for look in recordings.look(config.enhance.speech(), roots, config.seed, "enhance.corpora"):
            yield from look.findings
            enhanced.append(look)
    needed |= {look.where: look.root / look.sample for look in (*inspections, *enhanced) if look.sample}
    if all(finding.sound for finding in usable):
        yield disk.look(config, inspections, enhanced, workspace)
        yield from nodes.look(cluster, workspace, needed)


def _workspace(workspace: Path) -> Iterator[Finding]:
    """Write, read and delete a file in the workspace; yield a finding if that fails."""
    probe_file = workspace / f".doctor-{secrets.token_hex(4)}"
    try:
        workspace.mkdir(parents=True, exist_ok=True)
        probe_file.write_bytes(b"x")
        probe_file.read_bytes()
        probe_file.unlink()
        list(workspace.iterdir())
    except OSError as error:
        text = f"{workspace} cannot be used: {error.strerror}"
        yield Finding("error", "workspace", text, "mend its rights, or choose another --workspace")
