"""Laws of the mixer: a recipe decides the samples, and what cannot be mixed is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from flowse.data.manifest import Utterance
from flowse.refusal import Refusal
from flowse.simulation.facts import MixtureFacts
from flowse.simulation.mixer import Mixer, WaveformCache
from flowse.simulation.plans import Planner
from flowse.simulation.recipe import MixtureConfig, Recipe
from tests.flowse.simulation.recordings import BANK_RATE, Recordings, write_recordings

CONFIG = MixtureConfig(competitor=0.5)


@pytest.fixture(name="recordings", scope="module")
def _recordings(tmp_path_factory: pytest.TempPathFactory) -> Recordings:
    return write_recordings(tmp_path_factory.mktemp("recordings"))


def _mixer(recordings: Recordings) -> Mixer:
    return Mixer(recordings.roots, recordings.sources, sample_rate=BANK_RATE)


def _recipe(recordings: Recordings, row: Utterance, config: MixtureConfig = CONFIG) -> Recipe:
    recipe = Planner(config, 1, recordings.sources).plan(row, 0).recipe
    assert recipe is not None
    return recipe


def test_two_mixers_make_the_same_mixtures_in_any_order(recordings: Recordings) -> None:
    mixer, other = _mixer(recordings), _mixer(recordings)
    mixed = {row.utt_id: mixer.render(_recipe(recordings, row), row) for row in recordings.speech}
    for row in reversed(recordings.speech):
        rendered = other.render(_recipe(recordings, row), row)
        assert rendered.clean.tobytes() == mixed[row.utt_id].clean.tobytes()
        assert rendered.noisy.tobytes() == mixed[row.utt_id].noisy.tobytes()
        assert len(rendered.noisy) == round(row.duration_s * BANK_RATE)


def test_a_crop_loses_its_text_and_all_else_is_stored(recordings: Recordings) -> None:
    row, mixer = recordings.speech[8], _mixer(recordings)
    for max_s, text in ((20.0, "hello"), (1.0, "")):
        recipe = _recipe(recordings, row, dataclasses.replace(CONFIG, max_s=max_s))
        rendered = mixer.render(recipe, row)
        stored = mixer.to_store(row, recipe, rendered)
        facts = MixtureFacts.of(stored.meta)
        assert (facts.text, facts.speaker, facts.split) == (text, row.speaker, row.split)
        assert facts.recipe == recipe
        assert facts.checks == rendered.checks
        assert facts.checks.samples == len(stored.noisy)


def test_what_cannot_be_mixed_is_refused(recordings: Recordings) -> None:
    row, mixer = recordings.speech[0], _mixer(recordings)
    recipe = _recipe(recordings, row)
    with pytest.raises(Refusal, match="not_found"):
        mixer.render(recipe, dataclasses.replace(row, path="gone.flac"))
    with pytest.raises(Refusal, match="changed_since_ingest"):
        mixer.render(recipe, dataclasses.replace(row, content="0" * 32))


def test_the_cache_holds_the_waveforms_used_last() -> None:
    loaded: list[str] = []

    def load(name: str) -> np.ndarray:
        loaded.append(name)
        return np.zeros(100, np.float32)

    cache = WaveformCache(max_bytes=800)
    for name in "abacab":  # two waveforms of 400 bytes fit: c displaces b
        cache.get(name, lambda name=name: load(name))
    assert "".join(loaded) == "abcb"
