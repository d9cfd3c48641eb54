"""Speech synthesis by espeak-ng: voice and text alone decide the waveform, in every process."""

from __future__ import annotations

import _ctypes
import ctypes
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import espeakng_loader
import numpy as np
import numpy.typing as npt

SAMPLE_RATE = 22_050
"""The rate at which espeak-ng renders, in Hz."""

FEMALE: tuple[str, ...] = (
    "f1",
    "f2",
    "f3",
    "f4",
    "f5",
    "Alicia",
    "Andrea",
    "Annie",
    "anika",
    "aunty",
    "belinda",
    "grandma",
    "linda",
    "shelby",
    "steph",
    "steph2",
    "steph3",
)
MALE: tuple[str, ...] = (
    "m1",
    "m2",
    "m3",
    "m4",
    "m5",
    "m6",
    "m7",
    "m8",
    "Alex",
    "Andy",
    "Denis",
    "Diogo",
    "Gene",
    "Gene2",
    "Henrique",
    "Hugo",
    "Jacky",
    "Lee",
    "Marco",
    "Mario",
    "Michael",
    "Mike",
    "Nguyen",
    "RicishayMax",
    "RicishayMax2",
    "RicishayMax3",
    "adam",
    "announcer",
    "antonio",
    "benjamin",
    "boris",
    "david",
    "ed",
    "edward",
    "edward2",
    "grandpa",
    "gustave",
    "ian",
    "iven",
    "iven2",
    "iven3",
    "iven4",
    "john",
    "klatt",
    "klatt2",
    "klatt3",
    "klatt4",
    "klatt5",
    "marcelo",
    "max",
    "michel",
    "miguel",
    "mike2",
    "norbert",
    "pablo",
    "paul",
    "pedro",
    "quincy",
    "rob",
    "robert",
    "sandro",
    "travis",
    "victor",
    "zac",
)
VARIANTS: tuple[str, ...] = (*FEMALE, *MALE)
"""Variants of espeak-ng that sound like a person; whispers, robots, demons and comedians are left out."""

PITCH_RANGES = (0, 75)
"""Lowest and highest pitch range; above it espeak-ng crashes with some variants, because it leaves its pitch table."""

ESPEAK_NAMES = {
    "ar": "ar",
    "de": "de",
    "en": "en-us",
    "es": "es",
    "fr": "fr",
    "it": "it",
    "ja": "ja",
    "ko": "ko",
    "nl": "nl",
    "pl": "pl",
    "pt": "pt-br",
    "ru": "ru",
    "zh": "cmn",
}
"""espeak-ng's name of each language, by Whisper's code (ISO 639-1)."""

# Constants of espeak-ng's public interface (speak_lib.h).
_SYNCHRONOUS = 2  # samples come while espeak_Synth runs, in the thread that calls it
_TEXT_IS_UTF8 = 1
_PHONEMES_AS_IPA = 2
_RATE, _PITCH, _PITCH_RANGE = 1, 3, 4


@dataclass(frozen=True)
class Voice:
    """A synthetic speaker.

    Attributes:
        language: A key of `ESPEAK_NAMES`.
        variant: The timbre; one of `VARIANTS`.
        pitch: Base pitch, 0 to 100; 50 is that of the variant.
        rate: Words a minute, about 110 to 230.
        pitch_range: Range of the intonation, within `PITCH_RANGES`; 0 is monotone.
        accent: espeak-ng's name of a regional voice, e.g. "en-gb-scotland"; empty for the language's usual voice.
    """

    language: str
    variant: str
    pitch: int = 50
    rate: int = 165
    pitch_range: int = 50
    accent: str = ""

    def __post_init__(self) -> None:
        low, high = PITCH_RANGES
        if not low <= self.pitch_range <= high:
            raise ValueError(f"pitch_range is {self.pitch_range}; it must be between {low} and {high}")

    @property
    def espeak_name(self) -> str:
        """Return the voice in espeak-ng's notation, e.g. "en-us+f3"."""
        return f"{self.accent or ESPEAK_NAMES[self.language]}+{self.variant}"

    @property
    def speaker(self) -> str:
        """Return a name that two voices share only if they sound the same."""
        return f"{self.espeak_name}-p{self.pitch}-r{self.rate}-v{self.pitch_range}".replace("+", "-").lower()


