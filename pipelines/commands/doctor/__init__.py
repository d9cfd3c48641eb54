"""Look before hours of work start: corpora, model files, disk, MLflow and Ray, each with its mend."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import pickle
import secrets
import shutil
import sqlite3
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from flowse.audio.mel_config import MelConfig
from flowse.audio.waveform import probe
from flowse.errors import UserError
from flowse.metrics.testsets import folder_items
from flowse.pretrained import resolve
from flowse.refusal import Refusal
from flowse.training.start import starting_point
from flowse.whisper.config import BackendMissing, WhisperConfig
from pipelines.commands.doctor import nodes, recordings
from pipelines.commands.doctor.finding import Finding, Severity
from pipelines.commands.doctor.finding import report as report
from pipelines.commands.doctor.recordings import Look
from pipelines.commands.session import Session
from pipelines.corpora.config import roots_of
from pipelines.engine import console
from pipelines.experiment import ClusterConfig, ExperimentConfig
from pipelines.stages.ingest import corpus_roots

_FLAC_SHARE = 0.6  # of 16-bit PCM; measured on 15 h of mixtures: 0.53
_CHECKPOINT_FLOATS = 4  # a parameter: weights, moving average, and AdamW's two moments
_MARGIN = 1.2
_PAIRS = 100  # recordings of a test set that are looked at


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
    yield from _models(config)
    yield from _pairs(config)
    yield from _mlflow(cluster, workspace)
    looks: list[Look] = []
    needed = {
        key: Path(value).expanduser() for key, value in _model_fields(config) if Path(value).expanduser().exists()
    }
    try:
        roots = corpus_roots(config.ingest, workspace / "made")
    except UserError as error:
        yield Finding("error", "ingest", str(error))
    else:
        for one in recordings.look(config.ingest.corpora(), roots, config.seed):
            yield from one.findings
            looks.append(one)
        yield from recordings.compare(looks, config.train.mel.sample_rate)
    enhanced: list[Look] = []
    try:
        roots = roots_of(config.enhance.speech(), workspace)
    except UserError as error:
        yield Finding("error", "enhance.corpora", str(error))
    else:
        for one in recordings.look(config.enhance.speech(), roots, config.seed, "enhance.corpora"):
            yield from one.findings
            enhanced.append(one)
    needed |= {one.where: one.root / one.sample for one in (*looks, *enhanced) if one.sample}
    if all(one.sound for one in usable):
        yield from _disk(config, looks, enhanced, workspace)
        yield from nodes.look(cluster, workspace, needed)


def _workspace(workspace: Path) -> Iterator[Finding]:
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


# --- models -----------------------------------------------------------------------------------------------------------


def _models(config: ExperimentConfig) -> Iterator[Finding]:
    """Open every model that the configuration names, as far as that tells whether it can be used."""
    labellers = {
        "filter_language.model": config.filter_language,
        "transcribe.model": config.transcribe,
        "evaluate.whisper": config.evaluate.recogniser(),
    }
    values = dict(_model_fields(config))
    for key, value in values.items():
        try:
            if whisper := labellers.get(key):
                text = _whisper(whisper)
            elif key == "evaluate.vocoder":
                text = _vocoder(value, config.train.mel)
            elif key == "evaluate.speaker":
                text = _speaker(value)
            elif key == "train.init_from":
                text = str(starting_point(value).weights)
            else:
                text = str(resolve(value))
        except (BackendMissing, FileNotFoundError, ValueError, OSError, RuntimeError, KeyError, UserError) as error:
            what = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            yield Finding("error", key, what, "give another model, or fetch this one again")
        except pickle.UnpicklingError:
            yield Finding(
                "error", key, f"{value} is no PyTorch file", "fetch it again (a Git-LFS pointer, a web page?)"
            )
        else:
            yield Finding("ok", key, text)


def _model_fields(config: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _model_fields(value, f"{prefix}{field.name}.")
        elif field.metadata.get("model") and value:
            yield f"{prefix}{field.name}", value


def _whisper(config: WhisperConfig) -> str:
    """Look into a Whisper checkpoint without loading it.

    Raises:
        FileNotFoundError: There is none, or not for this backend.
        BackendMissing: The backend is not installed.
        ValueError: It is something else.
        pickle.UnpicklingError: It is no PyTorch file.
    """
    import torch

    file = config.checkpoint()
    if file is None:
        return f"{config.model} (a published name; its loader will download it where it can)"
    if file.is_dir():
        weights = file / "model.bin"
        if not weights.is_file() or not weights.stat().st_size:
            raise ValueError(f"{file} is no CTranslate2 model: it has no model.bin")
        return str(file)
    try:
        content = torch.load(file, map_location="meta", weights_only=True, mmap=True)
    except RuntimeError as error:  # an older, unzipped file cannot be mapped
        if "mmap" not in str(error):
            raise ValueError(f"{file} cannot be read as a checkpoint; it may be cut short") from error
        content = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(content, dict) or not {"dims", "model_state_dict"} <= set(content):
        raise ValueError(f"{file} is no Whisper checkpoint: it lacks `dims` and `model_state_dict`")
    return str(file)


def _vocoder(value: str, mel: MelConfig) -> str:
    """Load the vocoder and compare its mel with the model's.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is broken, or of another mel.
        pickle.UnpicklingError: Its weights are no PyTorch file.
    """
    from flowse.audio.vocoder import load_vocoder

    load_vocoder(resolve(value), mel=mel)
    return str(resolve(value))


def _speaker(value: str) -> str:
    """Open a speaker encoder.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is no ONNX network.
    """
    from flowse.metrics.speaker import SpeakerEncoder
    from pipelines.stages.evaluate import onnx_file

    path = onnx_file(value)
    try:
        SpeakerEncoder(path)
    except Exception as error:
        raise ValueError(f"{path} is no speaker encoder: {str(error).splitlines()[0]}") from error
    return str(path)


def _pairs(config: ExperimentConfig) -> Iterator[Finding]:
    """Look at the test sets in folders: evaluate reads them last, after hours of work."""
    for pairs in config.evaluate.pairs:
        where = f"evaluate.pairs {pairs.name}"
        try:
            items = folder_items(pairs)
            for path in [path for item in items[:_PAIRS] for path in (item.noisy, item.clean) if path]:
                probe(Path(path))
        except (UserError, Refusal) as error:
            yield Finding("error", where, str(error).removeprefix(f"{where}: "))
        else:
            yield Finding("ok", where, f"{len(items):,} recordings")


# --- disk -------------------------------------------------------------------------------------------------------------


def bytes_needed(config: ExperimentConfig, speech_s: float) -> dict[str, float]:
    """Estimate what a pipeline writes, in bytes, by what it is.

    Args:
        config: The experiment.
        speech_s: Length of all speech, in seconds; it is assumed that all of it is kept.
    """
    shares = config.ingest.splits
    elsewhere = min(1.0, shares.dev + shares.test)
    copies = (1 - elsewhere) * config.simulate.copies + elsewhere * config.simulate.eval_copies
    rate = config.simulate.sample_rate
    rooms = config.rooms
    responses = (rooms.train_rooms + rooms.dev_rooms + rooms.test_rooms) * rooms.draw.sources
    checkpoints = config.train.keep_last + 2  # the best one, and the next while it is written
    return {
        "mixtures": speech_s * copies * rate * 2 * 2 * _FLAC_SHARE,
        # A response is as long as its room's reverberation.
        "rooms": responses * rooms.draw.rt60_s[1] * rooms.sample_rate * 4.0,
        "checkpoints": float(checkpoints * _parameters(config) * _CHECKPOINT_FLOATS * 4),
    }


def _parameters(config: ExperimentConfig) -> int:
    """Count the model's parameters without making them."""
    import torch

    from flowse.model.system import build

    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(config.train.spec()).parameters())


