"""Which Whisper model labels recordings, which program runs it, and how it decodes; importable without torch."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from flowse.errors import UserError
from flowse.pretrained import resolve

Backend = Literal["openai", "faster-whisper"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)

Compute = Literal["auto", "float32", "float16", "int8"]
COMPUTES: tuple[Compute, ...] = get_args(Compute)

PATIENCE = 2.0
"""A beam search ends when `PATIENCE` × `beam_size` texts have ended (Kasai et al. 2022, openai-whisper's `patience`).

With 1, a model that spells letter by letter ends too early: every letter before the last offers a worse end.
"""


class BackendMissing(ModuleNotFoundError):
    """The chosen backend is not installed; the message says what to type."""


@dataclass(frozen=True, kw_only=True)
class WhisperConfig:
    """Which Whisper model is loaded, and what runs it.

    Attributes:
        model: A file in openai-whisper's checkpoint format, a folder with one (`model.pt`), the name of an embedded
            model (`whisper-tiny`), or a published name (`base`, `large-v3`), which the backend downloads once; for
            "faster-whisper" also a CTranslate2 folder (one with a `model.bin`).
        backend: Which program runs the model: "openai" (openai-whisper) or "faster-whisper" (CTranslate2). Both are
            set to decode alike.
        compute: Precision: "float32", "float16", "int8" ("faster-whisper" only), or "auto": float16 on a GPU, float32
            on a CPU.
        batch_size: Windows in one batch; 0: 16 on a CPU, 64 on a GPU. It changes no result.
        downloads: Folder of downloaded models, used where it exists; empty: the user's own cache. A cluster sets it to
            `<cluster.data>/models`.

    Raises:
        ValueError: A value that no backend has; the message begins with the key and names what is allowed.
    """

    model: str = field(default="whisper-tiny", metadata={"model": True})
    backend: Backend = "openai"
    compute: Compute = "auto"
    batch_size: int = field(default=0, metadata={"fingerprint": False})
    downloads: str = field(default="", metadata={"fingerprint": False, "data": "models"})

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise ValueError(f"backend is {self.backend!r}; allowed: {', '.join(BACKENDS)}")
        if self.compute not in COMPUTES:
            raise ValueError(f"compute is {self.compute!r}; allowed: {', '.join(COMPUTES)}")
        if self.backend == "openai" and self.compute == "int8":
            raise ValueError("compute is 'int8', which backend 'openai' does not have; set backend: faster-whisper")
        if self.batch_size < 0:
            raise ValueError(f"batch_size is {self.batch_size}; it must be 0 (by device) or more")

    def checkpoint(self) -> Path | None:
        """Find the model's checkpoint file or CTranslate2 folder, without opening it.

        Returns:
            The path, or None for a published name, which the backend finds (or downloads) itself.

        Raises:
            FileNotFoundError: There is no such model, or not for this backend; says what to do.
            BackendMissing: The backend is not installed.
        """
        published = _published(self.backend)
        try:
            found = resolve(self.model)
        except FileNotFoundError:
            if self.model in published:
                return None
            raise FileNotFoundError(
                f"Whisper model {self.model!r}: no such file, folder or embedded model; give the path of a .pt "
                f"file, an embedded name such as 'whisper-tiny', or a published name ({', '.join(published)})"
            ) from None
        if found.name == "model.bin" and found.is_file():
            raise FileNotFoundError(f"{found}: a part of a CTranslate2 folder; give its folder, {found.parent}")
        if not found.is_dir():
            return found
        if (found / "model.bin").is_file():
            if self.backend == "faster-whisper":
                return found
            raise FileNotFoundError(f"{found}: a CTranslate2 folder, which only backend 'faster-whisper' reads; set it")
        inside = sorted(found.glob("*.pt"))
        if len(inside) != 1:
            raise FileNotFoundError(f"{found}: holds {len(inside)} .pt files where one is wanted; give the file itself")
        return inside[0]

    def require(self, model_key: str, backend_key: str, otherwise: str = "") -> None:
        """Refuse a model that cannot be used, before any work is done.

        Args:
            model_key: Config key of the model, for the message.
            backend_key: Config key of the backend, for the message.
            otherwise: What else mends a missing model; ends the message.

        Raises:
            UserError: There is no such model, not for this backend, or the backend is not installed.
        """
        try:
            self.checkpoint()
        except FileNotFoundError as error:
            raise UserError(f"{model_key}: {error}{otherwise}") from None
        except BackendMissing as error:
            raise UserError(f"{backend_key}: {error}") from None


def _published(backend: Backend) -> list[str]:
    """Names of the models that a backend downloads.

    Raises:
        BackendMissing: The backend is not installed.
    """
    if backend == "openai":
        import whisper

        return list(whisper.available_models())
    if importlib.util.find_spec("faster_whisper") is None or importlib.util.find_spec("ctranslate2") is None:
        raise BackendMissing("backend 'faster-whisper' is not installed; type: pip install '.[faster]'")
    import faster_whisper

    return list(faster_whisper.available_models())


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How transcripts are decoded, at temperature 0: the same audio gives the same text.

    Attributes:
        beam_size: Hypotheses that are kept at a time: 5, as on openai-whisper's command line; 1 is greedy and faster.
        tokens_per_second: A window of n seconds gets at most 24 + n times this many tokens, so that a decoder that
            loops stops early. Speech reaches about 8, and 20 where a model spells every letter, as the embedded one
            does.

    Raises:
        ValueError: A value is too small; the message names the key.
    """

    beam_size: int = 5
    tokens_per_second: float = 25.0

    def __post_init__(self) -> None:
        if self.beam_size < 1:
            raise ValueError(f"beam_size is {self.beam_size}; allowed is 1 (greedy) or more")
        if not self.tokens_per_second > 0:
            raise ValueError(f"tokens_per_second is {self.tokens_per_second}; it must be positive")
