"""The recipe of a mixture: every random choice, drawn once before any audio is read, and stored with the dataset."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import UInt64

from flowse.data.manifest import Split, Utterance
from flowse.seeding import derive_seed, generator

Target = Literal["dry", "early", "reverberant", "silence"]
TARGETS: tuple[Target, ...] = ("dry", "early", "reverberant")
"""Targets of mixtures with speech."""
Codec = Literal["", "mp3", "opus"]
CODECS: tuple[Codec, ...] = ("mp3", "opus")
CODEC_RATES: dict[str, tuple[int, ...]] = {
    "mp3": (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000),
    "opus": (8_000, 12_000, 16_000, 24_000, 48_000),
}
"""Sample rates that each codec knows, in Hz (ISO 11172-3, ISO 13818-3 and its extension; RFC 7845)."""
EQ_BANDS_HZ = (100.0, 300.0, 1000.0, 3000.0, 8000.0)
"""Frequencies at which an equaliser's gains are given; between them the gain in dB is linear over log frequency."""
PACKET_S = 0.02
"""Length of a network packet in seconds."""


@dataclass(frozen=True, kw_only=True)
class MixtureConfig:
    """How mixtures are drawn: ranges uniformly, and what a probability decides independently for each mixture.

    Attributes:
        snr_edges_db: Edges of the signal-to-noise buckets (paper's code: −5, 0, 5, 10, 20 dB).
        snr_weights: Weight of each bucket.
        noise_count_weights: Weights of one, two and three noises; each noise has its own signal-to-noise ratio.
        reverberation: Probability that the mixture is set in a room.
        target: What the model should recover in a room: the speech without the room ("dry"), its direct path and early
            reflections ("early"), or the speech with all its reverberation ("reverberant").
        early_s: How long after the direct path reflections count as early, in seconds.
        noise_only: Probability of a mixture without speech, whose target is silence: a model that has only seen speech
            makes speech of noise.
        level_dbfs: RMS level of the mixture.
        max_s: Longer utterances are cropped to this length in seconds, and lose their text.
        competitor: Probability of another speaker from the same corpus and split.
        competitor_snr_db: How much louder the speaker is than the other one, in dB.
        band_limit: Probability of a band-limited mixture.
        band_limit_hz: Upper edge of the band.
        equaliser: Probability of an uneven frequency response.
        equaliser_db: Largest gain or loss of that response, in dB.
        clipping: Probability of clipping.
        clipping_share: Share of samples that clip, drawn log-uniformly.
        codec: Probability of lossy coding.
        codecs: Which codecs may be drawn.
        codec_kbps: Bit rate in kbit/s.
        packet_loss: Probability of lost packets, of 20 ms each.
        packet_loss_share: Share of packets that are lost.
    """

    snr_edges_db: tuple[float, ...] = (-5.0, 0.0, 5.0, 10.0, 20.0)
    snr_weights: tuple[float, ...] = (0.05, 0.30, 0.45, 0.20)
    noise_count_weights: tuple[float, ...] = (0.75, 0.25)
    reverberation: float = 0.5
    target: str = "early"
    early_s: float = 0.05
    noise_only: float = field(default=0.0, metadata={"fingerprint": "unless default"})
    level_dbfs: tuple[float, float] = (-35.0, -15.0)
    max_s: float = 20.0
    competitor: float = 0.0
    competitor_snr_db: tuple[float, float] = (5.0, 20.0)
    band_limit: float = 0.1
    band_limit_hz: tuple[float, float] = (4000.0, 8000.0)
    equaliser: float = 0.1
    equaliser_db: float = 6.0
    clipping: float = 0.05
    clipping_share: tuple[float, float] = (0.001, 0.05)
    codec: float = 0.05
    codecs: tuple[str, ...] = ("mp3", "opus")
    codec_kbps: tuple[float, float] = (8.0, 48.0)
    packet_loss: float = 0.02
    packet_loss_share: tuple[float, float] = (0.01, 0.1)

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn.

        Raises:
            ValueError: Naming the key, its value and what is allowed.
        """
        for name in (
            "reverberation",
            "noise_only",
            "competitor",
            "band_limit",
            "equaliser",
            "clipping",
            "codec",
            "packet_loss",
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} is a probability: 0..1")
        for name in (
            "level_dbfs",
            "competitor_snr_db",
            "band_limit_hz",
            "clipping_share",
            "codec_kbps",
            "packet_loss_share",
        ):
            low, high = getattr(self, name)
            if not low <= high:
                raise ValueError(f"{name}={[low, high]} must rise")
        if list(self.snr_edges_db) != sorted(self.snr_edges_db) or len(self.snr_edges_db) < 2:
            raise ValueError(f"snr_edges_db={list(self.snr_edges_db)} must be at least two rising numbers")
        if len(self.snr_weights) != len(self.snr_edges_db) - 1:
            raise ValueError(
                f"snr_weights={list(self.snr_weights)} must have one weight a bucket: "
                f"{len(self.snr_edges_db) - 1} for snr_edges_db={list(self.snr_edges_db)}"
            )
        for name in ("snr_weights", "noise_count_weights"):
            weights = getattr(self, name)
            if not weights or min(weights) < 0 or sum(weights) <= 0:
                raise ValueError(f"{name}={list(weights)} must not be negative, and not all 0")
        if len(self.noise_count_weights) > 3:
            raise ValueError(f"noise_count_weights={list(self.noise_count_weights)} allows three noises at most")
        if self.target not in TARGETS:
            raise ValueError(f"target={self.target!r} must be one of {', '.join(TARGETS)}")
        if unknown := [name for name in self.codecs if name not in CODECS]:
            raise ValueError(f"codecs={list(self.codecs)}: {unknown[0]!r} must be one of {', '.join(CODECS)}")
        if self.codec > 0 and not self.codecs:
            raise ValueError(f"codec={self.codec} needs a name in codecs={list(self.codecs)}")
        if self.max_s <= 0:
            raise ValueError(f"max_s={self.max_s} must be above 0")
        if self.level_dbfs[1] > 0:
            raise ValueError(f"level_dbfs={list(self.level_dbfs)} must not exceed 0, full scale")
        if self.clipping_share[0] <= 0 or self.clipping_share[1] >= 1:
            raise ValueError(f"clipping_share={list(self.clipping_share)} must lie inside 0..1")
        if not 8 <= self.codec_kbps[0] <= self.codec_kbps[1] <= 160:
            raise ValueError(f"codec_kbps={list(self.codec_kbps)} must lie in 8..160")
        if not 0 <= self.packet_loss_share[0] <= self.packet_loss_share[1] <= 1:
            raise ValueError(f"packet_loss_share={list(self.packet_loss_share)} must lie in 0..1")
        if self.band_limit_hz[0] <= 0:
            raise ValueError(f"band_limit_hz={list(self.band_limit_hz)} must be above 0")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All choices of one mixture; together with the recordings that it names they make the mixture again.

    The four `noise_…` fields run in parallel, one entry a noise. The dataclass is flat, to be a parquet row.

    Attributes:
        key: Key of the example.
        utt_id: Utterance that the speech comes from.
        copy: Number of the mixture among those of this utterance, from 0.
        split: Part of the data; all recordings and rooms of the recipe belong to it.
        crop_s: Start of the speech inside the utterance, in seconds.
        duration_s: Length of the mixture in seconds.
        noise_ids: Noise recordings.
        noise_snrs_db: Active level of the speech over that of the noise, both at the microphone; without speech, only
            their differences count.
        noise_offsets_s: Start inside the noise recording, in seconds.
        noise_sources: Number of the source in the room, −1 for none.
        competitor_id: Utterance of another speaker; empty if none.
        competitor_snr_db: Active level of the speech over that of the other speaker.
        competitor_source: Number of the source in the room, −1 for none.
        room_id: Room; empty if none.
        speech_source: Number of the speech's source in the room, −1 for none.
        target: What the clean waveform is; `MixtureConfig.target` explains three of them. "silence": nothing, and the
            mixture holds no speech.
        early_s: How long after the direct path reflections count as early, in seconds.
        level_dbfs: RMS level of the mixture.
        equaliser_db: Gains at `EQ_BANDS_HZ`; empty if none.
        clipping_share: Share of samples that clip; None if none.
        band_limit_hz: Upper edge of the band; None if full.
        codec: Lossy codec; empty if none.
        codec_kbps: Bit rate of the codec in kbit/s; 0 if none.
        lost_packets: Numbers of the 20-ms packets that are lost.
    """

    key: str
    utt_id: str
    copy: int
    split: Split
    crop_s: float
    duration_s: float
    noise_ids: tuple[str, ...]
    noise_snrs_db: tuple[float, ...]
    noise_offsets_s: tuple[float, ...]
    noise_sources: tuple[int, ...]
    competitor_id: str
    competitor_snr_db: float
    competitor_source: int
    room_id: str
    speech_source: int
    target: Target
    early_s: float
    level_dbfs: float
    equaliser_db: tuple[float, ...]
    clipping_share: float | None
    band_limit_hz: float | None
    codec: Codec
    codec_kbps: float
    lost_packets: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse `noise_…` fields of different lengths.

        Raises:
            ValueError: The `noise_…` fields differ in length.
        """
        lengths = {
            len(self.noise_ids),
            len(self.noise_snrs_db),
            len(self.noise_offsets_s),
            len(self.noise_sources),
        }
        if len(lengths) != 1:
            raise ValueError(f"{self.key}: noise_ids, noise_snrs_db, noise_offsets_s, noise_sources differ in length")

    @property
    def has_effects(self) -> bool:
        """Whether anything but gain happens to the mixture after it is mixed."""
        return bool(
            self.equaliser_db
            or self.clipping_share is not None
            or self.band_limit_hz is not None
            or self.codec
            or self.lost_packets
        )


class Pool:
    """Candidates for a choice, chosen by rendezvous hashing (Thaler and Ravishankar, 1998).

    The score of a candidate is a hash of the choice's seed and the candidate's id, and the highest score wins. So the
    order of the candidates does not matter, and a candidate added to n others takes 1 / (n + 1) of the choices and
    changes no other choice.
    """

    def __init__(self, ids: Sequence[str]) -> None:
        """Hash the ids of the candidates.

        Raises:
            ValueError: An id is given twice.
        """
        self.ids = tuple(ids)
        digests = b"".join(hashlib.blake2b(name.encode(), digest_size=8).digest() for name in self.ids)
        self._hashes = np.frombuffer(digests, dtype=np.uint64)
        if len(set(self.ids)) != len(self.ids):
            raise ValueError("a candidate is given twice")

    def __len__(self) -> int:
        return len(self.ids)

    def choose(self, seed: int, count: int = 1) -> list[int]:
        """Return the positions of the `count` candidates with the highest scores, or of all, highest first."""
        count = min(count, len(self))
        scores = _scramble(self._hashes ^ np.uint64(seed))
        if count == 1:
            return [int(np.argmax(scores))]
        best = np.argpartition(scores, len(scores) - count)[len(scores) - count :]
        return [int(index) for index in best[np.argsort(scores[best])[::-1]]]


def _scramble(values: UInt64[np.ndarray, " C"]) -> UInt64[np.ndarray, " C"]:
    """Scramble 64-bit integers (the finaliser of SplitMix64: Steele, Lea and Flood, 2014)."""
    values = np.asarray(values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(values ^ (values >> np.uint64(31)))


@dataclass(frozen=True)
class Noise:
    """A noise recording that may be chosen.

    Attributes:
        noise_id: Id of the recording.
        duration_s: Length of the recording in seconds.
    """

    noise_id: str
    duration_s: float


class Candidates:
    """What the mixtures of one split are drawn from."""

    def __init__(
        self,
        noises: Sequence[Noise],
        rooms: Sequence[tuple[str, int]] = (),
        speech: Sequence[tuple[str, str, str]] = (),
    ) -> None:
        """Hash the ids of all candidates.

        Args:
            noises: Noise recordings.
            rooms: Room ids, each with the number of sources in the room.
            speech: Possible competitors, as (corpus, speaker, utt_id).
        """
        self.noises = tuple(noises)
        self.rooms = tuple(rooms)
        self.noise_pool = Pool([noise.noise_id for noise in noises])
        self.room_pool = Pool([room_id for room_id, _ in rooms])
        by_corpus: dict[str, list[tuple[str, str]]] = {}
        for corpus, speaker, utt_id in speech:
            by_corpus.setdefault(corpus, []).append((speaker, utt_id))
        self.competitors = {
            corpus: (Pool([utt_id for _, utt_id in rows]), [speaker for speaker, _ in rows])
            for corpus, rows in by_corpus.items()
        }


def mixture_key(utt_id: str, copy: int) -> str:
    """Return the key of a mixture; no two pairs of utterance and copy have the same key."""
    return f"{utt_id}-{copy:02d}"


def planned_duration_s(duration_s: float, config: MixtureConfig) -> float:
    """Return the length in seconds of a mixture whose utterance lasts `duration_s` seconds."""
    return min(duration_s, config.max_s)


def draw_recipe(config: MixtureConfig, root: int, utterance: Utterance, copy: int, candidates: Candidates) -> Recipe:
    """Draw every choice of one mixture.

    Each choice has a generator of its own, derived from (root, "simulate", utterance, copy, name of the choice).
    So changing how one choice is drawn, or adding a choice, changes no other choice.

    Args:
        config: How to draw.
        root: The experiment's seed.
        utterance: The speech.
        copy: Number of the mixture among those of this utterance, from 0.
        candidates: Noises, rooms and other speakers of the utterance's split.

    Raises:
        ValueError: There is no noise to choose from, or the utterance has no split.
    """
    if utterance.split is None:
        raise ValueError(f"{utterance.utt_id} has no split; ingest assigns it")
    if not len(candidates.noise_pool):
        raise ValueError(f"{utterance.utt_id}: no noise in split {utterance.split!r}")
    seed = derive_seed(root, "simulate", utterance.utt_id, copy)

    def rng(name: str) -> np.random.Generator:
        return generator(derive_seed(seed, name))

    def happens(name: str, probability: float) -> bool:
        return derive_seed(seed, name) / 2**63 < probability

    duration_s = planned_duration_s(utterance.duration_s, config)
    spare_s = utterance.duration_s - duration_s

    in_room = happens("reverberation", config.reverberation) and len(candidates.room_pool) > 0
    room_id, sources = "", np.zeros(0, np.int64)
    if in_room:
        room_id, n_sources = candidates.rooms[candidates.room_pool.choose(derive_seed(seed, "room"))[0]]
        sources = rng("positions").permutation(n_sources)

    def position(number: int) -> int:
        """Return the source of the speech (number 0) or of the others, which share the remaining sources in turn.

        −1 stands for no source: the mixture has no room, or the room has only the one that the speech takes.
        """
        if number == 0:
            return int(sources[0]) if in_room else -1
        return int(sources[1 + (number - 1) % (len(sources) - 1)]) if len(sources) > 1 else -1

    weights = np.array(config.noise_count_weights) / math.fsum(config.noise_count_weights)
    count = 1 + int(rng("noise count").choice(len(weights), p=weights))
    chosen = [candidates.noises[index] for index in candidates.noise_pool.choose(derive_seed(seed, "noise"), count)]
    noise_only = happens("noise only", config.noise_only)
    competes = not noise_only and happens("competitor", config.competitor)
    competitor_id = _competitor(candidates, utterance, seed) if competes else ""
    return Recipe(
        key=mixture_key(utterance.utt_id, copy),
        utt_id=utterance.utt_id,
        copy=copy,
        split=utterance.split,
        crop_s=float(rng("crop").uniform(0, spare_s)) if spare_s > 0 else 0.0,
        duration_s=duration_s,
        noise_ids=tuple(noise.noise_id for noise in chosen),
        noise_snrs_db=tuple(_draw_snr_db(config, rng(f"snr {index}")) for index in range(len(chosen))),
        noise_offsets_s=tuple(
            _draw_offset_s(noise.duration_s, duration_s, rng(f"offset {index}")) for index, noise in enumerate(chosen)
        ),
        noise_sources=tuple(position(1 + index) for index in range(len(chosen))),
        competitor_id=competitor_id,
        competitor_snr_db=float(rng("competitor snr").uniform(*config.competitor_snr_db)) if competitor_id else 0.0,
        competitor_source=position(1 + len(chosen)) if competitor_id else -1,
        room_id=room_id,
        speech_source=-1 if noise_only else position(0),
        target="silence" if noise_only else config.target,  # type: ignore[arg-type]  # checked by MixtureConfig
        early_s=config.early_s,
        level_dbfs=float(rng("level").uniform(*config.level_dbfs)),
        equaliser_db=tuple(
            float(gain) for gain in rng("gains").uniform(-config.equaliser_db, config.equaliser_db, len(EQ_BANDS_HZ))
        )
        if happens("equaliser", config.equaliser)
        else (),
        clipping_share=_log_uniform(rng("share"), *config.clipping_share)
        if happens("clipping", config.clipping)
        else None,
        band_limit_hz=float(rng("edge").uniform(*config.band_limit_hz))
        if happens("band limit", config.band_limit)
        else None,
        codec=str(rng("which codec").choice(sorted(config.codecs)))  # type: ignore[arg-type]  # checked by MixtureConfig, too
        if (coded := happens("codec", config.codec))
        else "",
        codec_kbps=float(rng("bit rate").uniform(*config.codec_kbps)) if coded else 0.0,
        lost_packets=_draw_losses(config, duration_s, rng("losses"))
        if happens("packet loss", config.packet_loss)
        else (),
    )


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw a number whose logarithm is uniform; NumPy's logarithm has another last bit on other processors."""
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def _draw_snr_db(config: MixtureConfig, rng: np.random.Generator) -> float:
    weights = np.array(config.snr_weights) / math.fsum(config.snr_weights)
    bucket = int(rng.choice(len(weights), p=weights))
    return float(rng.uniform(config.snr_edges_db[bucket], config.snr_edges_db[bucket + 1]))


