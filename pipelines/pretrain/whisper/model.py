"""The model in training: openai-whisper's own modules with a compact vocabulary, and heads thrown away later."""

from __future__ import annotations

import os
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from whisper.model import ModelDimensions, MultiHeadAttention, Whisper

from pipelines.pretrain.whisper.batches import IGNORE, LANGUAGES, Batch
from pipelines.pretrain.whisper.vocabulary import N_VOCAB, Vocabulary

PROMPT = 3
"""Decoder positions before the first text token is asked for: start, language, task."""


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
    attention: Tensor


class Student(nn.Module):
    """A Whisper with heads for phonemes (CTC) and language on its encoder.

    Sequence-to-sequence training alone learns nothing from so little data: the decoder finds no
    alignment to attend to. The phoneme head makes the encoder's frames mean something first.

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

    def decode(self, batch: Batch, features: Tensor) -> tuple[Tensor, Tensor]:
        """Run the decoder; returns its output [B, L, D] and how far its attention strays from the diagonal.

        A decoder that has not found out where to listen writes likely sentences instead, and can stay so
        for thousands of steps. Speech is said in the order it is written, so two heads of each layer are
        told to move along (Tachibana, Uenoyama and Aihara 2017); the rest are free.
        """
        decoder = self.whisper.decoder
        x = decoder.token_embedding(batch.tokens) + decoder.positional_embedding[: batch.tokens.shape[1]]
        asked = (batch.targets != IGNORE).sum(1, keepdim=True)
        written = torch.arange(x.shape[1])[None] - PROMPT
        place = (written + 0.5) / (asked - PROMPT).clamp(min=1)
        time = (torch.arange(features.shape[1])[None] + 0.5) / batch.frames[:, None]
        off = 1 - torch.exp(-((place[:, :, None] - time[:, None]) ** 2) / (2 * 0.15**2))
        # Prompts have no place, and texts of a word or two need no guide.
        guided = (written >= 0) & (place < 1) & (asked > PROMPT + 2)
        astray = []
        for block in decoder.blocks:
            x = x + block.attn(block.attn_ln(x), mask=decoder.mask)[0]
            query = block.cross_attn_ln(x)
            weights = _attention(block.cross_attn, query, features, heads=2)
            astray.append(((weights * off[:, None]).sum(-1).mean(1) * guided).sum() / guided.sum().clamp(min=1))
            x = x + block.cross_attn(query, features)[0]
            x = x + block.mlp(block.mlp_ln(x))
        return decoder.ln(x), torch.stack(astray).mean()

    def forward(self, batch: Batch) -> Losses:
        """Return the losses of a batch."""
        features = self.encode(batch.mel)
        decoded, astray = self.decode(batch, features)
        logits = (decoded @ self.whisper.decoder.token_embedding.weight.T).float() + self.bias
        text = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORE, label_smoothing=0.05)
        sound = torch.arange(features.shape[1])[None] < batch.frames[:, None]
        pooled = (features * sound[..., None]).sum(1) / sound.sum(1, keepdim=True)
        language = F.cross_entropy(self.to_language(pooled).float(), batch.languages, label_smoothing=0.05)
        known = batch.phoneme_lengths > 0
        ctc = F.ctc_loss(
            self.to_phonemes(features[known]).float().log_softmax(-1).transpose(0, 1),
            batch.phonemes,
            batch.frames[known],
            batch.phoneme_lengths[known],
            zero_infinity=True,
        )
        return Losses(text, ctc, language, astray)


def _attention(attention: MultiHeadAttention, x: Tensor, features: Tensor, heads: int) -> Tensor:
    """Attention weights [B, heads, L, T] of the first heads; openai-whisper gives them without a gradient."""
    width = attention.query.out_features // attention.n_head
    rows = heads * width
    query = F.linear(x, attention.query.weight[:rows], attention.query.bias[:rows])
    key = F.linear(features, attention.key.weight[:rows])
    query, key = (y.view(*y.shape[:2], heads, width).transpose(1, 2) for y in (query, key))
    weights: Tensor = (query @ key.transpose(-1, -2) / width**0.5).float().softmax(-1)
    return weights


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
            # torch names the top folder after the file; with that and the date fixed, equal weights are equal files.
            entry = zipfile.ZipInfo(f"model/{name.partition('/')[2]}")
            entry.compress_type = zipfile.ZIP_DEFLATED
            target.writestr(entry, source.read(name))
    plain.unlink()
    packed.replace(path)
