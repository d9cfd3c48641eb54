"""Mixtures drawn anew in every epoch of a training, by the recipes and the code that made the stored ones."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from flowse.audio.flac import as_int16
from flowse.data.manifest import Split
from flowse.data.utterance_table import UtteranceTable
from flowse.errors import UserError
from flowse.files import atomic_path
from flowse.json_records import from_json, to_json
from flowse.refusal import Refusal, refusing
from flowse.seeding import derive_seed
from flowse.simulation.mixer import Mixer, has_text
from flowse.simulation.recipe import MixtureConfig, draw_recipe
from flowse.simulation.sources import Sources, SplitSources, write_competitors, write_noises

MIXING = "mixing.json"
"""Name of the file that says how a dataset was drawn."""
TRIES = 4
"""Recipes that are tried for an utterance in an epoch; a recipe may ask for a silent part of a recording."""
_SPLIT: Split = "train"


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """How the mixtures of a dataset were drawn and rendered.

    Attributes:
        mixture: How recipes are drawn.
        seed: Root seed of all choices.
        sample_rate: In Hz.
    """

    mixture: MixtureConfig
    seed: int
    sample_rate: int

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(to_json(self), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Mixing:
        """Read what `write` wrote.

        Raises:
            UserError: The file is absent or has another form; the message says what to do.
        """
        try:
            return from_json(cls, json.loads(path.read_bytes()))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path}: does not say how the mixtures were drawn: {error}; run simulate again with --force"
            ) from None


@dataclass(frozen=True, kw_only=True)
class Redraw:
    """What mixtures are drawn anew from; small and picklable.

    Attributes:
        mixing: How they are drawn.
        roots: Folder of every corpus, by its name.
        recordings: Manifest parts of the noises.
        speech: Manifest parts of the speech.
        rooms: Index of the impulse responses.
        responses: Files that hold their samples: beside the index, or where it says.
        digest: Hash of the content of all of these.
        folder: Folder for lists that are made of them; all processes of a machine may share it.
    """

    mixing: Mixing
    roots: Mapping[str, Path]
    recordings: tuple[Path, ...]
    speech: tuple[Path, ...]
    rooms: Path
    responses: tuple[Path, ...]
    digest: str
    folder: Path

    def lists(self) -> tuple[Sources, UtteranceTable]:
        """Return the lists that recipes are drawn from and the rows of the speech; the first call makes their files."""
        name = hashlib.sha256(self.digest.encode()).hexdigest()[:16]
        noises, competitors = (self.folder / f"{kind}-{name}.parquet" for kind in ("noises", "competitors"))
        self.folder.mkdir(parents=True, exist_ok=True)
        if not noises.exists():
            with atomic_path(noises) as temporary:
                write_noises(self.recordings, temporary)
        if not competitors.exists():
            with atomic_path(competitors) as temporary:
                write_competitors(self.speech if self.mixing.mixture.competitor > 0 else (), temporary)
        speech = UtteranceTable.open(self.speech, _SPLIT, self.folder / f"speech-{name}")
        return Sources(noises, competitors, self.rooms), speech


@dataclass(frozen=True)
class Redrawn:
    """A mixture of an epoch, with the values that a shard would hold.

    Attributes:
        noisy: Input of the model.
        clean: Target of the model.
        text: Transcript; empty if unknown, cropped or without speech.
        language: ISO 639-1 code of the text; empty if unknown.
    """

    noisy: Float32[np.ndarray, " N"]
    clean: Float32[np.ndarray, " N"]
    text: str
    language: str


@dataclass(frozen=True)
class _Opened:
    """Lists of a process.

    Attributes:
        sources: Where the lists lie.
        speech: Rows of the speech.
        of_split: All that may occur in mixtures.
    """

    sources: Sources
    speech: UtteranceTable
    of_split: SplitSources


class Redrawer:
    """Draws and renders mixtures of split train: a function of seed, epoch and utterance, in any thread or process.

    Those of epoch 0 are the stored ones, to the bit.

    Example:
        >>> redrawer = Redrawer(redraw)
        >>> redrawer("demo/a", copy=0, epoch=3).noisy
    """

    def __init__(self, redraw: Redraw) -> None:
        """Open nothing yet: where other processes read for a training, this one never draws."""
        self._redraw = redraw
        self._opened: _Opened | None = None
        self._opening, self._of_thread = threading.Lock(), threading.local()

    def __call__(self, utt_id: str, copy: int, epoch: int) -> Redrawn:
        """Make a mixture.

        A recipe that cannot be rendered, e.g. with a silent part of a noise, is replaced by another, as no stored
        mixture has such a recipe either.

        Args:
            utt_id: The utterance.
            copy: Number of the mixture among those of this utterance, from 0.
            epoch: Epoch, from 0.

        Raises:
            Refusal: The utterance cannot be read, or no recipe can be rendered.
        """
        opened, mixing = self._open(), self._redraw.mixing
        try:
            row = opened.speech[utt_id]
        except KeyError:
            raise Refusal.failed("unknown_utterance", f"{utt_id} is not in the manifest; run simulate again") from None
        root = mixing.seed if epoch == 0 else derive_seed(mixing.seed, "epoch", epoch)
        mixer, candidates = self._mixer(opened), opened.of_split.candidates
        for number in range(TRIES):
            seed = root if number == 0 else derive_seed(root, "again", number)
            recipe = draw_recipe(mixing.mixture, seed, row, copy, candidates)
            try:
                with refusing(row.path):
                    rendered = mixer.render(recipe, row)
            except Refusal:
                if number == TRIES - 1:
                    raise
                continue
            break
        noisy, clean = (_as_stored(samples) for samples in (rendered.noisy, rendered.clean))
        return Redrawn(noisy, clean, row.text if has_text(row, recipe) else "", row.language)

    def _open(self) -> _Opened:
        """Return the lists, which all threads share: those of many rooms take hundreds of megabytes."""
        with self._opening:
            if self._opened is None:
                sources, speech = self._redraw.lists()
                of_split = SplitSources.read(sources, _SPLIT)
                of_split.candidates  # noqa: B018 - hashed once, before several threads ask for them
                self._opened = _Opened(sources, speech, of_split)
            return self._opened

    def _mixer(self, opened: _Opened) -> Mixer:
        """Return this thread's mixer: its caches are not for several threads."""
        if not hasattr(self._of_thread, "mixer"):
            rate, splits = self._redraw.mixing.sample_rate, {_SPLIT: opened.of_split}
            self._of_thread.mixer = Mixer(self._redraw.roots, opened.sources, sample_rate=rate, splits=splits)
        mixer: Mixer = self._of_thread.mixer
        return mixer

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a Redrawer is not sent to other processes; send its Redraw")


def _as_stored(samples: Float32[np.ndarray, " N"]) -> Float32[np.ndarray, " N"]:
    return as_int16(samples).astype(np.float32) / np.float32(32768)
