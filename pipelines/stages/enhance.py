"""Enhance whole corpora of recordings with the exported model, or with another.

Reads the model of export (or `model`) and the recordings of `corpora` (not those of ingest: no retraining for more).
Writes a tar a unit, `<utt_id>.flac` and `<utt_id>.json` in it, and a manifest part with the byte offset of each.
Drops what its corpus itself marks as unfit, what is not finite, repeated ids, and more channels than FLAC holds.
Fails what cannot be decoded: missing, empty, truncated, no audio.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from flowse.audio.waveform import HIGH_RESOLUTION, SEGMENT_SLACK_S, AudioInfo, probe, read_span, sample_format
from flowse.data.enhanced import FLAC_CHANNELS, TarWriter, file_name, write_flac
from flowse.data.manifest import Kind, Reject, Utterance
from flowse.data.parquet import read_rows
from flowse.enhancer import Enhancer
from flowse.errors import UserError
from flowse.export import CONFIG, ExportError, read_config
from flowse.flow.sampling import SYNTHESES, Sampling
from flowse.pretrained import resolve
from flowse.refusal import Refusal
from flowse.seeding import derive_seed
from pipelines.corpora.config import CorpusConfig, content_digests, refuse_repeated, roots_of
from pipelines.corpora.listing import Listing, list_units
from pipelines.corpora.readers import READERS, reader_of
from pipelines.engine import console
from pipelines.engine.accounts import StageReport, Tally, UnitReport
from pipelines.engine.stage import StageContext, UnitOutput

NAME = "enhance"
READS = ("export",)
REVISION = 1

MODEL = "model"
"""Folder of the export stage that holds the model."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is enhanced, and how.

    Attributes:
        corpora: Recordings; as those of ingest, by any reader: `folder` a tree of files, `lhotse` a CutSet, `manifest`
            what another workspace kept. Empty: nothing is enhanced.
        model: Embedded name or model folder; empty: what this run exported.
        steps: Solver steps; empty: the model's own.
        guidance: Scale of guidance; empty: the model's own.
        synthesis: "vocoder" or "noisy_phase"; empty: the model's own.
        limit_db: The most by which anything is attenuated; empty: the model's own.
        with_text: Give a model that was trained with text the transcript, where there is one and the recording fits
            one window.
        recordings_per_unit: Recordings of one tar.
    """

    corpora: tuple[CorpusConfig, ...] = ()
    model: str = field(default="", metadata={"model": True})
    steps: int | None = None
    guidance: float | None = None
    synthesis: str = ""
    limit_db: float | None = None
    with_text: bool = True
    recordings_per_unit: int = 100

    def __post_init__(self) -> None:
        refuse_repeated(self.corpora)
        for corpus in self.corpora:
            if hasattr(READERS[corpus.reader], "make"):
                raise ValueError(f"corpora: {corpus.name!r} is made by reader {corpus.reader!r}; name recordings")
        if self.recordings_per_unit < 1:
            raise ValueError(f"recordings_per_unit is {self.recordings_per_unit}; it must be at least 1")
        if self.synthesis not in ("", *SYNTHESES):
            raise ValueError(f"synthesis is {self.synthesis!r}; allowed: {', '.join(SYNTHESES)}, or empty")
        self.sampling(Sampling())

    def reads(self) -> tuple[str, ...]:
        """Return the stages that this needs: none where the model is from elsewhere."""
        return () if self.model else READS

    def speech(self) -> Iterator[tuple[Kind, CorpusConfig]]:
        """Yield every corpus with what it holds: speech, whatever else is heard in it."""
        for corpus in self.corpora:
            yield "speech", corpus

    def content_digests(self) -> dict[str, str]:
        """Hash what is in the corpora's folders, so that new or changed files rerun the stage."""
        return content_digests(self.corpora)

    def sampling(self, own: Sampling) -> Sampling:
        """Return how to sample: as the model says, where this config does not.

        Raises:
            ValueError: A value is out of range.
        """
        return own.override(
            steps=self.steps, guidance=self.guidance, synthesis=self.synthesis or None, limit_db=self.limit_db
        )


