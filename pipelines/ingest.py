"""Find every recording of the configured corpora, decode it once and write down what it is.

Reads the corpora named in the config (speech, noise, impulse responses).
Writes a manifest part a unit: one Utterance a recording or segment, with length, rate, channels, speaker and split.
Drops what is too short, too long or silent, and what its corpus itself marks as unfit.
Fails what cannot be decoded: missing, empty, truncated, NaN, a Git-LFS pointer, a web page, a repeated id.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from flowse.audio.waveform import SEGMENT_SLACK_S, UnfitAudio, UnreadableAudio, check, probe, read_mono
from flowse.data.manifest import SPLITS, Kind, Reject, Split, Utterance, read_rows, write_rows
from flowse.seeding import derive_seed
from pipelines.corpora import Refused
from pipelines.corpora.readers import READERS, reader_of, refuse_twice
from pipelines.stage import (
    Dropped,
    StageContext,
    StageReport,
    Tally,
    Unit,
    UnitOutput,
    UnitReport,
    UserError,
    batched,
)

NAME = "ingest"
READS: tuple[str, ...] = ()
REVISION = 2


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """One corpus of an experiment.

    Attributes:
        name: Unique in the experiment; becomes part of every utterance id.
        reader: Which module of `pipelines/corpora/` reads it.
        root: Its folder; a corpus that is made needs none. Not in the fingerprint: what counts is what is there.
        split: Puts the whole corpus into one split; empty: the speaker decides.
        licence: For rows that do not say; empty: what the reader knows of its corpus.
        options: The reader's own settings.
    """

    name: str
    reader: str = "folder"
    root: str = field(default="", metadata={"fingerprint": False})
    split: str = ""
    licence: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.reader not in READERS:
            raise ValueError(f"reader: {self.reader!r} is not one of {', '.join(sorted(READERS))}")
        if self.split not in ("", *SPLITS):
            raise ValueError(f"split: {self.split!r} is not one of {', '.join(SPLITS)} or empty")


@dataclass(frozen=True, kw_only=True)
class SplitShares:
    """Share of the speakers (or recordings, where speakers are unknown) in each split."""

    dev: float = 0.1
    test: float = 0.1

    def __post_init__(self) -> None:
        if min(self.dev, self.test) < 0 or self.dev + self.test >= 1:
            raise ValueError(
                f"dev and test shares are {self.dev} and {self.test}; they must be ≥ 0 and leave some for train"
            )


@dataclass(frozen=True, kw_only=True)
class Config:
    """What ingest takes in.

    Attributes:
        speech: Corpora of speech.
        noise: Corpora of noise.
        rirs: Corpora of measured room impulse responses.
        splits: Shares of dev and test where a corpus does not say.
        min_duration_s: Shorter utterances are dropped (not impulse responses).
        max_duration_s: Longer utterances are dropped; cut them by segments in the corpus' table instead.
        utterances_per_unit: Size of a manifest part; 500 of 10 s are about 1.4 h.
    """

    speech: tuple[CorpusConfig, ...] = ()
    noise: tuple[CorpusConfig, ...] = ()
    rirs: tuple[CorpusConfig, ...] = ()
    splits: SplitShares = field(default_factory=SplitShares)
    min_duration_s: float = 0.3
    max_duration_s: float = 3600.0
    utterances_per_unit: int = 500

    def __post_init__(self) -> None:
        names = [corpus.name for _, corpus in self.corpora()]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"corpus names repeat: {', '.join(repeated)}; every corpus needs a name of its own")
        if self.utterances_per_unit < 1:
            raise ValueError(f"utterances_per_unit is {self.utterances_per_unit}; it must be at least 1")

    def corpora(self) -> Iterator[tuple[Kind, CorpusConfig]]:
        """Yield every corpus with what it holds."""
        for corpus in self.speech:
            yield "speech", corpus
        for corpus in self.noise:
            yield "noise", corpus
        for corpus in self.rirs:
            yield "rir", corpus

    def content_digests(self) -> dict[str, str]:
        """Hash what is in the corpora's folders, so that new or changed files rerun ingest."""
        return {
            corpus.name: reader.listing_digest(Path(corpus.root), options)
            for _, corpus in self.corpora()
            for reader, options in [reader_of(corpus.reader, corpus.options, f"corpus {corpus.name!r}")]
        }


