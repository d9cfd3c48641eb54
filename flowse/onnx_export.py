"""Networks as ONNX files, checked against the model: what predicts in one pass, and one step of a flow."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from flowse.errors import UserError
from flowse.files import atomic_path
from flowse.flow.sampling import Sampling
from flowse.flow.solver import time_grid
from flowse.model.conditions import Bound, Conditions
from flowse.model.dit import DiT
from flowse.model.spec import ModelSpec
from flowse.model.system import System

PREDICTOR, STEP = "predictor.onnx", "step.onnx"
TOLERANCE = 1e-3
"""Largest difference of a file's output to the model's, relative to the output's largest value if that is above 1."""

OPSET = 17
_SHAPES = ((1, 61), (2, 150))
_OF_ROW = ("t", "r", "guidance")
"""Inputs with one number a row."""


class Predictor(nn.Module):
    """The estimate of a single pass, ``noisy_log_mel [B, T, F] -> clean_log_mel [B, T, F]``, not normalised."""

    inputs = ("noisy_log_mel",)
    output = "clean_log_mel"

    def __init__(self, system: System) -> None:
        super().__init__()
        self.system = system

    def forward(self, noisy_log_mel: Tensor) -> Tensor:
        """Estimate the clean mel of whole utterances, without text."""
        return self.system.denormalise(self.system.predict(noisy_log_mel, raised=False))


class Step(nn.Module):
    """One evaluation: the state at time `t` of a flow becomes that at time `r`; all mels are normalised.

    A network with jumps takes a step of any length; another one's is Euler's. The file's metadata "flowse" has what a
    caller needs besides: the mel and its normalisation, the first state (`source`, `sigma`), the `times` of the model's
    own sampling, and of a refinement how the predictor's estimate enters (`range_db`) and leaves (`guard`): it is
    raised to ``max(bins) - range_db / DB_PER_NEPER / mel_std`` before the flow begins there and sees it, and the result
    is ``estimate + guard (x_1 - estimate)``.
    """

    output = "x_r"

    def __init__(self, system: System) -> None:
        super().__init__()
        assert isinstance(system.network, DiT)
        self.network, self.jumps, self.predicts = system.network, system.jumps, system.flow.predicts
        self.inputs: tuple[str, ...] = ("x_t", "noisy", "t", "r")
        if system.predictor is not None and self.predicts == "data":
            self.inputs += ("predicted",)
        if system.network.text is not None:
            self.inputs += ("text_ids",)
        self.guidance_max = system.guidance_max
        if self.guidance_max:
            self.inputs += ("guidance",)

    def forward(self, x_t: Tensor, noisy: Tensor, t: Tensor, r: Tensor, *more: Tensor) -> Tensor:
        """Take the step.

        Args:
            x_t: State at time `t`, ``[B, T, F]``.
            noisy: Noisy log-mel, ``[B, T, F]``.
            t: Beginning, ``[B]``.
            r: End, ``[B]``.
            more: The predictor's estimate, ``[B, T, F]``, where it is an input; token ids, ``[B, T]``, where they are;
                scale of guidance, ``[B]``, of a network that takes one.
        """
        given: dict[str, Tensor] = dict(zip(self.inputs[4:], more, strict=True))
        share = given["guidance"] / self.guidance_max if self.guidance_max else None
        conditions = Conditions(
            noisy,
            None,
            given.get("text_ids"),
            predicted=given.get("predicted"),
            predicts=self.predicts,
            guidance=share,
        )
        bound = Bound(self.network, conditions)
        u = bound(x_t, t, r) if self.jumps else bound(x_t, t)
        return x_t + (r - t)[:, None, None] * u


class _RmsNorm(nn.Module):
    """`torch.nn.RMSNorm` in operators that the exporter knows."""

    def __init__(self, norm: nn.RMSNorm) -> None:
        super().__init__()
        self.weight, self.eps = norm.weight, norm.eps or 0.0

    def forward(self, x: Tensor) -> Tensor:
        normalised: Tensor = x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + self.eps) * self.weight
        return normalised


