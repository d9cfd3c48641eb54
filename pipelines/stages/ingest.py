"""Find every recording of the configured corpora, decode it once, and write a row about it to the manifest.

Reads the corpora named in the config (speech, noise, impulse responses).
Writes a manifest part a unit: an Utterance for each recording or segment, with length, rate, channels, speaker, split.
Drops recordings that are too short, too long or silent, repeated ids, and what a corpus itself marks as unfit;
of recordings with the same bytes, all but the first (`duplicate_content`); what is `forgotten`.
Fails files that cannot be decoded (missing, empty, truncated, a Git-LFS pointer, a web page), and impossible segments.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flowse.data.manifest import SPLITS, Kind, Reject, Split, Utterance
from flowse.errors import UserError
from flowse.fetching import ahead, fetched, made
from flowse.outside import Outside
from flowse.refusal import Refusal, refusing
from flowse.seeding import derive_seed
from pipelines.corpora import MadeReader, is_made_of_files
from pipelines.corpora.checked_rows import remarks
from pipelines.corpora.config import CorpusConfig as CorpusConfig
from pipelines.corpora.config import outside_of, refuse_repeated, roots_of
from pipelines.corpora.forgotten import ForgetList, anonymous
from pipelines.corpora.listing import Listing as Listing
from pipelines.corpora.listing import list_units
from pipelines.corpora.readers import reader_of
from pipelines.engine.accounts import StageReport, Tally, UnitReport
from pipelines.engine.fingerprint import content_of
from pipelines.engine.records import REJECTS_SUFFIX
from pipelines.engine.stage import StageContext, Unit, UnitOutput

NAME = "ingest"
READS: tuple[str, ...] = ()
REVISION = 4


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
    """Which corpora are read.

    Attributes:
        speech: Corpora of speech.
        noise: Corpora of noise.
        rirs: Corpora of measured room impulse responses.
        splits: Shares of dev and test in corpora that have no splits of their own.
        min_duration_s: Utterances that are shorter, in seconds, are dropped; impulse responses may be shorter.
        max_duration_s: Utterances that are longer, in seconds, are dropped; list segments of them in the corpus' table.
        utterances_per_unit: Rows of a manifest part, on average; 500 utterances of 10 s are about 1.4 h. Where a part
            ends is decided by its rows, so that more recordings change no other part (`pipelines.corpora.boundaries`).
        forgotten: What is turned away whatever it is, by hash (`pipelines.corpora.forgotten`); a workspace's own list,
            which `python -m pipelines forget` writes, is added to it.
    """

    speech: tuple[CorpusConfig, ...] = field(default=(), metadata={"unit": False})
    noise: tuple[CorpusConfig, ...] = field(default=(), metadata={"unit": False})
    rirs: tuple[CorpusConfig, ...] = field(default=(), metadata={"unit": False})
    splits: SplitShares = field(default_factory=SplitShares)
    min_duration_s: float = 0.3
    max_duration_s: float = 3600.0
    utterances_per_unit: int = field(default=500, metadata={"unit": False})
    forgotten: tuple[str, ...] = field(default=(), metadata={"unit": False, "fingerprint": "unless default"})

    def __post_init__(self) -> None:
        ForgetList(self.forgotten)
        refuse_repeated(corpus for _, corpus in self.corpora())
        if self.utterances_per_unit < 1:
            raise ValueError(f"utterances_per_unit is {self.utterances_per_unit}; it must be at least 1")

    def corpora(self) -> Iterator[tuple[Kind, CorpusConfig]]:
        """Yield every corpus with the kind of its recordings."""
        for corpus in self.speech:
            yield "speech", corpus
        for corpus in self.noise:
            yield "noise", corpus
        for corpus in self.rirs:
            yield "rir", corpus

    def outside(self) -> dict[str, Outside]:
        """Return each corpus' folder, by name; new or changed files in it rerun ingest."""
        return outside_of(corpus for _, corpus in self.corpora())


def corpus_roots(config: Config, made: Path) -> dict[str, Path]:
    """Return the folder of every corpus, by name; corpora that are made get one below `made`, named by their options.

    Raises:
        UserError: A corpus that is not made has no root, or two corpora hold the same recordings.
    """
    return roots_of(config.corpora(), made)


def _as_split(name: str) -> Split | None:
    return next((split for split in SPLITS if split == name), None)


def choose_split(row: Utterance, shares: SplitShares, seed: int) -> Split:
    """Choose a split by a hash of the speaker, so that adding data moves no speaker to another split.

    Args:
        row: The utterance; without a speaker, the path stands for it.
        shares: Shares of dev and test.
        seed: The experiment's seed.
    """
    speaker = row.speaker or row.path
    draw = derive_seed(seed, "split", row.corpus, speaker) / 2**63
    if draw < shares.test:
        return "test"
    return "dev" if draw < shares.test + shares.dev else "train"


