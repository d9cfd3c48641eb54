"""What Whisper makes of a recording: its text and how sure the model is; importable without torch."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Transcript:
    """Whisper's transcript of a recording.

    Attributes:
        text: Empty if nothing was recognised.
        language: ISO 639-1 code (three letters where there is none) that the recording was decoded as; "" if unknown.
        avg_logprob: Mean natural log-probability a token; 0 if nothing was decoded.
        no_speech_prob: Probability that nobody speaks, mean over the windows by length; 1 if nothing is audible.
        compression_ratio: Bytes of the text over its bytes compressed; above 2.4 the text repeats itself.
        tokens: Number of tokens, with the end of text of every window.
        seconds: Length of the windows that were decoded.
    """

    text: str
    language: str
    avg_logprob: float = 0.0
    no_speech_prob: float = 1.0
    compression_ratio: float = 0.0
    tokens: int = 0
    seconds: float = 0.0


def compression_ratio(text: str) -> float:
    """Return a text's bytes over its bytes compressed by zlib, as openai-whisper computes it."""
    encoded = text.encode()
    return len(encoded) / len(zlib.compress(encoded))


def join_transcripts(parts: Sequence[Transcript], language: str) -> Transcript:
    """Put transcripts of consecutive stretches of a recording together; any grouping gives the same.

    Args:
        parts: In the order of the recording; those without decoded windows change nothing.
        language: The recording's.
    """
    decoded = [part for part in parts if part.seconds > 0]
    if not decoded:
        return Transcript(text="", language=language)
    # Between Hanzi, kana or Thai letters no space is written.
    gap = "" if language in ("zh", "yue", "ja", "th") else " "
    text = gap.join(part.text for part in decoded if part.text)
    tokens, seconds = sum(part.tokens for part in decoded), sum(part.seconds for part in decoded)
    return Transcript(
        text=text,
        language=language,
        avg_logprob=sum(part.avg_logprob * part.tokens for part in decoded) / tokens,
        no_speech_prob=sum(part.no_speech_prob * part.seconds for part in decoded) / seconds,
        compression_ratio=compression_ratio(text),
        tokens=tokens,
        seconds=seconds,
    )
