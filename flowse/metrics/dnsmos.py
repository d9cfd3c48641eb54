"""DNSMOS: a recording's mean opinion scores, predicted without a reference (P.835 and P.808).

The networks (Reddy et al., ICASSP 2021 and 2022) come inside the wheel of ``speechmos``; nothing is downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from flowse.audio.waveform import resample

RATE = 16_000
"""Sampling rate of the networks' input, in Hz."""


@dataclass(frozen=True, kw_only=True)
class DnsmosScore:
    """Predicted mean opinion scores, 1 (bad) to 5 (excellent).

    Attributes:
        ovrl: P.835 overall quality.
        sig: P.835 quality of the speech itself.
        bak: P.835 quality of the background: how little it intrudes.
        p808: P.808 overall quality, by another network.
    """

    ovrl: float
    sig: float
    bak: float
    p808: float


class Dnsmos:
    """The two DNSMOS networks, loaded once.

    Args:
        threads: CPU threads of a prediction.
    """

    def __init__(self, threads: int = 1) -> None:
        import onnxruntime
        from speechmos import dnsmos

        folder = Path(dnsmos.__file__).parent / "dnsmos_models"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # The constructor of speechmos opens sessions over every core of the machine, so the object is made without it.
        self._model = dnsmos.DNSMOS.__new__(dnsmos.DNSMOS)
        self._model.primary_model_path = str(folder / "sig_bak_ovr.onnx")
        self._model.onnx_sess = self._session(folder / "sig_bak_ovr.onnx", options)
        self._model.p808_onnx_sess = self._session(folder / "model_v8.onnx", options)

    @staticmethod
    def _session(path: Path, options: object) -> object:
        """Open a network on the CPU."""
        import onnxruntime

        return onnxruntime.InferenceSession(str(path), sess_options=options, providers=["CPUExecutionProvider"])

    def __call__(self, waveform: Float[np.ndarray, " N"], sample_rate: int) -> DnsmosScore:
        """Score a recording; a recording shorter than 9 s is repeated up to that length, as DNSMOS does it.

        Args:
            waveform: Mono samples; if they exceed ±1, the whole recording is scaled down to a peak of 1.
            sample_rate: In Hz.

        Raises:
            ValueError: There are no samples, or some are not finite.
        """
        if not len(waveform) or not np.isfinite(waveform).all():
            raise ValueError("DNSMOS needs at least one sample, and all of them finite")
        samples = resample(waveform.astype(np.float32), sample_rate, RATE)
        peak = float(np.abs(samples).max(initial=0.0))
        if peak > 1:
            samples = np.clip(samples / peak, -1.0, 1.0)
        scores = self._model(samples, RATE, False)
        return DnsmosScore(
            ovrl=float(scores["ovrl_mos"]),
            sig=float(scores["sig_mos"]),
            bak=float(scores["bak_mos"]),
            p808=float(scores["p808_mos"]),
        )