class Worker:
    """One process that enhances; the model is loaded once."""

    def __init__(self, config: Config, roots: Mapping[str, Path], model: Path, seed: int, device: str) -> None:
        self._config, self._roots, self._seed = config, roots, seed
        self._corpora = {corpus.name: corpus for corpus in config.corpora}
        self._enhancer = Enhancer.from_pretrained(model, device)
        self._enhancer.sampling = config.sampling(self._enhancer.sampling)

    def __call__(self, payload: Listing, output: UnitOutput) -> UnitReport:
        """Enhance one listing's recordings, one after the other."""
        rejects: list[Reject] = []
        kept: list[float] = []
        spent = dict.fromkeys(("audio seconds", "enhancing seconds", "network evaluations", "with text", "bytes"), 0.0)
        name = f"{payload.path.stem}.tar"
        with (
            TarWriter(output.path(".tar"), output.path(".parquet"), name) as tar,
            tempfile.TemporaryDirectory(prefix="flowse-enhance-") as scratch,
        ):
            for position, row in enumerate(read_rows(payload.path, Utterance)):
                try:
                    if position in payload.repeated:
                        raise Refusal("duplicate_id", f"{row.path}: another recording has the id {row.utt_id}")
                    if position in payload.refused:
                        raise Refusal(*payload.refused[position])
                    facts = probe(self._roots[row.corpus] / row.path)
                    row = self._measured(row, facts)
                    self._enhance(row, facts, tar, Path(scratch) / "enhanced.flac", spent)
                    kept.append(row.duration_s)
                except Refusal as error:
                    rejects.append(Reject.of(row, NAME, error))
        spent["bytes"] = float(output.path(".tar").stat().st_size)
        taken = Tally.of([*kept, *(reject.duration_s for reject in rejects)])
        return UnitReport(Tally.of(kept), tuple(rejects), spent, taken)

    def _measured(self, row: Utterance, facts: AudioInfo) -> Utterance:
        """Return the row with what the file's header says.

        Raises:
            Refusal: The file ends well before the segment does.
            Refusal: It has more channels than can be stored.
        """
        rest_s = facts.duration_s - row.offset_s
        if rest_s * facts.sample_rate < 1 or row.duration_s > rest_s + SEGMENT_SLACK_S:
            raise Refusal.failed(
                "truncated",
                f"{row.path} ends at {facts.duration_s:.2f} s, its segment at {row.offset_s + row.duration_s:.2f} s; "
                "fetch it again, or correct the segment's times",
            )
        if facts.channels > FLAC_CHANNELS:
            raise Refusal(
                "too_many_channels", f"{row.path}: {facts.channels}, FLAC holds {FLAC_CHANNELS}; split the file"
            )
        corpus = self._corpora[row.corpus]
        return dataclasses.replace(
            row,
            duration_s=min(row.duration_s or rest_s, rest_s),
            sample_rate=facts.sample_rate,
            channels=facts.channels,
            licence=row.licence or corpus.licence or READERS[corpus.reader].LICENCE,
        )

    def _enhance(self, row: Utterance, facts: AudioInfo, tar: TarWriter, flac: Path, spent: dict[str, float]) -> None:
        """Enhance a recording window by window into the tar.

        Raises:
            Refusal: It cannot be read to the end, or its samples are not finite; the tar has nothing of it then.
        """
        begun = time.perf_counter()
        path = self._roots[row.corpus] / row.path
        first = round(row.offset_s * row.sample_rate)
        n_samples = max(1, min(round(row.duration_s * row.sample_rate), facts.frames - first))
        windows = len(self._enhancer.windowing.starts(n_samples, row.sample_rate))
        usable = self._config.with_text and self._enhancer.spec.vocabulary and windows == 1
        text = row.text.strip() if usable else ""
        peaks = {"peak_before": 0.0, "peak": 0.0}

        def stretch(start: int, stop: int) -> Float32[np.ndarray, "C N"]:
            samples = read_span(path, first + start, first + stop, row.sample_rate)
            peaks["peak_before"] = max(peaks["peak_before"], float(np.abs(samples).max()))
            return samples

        def pieces() -> Iterator[Float32[np.ndarray, "C N"]]:
            for piece in self._enhancer.stream(
                stretch, n_samples, row.sample_rate, text=text or None, seed=derive_seed(self._seed, NAME, row.utt_id)
            ):
                peaks["peak"] = max(peaks["peak"], float(np.abs(piece).max(initial=0.0)))
                yield piece

        bits = 24 if sample_format(path) in HIGH_RESOLUTION else 16
        self._enhancer.evaluations = 0
        written = write_flac(flac, pieces(), row.sample_rate, row.channels, bits)
        if written != n_samples:
            raise RuntimeError(f"{path}: {n_samples} samples came in and {written} out")
        tar.add(
            row,
            flac,
            {"sampling": dataclasses.asdict(self._enhancer.sampling), "with_text": bool(text)},
            file=file_name(row, n_samples, bits, whole=n_samples == facts.frames),
            samples=n_samples,
            bits=bits,
            **{name: round(value, 6) for name, value in peaks.items()},
        )
        spent["audio seconds"] += row.duration_s
        spent["network evaluations"] += self._enhancer.evaluations * windows * row.channels
        spent["with text"] += bool(text)
        spent["enhancing seconds"] += time.perf_counter() - begun