class _Engine:
    """Calls libespeak-ng, one caller at a time.

    The library keeps random state (voice flutter, breath) in static variables that none of its functions resets, so
    that a second sentence would depend on the first one. Therefore the library is loaded anew for each call, which
    takes a few milliseconds. It is loaded from a private copy, because another user of the library in this process
    would keep the variables alive. It makes no thread of its own: with one, unloading it crashed the process now and
    then where other threads kept the processor busy.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._folder = tempfile.TemporaryDirectory(prefix="espeak-")
        self._library = Path(self._folder.name) / "libespeak-ng.so"
        shutil.copy(espeakng_loader.get_library_path(), self._library)
        # espeak_Initialize expects the folder that holds espeak-ng-data.
        self._data = str(Path(espeakng_loader.get_data_path()).parent).encode()

    @contextmanager
    def _speaking_as(self, espeak_name: str) -> Iterator[ctypes.CDLL]:
        with self._lock:
            library = ctypes.CDLL(str(self._library))
            try:
                if library.espeak_Initialize(_SYNCHRONOUS, 0, self._data, 0) != SAMPLE_RATE:
                    raise RuntimeError(f"espeak-ng cannot start with the data in {self._data.decode()}")
                if library.espeak_SetVoiceByName(espeak_name.encode()) != 0:
                    raise ValueError(f"espeak-ng has no voice {espeak_name!r}")
                # espeak_Initialize seeds the breath noise of some voices from the clock.
                library.espeak_ng_SetRandSeed(ctypes.c_long(1))
                yield library
            finally:
                library.espeak_Terminate()
                _ctypes.dlclose(library._handle)

    def synthesise(self, text: str, voice: Voice) -> npt.NDArray[np.int16]:
        pieces: list[npt.NDArray[np.int16]] = []

        def receive(samples: Any, count: int, _events: Any) -> int:
            if samples and count:
                pieces.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
            return 0

        callback_type = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        callback = callback_type(receive)  # held by a name, because ctypes does not keep it alive
        with self._speaking_as(voice.espeak_name) as library:
            library.espeak_SetSynthCallback(callback)
            for parameter, value in (
                (_RATE, voice.rate),
                (_PITCH, voice.pitch),
                (_PITCH_RANGE, voice.pitch_range),
            ):
                library.espeak_SetParameter(parameter, value, 0)
            encoded = text.encode() + b"\0"
            status = library.espeak_Synth(encoded, len(encoded), 0, 0, 0, _TEXT_IS_UTF8, None, None)
        if status != 0 or not pieces:
            raise RuntimeError(f"espeak-ng made no sound of {text!r} with {voice.espeak_name}")
        return np.concatenate(pieces)

    def phonemes(self, text: str, language: str) -> str:
        with self._speaking_as(ESPEAK_NAMES[language]) as library:
            library.espeak_TextToPhonemes.restype = ctypes.c_char_p
            rest = ctypes.c_char_p(text.encode())
            clauses: list[str] = []
            while rest.value:
                clause = library.espeak_TextToPhonemes(ctypes.byref(rest), _TEXT_IS_UTF8, _PHONEMES_AS_IPA)
                clauses.append((clause or b"").decode())
        return " ".join(clause.strip() for clause in clauses if clause.strip())


@cache
def _engine() -> _Engine:
    return _Engine()


def synthesise(text: str, voice: Voice) -> npt.NDArray[np.float32]:
    """Synthesise `text`; the samples depend on the two arguments alone.

    Args:
        text: A sentence in the language of the voice.
        voice: The speaker.

    Returns:
        One channel of shape [N] in [-1, 1) at `SAMPLE_RATE`.

    Raises:
        ValueError: espeak-ng does not know the voice.
    """
    return _engine().synthesise(text, voice).astype(np.float32) / 32_768.0


def phonemes(text: str, language: str) -> str:
    """Return the pronunciation of `text` by espeak-ng in IPA, with spaces between words."""
    return _engine().phonemes(text, language)
