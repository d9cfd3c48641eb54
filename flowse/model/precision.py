"""Fewer bits for inference: matrix products of a flow in bfloat16, or in 8-bit integers on a CPU."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from flowse.model.dit import DiT
from flowse.model.spec import PRECISIONS
from flowse.model.system import System


def reduce_precision(system: System, precision: str) -> None:
    """Convert the weights of a system's transformers, for inference alone; masks stay as they are.

    "bf16" keeps the weights of linear layers and convolutions in bfloat16 and computes with them (autocast): for GPUs,
    and for CPUs that have its instructions. "int8" quantises the linear layers of the blocks dynamically: weights once,
    activations as they come, products in 8-bit integers; norms, attention and the last layer stay in 32 bits.

    Args:
        system: A loaded model; it is changed.
        precision: One of `PRECISIONS`; "fp32" changes nothing.

    Raises:
        ValueError: The precision is unknown, the model has no transformer, or "int8" is asked of another device.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r} must be one of {', '.join(PRECISIONS)}")
    if precision == "fp32":
        return
    transformers = [network for network in system.networks if isinstance(network, DiT)]
    if not transformers:
        raise ValueError(f"precision={precision!r} is for transformers; this model is a mask, which has 0.4 M weights")
    if precision == "int8" and system.device.type != "cpu":
        raise ValueError(f"precision='int8' is for CPUs; on {system.device.type} take 'bf16'")
    for network in transformers:
        if precision == "bf16":
            for module in network.modules():
                if isinstance(module, nn.Linear | nn.Conv1d):
                    module.to(torch.bfloat16)
        else:
            with warnings.catch_warnings():
                # torch says that its quantised tensors will be replaced.
                warnings.simplefilter("ignore")
                for block in network.blocks:
                    torch.ao.quantization.quantize_dynamic(  # type: ignore[no-untyped-call]
                        block, {nn.Linear}, dtype=torch.qint8, inplace=True
                    )
    system.bf16 = precision == "bf16"