def export_onnx(system: System, spec: ModelSpec, folder: Path, sampling: Sampling | None = None) -> dict[str, float]:
    """Write a model's networks as ONNX files, each checked on two lengths and batches.

    A model that predicts in one pass gives `predictor.onnx`, a flow `step.onnx`, and one that refines both. Mel and
    synthesis are not in them: `flowse.audio` computes those.

    Args:
        system: A loaded model on the CPU, in 32 bits.
        spec: Its spec.
        folder: Where to write; it is made if it is absent.
        sampling: The model's own settings, for the metadata; None: the defaults of `Sampling`.

    Returns:
        The largest difference of each file's output to the model's.

    Raises:
        UserError: A file's output differs by more than `TOLERANCE`; it is not written.
        ImportError: The packages onnx and onnxruntime are not installed.
    """
    system = copy.deepcopy(system).eval()
    for module in list(system.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.RMSNorm):
                setattr(module, name, _RmsNorm(child))
    parts: dict[str, Predictor | Step] = {}
    if spec.objective == "regression" or system.predictor is not None:
        parts[PREDICTOR] = Predictor(system)
    if spec.objective == "flow":
        parts[STEP] = Step(system)
    folder.mkdir(parents=True, exist_ok=True)
    sampling = sampling or Sampling()
    return {name: _export(part, spec, folder / name, sampling) for name, part in parts.items()}


def _example(part: Predictor | Step, spec: ModelSpec, batch: int, frames: int) -> tuple[Tensor, ...]:
    """Return inputs of a shape, from a seed."""
    rng = torch.Generator().manual_seed(frames)
    values = []
    for name in part.inputs:
        if name == "text_ids":
            values.append(torch.randint(0, len(spec.vocabulary) + 1, (batch, frames), generator=rng))
        elif name in _OF_ROW:
            values.append(torch.rand(batch, generator=rng) * 0.4 + (0.5 if name == "r" else 0.0))
        else:
            mel = torch.randn(batch, frames, spec.mel.n_mels, generator=rng)
            values.append(mel * spec.mel_std + spec.mel_mean if name == "noisy_log_mel" else mel)
    return tuple(values)


def _export(part: Predictor | Step, spec: ModelSpec, path: Path, sampling: Sampling) -> float:
    """Write one file and return its largest difference.

    Raises:
        UserError: The difference is too large.
    """
    try:
        import onnx
    except ImportError as error:
        raise ImportError("ONNX files need onnx and onnxruntime: pip install 'flowse-pipeline[onnx]'") from error
    axes = {name: {0: "B"} if name in _OF_ROW else {0: "B", 1: "T"} for name in (*part.inputs, part.output)}
    with atomic_path(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that this exporter will be replaced, and of every traced size
        torch.onnx.export(
            part,
            _example(part, spec, 1, 100),
            str(temporary),
            input_names=list(part.inputs),
            output_names=[part.output],
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
        model = onnx.load(str(temporary))
        entry = model.metadata_props.add()
        entry.key, entry.value = "flowse", json.dumps(_facts(part, spec, sampling))
        onnx.save(model, str(temporary))
        worst = _difference(part, spec, temporary)
        if worst > TOLERANCE:
            raise UserError(f"{path}: the file's output differs from the model's by {worst:.2g}, more than {TOLERANCE}")
    return worst


def _facts(part: Predictor | Step, spec: ModelSpec, sampling: Sampling) -> dict[str, object]:
    """Return what a caller has to know besides the inputs' names."""
    facts: dict[str, object] = {"mel": spec.to_dict()["mel"], "mel_mean": spec.mel_mean, "mel_std": spec.mel_std}
    if isinstance(part, Step):
        facts |= {"source": spec.flow.source, "sigma": spec.flow.sigma, "jumps": spec.jumps}
        facts |= {"guidance_max": spec.guidance_max}
        facts |= {"vocabulary": list(spec.vocabulary)}
        facts |= {"times": time_grid(max(1, sampling.steps), sampling.grid)}
        if spec.flow.source == "predicted":
            facts |= {"range_db": spec.flow.range_db, "guard": sampling.guard}
    return facts


def _difference(part: Predictor | Step, spec: ModelSpec, path: Path) -> float:
    """Run a file beside the model it came from, at shapes that it was not traced with."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for batch, frames in _SHAPES:
        values = _example(part, spec, batch, frames)
        with torch.inference_mode():
            expected = part(*values).numpy()
        feeds = {name: value.numpy() for name, value in zip(part.inputs, values, strict=True)}
        (found,) = session.run(None, feeds)
        worst = max(worst, float(np.abs(found - expected).max() / max(1.0, float(np.abs(expected).max()))))
    return worst
