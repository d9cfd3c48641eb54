"""Look at the models and the test sets that the configuration names, as far as that tells whether they can be used."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from typing import Any

from flowse.audio.mel_config import MelConfig
from flowse.audio.waveform import probe
from flowse.errors import UserError
from flowse.metrics.testsets import folder_items, transcript_notes
from flowse.pretrained import names, resolve
from flowse.refusal import Refusal
from flowse.training.start import starting_point
from flowse.whisper.config import BackendMissing, WhisperConfig
from pipelines.commands.doctor.finding import Finding
from pipelines.engine.fingerprint import settings_of
from pipelines.experiment import ExperimentConfig

_PAIRS = 100  # recordings of a test set that are opened
_PUBLISHED = {
    "model": "name a published Whisper, e.g. large-v3",
    "whisper": "name a published Whisper, e.g. large-v3",
    "vocoder": "give a published Vocos folder (charactr/vocos-mel-24khz)",
    "speaker": "give an encoder of WeSpeaker's as ONNX file",
}
_JUDGES = ("filter_language.model", "transcribe.model", "evaluate.whisper", "evaluate.vocoder", "evaluate.speaker")
_LARGE_STEPS = 100_000  # trainings of as many steps deserve other judges than the small embedded models


def look(config: ExperimentConfig) -> Iterator[Finding]:
    """Open every model that the configuration names, as far as needed to tell whether it is usable."""
    labellers = {
        "filter_language.model": config.filter_language,
        "transcribe.model": config.transcribe,
        "evaluate.whisper": config.evaluate.recogniser(),
        "train.listen.whisper": config.train.listen.recogniser(),
    }
    values = dict(model_fields(config))
    for key, value in values.items():
        try:
            if whisper := labellers.get(key):
                text = _whisper(whisper)
            elif key in ("evaluate.vocoder", "train.listen.vocoder"):
                text = _vocoder(value, config.train.mel)
            elif key in ("evaluate.speaker", "train.listen.speaker"):
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
    yield from _toys(config, values)


def _toys(config: ExperimentConfig, values: Mapping[str, str]) -> Iterator[Finding]:
    """Warn of small embedded models that would label the data of a large training, or judge it."""
    if config.train.max_steps < _LARGE_STEPS or config.evaluate.model:
        return
    for key in (
        "filter_language.model",
        "transcribe.model",
        "evaluate.whisper",
        "evaluate.vocoder",
        "evaluate.speaker",
    ):
        if (value := values.get(key)) in names():
            does = "judges" if key.startswith("evaluate.") else "labels the data of"
            text = f"{value}, a small model for demos and tests, {does} a training of {config.train.max_steps:,} steps"
            yield Finding("warning", key, text, _PUBLISHED[key.partition(".")[2]])


def model_fields(config: Any) -> Iterator[tuple[str, str]]:
    """Yield dotted key and value of every setting that a config marks as the name of a model (`metadata["model"]`).

    Those of what is switched off by default (`fingerprint="unless default"`), and is not used, are left out.
    """
    for setting in settings_of(config):
        if setting.is_model and setting.value and setting.changes_output:
            yield setting.key, setting.value


def _whisper(config: WhisperConfig) -> str:
    """Look into a Whisper checkpoint without loading it.

    Raises:
        FileNotFoundError: There is none, or not for this backend.
        BackendMissing: The backend is not installed.
        ValueError: It is no Whisper model.
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
    from flowse.metrics.speaker import SpeakerEncoder, onnx_file

    path = onnx_file(value)
    try:
        SpeakerEncoder(path)
    except Exception as error:
        raise ValueError(f"{path} is no speaker encoder: {str(error).splitlines()[0]}") from error
    return str(path)


def look_at_test_sets(config: ExperimentConfig) -> Iterator[Finding]:
    """Open the first recordings of every test set in folders: evaluate reads them last, after hours of work."""
    heard = config.train.listen.pairs if config.train.listen.every else ()
    for pairs in dict.fromkeys((*config.evaluate.pairs, *heard)):
        where = f"evaluate.pairs {pairs.name}"
        try:
            items = folder_items(pairs)
            for path in [path for item in items[:_PAIRS] for path in (item.noisy, item.clean) if path]:
                probe(path)
        except (UserError, Refusal) as error:
            yield Finding("error", where, str(error).removeprefix(f"{where}: "))
        else:
            yield Finding("ok", where, f"{len(items):,} recordings")
            for line in transcript_notes(pairs):
                yield Finding("warning", where, line.removeprefix(f"{where}: "))
