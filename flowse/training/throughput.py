"""Model FLOPs utilisation (MFU): the arithmetic of a mel frame, counted, and the peak of a GPU, from its data sheet."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from flowse.flow.config import LossConfig
from flowse.flow.path import Draws
from flowse.model.spec import ModelSpec
from flowse.model.system import build

PEAK_BF16_FLOPS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "A10": 125e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
    "V100": 125e12,
}
"""Dense bf16 (V100: fp16) matrix FLOP/s by a part of the device's name, from NVIDIA's data sheets (SXM variants)."""


def peak_flops(device: torch.device | str) -> float | None:
    """Return a device's peak in FLOP/s; None for CPUs and for GPUs that `PEAK_BF16_FLOPS` lacks."""
    if torch.device(device).type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_BF16_FLOPS.items() if part in name), None)


def training_flops_per_frame(spec: ModelSpec, frames: int) -> float:
    """Count the matrix FLOPs of a forward and backward pass for one mel frame, on tensors without values ("meta").

    Operations that activation checkpointing repeats count once, as is usual for MFU.

    Args:
        spec: The model.
        frames: Mel frames of an utterance; the share of attention grows with it.
    """
    with torch.device("meta"):
        system = build(spec)
        mel = torch.empty(1, frames, spec.mel.n_mels)
        ids = torch.zeros(1, frames, dtype=torch.long) if spec.vocabulary else None
        no = torch.zeros(1, dtype=torch.bool)
        draws = Draws(torch.empty(1), torch.empty_like(mel), no, no)
        # The lengths are those of whole rows, so that no frame is masked: meta tensors have no values to mask by.
        lengths = torch.full((1,), frames)
    with FlopCounterMode(display=False) as counter:
        system(mel, mel, lengths, ids, draws, LossConfig())
    # The backward pass has two products for each one of the forward pass. It is not counted: torch 2.14 counts the
    # gradient of a grouped convolution's weights as if there were one group.
    return float(3 * counter.get_total_flops()) / frames
