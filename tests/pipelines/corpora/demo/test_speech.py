"""Laws of synthetic speech: text and voice decide every sample, in any order and process."""

import hashlib
import multiprocessing
import threading
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

from pipelines.corpora.demo.speech import (
    ESPEAK_NAMES,
    FEMALE,
    MALE,
    PITCH_RANGES,
    SAMPLE_RATE,
    VARIANTS,
    Voice,
    phonemes,
    synthesise,
)

# f2 and Alicia breathe at random, m3 flutters, klatt2 is another synthesiser.
SAYINGS = [
    ("The old clock stopped.", Voice("en", "f2")),
    ("老师今天在图书馆看书。", Voice("zh", "Alicia", pitch=40)),
    ("Der Hund schläft.", Voice("de", "m3", rate=190)),
    ("Le chat dort.", Voice("fr", "klatt2", pitch_range=70)),
]


def fingerprint(saying: tuple[str, Voice]) -> str:
    return hashlib.sha256(synthesise(*saying).tobytes()).hexdigest()


def test_the_same_samples_in_any_order() -> None:
    forwards = [fingerprint(saying) for saying in SAYINGS]
    backwards = [fingerprint(saying) for saying in reversed(SAYINGS)]
    assert forwards == backwards[::-1]
    assert len(set(forwards)) == len(SAYINGS)


def test_the_same_samples_in_another_process() -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as other:
        assert list(other.map(fingerprint, SAYINGS)) == [fingerprint(saying) for saying in SAYINGS]


def test_samples_come_in_the_thread_that_asks_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    # A thread of the synthesiser's own crashed the process now and then, once the library was unloaded.
    threads, as_array = [], np.ctypeslib.as_array

    def seen(*arguments: object, **named: object) -> np.ndarray:
        threads.append(threading.get_ident())
        return as_array(*arguments, **named)

    monkeypatch.setattr(np.ctypeslib, "as_array", seen)
    synthesise(*SAYINGS[0])
    assert set(threads) == {threading.get_ident()}


def test_every_variant_makes_a_sound_of_its_own() -> None:
    languages = sorted(ESPEAK_NAMES)
    for low, high in (PITCH_RANGES,):
        for i, variant in enumerate(VARIANTS):
            audio = synthesise("la la", Voice(languages[i % len(languages)], variant, pitch_range=(low, high)[i % 2]))
            assert audio.dtype == np.float32
            assert len(audio) > 0.2 * SAMPLE_RATE
            assert 0.01 < np.abs(audio).max() <= 1.0
    spoken = {fingerprint(("la", Voice("en", variant))) for variant in VARIANTS}
    assert len(spoken) == len(VARIANTS) == len(set(FEMALE) | set(MALE))


def test_each_setting_of_a_voice_changes_its_sound_and_its_name() -> None:
    plain = Voice("en", "m1")
    others = [
        Voice("en", "m1", pitch=70),
        Voice("en", "m1", rate=200),
        Voice("en", "m1", pitch_range=20),
        Voice("en", "m1", accent="en-gb-scotland"),
        Voice("en", "m2"),
    ]
    text = "Nobody borrowed the golden ladder."
    assert len({fingerprint((text, voice)) for voice in (plain, *others)}) == 6
    assert len({voice.speaker for voice in (plain, *others)}) == 6


def test_a_faster_voice_takes_less_time() -> None:
    slow, fast = (len(synthesise("We painted the wooden bridge.", Voice("en", "m1", rate=r))) for r in (120, 200))
    assert fast < 0.75 * slow


def test_an_unknown_voice_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="no-such"):
        synthesise("hello", Voice("en", "m1", accent="no-such"))


def test_a_pitch_range_that_crashes_espeak_is_refused() -> None:
    with pytest.raises(ValueError, match="pitch_range"):
        Voice("en", "m1", pitch_range=90)


def test_phonemes_of_a_sentence_are_those_of_its_words() -> None:
    assert phonemes("cat", "en") in phonemes("the cat sleeps", "en")
    assert phonemes("好", "zh") != phonemes("号", "en")
    assert phonemes("One. Two.", "en").split() == [phonemes("One", "en"), phonemes("Two", "en")]
