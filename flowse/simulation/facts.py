"""Facts about a mixture that its shard stores beside the audio: sources, recipe and measurements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flowse.data.manifest import Split
from flowse.json_records import from_json, to_json
from flowse.simulation.recipe import Recipe
from flowse.simulation.render import Checks

_OF_THE_SHARD = ("key", "sample_rate")  # what `ShardWriter` adds to the JSON of every example


@dataclass(frozen=True, kw_only=True)
class MixtureFacts:
    """The `meta` of a `flowse.data.shards.Mixture` that was simulated.

    Attributes:
        utt_id: Id of the utterance that the speech comes from.
        copy: Number of the mixture among those of this utterance, from 0.
        split: The split that the mixture belongs to.
        text: Transcript of the speech; empty if unknown, for a part of an utterance, and without speech.
        text_source: Who wrote the transcript, e.g. "corpus"; empty if there is none.
        language: ISO 639-1 code of the speech; empty if unknown.
        speaker: Speaker of the speech; empty if unknown.
        corpus: Corpus of the speech.
        licence: Licence of the speech.
        snr_db: Active level of the speech over that of all interference, in dB, as measured.
        room_id: Room; empty if there is none.
        rt60_s: Reverberation time of the room in seconds; None if unknown or without a room.
        distance_m: Distance from the speaker to the microphone in metres; None if unknown or without a room.
        recipe: All choices of the mixture.
        checks: What was measured on the rendered waveforms.
    """

    utt_id: str
    copy: int
    split: Split
    text: str
    text_source: str
    language: str
    speaker: str
    corpus: str
    licence: str
    snr_db: float
    room_id: str
    rt60_s: float | None
    distance_m: float | None
    recipe: Recipe
    checks: Checks

    def to_meta(self) -> dict[str, Any]:
        """Return the facts as plain JSON values."""
        meta: dict[str, Any] = to_json(self)
        return meta

    @classmethod
    def of(cls, meta: Mapping[str, Any]) -> MixtureFacts:
        """Read the JSON of a mixture in a shard.

        Raises:
            WrongShape: A fact is missing, unknown or of another type, because another version wrote the shard.
        """
        return from_json(cls, {key: value for key, value in meta.items() if key not in _OF_THE_SHARD})
