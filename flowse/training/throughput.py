"""How much of a GPU's arithmetic training uses: FLOPs of a frame, counted, against the device's peak, by data sheet."""

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
    """Return a device's peak in FLOP/s; None for CPUs and for GPUs that the table does not name."""
    if torch.device(device).type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_BF16_FLOPS.items() if part in name), None)


def training_flops_per_frame(spec: ModelSpec, frames: int) -> float:
    """Count the matrix FLOPs that forward and backward take for one mel frame, without computing anything.

    What activation checkpointing computes twice counts once, as is usual for model FLOPs utilisation (MFU).

    Args:
        spec: The model.
        frames: Length of an utterance; attention's share grows with it.
    """
    with torch.device("meta"):
        system = build(spec)
        mel = torch.empty(1, frames, spec.mel.n_mels)
        ids = torch.zeros(1, frames, dtype=torch.long) if spec.vocabulary else None
        no = torch.zeros(1, dtype=torch.bool)
        draws = Draws(torch.empty(1), torch.empty_like(mel), no, no)
        # No real frame is masked: the lengths decide nothing here, and meta tensors have no values to decide with.
        lengths = torch.full((1,), frames)
    with FlopCounterMode(display=False) as counter:
        system(mel, mel, lengths, ids, draws, LossConfig())
    # Backward takes two products for each of forward. Not counted by the same means: torch 2.14 counts the gradient of
    # a grouped convolution's weights as if it had one group.
    return float(3 * counter.get_total_flops()) / frames
