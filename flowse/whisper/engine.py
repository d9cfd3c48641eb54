"""What the labeller asks of a program that runs Whisper on log-mels, and what both such programs share."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float


@dataclass(frozen=True, kw_only=True)
class DecodedWindow:
    """What one window was decoded to.

    Attributes:
        text: Without white space at its ends.
        avg_logprob: Mean natural log-probability a token, the end of text counted.
        no_speech_prob: Probability that nobody speaks; 0 if the model cannot say.
        tokens: Number of tokens, with the end of text.
    """

    text: str
    avg_logprob: float
    no_speech_prob: float
    tokens: int


@runtime_checkable
class Engine(Protocol):
    """A loaded Whisper model.

    Attributes:
        languages: Codes of the languages that the model knows.
        multilingual: Whether the model can detect a recording's language.
        n_mels: Mel bins of its input.
        n_audio_ctx: Positions of its encoder; each stands for two mel frames.
        n_text_ctx: Most tokens that its decoder takes.
    """

    languages: tuple[str, ...]
    multilingual: bool
    n_mels: int
    n_audio_ctx: int
    n_text_ctx: int

    def detect_language(self, mel: Float[torch.Tensor, "B F T"]) -> list[dict[str, float]]:
        """Return every window's probability of each language."""

    def decode(
        self, mel: Float[torch.Tensor, "B F T"], language: str, most_tokens: Sequence[int], beam_size: int
    ) -> list[DecodedWindow]:
        """Decode windows at temperature 0, without timestamps; no window changes another's text.

        Args:
            mel: Log-mels of B windows.
            language: Code of the language of all of them.
            most_tokens: Most tokens of each window's text.
            beam_size: Hypotheses that are kept at a time; 1 is greedy.
        """


def tokenizer_of(multilingual: bool, num_languages: int, language: str | None = None) -> Any:
    """Return openai-whisper's tokenizer of a model, which steers the decoder to a language if one is given."""
    import whisper

    with warnings.catch_warnings():
        # Whisper reads its vocabulary without closing the file; it does so once a process.
        warnings.simplefilter("ignore", ResourceWarning)
        return whisper.tokenizer.get_tokenizer(
            multilingual, num_languages=num_languages, language=language, task="transcribe" if multilingual else None
        )


def language_codes(multilingual: bool, num_languages: int) -> tuple[str, ...]:
    """Return the codes of a model's languages, in the order of its tokens."""
    from whisper.tokenizer import LANGUAGES

    return tuple(LANGUAGES)[:num_languages] if multilingual else ("en",)


def suppressed_tokens(tokenizer: Any) -> list[int]:
    """Return the tokens that openai-whisper never writes: signs for sounds, and all that steers the model."""
    steering = (
        tokenizer.transcribe,
        tokenizer.translate,
        tokenizer.sot,
        tokenizer.sot_prev,
        tokenizer.sot_lm,
        tokenizer.no_speech,
    )
    return sorted({*tokenizer.non_speech_tokens, *steering})
