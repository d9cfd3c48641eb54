"""Rules against transcripts that Whisper invents where nobody speaks, or where it loses the thread."""

from __future__ import annotations

from dataclasses import dataclass

from flowse.normalisation import HANZI, plain
from flowse.refusal import Refusal
from flowse.whisper.transcript import Transcript

KNOWN_PHRASES = (
    "thanks for watching",
    "thank you for watching",
    "subtitles by the amara org community",
    "please subscribe to",
    "like and subscribe",
    "see you in the next video",
    "transcription by castingwords",
    "请不吝点赞",
    "订阅转发打赏",
    "明镜与点点栏目",
    "字幕由amara",
    "中文字幕志愿者",
    "优优独播剧场",
    "谢谢观看",
    "感谢观看",
    "我们下期再见",
)
"""What Whisper is known to write over silence, noise and music: it learned from subtitles."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Thresholds beyond which a transcript is taken for invented; each rule rejects under its own reason.

    Attributes:
        min_logprob: Reason `low_logprob`: mean log-probability a token below this. −1 is Whisper's own threshold.
        max_compression_ratio: Reason `compression_ratio`: above this, the text repeats itself. 2.4 is Whisper's own
            threshold.
        max_repeats: Reason `repetition`: a phrase of up to ten words (or Hanzi) stands more often than this in a row.
        characters_per_second: Reason `characters_per_second`: least and most letters a second; English has about 14.
        hanzi_per_second: The same for text in Hanzi; Mandarin has about 5.
        max_no_speech_prob: Reason `no_speech`: probability that nobody speaks above this.
        known_phrases: Reason `known_phrase`: the text contains one of these, case and punctuation aside.

    Raises:
        ValueError: A value is out of its range; the message names the key.
    """

    min_logprob: float = -1.0
    max_compression_ratio: float = 2.4
    max_repeats: int = 4
    characters_per_second: tuple[float, float] = (1.0, 30.0)
    hanzi_per_second: tuple[float, float] = (0.4, 12.0)
    max_no_speech_prob: float = 0.9
    known_phrases: tuple[str, ...] = KNOWN_PHRASES

    def __post_init__(self) -> None:
        for name in ("characters_per_second", "hanzi_per_second"):
            least, most = getattr(self, name)
            if not 0 <= least < most:
                raise ValueError(f"{name} is [{least}, {most}]; the first must be ≥ 0 and less than the second")
        if self.max_repeats < 1:
            raise ValueError(f"max_repeats is {self.max_repeats}; it must be at least 1")


def require_plausible(transcript: Transcript, duration_s: float, rules: Rules) -> None:
    """Pass a transcript that may be believed.

    Args:
        transcript: Whisper's transcript of the recording.
        duration_s: Length of the recording, in seconds.
        rules: The thresholds.

    Raises:
        Refusal: Under the reason of the first rule that the transcript breaks.
    """
    shown = repr(transcript.text[:80])
    text = plain(transcript.text)
    if transcript.seconds == 0 or transcript.no_speech_prob > rules.max_no_speech_prob:
        raise Refusal("no_speech", f"probability {transcript.no_speech_prob:.2f} that nobody speaks")
    if not text:
        raise Refusal("empty_transcript", f"Whisper wrote {shown}")
    if phrase := next((phrase for phrase in rules.known_phrases if _contains(text, plain(phrase))), None):
        raise Refusal("known_phrase", f"{phrase!r} in {shown}")
    if (repeats := longest_repetition(text)) > rules.max_repeats:
        raise Refusal("repetition", f"{repeats} times the same in {shown}")
    if transcript.compression_ratio > rules.max_compression_ratio:
        raise Refusal("compression_ratio", f"{transcript.compression_ratio:.2f}: {shown}")
    _require_plausible_rate(text, duration_s, rules, shown)
    if not transcript.avg_logprob >= rules.min_logprob:  # also NaN
        raise Refusal("low_logprob", f"{transcript.avg_logprob:.2f} a token: {shown}")


def _require_plausible_rate(text: str, duration_s: float, rules: Rules, shown: str) -> None:
    """Refuse a text that is spoken faster or more slowly than people speak."""
    hanzi = len(HANZI.findall(text))
    letters = len(text.replace(" ", ""))
    mostly_hanzi = 2 * hanzi > letters
    least, most = rules.hanzi_per_second if mostly_hanzi else rules.characters_per_second
    rate = letters / max(duration_s, 1e-3)
    if not least <= rate <= most:
        what = "Hanzi" if mostly_hanzi else "characters"
        raise Refusal("characters_per_second", f"{rate:.1f} {what} a second ({duration_s:.1f} s): {shown}")


def longest_repetition(text: str, longest_phrase: int = 10) -> int:
    """Count how often the most repeated phrase stands in a row; 1 if nothing is repeated, 0 for no text.

    Args:
        text: As `flowse.normalisation.plain` returns it. A Hanzi counts as a word.
        longest_phrase: In words.
    """
    words = HANZI.sub(r" \g<0> ", text).split()
    best = min(1, len(words))
    for size in range(1, min(longest_phrase, len(words) // 2) + 1):
        run = 0
        for place in range(size, len(words)):
            run = run + 1 if words[place] == words[place - size] else 0
            best = max(best, run // size + 1)
    return best


def _contains(text: str, phrase: str) -> bool:
    """Whether a phrase stands in a text: as whole words, or anywhere if it has Hanzi, which have no word boundaries."""
    if HANZI.search(phrase) and phrase.replace(" ", "") in text.replace(" ", ""):
        return True
    return f" {phrase} " in f" {text} "