class Worker:
    """Decodes recordings and completes their rows."""

    def __init__(self, config: Config, roots: dict[str, Path], seed: int) -> None:
        self._config, self._roots, self._seed = config, roots, seed
        self._corpora = {corpus.name: (kind, corpus) for kind, corpus in config.corpora()}

    def __call__(self, payload: Listing, output: UnitOutput) -> UnitReport:
        """Write one part of the manifest."""
        from flowse.data.content import refusing_changes
        from flowse.data.measure import check_recording
        from flowse.data.parquet import read_rows, write_rows

        low, high = self._config.min_duration_s, self._config.max_duration_s
        kept: list[Utterance] = []
        rejects: list[Reject] = []
        for position, row in enumerate(ahead(read_rows(payload.path, Utterance), self._path)):
            try:
                payload.check(position, row)
                with refusing(row.path):
                    self._make(row)
                    with refusing_changes(self._path(row), row.path):
                        row = self._complete(row)
                        measured = check_recording(row, self._path(row), min_s=low, max_s=high)
                kept.append(measured)
            except Refusal as refusal:
                rejects.append(Reject.of(row, NAME, refusal))
            output.count(row.duration_s)
        write_rows(output.path(".parquet"), Utterance, kept)
        durations = [*(row.duration_s for row in kept), *(reject.duration_s for reject in rejects)]
        return UnitReport(
            kept=Tally.of(row.duration_s for row in kept), rejects=tuple(rejects), taken=Tally.of(durations)
        )

    def _path(self, row: Utterance) -> Path:
        return self._roots[row.corpus] / row.path

    def _make(self, row: Utterance) -> None:
        """Write the file of a row whose corpus is made, unless it is there."""
        _, corpus = self._corpora[row.corpus]
        reader, options = reader_of(corpus.reader, corpus.options, f"corpus {corpus.name!r}")
        # A folder that the config names may hold copies of what the files held before; others are named by the files.
        again = bool(corpus.root) and is_made_of_files(reader)
        if isinstance(reader, MadeReader) and (again or not fetched(self._path(row)).exists()):
            reader.make(self._roots[row.corpus], corpus.name, options, self._seed, row)
            made(self._path(row))

    def _complete(self, row: Utterance) -> Utterance:
        """Return the row with what the header of its file says, its kind, split and licence.

        Raises:
            Refusal: The file is missing, is no audio, or ends before the segment does.
        """
        from flowse.audio.waveform import probe
        from flowse.data.measure import apply_header

        kind, corpus = self._corpora[row.corpus]
        return dataclasses.replace(
            apply_header(row, probe(self._path(row))),
            kind=kind,
            split=row.split or _as_split(corpus.split) or choose_split(row, self._config.splits, self._seed),
            licence=corpus.licence_of(row),
        )


@dataclass(frozen=True, kw_only=True)
class Repeats:
    """Payload of a unit that takes the place of another: a part of the manifest some of whose recordings count no more.

    Attributes:
        path: The part.
        rejects: Its reject rows; None if there are none.
        details: Why a row counts no more, by its position in the part.
        forgotten: Positions of rows whose audio is forgotten under another name.
    """

    path: Path
    rejects: Path | None
    details: Mapping[int, str]
    forgotten: tuple[int, ...] = ()


class Leaver:
    """Copies parts of the manifest and leaves out recordings that an earlier part holds, too, or that are forgotten."""

    def __call__(self, payload: Repeats, output: UnitOutput) -> UnitReport:
        """Write one part of the manifest again."""
        from flowse.data.parquet import read_rows, write_rows

        kept: list[Utterance] = []
        rejects = list(read_rows(payload.rejects, Reject)) if payload.rejects else []
        for position, row in enumerate(read_rows(payload.path, Utterance)):
            if position in payload.forgotten:
                nameless = anonymous(row)
                rejects.append(Reject.of(nameless, NAME, Refusal(nameless.reason, nameless.detail), row.duration_s))
            elif position in payload.details:
                rejects.append(Reject.of(row, NAME, Refusal("duplicate_content", payload.details[position])))
            else:
                kept.append(row)
        write_rows(output.path(".parquet"), Utterance, kept)
        durations = [*(row.duration_s for row in kept), *(reject.duration_s for reject in rejects)]
        return UnitReport(
            kept=Tally.of(row.duration_s for row in kept), rejects=tuple(rejects), taken=Tally.of(durations)
        )


def _without_repeats(config: Config, context: StageContext) -> Iterator[Unit[Repeats]]:
    """Yield a unit in the place of each that holds recordings which stand in the manifest under an earlier name.

    Also of each that holds the audio of a forgotten recording under another name.
    """
    from pipelines.corpora.duplicates import find_duplicates, find_forgotten

    parts = context.unit_files(".parquet")
    rejects = {file.unit: file for file in context.unit_files(REJECTS_SUFFIX)}
    paths = [part.path for part in parts]
    repeated, forgotten = find_duplicates(paths), find_forgotten(paths, ForgetList(config.forgotten))
    for number in sorted({*repeated, *forgotten}):
        part, details, gone = parts[number], repeated.get(number, {}), forgotten.get(number, ())
        refused = rejects.get(part.unit)
        content = content_of(part.sha256, refused.sha256 if refused else "", list(details.items()), gone)
        payload = Repeats(path=part.path, rejects=refused.path if refused else None, details=details, forgotten=gone)
        yield Unit(part.label, payload, Tally(), content, corpus=part.label, replaces=part.unit)


def run(config: Config, context: StageContext) -> StageReport:
    """List the corpora, decode every recording once, and write the manifest without recordings that repeat others."""
    if not config.speech:
        raise UserError("ingest.speech is empty: name at least one corpus of speech in the experiment's config")
    units = list(
        list_units(
            config.corpora(),
            context.roots,
            context.storage,
            config.utterances_per_unit,
            context.seed,
            ForgetList(config.forgotten),
        )
    )
    context.say(
        f"{NAME:<16} {sum(unit.taken.utterances for unit in units):,} files found in {len(context.roots)} corpora"
    )
    lines = remarks(config.corpora(), context.roots)
    context.map_units(Worker, (config, dict(context.roots), context.seed), units)
    if repeats := list(_without_repeats(config, context)):
        context.map_units(Leaver, (), repeats)
    return dataclasses.replace(context.account(), notes=tuple(lines))
