"""Look before hours of work start: corpora, model files, disk, MLflow and Ray, each with its mend."""

from __future__ import annotations

import dataclasses
import random
import shutil
import socket
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from flowse.audio.waveform import AudioError, probe
from flowse.pretrained import resolve
from pipelines.config import ClusterConfig, ExperimentConfig
from pipelines.corpora.readers import reader_of
from pipelines.ingest import corpus_roots
from pipelines.stage import UserError

_LOOK_AT_MOST = 2000  # files a corpus; the rest is looked at by ingest
_GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """One thing that the doctor looked at.

    Attributes:
        sound: Whether it is as it should be.
        text: What was found and, if it is not sound, how to mend it.
    """

    sound: bool
    text: str


def examine(config: ExperimentConfig, cluster: ClusterConfig, workspace: Path) -> Iterator[Finding]:
    """Yield findings, cheap ones first."""
    yield from _disk(workspace)
    yield from _models(config)
    yield from _corpora(config, workspace)
    yield from _mlflow(cluster)
    yield from _ray(cluster)


def _disk(workspace: Path) -> Iterator[Finding]:
    workspace.mkdir(parents=True, exist_ok=True)
    probe_file = workspace / ".doctor"
    try:
        probe_file.write_bytes(b"x")
        probe_file.unlink()
    except OSError as error:
        yield Finding(False, f"{workspace}: cannot be written: {error.strerror}; choose another --workspace")
        return
    free = shutil.disk_usage(workspace).free / _GIB
    yield Finding(free > 2, f"{workspace}: {free:,.1f} GiB free" + ("" if free > 2 else "; at least 2 GiB are needed"))


def _model_fields(config: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _model_fields(value, f"{prefix}{field.name}.")
        elif field.metadata.get("model") and value:
            yield f"{prefix}{field.name}", value


def _models(config: ExperimentConfig) -> Iterator[Finding]:
    for key, value in _model_fields(config):
        try:
            yield Finding(True, f"{key}: {resolve(value)}")
        except FileNotFoundError as error:
            if "/" in value or "." in value:
                yield Finding(False, f"{key}: {error}")
            else:
                yield Finding(True, f"{key}: {value} (a published name; its loader will download it where it can)")


def _corpora(config: ExperimentConfig, workspace: Path) -> Iterator[Finding]:
    roots = corpus_roots(config.ingest, workspace / "made")
    for kind, corpus in config.ingest.corpora():
        reader, options = reader_of(corpus.reader, corpus.options, f"corpus {corpus.name!r}")
        try:
            rows = list(islice(reader.read(roots[corpus.name], corpus.name, kind, options, config.seed), 200_000))
        except UserError as error:
            yield Finding(False, str(error))
            continue
        repeated = len(rows) - len({row.utt_id for row in rows})
        if repeated:
            yield Finding(
                False, f"corpus {corpus.name}: {repeated} repeated ids (names that differ only by case?); rename them"
            )
        if hasattr(reader, "make"):
            yield Finding(True, f"corpus {corpus.name}: {len(rows):,} recordings to be made")
            continue
        looked = rows if len(rows) <= _LOOK_AT_MOST else random.Random(config.seed).sample(rows, _LOOK_AT_MOST)
        bad = 0
        for path in sorted({row.path for row in looked}):
            try:
                probe(roots[corpus.name] / path)
            except AudioError as error:
                bad += 1
                if bad <= 20:
                    yield Finding(False, f"corpus {corpus.name}: {error.reason}: {error.detail}")
        yield Finding(bad == 0, f"corpus {corpus.name}: {len(rows):,} rows, {len(looked):,} looked at, {bad} bad")


def _reachable(host: str, port: int) -> str | None:
    """Try a TCP connection; return None, or why there is none."""
    try:
        socket.create_connection((host, port), timeout=3).close()
    except OSError as error:
        return str(error)
    return None


def _mlflow(cluster: ClusterConfig) -> Iterator[Finding]:
    uri = urllib.parse.urlparse(cluster.mlflow_uri)
    if uri.scheme not in ("http", "https"):
        yield Finding(True, f"MLflow: {cluster.mlflow_uri or 'sqlite in the workspace'}")
        return
    why = _reachable(uri.hostname or "", uri.port or (443 if uri.scheme == "https" else 80))
    yield Finding(
        why is None,
        f"MLflow: {cluster.mlflow_uri}"
        + (f" cannot be reached: {why}; start it, or mend cluster.mlflow_uri" if why else ""),
    )


def _ray(cluster: ClusterConfig) -> Iterator[Finding]:
    host, _, port = cluster.ray_address.rpartition(":")
    if not host or not port.isdigit():
        yield Finding(True, f"Ray: {cluster.ray_address or 'started on this machine'}")
        return
    why = _reachable(host, int(port))
    yield Finding(
        why is None,
        f"Ray: {cluster.ray_address}"
        + (f" cannot be reached: {why}; start it, or mend cluster.ray_address" if why else ""),
    )


def print_findings(findings: Sequence[Finding]) -> None:
    """Print a line a finding, the bad ones last."""
    for finding in sorted(findings, key=lambda one: not one.sound):
        print(f"{'ok ' if finding.sound else 'BAD'}  {finding.text}")