def run(config: Config, context: StageContext) -> StageReport:
    """List the recordings, enhance all of them."""
    if not config.corpora:
        context.say(f"{NAME:<16} no recordings to enhance; name some in enhance.corpora")
        return StageReport(taken=Tally(), kept=Tally())
    model = _model(config, context)
    roots = roots_of(config.speech(), context.storage)
    for corpus in config.corpora:
        reader_of(corpus.reader, corpus.options, f"enhance.corpora {corpus.name!r}")
    units = list(list_units(config.speech(), roots, context.storage, config.recordings_per_unit, context.seed))
    count = sum(unit.taken.utterances for unit in units)
    context.say(f"{NAME:<16} {count:,} recordings found in {len(roots)} corpora, {len(units):,} units; model: {model}")
    device = context.resources.device
    report = context.map_units(Worker, (config, roots, model, context.seed, device), units)
    return dataclasses.replace(
        report, metrics={**report.metrics, **_speed(report.metrics)}, notes=(*report.notes, *_notes(report))
    )


def _model(config: Config, context: StageContext) -> Path:
    """Find the model and refuse what it cannot do before any work.

    Raises:
        UserError: There is no such model, or it cannot be sampled as asked.
    """
    try:
        model = (
            resolve(config.model) if config.model else context.inputs["export"].file(f"{MODEL}/{CONFIG}").parent
        ).resolve()
        own = read_config(model)
    except (FileNotFoundError, ExportError) as error:
        raise UserError(f"enhance.model: {error}") from None
    predicts = own.spec.objective == "regression" or own.spec.flow.source == "predicted"
    if config.sampling(own.sampling).steps == 0 and not predicts:
        raise UserError("enhance.steps is 0, which only a model with a predictor can do; give 1 or more")
    return model


def _speed(sums: Mapping[str, float]) -> dict[str, float]:
    seconds, spent = sums.get("audio seconds", 0.0), sums.get("enhancing seconds", 0.0)
    if not seconds or not spent:
        return {}
    return {"rtf": spent / seconds, "network evaluations a second": sums["network evaluations"] / spent}


def _notes(report: StageReport) -> list[str]:
    kept, speed = report.kept, _speed(report.metrics)
    if not speed:
        return []
    return [
        f"{kept.utterances:,} recordings, {console.audio(kept.seconds)}, RTF of one worker {speed['rtf']:.3f}",
        "as files: python -m pipelines unpack-enhanced OUT (with this run's --experiment and --workspace)",
    ]
