"""Laws of recipes: a choice depends on its own utterance alone, and a new candidate changes only its share of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowse.data.manifest import Utterance
from flowse.data.parquet import read_rows, write_rows
from flowse.simulation.recipe import (
    PACKET_S,
    Candidates,
    MixtureConfig,
    Noise,
    Pool,
    Recipe,
    draw_recipe,
    mixture_key,
)

NOISES = [Noise(f"noise/{number}", 3.0 + number) for number in range(40)]
ROOMS = [(f"room-{number}", 4) for number in range(20)]
ALL_EFFECTS = MixtureConfig(
    reverberation=1.0, band_limit=1.0, equaliser=1.0, clipping=1.0, codec=1.0, packet_loss=1.0, competitor=1.0
)


def _speech(number: int, corpus: str = "demo", duration_s: float = 5.0) -> Utterance:
    return Utterance(
        utt_id=f"{corpus}/{number}",
        corpus=corpus,
        kind="speech",
        path=f"{number}.wav",
        duration_s=duration_s,
        speaker=f"s{number % 7}",
        split="train",
    )


def _draw(number: int, candidates: Candidates, config: MixtureConfig | None = None, copy: int = 0) -> Recipe:
    return draw_recipe(config or MixtureConfig(), 1, _speech(number), copy, candidates)


def test_a_recipe_is_a_function_of_seed_utterance_and_copy() -> None:
    """The order of the candidates does not matter; seed, utterance and copy do."""
    candidates, reversed_candidates = Candidates(NOISES, ROOMS), Candidates(NOISES[::-1], ROOMS[::-1])
    for number in range(20):
        assert _draw(number, candidates) == _draw(number, reversed_candidates)
    assert _draw(0, candidates) != dataclasses.replace(
        _draw(0, candidates, copy=1), key=mixture_key("demo/0", 0), copy=0
    )
    assert draw_recipe(MixtureConfig(), 2, _speech(0), 0, candidates) != _draw(0, candidates)


def test_a_new_noise_takes_its_share_of_the_choices_and_changes_nothing_else() -> None:
    before, after = Candidates(NOISES, ROOMS), Candidates([*NOISES, Noise("noise/new", 60.0)], ROOMS)
    config = MixtureConfig(noise_count_weights=(1.0,))
    moved = 0
    for number in range(300):
        old, new = _draw(number, before, config), _draw(number, after, config)
        if new.noise_ids != old.noise_ids:
            assert new.noise_ids == ("noise/new",)
            moved += 1
        assert dataclasses.replace(new, noise_ids=(), noise_offsets_s=(), noise_snrs_db=(), noise_sources=()) == (
            dataclasses.replace(old, noise_ids=(), noise_offsets_s=(), noise_snrs_db=(), noise_sources=())
        )
        assert (new.noise_snrs_db, new.noise_sources) == (old.noise_snrs_db, old.noise_sources)
    expected = 300 / (len(NOISES) + 1)
    assert abs(moved - expected) < 4 * expected**0.5


def test_changing_one_choice_changes_no_other() -> None:
    candidates = Candidates(NOISES, ROOMS)
    quiet = MixtureConfig(clipping=1.0, level_dbfs=(-60.0, -50.0))
    for number in range(50):
        plain, changed = _draw(number, candidates), _draw(number, candidates, quiet)
        assert dataclasses.replace(changed, level_dbfs=0.0, clipping_share=None) == dataclasses.replace(
            plain, level_dbfs=0.0, clipping_share=None
        )


def test_an_added_speech_corpus_changes_no_competitor() -> None:
    speech = [("demo", f"s{number % 7}", f"demo/{number}") for number in range(60)]
    more = speech + [("other", "x", f"other/{number}") for number in range(500)]
    for number in range(60):
        recipe = _draw(number, Candidates(NOISES, ROOMS, speech), ALL_EFFECTS)
        assert recipe == _draw(number, Candidates(NOISES, ROOMS, more), ALL_EFFECTS)
        assert recipe.competitor_id.startswith("demo/")
        assert int(recipe.competitor_id.split("/")[1]) % 7 != number % 7


def test_the_draws_have_the_configured_distribution() -> None:
    """SNR buckets, number of noises and share of rooms, over 1000 recipes (the paper's defaults)."""
    candidates = Candidates(NOISES, ROOMS)
    recipes = [_draw(number, candidates) for number in range(1000)]
    snrs = np.array([snr for recipe in recipes for snr in recipe.noise_snrs_db])
    shares = np.histogram(snrs, (-5, 0, 5, 10, 20))[0] / len(snrs)
    np.testing.assert_allclose(shares, (0.05, 0.30, 0.45, 0.20), atol=0.05)
    assert np.mean([len(recipe.noise_ids) for recipe in recipes]) == pytest.approx(1.25, abs=0.05)
    assert np.mean([bool(recipe.room_id) for recipe in recipes]) == pytest.approx(0.5, abs=0.05)
    assert all(-35 <= recipe.level_dbfs <= -15 for recipe in recipes)
    assert len({noise for recipe in recipes for noise in recipe.noise_ids}) == len(NOISES)


def test_speech_and_noises_have_different_sources_in_one_room() -> None:
    config = MixtureConfig(reverberation=1.0, noise_count_weights=(0.0, 0.0, 1.0))
    for number in range(50):
        recipe = _draw(number, Candidates(NOISES, ROOMS), config)
        assert sorted((recipe.speech_source, *recipe.noise_sources)) == [0, 1, 2, 3]
    alone = _draw(0, Candidates(NOISES, [("closet", 1)]), config)
    assert (alone.speech_source, alone.noise_sources) == (0, (-1, -1, -1))


@given(st.floats(0.5, 100), st.floats(0.1, 500), st.integers(0, 10**6))
def test_offsets_lie_inside_the_recordings(duration_s: float, noise_s: float, number: int) -> None:
    recipe = draw_recipe(
        MixtureConfig(), 3, _speech(number, duration_s=duration_s), 0, Candidates([Noise("n", noise_s)], [])
    )
    assert recipe.duration_s == min(duration_s, 20.0)
    assert 0 <= recipe.crop_s <= duration_s - recipe.duration_s + 1e-9
    (offset_s,) = recipe.noise_offsets_s
    assert 0 <= offset_s <= noise_s
    if noise_s > recipe.duration_s:
        assert offset_s + recipe.duration_s <= noise_s + 1e-9


def test_packets_are_lost_at_the_drawn_rate_in_bursts() -> None:
    config = MixtureConfig(packet_loss=1.0, packet_loss_share=(0.1, 0.1), max_s=200.0)
    utterance = _speech(0, duration_s=200.0)
    lost = [draw_recipe(config, seed, utterance, 0, Candidates(NOISES)).lost_packets for seed in range(10)]
    packets = 200 / PACKET_S
    assert np.mean([len(numbers) for numbers in lost]) / packets == pytest.approx(0.1, abs=0.01)
    bursts = np.mean([len(numbers) / (1 + np.count_nonzero(np.diff(numbers) > 1)) for numbers in lost])
    assert bursts == pytest.approx(2.0, abs=0.15)


def test_recipes_survive_parquet(tmp_path: Path) -> None:
    candidates = Candidates(NOISES, ROOMS, [("demo", "x", "demo/x")])
    recipes = [_draw(number, candidates, config) for number in range(5) for config in (None, ALL_EFFECTS)]
    assert all(recipe.has_effects for recipe in recipes[1::2])
    write_rows(tmp_path / "recipes.parquet", Recipe, recipes)
    assert list(read_rows(tmp_path / "recipes.parquet", Recipe)) == recipes


def test_a_longer_choice_begins_with_the_shorter_one() -> None:
    pool = Pool([f"c{number}" for number in range(10)])
    for seed in range(100):
        order = pool.choose(seed, 10)
        assert sorted(order) == list(range(10))
        assert [pool.choose(seed, count) for count in (1, 3)] == [order[:1], order[:3]]
    assert len(Pool(["only"]).choose(0, 3)) == 1
    with pytest.raises(ValueError, match="twice"):
        Pool(["a", "a"])


def test_no_noise_is_an_error() -> None:
    with pytest.raises(ValueError, match="no noise"):
        _draw(0, Candidates([]))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("target", "wet"),
        ("reverberation", 1.5),
        ("snr_weights", (1.0,)),
        ("snr_edges_db", (5.0, 0.0)),
        ("noise_count_weights", (1.0, 1.0, 1.0, 1.0)),
        ("level_dbfs", (-10.0, 3.0)),
        ("codecs", ("aac",)),
        ("codec_kbps", (1.0, 2.0)),
        ("max_s", 0.0),
    ],
)
def test_a_bad_value_names_its_key(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=key):
        MixtureConfig(**{key: value})  # type: ignore[arg-type]


def test_mixtures_without_speech_have_their_share_and_change_no_other() -> None:
    candidates = Candidates(NOISES, ROOMS, [("demo", "other", "demo/x")])
    often = MixtureConfig(noise_only=0.2, competitor=1.0)
    silent = 0
    for number in range(600):
        recipe = _draw(number, candidates, often)
        plain = _draw(number, candidates, MixtureConfig(competitor=1.0))
        if recipe.target == "silence":
            silent += 1
            assert (recipe.competitor_id, recipe.speech_source) == ("", -1)
            recipe = dataclasses.replace(
                recipe,
                target=plain.target,
                speech_source=plain.speech_source,
                competitor_id=plain.competitor_id,
                competitor_snr_db=plain.competitor_snr_db,
                competitor_source=plain.competitor_source,
            )
        assert recipe == plain
    assert silent / 600 == pytest.approx(0.2, abs=0.06)
    assert all(_draw(number, candidates).target != "silence" for number in range(50))
    with pytest.raises(ValueError, match="target='silence'"):
        MixtureConfig(target="silence")
