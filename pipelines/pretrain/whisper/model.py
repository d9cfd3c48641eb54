"""The model in training: openai-whisper's modules with a compact vocabulary, and heads that the export leaves out."""

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

ALIGNMENT_MARGIN = 3
"""Encoder frames (20 ms) before and after the phonemes of a token that also count as the token's frames."""

ADAPTED_LAYERS = 2
"""Last encoder layers that are trained to the end with the decoder, so that frames carry the context it needs."""


@dataclass(frozen=True)
class Dims:
    """Size of the model; the rest is as in every multilingual Whisper.

    Attributes:
        width: Width of encoder and decoder.
        heads: Heads of every attention layer.
        encoder_layers: Number of encoder layers.
        decoder_layers: Number of decoder layers.
        text_positions: Number of decoder positions. Whisper writes at most half as many tokens in a window; its usual
            448 positions are too few for the letters of 30 s.
    """

    width: int = 160
    heads: int = 5
    encoder_layers: int = 5
    decoder_layers: int = 4
    text_positions: int = 1_024

    def whisper(self, n_vocab: int) -> ModelDimensions:
        """Return the sizes as openai-whisper's `ModelDimensions`."""
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
    """The losses of a step, each a scalar."""

    text: Tensor
    ctc: Tensor
    language: Tensor
    attention: Tensor


class Student(nn.Module):
    """A Whisper with heads for phonemes (CTC) and language on its encoder.

    Sequence-to-sequence training alone fails with so little data: the decoder does not find an alignment. The phoneme
    head first makes the encoder learn phonemes.

    Args:
        dims: Size of the model.
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

    def train_lower_encoder(self, trained: bool) -> None:
        """Train the encoder's lower layers, or freeze them; its last `ADAPTED_LAYERS` layers are always trained."""
        encoder = self.whisper.encoder
        for part in (encoder.conv1, encoder.conv2, *list(encoder.blocks)[:-ADAPTED_LAYERS]):
            part.requires_grad_(trained)

    def encode(self, mel: Tensor) -> Tensor:
        """Encode windows [B, 80, T] of any even length up to 30 s; return [B, T / 2, D].

        The position embeddings are fixed sinusoids, so a short window has the first positions of a long one.
        """
        encoder = self.whisper.encoder
        x = F.gelu(encoder.conv1(mel))
        x = F.gelu(encoder.conv2(x)).transpose(1, 2)
        x = x + encoder.positional_embedding[: x.shape[1]]
        for block in encoder.blocks:
            x = block(x)
        encoded: Tensor = encoder.ln_post(x)
        return encoded

    def decode(self, batch: Batch, features: Tensor, token_frames: Tensor) -> tuple[Tensor, Tensor]:
        """Run the decoder; return its output [B, L, D] and the attention loss.

        A decoder that has not learned where to attend writes probable sentences, sometimes for thousands of steps,
        although the encoder recognises all phonemes. The attention loss guides two heads of each layer: those of the
        first layer to the frames of the last written token, those of the other layers to the frames of the next token.
        The remaining heads are not guided.

        Args:
            batch: The batch with the decoder's tokens.
            features: Output of the encoder [B, T, D].
            token_frames: Whether a frame belongs to the target token [B, L, T]; see `token_frames`.
        """
        decoder = self.whisper.decoder
        x = decoder.token_embedding(batch.tokens) + decoder.positional_embedding[: batch.tokens.shape[1]]
        losses = []
        for i, block in enumerate(decoder.blocks):
            x = x + block.attn(block.attn_ln(x), mask=decoder.mask)[0]
            query = block.cross_attn_ln(x)
            weights = _attention(block.cross_attn, query, features, heads=2)
            goal = F.pad(token_frames[:, :-1], (0, 0, 1, 0)) if i == 0 and len(decoder.blocks) > 1 else token_frames
            share = (weights * goal[:, None]).sum(-1).mean(1)
            losses.append(-torch.log(share[goal.any(-1)] + 1e-4).sum() / goal.any(-1).sum().clamp(min=1))
            x = x + block.cross_attn(query, features)[0]
            x = x + block.mlp(block.mlp_ln(x))
        return decoder.ln(x), torch.stack(losses).mean()

    @torch.no_grad()
    def token_frames(self, batch: Batch, log_probs: Tensor) -> Tensor:
        """Tell which frames belong to which target [B, L, T]; a window without recognised phonemes has none.

        Args:
            batch: The batch with phonemes and phoneme spans.
            log_probs: Log probabilities of the phoneme head [B, T, symbols].
        """
        belongs = torch.zeros(*batch.targets.shape, log_probs.shape[1], dtype=torch.bool)
        time = torch.arange(log_probs.shape[1])
        for row, phonemes in enumerate(torch.split(batch.phonemes, batch.phoneme_lengths.tolist())):
            begins = align(log_probs[row, : batch.frames[row]], phonemes)
            if begins is not None:
                first, last = batch.phoneme_spans[row].unbind(-1)
                begin, end = (
                    begins[first.clamp(min=0)] - ALIGNMENT_MARGIN,
                    begins[last.clamp(min=0) + 1] + ALIGNMENT_MARGIN,
                )
                within = (time >= begin[:, None]) & (time < end[:, None])
                belongs[row] = within & (first >= 0)[:, None]
        return belongs

    def forward(self, batch: Batch) -> Losses:
        """Return the losses of a batch."""
        features = self.encode(batch.mel)
        log_probs = self.to_phonemes(features).float().log_softmax(-1)
        decoded, attention_loss = self.decode(batch, features, self.token_frames(batch, log_probs))
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
        return Losses(text, ctc, language, attention_loss)


def _attention(attention: MultiHeadAttention, x: Tensor, features: Tensor, heads: int) -> Tensor:
    """Return attention weights [B, heads, L, T] of the first heads; those of openai-whisper have no gradient."""
    width = attention.query.out_features // attention.n_head
    rows = heads * width
    query = F.linear(x, attention.query.weight[:rows], attention.query.bias[:rows])
    key = F.linear(features, attention.key.weight[:rows])
    query, key = (y.view(*y.shape[:2], heads, width).transpose(1, 2) for y in (query, key))
    weights: Tensor = (query @ key.transpose(-1, -2) / width**0.5).float().softmax(-1)
    return weights


def export(student: Student, dims: Dims, path: Path) -> None:
    """Write `student` without its heads as a checkpoint that `whisper.load_model(path)` reads.

    Weights are half precision. The archive is compressed, which torch can read: most embedding rows are equal, because
    all tokens that never occur share a row. The file is whole or absent.
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
            # torch names the top folder after the file; a fixed name and date make files of equal weights equal.
            entry = zipfile.ZipInfo(f"model/{name.partition('/')[2]}")
            entry.compress_type = zipfile.ZIP_DEFLATED
            target.writestr(entry, source.read(name))
