"""The model in training: openai-whisper's own modules with a compact vocabulary, and heads thrown away later."""

from __future__ import annotations

import io
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from whisper.model import ModelDimensions, MultiHeadAttention, Whisper

from flowse.files import atomic_path
from pipelines.pretrain.whisper.alignment import BLANK, align
from pipelines.pretrain.whisper.batches import IGNORE, LANGUAGES, Batch
from pipelines.pretrain.whisper.vocabulary import N_VOCAB, Vocabulary

MARGIN = 3
"""Encoder frames (20 ms) that a token may be heard earlier or later than its phonemes are."""

PLASTIC = 2
"""Encoder layers that go on learning beside the decoder, so that it finds in a frame what surrounds it."""


@dataclass(frozen=True)
class Dims:
    """Size of the model; the rest is as in every multilingual Whisper.

    Attributes:
        width: Of encoder and decoder.
        heads: Of every attention.
        encoder_layers: Layers.
        decoder_layers: Layers.
        text_positions: Most tokens of the decoder; Whisper writes half of them a window. The others have 448:
            half a minute has more letters than half of that.
    """

    width: int = 160
    heads: int = 5
    encoder_layers: int = 5
    decoder_layers: int = 4
    text_positions: int = 1_024

    def whisper(self, n_vocab: int) -> ModelDimensions:
        """The same in openai-whisper's words."""
        return ModelDimensions(
            n_mels=80,
            n_audio_ctx=1_500,
            n_audio_state=self.width,
            n_audio_head=self.heads,
            n_audio_layer=self.encoder_layers,
            n_vocab=n_vocab,
            n_text_ctx=self.text_positions,
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

    def learn_to_listen(self, learning: bool) -> None:
        """Let the encoder's lower layers learn, or stand still; its last `PLASTIC` layers always learn."""
        encoder = self.whisper.encoder
        for part in (encoder.conv1, encoder.conv2, *list(encoder.blocks)[:-PLASTIC]):
            part.requires_grad_(learning)

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

    def decode(self, batch: Batch, features: Tensor, heard: Tensor) -> tuple[Tensor, Tensor]:
        """Run the decoder; returns its output [B, L, D] and by how much its attention misses what it should hear.

        A decoder that has not found out where to listen writes likely sentences instead, and can stay so
        for thousands of steps, though the encoder has all the phonemes. So two heads of each layer are told
        where: those of the first layer at the token just written, those of the others at the next one. The
        remaining heads are free.

        Args:
            batch: Its tokens.
            features: The encoder's output [B, T, D].
            heard: Whether a frame belongs to the token that is asked for [B, L, T].
        """
        decoder = self.whisper.decoder
        x = decoder.token_embedding(batch.tokens) + decoder.positional_embedding[: batch.tokens.shape[1]]
        misses = []
        for i, block in enumerate(decoder.blocks):
            x = x + block.attn(block.attn_ln(x), mask=decoder.mask)[0]
            query = block.cross_attn_ln(x)
            weights = _attention(block.cross_attn, query, features, heads=2)
            aim = F.pad(heard[:, :-1], (0, 0, 1, 0)) if i == 0 and len(decoder.blocks) > 1 else heard
            caught = (weights * aim[:, None]).sum(-1).mean(1)
            misses.append(-torch.log(caught[aim.any(-1)] + 1e-4).sum() / aim.any(-1).sum().clamp(min=1))
            x = x + block.cross_attn(query, features)[0]
            x = x + block.mlp(block.mlp_ln(x))
        return decoder.ln(x), torch.stack(misses).mean()

    @torch.no_grad()
    def hear(self, batch: Batch, log_probs: Tensor) -> Tensor:
        """Tell which frames belong to which target [B, L, T]; none where the phonemes are not recognised.

        Args:
            batch: Its phonemes and places.
            log_probs: What the phoneme head says [B, T, symbols].
        """
        heard = torch.zeros(*batch.targets.shape, log_probs.shape[1], dtype=torch.bool)
        time = torch.arange(log_probs.shape[1])
        for row, phonemes in enumerate(torch.split(batch.phonemes, batch.phoneme_lengths.tolist())):
            begins = align(log_probs[row, : batch.frames[row]], phonemes)
            if begins is not None:
                first, last = batch.places[row].unbind(-1)
                begin, end = begins[first.clamp(min=0)] - MARGIN, begins[last.clamp(min=0) + 1] + MARGIN
                within = (time >= begin[:, None]) & (time < end[:, None])
                heard[row] = within & (first >= 0)[:, None]
        return heard

    def forward(self, batch: Batch) -> Losses:
        """Return the losses of a batch."""
        features = self.encode(batch.mel)
        log_probs = self.to_phonemes(features).float().log_softmax(-1)
        decoded, misses = self.decode(batch, features, self.hear(batch, log_probs))
        logits = (decoded @ self.whisper.decoder.token_embedding.weight.T).float() + self.bias
        text = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORE, label_smoothing=0.05)
        sound = torch.arange(features.shape[1])[None] < batch.frames[:, None]
        pooled = (features * sound[..., None]).sum(1) / sound.sum(1, keepdim=True)
        language = F.cross_entropy(self.to_language(pooled).float(), batch.languages, label_smoothing=0.05)
        known = batch.phoneme_lengths > 0
        ctc = F.ctc_loss(
            log_probs[known].transpose(0, 1),
            batch.phonemes,
            batch.frames[known],
            batch.phoneme_lengths[known],
            blank=BLANK,
            zero_infinity=True,
        )
        return Losses(text, ctc, language, misses)


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
    plain = io.BytesIO()
    torch.save({"dims": asdict(dims.whisper(N_VOCAB)), "model_state_dict": state}, plain)
    with (
        atomic_path(path) as temporary,
        zipfile.ZipFile(plain) as source,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            # torch names the top folder after the file; with that and the date fixed, equal weights are equal files.
            entry = zipfile.ZipInfo(f"model/{name.partition('/')[2]}")
            entry.compress_type = zipfile.ZIP_DEFLATED
            target.writestr(entry, source.read(name))
