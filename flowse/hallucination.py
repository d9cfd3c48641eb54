"""Rules against transcripts that Whisper invents where nobody speaks, or where it loses the thread."""

from __future__ import annotations

import contextlib
import functools
import re
import unicodedata
from dataclasses import dataclass

from flowse.chinese import simplify
from flowse.normalisation import HANZI, plain
from flowse.refusal import Refusal
from flowse.whisper.transcript import Transcript

KNOWN_PHRASES = (
    # English
    "thanks for watching",
    "thank you for watching",
    "thanks for listening to this video",
    "subtitles by the amara org community",
    "please subscribe to",
    "subscribe to my channel",
    "subscribe to the channel",
    "like and subscribe",
    "see you in the next video",
    "transcription by castingwords",
    # Chinese; traditional characters are the same to the comparison
    "请不吝点赞",
    "订阅转发打赏",
    "明镜与点点栏目",
    "字幕由amara",
    "中文字幕志愿者",
    "字幕志愿者",
    "优优独播剧场",
    "谢谢观看",
    "谢谢收看",
    "感谢观看",
    "感谢收看",
    "感谢聆听",
    "我们下期再见",
    "请订阅我的频道",
    # Japanese
    "ご視聴ありがとうございました",
    "ご清聴ありがとうございました",
    "最後までご視聴いただき",
    "チャンネル登録",
    "次の動画でお会いしましょう",
    # Korean
    "시청해주셔서 감사합니다",
    "시청해 주셔서 고맙습니다",
    "구독과 좋아요",
    "구독 좋아요 알림",
    "다음 영상에서 만나요",
    "한글자막 by",
    "자막 제공",
    # German
    "untertitel der amara org community",
    "untertitel im auftrag des zdf",
    "untertitelung im auftrag des zdf",
    "untertitel von stephanie geiges",
    "untertitelung aufgrund der amara org community",
    "vielen dank fürs zuschauen",
    "danke fürs zuschauen",
    "danke für das zuschauen",
    "bis zum nächsten video",
    "swr 2020",
    # French
    "sous titres réalisés par la communauté d amara org",
    "la communauté d amara org",
    "sous titrage société radio canada",
    "sous titrage st 501",
    "merci d avoir regardé cette vidéo",
    "merci d avoir regardé la vidéo",
    "abonnez vous à la chaîne",
    "n oubliez pas de vous abonner",
    "à la prochaine vidéo",
    # Spanish
    "subtítulos realizados por la comunidad de amara org",
    "subtítulos por la comunidad de amara org",
    "gracias por ver el video",
    "gracias por ver este video",
    "suscríbete al canal",
    "nos vemos en el próximo video",
    "más información www alimmenta com",
    # Portuguese
    "legendas pela comunidade amara org",
    "legendado por",
    "obrigado por assistir",
    "obrigada por assistir",
    "inscreva se no canal",
    "até o próximo vídeo",
    # Italian
    "sottotitoli creati dalla comunità amara org",
    "sottotitoli a cura di qtss",
    "sottotitoli e revisione a cura di qtss",
    "grazie per aver guardato il video",
    "grazie per la visione",
    "iscrivetevi al canale",
    "alla prossima puntata",
    # Russian
    "субтитры сделал dimatorzok",
    "субтитры создавал dimatorzok",
    "редактор субтитров",
    "субтитры подогнал",
    "спасибо за просмотр",
    "подписывайтесь на канал",
    "продолжение следует",
    # Dutch, Polish, Turkish
    "ondertiteld door de amara org gemeenschap",
    "ondertiteling door",
    "bedankt voor het kijken",
    "napisy stworzone przez społeczność amara org",
    "dziękuję za oglądanie",
    "dziękuję za uwagę i zapraszam",
    "izlediğiniz için teşekkür",
    "altyazı m k",
    "abone olmayı unutmayın",
    # Arabic, Hindi
    "ترجمة نانسي قنقر",
    "اشتركوا في القناة",
    "شكرا للمشاهدة",
    "شكرا على المشاهدة",
    "देखने के लिए धन्यवाद",
    "चैनल को सब्सक्राइब",
)
"""What Whisper is known to write over silence, noise and music: it learned from subtitles.

They are compared without case, accents, punctuation and script (`_folded`), and some words may stand between theirs.
"""

_INSERTED = 3
"""So many words (of Hanzi and kana: characters) may stand between those of a known phrase."""