def corpus_roots(config: Config, made: Path) -> dict[str, Path]:
    """Return the folder of every corpus; those that are made get one below `made`, named by their options.

    Raises:
        UserError: A corpus that is not made has no root, or two corpora hold the same recordings.
    """
    roots = {}
    read = []
    for kind, corpus in config.corpora():
        reader, options = reader_of(corpus.reader, corpus.options, f"corpus {corpus.name!r}")
        if hasattr(reader, "make"):
            default = made / f"{corpus.name}-{reader.listing_digest(Path(), options)[:12]}"
            roots[corpus.name] = Path(corpus.root).resolve() if corpus.root else default
        elif corpus.root:
            roots[corpus.name] = Path(corpus.root).expanduser().resolve()
        else:
            raise UserError(f"corpus {corpus.name!r}: `root` is missing; say in the experiment's config where it lies")
        read.append((kind, corpus.name, reader, options, roots[corpus.name]))
    refuse_twice(read)
    return roots


def _as_split(name: str) -> Split | None:
    return next((split for split in SPLITS if split == name), None)


def choose_split(row: Utterance, shares: SplitShares, seed: int) -> Split:
    """Choose a split by hashing the speaker, so that adding data moves nobody."""
    who = row.speaker or row.path
    draw = derive_seed(seed, "split", row.corpus, who) / 2**63
    if draw < shares.test:
        return "test"
    return "dev" if draw < shares.test + shares.dev else "train"


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a unit is called with: where its candidates are listed.

    Attributes:
        path: Parquet of Utterance rows as the corpus' reader gave them.
        repeated: Positions of rows whose id an earlier row has already.
        refused: Reason and detail of rows, by position, that the corpus marks as unfit.
    """

    path: Path
    repeated: tuple[int, ...]
    refused: Mapping[int, tuple[str, str]] = field(default_factory=dict)


class Worker:
    """Decodes recordings and measures them."""

    def __init__(self, config: Config, roots: dict[str, Path], seed: int) -> None:
        self._config, self._roots, self._seed = config, roots, seed
        self._corpora = {corpus.name: (kind, corpus) for kind, corpus in config.corpora()}

    def __call__(self, payload: Listing, output: UnitOutput) -> UnitReport:
        """Measure one part's candidates."""
        kept: list[Utterance] = []
        rejects: list[Reject] = []
        for position, row in enumerate(read_rows(payload.path, Utterance)):
            try:
                if position in payload.repeated:
                    raise Dropped(
                        "duplicate_id", f"{row.path}: another file has the id {row.utt_id}; rename one of them"
                    )
                if position in payload.refused:
                    raise Dropped(*payload.refused[position])
                row = self._probe(row)
                self._check(row)
                kept.append(row)
            except (Dropped, UnfitAudio) as error:
                rejects.append(_reject(row, "dropped", error.reason, error.detail))
            except UnreadableAudio as error:
                rejects.append(_reject(row, "failed", error.reason, error.detail))
        write_rows(output.path(".parquet"), Utterance, kept)
        durations = [*(row.duration_s for row in kept), *(reject.duration_s for reject in rejects)]
        return UnitReport(
            kept=Tally.of(row.duration_s for row in kept), rejects=tuple(rejects), taken=Tally.of(durations)
        )

    def _probe(self, row: Utterance) -> Utterance:
        """Return the row completed from the file's header.

        Raises:
            UnreadableAudio: The file is not there, is no audio, or ends well before the segment does.
        """
        kind, corpus = self._corpora[row.corpus]
        reader, options = reader_of(corpus.reader, corpus.options, f"corpus {corpus.name!r}")
        path = self._roots[row.corpus] / row.path
        if hasattr(reader, "make") and not path.exists():
            reader.make(self._roots[row.corpus], corpus.name, options, self._seed, row)
        facts = probe(path)
        # Segment lists overrun their file by milliseconds: the segment ends where the file does.
        rest_s = max(facts.duration_s - row.offset_s, 0.0)
        if row.duration_s > rest_s + SEGMENT_SLACK_S:
            raise UnreadableAudio(
                "truncated",
                f"{row.path} ends at {facts.duration_s:.2f} s, its segment at {row.offset_s + row.duration_s:.2f} s; "
                "fetch it again, or correct the segment's times",
            )
        return dataclasses.replace(
            row,
            kind=kind,
            duration_s=min(row.duration_s or rest_s, rest_s),
            sample_rate=facts.sample_rate,
            channels=facts.channels,
            split=row.split or _as_split(corpus.split) or choose_split(row, self._config.splits, self._seed),
            licence=row.licence or corpus.licence or reader.LICENCE,
        )

    def _check(self, row: Utterance) -> None:
        """Decode the recording.

        Raises:
            Dropped: It is too short or too long.
            UnfitAudio: It is silent or not finite.
            UnreadableAudio: It cannot be decoded.
        """
        low, high = self._config.min_duration_s, self._config.max_duration_s
        if row.kind != "rir" and row.duration_s < low:
            raise Dropped("too_short", f"{row.path}: {row.duration_s:.3f} s, under {low:g} s")
        if row.duration_s > high:
            raise Dropped("too_long", f"{row.path}: {row.duration_s:.0f} s, over {high:g} s")
        path = self._roots[row.corpus] / row.path
        check(read_mono(path, row.sample_rate, offset_s=row.offset_s, duration_s=row.duration_s), row.path)


