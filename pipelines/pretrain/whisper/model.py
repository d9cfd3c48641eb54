"""The model in training: openai-whisper's own modules with a compact vocabulary, and heads thrown away later."""

from __future__ import annotations

import os
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from whisper.model import ModelDimensions, Whisper

from pipelines.pretrain.whisper.batches import IGNORE, LANGUAGES, Batch
from pipelines.pretrain.whisper.vocabulary import N_VOCAB, Vocabulary


@dataclass(frozen=True)
class Dims:
    """Size of the model; the rest is as in every multilingual Whisper."""

    width: int = 160
    heads: int = 5
    encoder_layers: int = 5
    decoder_layers: int = 2

    def whisper(self, n_vocab: int) -> ModelDimensions:
        """The same in openai-whisper's words."""
        return ModelDimensions(
            n_mels=80,
            n_audio_ctx=1_500,
            n_audio_state=self.width,
            n_audio_head=self.heads,
            n_audio_layer=self.encoder_layers,
            n_vocab=n_vocab,
            n_text_ctx=448,
            n_text_state=self.width,
            n_text_head=self.heads,
            n_text_layer=self.decoder_layers,
        )


@dataclass(frozen=True)
class Losses:
    """One step's losses, each a scalar."""

    text: Tensor
    ctc: Tensor
    language: Tensor
    domain: Tensor


class _Reverse(torch.autograd.Function):
    """The identity, whose gradient points the other way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


class Student(nn.Module):
    """A Whisper with heads for phonemes (CTC), language and domain on its encoder.

    Sequence-to-sequence training alone learns nothing from so little data: the decoder finds no
    alignment to attend to. The phoneme head makes the encoder's frames mean something first. The domain
    head tells real recordings from made ones through a reversed gradient (Ganin and Lempitsky 2015), so
    that the encoder unlearns the difference: what it learns from made German should hold for real German.

    Args:
        dims: Size.
        vocabulary: Tokens that occur; see `Vocabulary`.
        symbols: Number of phoneme symbols.
    """

    def __init__(self, dims: Dims, vocabulary: Vocabulary, symbols: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.whisper = Whisper(dims.whisper(vocabulary.size))
        nn.init.normal_(self.whisper.decoder.token_embedding.weight, std=dims.width**-0.5)
        nn.init.normal_(self.whisper.decoder.positional_embedding, std=0.02)
        self.to_phonemes = nn.Linear(dims.width, symbols + 1)
        self.to_language = nn.Linear(dims.width, len(LANGUAGES) + 1)
        self.to_domain = nn.Sequential(nn.Linear(dims.width, 64), nn.GELU(), nn.Linear(64, 2))
        bias = torch.zeros(vocabulary.size)
        bias[vocabulary.other] = vocabulary.other_bias
        self.register_buffer("bias", bias, persistent=False)

    def encode(self, mel: Tensor) -> Tensor:
        """Encode windows [B, 80, T] of any even length up to 30 s: [B, T / 2, D].

        The positions are fixed sinusoids, so a shorter window is the beginning of a long one.
        """
        encoder = self.whisper.encoder
        x = F.gelu(encoder.conv1(mel))
        x = F.gelu(encoder.conv2(x)).transpose(1, 2)
        x = x + encoder.positional_embedding[: x.shape[1]]
        for block in encoder.blocks:
            x = block(x)
        encoded: Tensor = encoder.ln_post(x)
        return encoded

    def forward(self, batch: Batch) -> Losses:
        """Return the losses of a batch."""
        features = self.encode(batch.mel)
        logits = self.whisper.decoder(batch.tokens, features).float() + self.bias
        text = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORE, label_smoothing=0.05)
        sound = torch.arange(features.shape[1])[None] < batch.frames[:, None]
        pooled = (features * sound[..., None]).sum(1) / sound.sum(1, keepdim=True)
        language = F.cross_entropy(self.to_language(pooled).float(), batch.languages, label_smoothing=0.05)
        domains = self.to_domain(_Reverse.apply(pooled)).float()
        domain = F.cross_entropy(domains, batch.real, ignore_index=IGNORE, reduction="sum")
        known = batch.phoneme_lengths > 0
        ctc = F.ctc_loss(
            self.to_phonemes(features[known]).float().log_softmax(-1).transpose(0, 1),
            batch.phonemes,
            batch.frames[known],
            batch.phoneme_lengths[known],
            zero_infinity=True,
        )
        return Losses(text, ctc, language, domain / (batch.real != IGNORE).sum().clamp(min=1))


def export(student: Student, dims: Dims, path: Path) -> None:
    """Write `student` without its heads as a checkpoint that `whisper.load_model(path)` reads.

    Weights are half precision. The archive is compressed, which torch reads as well: most embedding
    rows are the one shared by the tokens that never occur. The file is whole or absent.
    """
    state = {name: value.half() for name, value in student.whisper.state_dict().items()}
    embedding = "decoder.token_embedding.weight"
    state[embedding] = student.vocabulary.expand(state[embedding])
    path.parent.mkdir(parents=True, exist_ok=True)
    plain, packed = (path.with_name(f"{path.name}.{os.getpid()}.{kind}") for kind in ("plain", "packed"))
    torch.save({"dims": asdict(dims.whisper(N_VOCAB)), "model_state_dict": state}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            # A fixed date makes equal weights equal files.
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            target.writestr(entry, source.read(name))
    plain.unlink()
    packed.replace(path)