def _disk(
    config: ExperimentConfig, looks: Sequence[Look], enhanced: Sequence[Look], workspace: Path
) -> Iterator[Finding]:
    speech_s = sum(one.seconds for one in looks if one.kind == "speech")
    made_s = sum(one.seconds for one in looks if one.seconds and not one.sizes)
    parts = bytes_needed(config, speech_s) | ({"made corpora": made_s * 24_000.0} if made_s else {})
    if written := sum(one.seconds * max(one.rates, default=0) * 2 * _FLAC_SHARE for one in enhanced):
        parts |= {"enhanced recordings": written}
    needed, free = sum(parts.values()), shutil.disk_usage(workspace).free
    listed = ", ".join(f"{name} {console.size(count)}" for name, count in parts.items())
    text = f"about {console.size(needed)} are needed for {console.audio(speech_s)} of speech ({listed}), "
    text += f"{console.size(free)} are free in {workspace}"
    mend = "free some space, choose another --workspace, or lower simulate.copies"
    severity: Severity = "error" if needed > free else "warning" if needed * _MARGIN > free else "ok"
    yield Finding(severity, "disk", text, "" if severity == "ok" else mend)


# --- MLflow -----------------------------------------------------------------------------------------------------------


def _mlflow(cluster: ClusterConfig, workspace: Path) -> Iterator[Finding]:
    uri = urllib.parse.urlparse(cluster.mlflow_uri)
    if uri.scheme in ("http", "https"):
        why = _unhealthy(cluster.mlflow_uri)
        if why:
            mend = "start it, or mend cluster.mlflow_uri"
            yield Finding("error", "MLflow", f"{cluster.mlflow_uri} cannot be used: {why}", mend)
        else:
            yield Finding("ok", "MLflow", f"{cluster.mlflow_uri} answers")
        return
    store = workspace / "mlflow.db"
    if cluster.mlflow_uri:
        yield Finding("ok", "MLflow", cluster.mlflow_uri)
    elif store.exists():
        why = _broken_store(store)
        mend = "restore it, or move it away: runs are tracked anew then"
        yield Finding("error", "MLflow", f"{store}: {why}", mend) if why else Finding("ok", "MLflow", str(store))
    else:
        yield Finding("ok", "MLflow", f"sqlite, to be made in {workspace}")


def _unhealthy(uri: str) -> str | None:
    """Ask a tracking server how it is; None if it is well."""
    host = urllib.parse.urlparse(uri)
    why = nodes.reachable(host.hostname or "", host.port or (443 if host.scheme == "https" else 80))
    if why:
        return why
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=5) as answer:
            return None if answer.read(16).strip() == b"OK" else "another program answers there"
    except urllib.error.HTTPError as error:
        # A server that asks who is there is a server.
        return None if error.code in (401, 403) else f"HTTP {error.code}: is it MLflow?"
    except OSError as error:
        return str(error)


def _broken_store(path: Path) -> str | None:
    if not os.access(path, os.W_OK):
        return "cannot be written"
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as store:
            store.execute("select count(*) from experiments").fetchone()
    except sqlite3.Error as error:
        return str(error)
    return None