def _reject(row: Utterance, kind: Literal["dropped", "failed"], reason: str, detail: str) -> Reject:
    return Reject(
        utt_id=row.utt_id,
        corpus=row.corpus,
        stage=NAME,
        kind=kind,
        reason=reason,
        detail=detail,
        duration_s=row.duration_s,
    )


def _id_hash(utt_id: str) -> int:
    """64 bits of an id: ten million of them fit into memory, ten million strings hardly."""
    return int.from_bytes(hashlib.blake2b(utt_id.encode(), digest_size=8).digest(), "big")


def _list_units(config: Config, context: StageContext) -> Iterator[Unit]:
    """Write the candidates of every corpus to listings, a unit's worth each, and yield the units."""
    context.storage.mkdir(parents=True, exist_ok=True)
    for kind, corpus in config.corpora():
        reader, options = reader_of(corpus.reader, corpus.options, f"corpus {corpus.name!r}")
        seen: set[int] = set()
        rows = reader.read(context.roots[corpus.name], corpus.name, kind, options, context.seed)
        for number, part in enumerate(batched(rows, config.utterances_per_unit)):
            repeated = []
            refused = {at: (row.reason, row.detail) for at, row in enumerate(part) if isinstance(row, Refused)}
            for position, row in enumerate(part):
                key = _id_hash(row.utt_id)
                if key in seen:
                    repeated.append(position)
                seen.add(key)
            name = f"{corpus.name}-{number:05d}"
            path = context.storage / f"{name}.parquet"
            write_rows(path, Utterance, part)
            yield Unit(name, Listing(path=path, repeated=tuple(repeated), refused=refused), Tally(len(part), 0.0))


def run(config: Config, context: StageContext) -> StageReport:
    """List the corpora, decode everything once, write the manifest."""
    if not config.speech:
        raise UserError("ingest.speech is empty: name at least one corpus of speech in the experiment's config")
    units: Sequence[Unit] = list(_list_units(config, context))
    context.say(
        f"{NAME:<16} {sum(unit.taken.utterances for unit in units):,} files found in {len(context.roots)} corpora"
    )
    return context.map_units(Worker, (config, dict(context.roots), context.seed), units)
