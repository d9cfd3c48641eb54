"""Find every recording of the configured corpora, decode it once and write down what it is.

Reads the corpora named in the config (speech, noise, impulse responses).
Writes a manifest part a unit: one Utterance a recording or segment, with length, rate, channels, speaker and split.
Drops what is too short, too long or silent, and what its corpus itself marks as unfit.
Fails what cannot be decoded: missing, empty, truncated, NaN, a Git-LFS pointer, a web page, a repeated id.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flowse.audio.waveform import SEGMENT_SLACK_S, check, probe, read_mono
from flowse.data.manifest import SPLITS, Kind, Reject, Split, Utterance
from flowse.data.parquet import read_rows, write_rows
from flowse.errors import UserError
from flowse.refusal import Refusal
from flowse.seeding import derive_seed
from pipelines.corpora.config import CorpusConfig as CorpusConfig
from pipelines.corpora.config import content_digests, refuse_repeated, roots_of
from pipelines.corpora.listing import Listing as Listing
from pipelines.corpora.listing import list_units
from pipelines.corpora.readers import reader_of
from pipelines.engine.accounts import StageReport, Tally, UnitReport
from pipelines.engine.stage import StageContext, Unit, UnitOutput

NAME = "ingest"
READS: tuple[str, ...] = ()
REVISION = 2


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
        refuse_repeated(corpus for _, corpus in self.corpora())
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
        return content_digests(corpus for _, corpus in self.corpora())


def corpus_roots(config: Config, made: Path) -> dict[str, Path]:
    """Return the folder of every corpus; those that are made get one below `made`, named by their options.

    Raises:
        UserError: A corpus that is not made has no root, or two corpora hold the same recordings.
    """
    return roots_of(config.corpora(), made)


def _as_split(name: str) -> Split | None:
    return next((split for split in SPLITS if split == name), None)


def choose_split(row: Utterance, shares: SplitShares, seed: int) -> Split:
    """Choose a split by hashing the speaker, so that adding data moves nobody."""
    who = row.speaker or row.path
    draw = derive_seed(seed, "split", row.corpus, who) / 2**63
    if draw < shares.test:
        return "test"
    return "dev" if draw < shares.test + shares.dev else "train"


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
                    raise Refusal(
                        "duplicate_id", f"{row.path}: another file has the id {row.utt_id}; rename one of them"
                    )
                if position in payload.refused:
                    raise Refusal(*payload.refused[position])
                row = self._probe(row)
                self._check(row)
                kept.append(row)
            except Refusal as refusal:
                rejects.append(Reject.of(row, NAME, refusal))
        write_rows(output.path(".parquet"), Utterance, kept)
        durations = [*(row.duration_s for row in kept), *(reject.duration_s for reject in rejects)]
        return UnitReport(
            kept=Tally.of(row.duration_s for row in kept), rejects=tuple(rejects), taken=Tally.of(durations)
        )

    def _probe(self, row: Utterance) -> Utterance:
        """Return the row completed from the file's header.

        Raises:
            Refusal: The file is not there, is no audio, or ends well before the segment does.
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
            raise Refusal.failed(
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
            Refusal: It is too short or too long.
            Refusal: It is silent or not finite.
            Refusal: It cannot be decoded.
        """
        low, high = self._config.min_duration_s, self._config.max_duration_s
        if row.kind != "rir" and row.duration_s < low:
            raise Refusal("too_short", f"{row.path}: {row.duration_s:.3f} s, under {low:g} s")
        if row.duration_s > high:
            raise Refusal("too_long", f"{row.path}: {row.duration_s:.0f} s, over {high:g} s")
        path = self._roots[row.corpus] / row.path
        check(read_mono(path, row.sample_rate, offset_s=row.offset_s, duration_s=row.duration_s), row.path)


def _list_units(config: Config, context: StageContext) -> Iterator[Unit[Listing]]:
    """Write the candidates of every corpus to listings, a unit's worth each, and yield the units."""
    return list_units(config.corpora(), context.roots, context.storage, config.utterances_per_unit, context.seed)


def run(config: Config, context: StageContext) -> StageReport:
    """List the corpora, decode everything once, write the manifest."""
    if not config.speech:
        raise UserError("ingest.speech is empty: name at least one corpus of speech in the experiment's config")
    units: Sequence[Unit[Listing]] = list(_list_units(config, context))
    context.say(
        f"{NAME:<16} {sum(unit.taken.utterances for unit in units):,} files found in {len(context.roots)} corpora"
    )
    return context.map_units(Worker, (config, dict(context.roots), context.seed), units)
