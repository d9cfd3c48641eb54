"""Speaker similarity: cosine of the speaker embeddings of two recordings.

The encoder is an ONNX file with WeSpeaker's interface (80-band Kaldi filterbank in, embedding out), so that any of its
published models can be used by path.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from flowse.audio.waveform import resample
from flowse.pretrained import resolve

RATE = 16_000
"""Sampling rate of the filterbank's input, in Hz."""

BANDS = 80
_FRAME_MS = 25.0


def filterbank(waveform: Float[np.ndarray, " N"]) -> Float[np.ndarray, "T 80"]:
    """Compute WeSpeaker's features of 16 kHz samples: Kaldi log-mel, 16-bit scale, Hamming, mean removed over time.

    Raises:
        ValueError: There is less than one 25-ms frame.
    """
    from torchaudio.compliance import kaldi

    if len(waveform) < RATE * _FRAME_MS / 1000:
        raise ValueError(
            f"a speaker embedding needs at least {_FRAME_MS:.0f} ms, got {1000 * len(waveform) / RATE:.0f}"
        )
    features = kaldi.fbank(
        torch.from_numpy(np.ascontiguousarray(waveform, np.float32))[None] * (1 << 15),
        num_mel_bins=BANDS,
        frame_length=_FRAME_MS,
        frame_shift=10.0,
        sample_frequency=float(RATE),
        window_type="hamming",
        use_energy=False,
        dither=0.0,
    )
    centred: Float[np.ndarray, "T 80"] = (features - features.mean(0, keepdim=True)).numpy()
    return centred


class SpeakerEncoder:
    """A speaker encoder with WeSpeaker's ONNX interface, loaded once.

    Args:
        path: ONNX file; its only input takes features of shape (batch, frames, 80).
        threads: CPU threads of an embedding.

    Raises:
        ValueError: The network has another interface; the message says which.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(path), sess_options=options, providers=["CPUExecutionProvider"]
        )
        inputs = self._session.get_inputs()
        if (
            len(inputs) != 1
            or len(inputs[0].shape) != 3
            or (inputs[0].shape[2] not in (BANDS, None) and not isinstance(inputs[0].shape[2], str))
        ):
            shapes = {found.name: found.shape for found in inputs}
            raise ValueError(f"{path}: expected one input of shape (batch, frames, {BANDS}), found {shapes}")
        self._input = inputs[0].name

    def embed(self, waveform: Float[np.ndarray, " N"], sample_rate: int) -> Float[np.ndarray, " D"]:
        """Return the embedding of a recording, scaled to unit length.

        Raises:
            ValueError: The recording is shorter than 25 ms.
        """
        features = filterbank(resample(waveform.astype(np.float32), sample_rate, RATE))
        embedding = np.asarray(self._session.run(None, {self._input: features[None]})[0][0], np.float64)
        unit: Float[np.ndarray, " D"] = embedding / max(float(np.linalg.norm(embedding)), 1e-12)
        return unit


def onnx_file(name_or_path: str) -> Path:
    """Find the ONNX file of a speaker encoder.

    Args:
        name_or_path: An ONNX file, a folder with an ONNX file, or the name of an embedded model.

    Raises:
        FileNotFoundError: There is no ONNX file, or more than one.
    """
    found = resolve(name_or_path)
    inside = [found] if found.is_file() else sorted(found.glob("*.onnx"))
    if len(inside) != 1:
        raise FileNotFoundError(f"{found}: holds {len(inside)} .onnx files where one is wanted; give the file itself")
    return inside[0]


def cosine(a: Float[np.ndarray, " D"], b: Float[np.ndarray, " D"]) -> float:
    """Return the cosine of the angle between two embeddings, −1 to 1."""
    return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12))


def equal_error_rate(same: Float[np.ndarray, " P"], different: Float[np.ndarray, " Q"]) -> float:
    """Return the equal error rate: where the share of refused same-speaker pairs is that of accepted other pairs.

    Args:
        same: Cosines of pairs of one speaker.
        different: Cosines of pairs of two speakers.
    """
    thresholds = np.unique(np.concatenate([same, different]))
    refused = np.searchsorted(np.sort(same), thresholds, side="left") / len(same)
    accepted = 1 - np.searchsorted(np.sort(different), thresholds, side="left") / len(different)
    nearest = int(np.argmin(np.abs(refused - accepted)))
    return float((refused[nearest] + accepted[nearest]) / 2)