def _draw_offset_s(noise_s: float, needed_s: float, rng: np.random.Generator) -> float:
    """Draw where to begin in a noise: early enough that it lasts, or anywhere if it is too short and gets looped."""
    return float(rng.uniform(0, noise_s - needed_s if noise_s > needed_s else noise_s))


def _draw_losses(config: MixtureConfig, duration_s: float, rng: np.random.Generator) -> tuple[int, ...]:
    """Draw which packets are lost, in bursts of two packets on average, by a two-state Markov chain (Gilbert, 1960)."""
    packets = int(duration_s / PACKET_S)
    share = float(rng.uniform(*config.packet_loss_share))
    lost, losing = [], False
    for number in range(packets):
        # The lost state is kept with probability ½, and entered so often that it holds for `share` of the time.
        losing = bool(rng.random() < (0.5 if losing else min(0.5 * share / max(1 - share, 1e-9), 1.0)))
        if losing:
            lost.append(number)
    return tuple(lost)


def _competitor(candidates: Candidates, utterance: Utterance, seed: int) -> str:
    """Choose another speaker's utterance, of the same corpus, so that adding a corpus changes no choice."""
    if utterance.corpus not in candidates.competitors or not utterance.speaker:
        return ""
    pool, speakers = candidates.competitors[utterance.corpus]
    # The first 16 hold another speaker in nearly every corpus; a corpus of one speaker has none.
    for index in pool.choose(derive_seed(seed, "competing speaker"), 16):
        if speakers[index] not in ("", utterance.speaker):
            return pool.ids[index]
    return ""
