"""Laws of the mixer: seed, utterance and copy decide the samples, and a recipe gives the same samples again."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from flowse.refusal import Refusal
from flowse.simulation.facts import MixtureFacts
from flowse.simulation.mixer import Mixer, WaveformCache
from flowse.simulation.recipe import MixtureConfig
from tests.flowse.simulation.recordings import BANK_RATE, Recordings, write_recordings

CONFIG = MixtureConfig(competitor=0.5)


@pytest.fixture(name="recordings", scope="module")
def _recordings(tmp_path_factory: pytest.TempPathFactory) -> Recordings:
    return write_recordings(tmp_path_factory.mktemp("recordings"))


def _mixer(recordings: Recordings, config: MixtureConfig = CONFIG, seed: int = 1, min_s: float = 0.0) -> Mixer:
    return Mixer(config, seed, recordings.roots, recordings.sources, sample_rate=BANK_RATE, min_s=min_s)


def test_two_mixers_make_the_same_mixtures_in_any_order(recordings: Recordings) -> None:
    mixer, other = _mixer(recordings), _mixer(recordings)
    mixed = {row.utt_id: mixer.mix(row, 0) for row in recordings.speech}
    for row in reversed(recordings.speech):
        recipe, rendered = other.mix(row, 0)
        assert recipe == mixed[row.utt_id][0]
        assert rendered.noisy.tobytes() == mixed[row.utt_id][1].noisy.tobytes()
    assert other.mix(recordings.speech[0], 1)[0] != mixed["speech/0"][0]
    assert _mixer(recordings, seed=2).mix(recordings.speech[0], 0)[0] != mixed["speech/0"][0]


def test_a_recipe_gives_the_same_samples_whatever_the_seed(recordings: Recordings) -> None:
    for row in recordings.speech:
        recipe, rendered = _mixer(recordings).mix(row, 0)
        again = _mixer(recordings, seed=99).render(recipe, row)
        assert again.clean.tobytes() == rendered.clean.tobytes()
        assert again.noisy.tobytes() == rendered.noisy.tobytes()
        assert len(rendered.noisy) == round(row.duration_s * BANK_RATE)


def test_a_crop_loses_its_text_and_all_else_is_stored(recordings: Recordings) -> None:
    row = recordings.speech[8]
    for max_s, text in ((20.0, "hello"), (1.0, "")):
        mixer = _mixer(recordings, dataclasses.replace(CONFIG, max_s=max_s))
        recipe, rendered = mixer.mix(row, 0)
        stored = mixer.to_store(row, recipe, rendered)
        facts = MixtureFacts.of(stored.meta)
        assert (facts.text, facts.speaker, facts.split) == (text, row.speaker, row.split)
        assert facts.recipe == recipe
        assert facts.checks == rendered.checks
        assert facts.checks.samples == len(stored.noisy)


def test_what_cannot_be_mixed_is_refused(recordings: Recordings) -> None:
    row = recordings.speech[0]
    with pytest.raises(Refusal, match=r"too_short: s0.flac: 1.000 s, under 1.5 s"):
        _mixer(recordings, min_s=1.5).mix(row, 0)
    with pytest.raises(Refusal, match="not_found"):
        _mixer(recordings).mix(dataclasses.replace(row, path="gone.flac"), 0)
    with pytest.raises(Refusal, match="changed_since_ingest"):
        _mixer(recordings).mix(dataclasses.replace(row, content="0" * 32), 0)
    with pytest.raises(ValueError, match="without a split"):
        _mixer(recordings).mix(dataclasses.replace(row, split=None), 0)


def test_the_cache_holds_the_waveforms_used_last() -> None:
    loaded: list[str] = []

    def load(name: str) -> np.ndarray:
        loaded.append(name)
        return np.zeros(100, np.float32)

    cache = WaveformCache(max_bytes=800)
    for name in "abacab":  # two waveforms of 400 bytes fit: c displaces b
        cache.get(name, lambda name=name: load(name))
    assert "".join(loaded) == "abcb"
