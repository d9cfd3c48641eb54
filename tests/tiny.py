"""Models as small as can be and untrained (vocoder, Whisper, whole export), and sound for them, for many tests."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from whisper.model import ModelDimensions, Whisper

from flowse.export import ModelConfig, save
from flowse.flow.sampling import Sampling
from flowse.model.spec import DiTConfig, ModelSpec
from flowse.model.system import build
from flowse.seeding import generator

VOCOS = """
feature_extractor:
  class_path: vocos.feature_extractors.MelSpectrogramFeatures
  init_args: {sample_rate: 24000, n_fft: 1024, hop_length: 256, n_mels: 100, padding: center}
backbone:
  class_path: vocos.models.VocosBackbone
  init_args: {input_channels: 100, dim: 32, intermediate_dim: 64, num_layers: 1}
head:
  class_path: vocos.heads.ISTFTHead
  init_args: {dim: 32, n_fft: 1024, hop_length: 256, padding: center}
"""


def write_vocoder(folder: Path, seed: int = 0) -> Path:
    """Write an untrained Vocos to `folder`, which is made with its parents if need be."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # encodec, which vocos imports, warns about torch's weight_norm
        from vocos import Vocos
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(VOCOS)
    torch.manual_seed(seed)
    torch.save(Vocos.from_hparams(str(folder / "config.yaml")).state_dict(), folder / "pytorch_model.bin")
    return folder


def write_model(folder: Path, vocabulary: tuple[str, ...] = (), synthesis: str = "vocoder") -> Path:
    """Write an untrained model with its vocoder to `folder`, whose parent is made if need be."""
    vocoder = write_vocoder(folder.with_name(f"{folder.name}-vocos"))
    small = DiTConfig(dim=32, depth=1, heads=2, conv_groups=4, text_dim=16, text_blocks=1)
    spec = ModelSpec(model=small, mel_mean=-6.0, mel_std=3.0, vocabulary=vocabulary)
    system = build(spec)
    config = ModelConfig(spec=spec, sampling=Sampling(steps=2, guidance=0.0, synthesis=synthesis))
    save(folder, config, system.state_dict(), vocoder, "# tiny\n")
    return folder


def write_whisper(path: Path, *, audio_ctx: int, vocabulary: int = 51865, text_ctx: int = 24) -> Path:
    """Save a random model in openai-whisper's checkpoint format."""
    dims = ModelDimensions(80, audio_ctx, 32, 2, 1, vocabulary, text_ctx, 32, 2, 1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Whisper(dims)
        torch.nn.init.normal_(model.decoder.positional_embedding, std=0.5)
        # Without this a random model hears little of the audio and says the same about everything.
        for block in model.decoder.blocks:
            torch.nn.init.normal_(block.cross_attn.out.weight, std=1.5)
    torch.save({"dims": dims.__dict__, "model_state_dict": model.state_dict()}, path)
    return path


def syllables(seconds: float, seed: int, level: float = 0.1) -> np.ndarray:
    """Make a tone in noise that comes and goes as syllables do, mono at 16 kHz."""
    rng = generator(seed)
    t = np.arange(round(seconds * 16_000)) / 16_000
    envelope = np.maximum(0.01, np.sin(t * 2 * np.pi * rng.uniform(2, 5)))
    tone = np.sin(t * 2 * np.pi * rng.uniform(100, 1000))
    return (level * envelope * (tone + 0.3 * rng.standard_normal(len(t)))).astype(np.float32)
