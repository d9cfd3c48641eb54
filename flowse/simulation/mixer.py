"""Makes mixtures of their recipes: reads the recordings and responses that a recipe names, and renders it."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from flowse.audio.waveform import read_mono
from flowse.data.content import require_unchanged
from flowse.data.manifest import Split, Utterance
from flowse.data.shards import Mixture
from flowse.simulation.facts import MixtureFacts
from flowse.simulation.recipe import Recipe
from flowse.simulation.render import Rendered, render
from flowse.simulation.rir_bank import RirBank
from flowse.simulation.rirs import Rir
from flowse.simulation.sources import Sources, SplitSources

_WHOLE_NOISE_S = 30.0
"""Longer noises are read in part; shorter ones whole, because they may have to be looped."""
_CACHE_BYTES = 256 * 2**20


class WaveformCache:
    """Holds the waveforms that were used last, up to a number of bytes: noises recur, speech does not."""

    def __init__(self, max_bytes: int = _CACHE_BYTES) -> None:
        self._max_bytes, self._bytes = max_bytes, 0
        self._waveforms: OrderedDict[str, np.ndarray] = OrderedDict()

    def get(self, name: str, load: Callable[[], np.ndarray]) -> np.ndarray:
        """Return the waveform of this name; `load` reads it if the cache does not hold it."""
        if name in self._waveforms:
            self._waveforms.move_to_end(name)
            return self._waveforms[name]
        samples = load()
        self._waveforms[name] = samples
        self._bytes += samples.nbytes
        while self._bytes > self._max_bytes and len(self._waveforms) > 1:
            self._bytes -= self._waveforms.popitem(last=False)[1].nbytes
        return samples


class Mixer:
    """Makes mixtures of utterances with noises, rooms and other speakers, as recipes say.

    Example:
        >>> mixer = Mixer({"demo": Path("corpora/demo")}, sources, sample_rate=24_000)
        >>> rendered = mixer.render(recipe, utterance)
        >>> rendered.noisy, rendered.clean
    """

    def __init__(
        self,
        roots: Mapping[str, Path],
        sources: Sources,
        *,
        sample_rate: int,
        splits: Mapping[Split, SplitSources] | None = None,
    ) -> None:
        """Open the bank of rooms; the lists of a split are read when the first mixture of that split is made.

        Args:
            roots: Folder of every corpus, by its name.
            sources: What the speech is mixed with.
            sample_rate: Sample rate of the mixtures in Hz; that of the bank's responses.
            splits: Lists that are read already, e.g. those of another mixer.
        """
        self._roots, self._sources, self._sample_rate = roots, sources, sample_rate
        self._bank = RirBank(sources.rooms.parent)
        self._noises = WaveformCache()
        self._splits: dict[Split, SplitSources] = dict(splits or {})

    def render(self, recipe: Recipe, row: Utterance) -> Rendered:
        """Read the recordings that a recipe names and render it; the recipe may come from a finished dataset.

        Args:
            recipe: All choices of the mixture.
            row: The utterance `recipe.utt_id`.

        Raises:
            Refusal: A recording cannot be read or is silent, or the mixture did not become what its recipe asks for.
        """
        rate, sources = self._sample_rate, self.sources_of(recipe.split)
        if recipe.target == "silence":
            speech = np.zeros(round(recipe.duration_s * rate), np.float32)
        else:
            speech = self._read(row, recipe.crop_s, recipe.duration_s)
        noises, starts = [], []
        for name, offset_s in zip(recipe.noise_ids, recipe.noise_offsets_s, strict=True):
            noise = sources.noises[name]
            if noise.duration_s > max(_WHOLE_NOISE_S, recipe.duration_s):
                noises.append(self._read(noise, offset_s, recipe.duration_s))
                starts.append(0)
            else:
                noises.append(self._noises.get(name, functools.partial(self._read, noise, 0.0, noise.duration_s)))
                starts.append(min(round(offset_s * rate), len(noises[-1]) - 1))
        competitor = None
        if recipe.competitor_id:
            other = sources.competitors[recipe.competitor_id]
            competitor = self._read(other, 0.0, min(other.duration_s, recipe.duration_s))
        rirs = self._read_rirs(recipe, sources)
        return render(recipe, speech, noises, rirs, rate, noise_starts=starts, competitor=competitor)

    def to_store(self, row: Utterance, recipe: Recipe, rendered: Rendered) -> Mixture:
        """Return what a shard stores of a mixture: both waveforms, and all that is known about them."""
        has_speech, told = recipe.target != "silence", has_text(row, recipe)
        rirs = self.sources_of(recipe.split).rirs
        room = rirs[recipe.room_id][recipe.speech_source] if recipe.room_id and has_speech else None
        facts = MixtureFacts(
            utt_id=row.utt_id,
            copy=recipe.copy,
            split=recipe.split,
            text=row.text if told else "",
            text_source=row.text_source if told else "",
            language=row.language if has_speech else "",
            speaker=row.speaker if has_speech else "",
            corpus=row.corpus,
            licence=row.licence,
            snr_db=rendered.checks.snr_db,
            room_id=recipe.room_id,
            rt60_s=room.rt60_s if room else None,
            distance_m=room.distance_m if room else None,
            recipe=recipe,
            checks=rendered.checks,
        )
        return Mixture(
            key=recipe.key,
            clean=rendered.clean,
            noisy=rendered.noisy,
            sample_rate=self._sample_rate,
            meta=facts.to_meta(),
        )

    def sources_of(self, split: Split) -> SplitSources:
        """Return the sources of a split, read once."""
        if split not in self._splits:
            self._splits[split] = SplitSources.read(self._sources, split)
        return self._splits[split]

    def _read(self, row: Utterance, offset_s: float, duration_s: float) -> Float32[np.ndarray, " N"]:
        path = self._roots[row.corpus] / row.path
        require_unchanged(row, path)
        return read_mono(path, self._sample_rate, row.offset_s + offset_s, duration_s)

    def _read_rirs(self, recipe: Recipe, sources: SplitSources) -> dict[int, Rir]:
        used = {recipe.speech_source, recipe.competitor_source, *recipe.noise_sources} - {-1}
        return {source: self._bank.read(sources.rirs[recipe.room_id][source]) for source in used}


def has_text(row: Utterance, recipe: Recipe) -> bool:
    """Whether the transcript of the utterance is the mixture's: which words a crop holds is not known."""
    return recipe.target != "silence" and recipe.duration_s >= row.duration_s
