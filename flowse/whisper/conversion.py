"""Convert a checkpoint of openai-whisper to the folder that CTranslate2 reads: the same weights under other names."""

from __future__ import annotations

import hashlib
import os
import pickle
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from flowse.files import atomic_folder
from flowse.whisper.engine import tokenizer_of

_REVISION = 1
"""Raise it when the written folder changes, so that no folder of an older version is found in the cache."""

Weights = Mapping[str, torch.Tensor]


def converted(checkpoint: Path) -> Path:
    """Return the CTranslate2 folder of a checkpoint; convert it if this machine has not done so yet.

    Folders are kept in the machine's folder for temporary files, under the checkpoint's SHA-256: every worker of a
    machine shares one, and it appears whole or not at all.

    Args:
        checkpoint: A file in openai-whisper's format.

    Raises:
        ValueError: The file is no Whisper checkpoint.
        ModuleNotFoundError: CTranslate2 is not installed.
    """
    with checkpoint.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    home = Path(tempfile.gettempdir()) / f"flowse-ctranslate2-{os.getuid()}"
    home.mkdir(mode=0o700, exist_ok=True)
    if home.stat().st_uid != os.getuid():
        raise PermissionError(f"{home} belongs to another user; set TMPDIR to a folder of your own")
    folder = home / f"{digest[:16]}-{_REVISION}"
    if not folder.is_dir():
        # If another process is faster, its folder holds the same and may be in use already.
        with atomic_folder(folder, keep_existing=True) as temporary:
            convert(checkpoint, temporary)
    return folder


def convert(checkpoint: Path, folder: Path) -> None:
    """Write a checkpoint of openai-whisper as a CTranslate2 folder, at the precision of the checkpoint.

    Args:
        checkpoint: A file with `dims` and `model_state_dict`.
        folder: Made if it is absent; must be empty.

    Raises:
        ValueError: The file is no Whisper checkpoint.
        ModuleNotFoundError: CTranslate2 is not installed.
    """
    from ctranslate2.specs import WhisperSpec

    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
        dims, weights = content["dims"], content["model_state_dict"]
        spec = WhisperSpec(dims["n_audio_layer"], dims["n_audio_head"], dims["n_text_layer"], dims["n_text_head"])
        half = weights["decoder.token_embedding.weight"].dtype == torch.float16
        _fill(spec, {name: tensor.float() for name, tensor in weights.items()})
        _describe(spec, dims)
        spec.validate()
    except (KeyError, TypeError, ValueError, RuntimeError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{checkpoint}: not a checkpoint of openai-whisper ({type(error).__name__}: {error}); "
            "give a .pt file with `dims` and `model_state_dict`, e.g. one that openai-whisper downloaded"
        ) from error
    spec.optimize(quantization="float16" if half else "float32")
    folder.mkdir(parents=True, exist_ok=True)
    spec.save(str(folder))


def _fill(spec: Any, weights: Weights) -> None:
    """Copy every tensor of the checkpoint into CTranslate2's description of the model."""
    encoder, decoder = spec.encoder, spec.decoder
    for conv in ("conv1", "conv2"):
        layer = getattr(encoder, conv)
        layer.weight, layer.bias = weights[f"encoder.{conv}.weight"], weights[f"encoder.{conv}.bias"]
    encoder.position_encodings.encodings = weights["encoder.positional_embedding"]
    _norm(encoder.layer_norm, weights, "encoder.ln_post")
    decoder.position_encodings.encodings = weights["decoder.positional_embedding"]
    decoder.embeddings.weight = decoder.projection.weight = weights["decoder.token_embedding.weight"]
    _norm(decoder.layer_norm, weights, "decoder.ln")
    for side, name in ((encoder, "encoder"), (decoder, "decoder")):
        for number, layer in enumerate(side.layer):
            block = f"{name}.blocks.{number}"
            _norm(layer.self_attention.layer_norm, weights, f"{block}.attn_ln")
            _fused(layer.self_attention.linear[0], weights, f"{block}.attn", ("query", "key", "value"))
            _linear(layer.self_attention.linear[1], weights, f"{block}.attn.out")
            if name == "decoder":
                _norm(layer.attention.layer_norm, weights, f"{block}.cross_attn_ln")
                _fused(layer.attention.linear[0], weights, f"{block}.cross_attn", ("query",))
                _fused(layer.attention.linear[1], weights, f"{block}.cross_attn", ("key", "value"))
                _linear(layer.attention.linear[2], weights, f"{block}.cross_attn.out")
            _norm(layer.ffn.layer_norm, weights, f"{block}.mlp_ln")
            _linear(layer.ffn.linear_0, weights, f"{block}.mlp.0")
            _linear(layer.ffn.linear_1, weights, f"{block}.mlp.2")


def _norm(spec: Any, weights: Weights, name: str) -> None:
    spec.gamma, spec.beta = weights[f"{name}.weight"], weights[f"{name}.bias"]


def _linear(spec: Any, weights: Weights, name: str) -> None:
    spec.weight, spec.bias = weights[f"{name}.weight"], weights[f"{name}.bias"]


def _fused(spec: Any, weights: Weights, name: str, parts: tuple[str, ...]) -> None:
    """Stack projections that CTranslate2 computes as one; Whisper's keys have no bias."""
    stacked = [weights[f"{name}.{part}.weight"] for part in parts]
    spec.weight = torch.cat(stacked)
    spec.bias = torch.cat(
        [
            weights.get(f"{name}.{part}.bias", torch.zeros(len(weight)))
            for part, weight in zip(parts, stacked, strict=True)
        ]
    )


def _describe(spec: Any, dims: Mapping[str, int]) -> None:
    """Register the vocabulary, and which tokens are suppressed or stand for languages."""
    multilingual = dims["n_vocab"] >= 51865
    tokenizer = tokenizer_of(multilingual, dims["n_vocab"] - 51765 - int(multilingual))
    special = {token: name for name, token in tokenizer.special_tokens.items()}
    tokens = []
    for token in range(dims["n_vocab"]):
        # Every sequence of bytes gets a string of its own. Nobody reads them: texts are decoded from the numbers.
        plain = special.get(token) or tokenizer.encoding.decode_single_token_bytes(token).decode("latin-1")
        tokens.append(plain)
    spec.register_vocabulary(tokens)
    spec.config.suppress_ids = sorted(tokenizer.non_speech_tokens)
    spec.config.suppress_ids_begin = [*tokenizer.encode(" "), tokenizer.eot]
    spec.config.lang_ids = list(tokenizer.all_language_tokens) if multilingual else []
    spec.config.alignment_heads = [
        [layer, head]
        for layer in range(dims["n_text_layer"] // 2, dims["n_text_layer"])
        for head in range(dims["n_text_head"])
    ]
    # CTranslate2 ignores these two: `flowse.whisper.ctranslate` reads them, for models of other sizes than published.
    for key in ("n_audio_ctx", "n_text_ctx"):
        spec.config.add_attribute(key, dims[key])