_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af]")
"""A Hanzi, kana or Hangul: one is about a syllable, and spaces between them mean little."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Thresholds beyond which a transcript is taken for invented; each rule rejects under its own reason.

    Attributes:
        min_logprob: Reason `low_logprob`: mean log-probability a token below this. −1 is Whisper's own threshold.
        max_compression_ratio: Reason `compression_ratio`: above this, the text repeats itself. 2.4 is Whisper's own
            threshold.
        max_repeats: Reason `repetition`: a phrase of up to ten words (or Hanzi) stands more often than this in a row.
        characters_per_second: Reason `characters_per_second`: least and most letters a second; English has about 14.
        hanzi_per_second: The same for text in Hanzi, kana or Hangul; Mandarin has about 5.
        max_no_speech_prob: Reason `no_speech`: probability that nobody speaks above this.
        known_phrases: Reason `known_phrase`: the text contains one of these; case, accents, punctuation, traditional or
            simplified characters and up to three inserted words make no difference.

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
    if phrase := _known_phrase(transcript.text, rules.known_phrases):
        raise Refusal("known_phrase", f"{phrase!r} in {shown}")
    if (repeats := longest_repetition(text)) > rules.max_repeats:
        raise Refusal("repetition", f"{repeats} times the same in {shown}")
    if transcript.compression_ratio > rules.max_compression_ratio:
        raise Refusal("compression_ratio", f"{transcript.compression_ratio:.2f}: {shown}")
    _require_plausible_rate(text, duration_s, min(duration_s, transcript.seconds), rules, shown)
    if not transcript.avg_logprob >= rules.min_logprob:  # also NaN
        raise Refusal("low_logprob", f"{transcript.avg_logprob:.2f} a token: {shown}")


def _require_plausible_rate(text: str, duration_s: float, sound_s: float, rules: Rules, shown: str) -> None:
    """Refuse a text that is spoken faster or more slowly than people speak.

    Args:
        text: As `flowse.normalisation.plain` returns it.
        duration_s: Length of the recording, in seconds.
        sound_s: Length of what was decoded, silence at both ends left out: words need sound.
        rules: The thresholds.
        shown: The text in the message.
    """
    letters = len(text.replace(" ", ""))
    syllabic = 2 * len(_UNSPACED.findall(text)) > letters
    least, most = rules.hanzi_per_second if syllabic else rules.characters_per_second
    what = "Hanzi, kana or Hangul" if syllabic else "characters"
    if not (rate := letters / max(duration_s, 1e-3)) >= least:
        raise Refusal("characters_per_second", f"{rate:.1f} {what} a second ({duration_s:.1f} s): {shown}")
    if not (rate := letters / max(sound_s, 1e-3)) <= most:
        raise Refusal("characters_per_second", f"{rate:.1f} {what} a second ({sound_s:.1f} s of sound): {shown}")


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


def _known_phrase(text: str, phrases: tuple[str, ...]) -> str | None:
    """Return the first known phrase that stands in a text."""
    words, letters = f" {_folded(text)} ", _folded(text).replace(" ", "")
    patterns = _patterns(phrases)
    return next((phrase for phrase, pattern, spaced in patterns if pattern.search(words if spaced else letters)), None)


@functools.lru_cache(maxsize=8)
def _patterns(phrases: tuple[str, ...]) -> tuple[tuple[str, re.Pattern[str], bool], ...]:
    """Compile phrases: each with its pattern, and whether the pattern is for words rather than for letters."""
    compiled = []
    for phrase in phrases:
        folded = _folded(phrase)
        if not folded:
            continue
        if spaced := not _UNSPACED.search(unicodedata.normalize("NFC", folded)):
            gap = rf" (?:\S+ ){{0,{_INSERTED}}}"
            pattern = f" {gap.join(map(re.escape, folded.split()))} "
        else:
            # Between the halves of a phrase, as in "thank (you all for) watching"; a gap anywhere would fit too much.
            letters = folded.replace(" ", "")
            half = len(letters) // 2 if HANZI.search(letters) and len(letters) <= 6 else 0
            pattern = re.escape(letters[:half]) + (f".{{0,{_INSERTED}}}" if half else "") + re.escape(letters[half:])
        compiled.append((phrase, re.compile(pattern), spaced))
    return tuple(compiled)


def _folded(text: str) -> str:
    """Fold what makes no difference between phrases: case, punctuation, accents, traditional characters."""
    if HANZI.search(text):
        with contextlib.suppress(ImportError):  # without OpenCC, only simplified characters are known
            text = simplify(text)
    decomposed = unicodedata.normalize("NFKD", plain(text))
    return unicodedata.normalize("NFC", "".join(c for c in decomposed if unicodedata.category(c) != "Mn"))
