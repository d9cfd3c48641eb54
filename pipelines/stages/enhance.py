"""Enhance whole corpora of recordings with the exported model, or with another one.

Reads the model of export (or `model`) and its own `corpora`, not those of ingest: adding some retrains nothing.
Writes a tar a unit with `<utt_id>.flac` and `<utt_id>.json`, and a manifest part with their byte offsets in the tar.
Drops what a corpus marks as unfit, samples that are not finite, repeated ids, and more channels than FLAC holds.
Fails files that cannot be decoded: missing, empty, truncated, no audio.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32

from flowse import console
from flowse.data.manifest import Kind, Reject, Utterance
from flowse.errors import UserError
from flowse.flow.sampling import SYNTHESES, Sampling
from flowse.outside import Outside
from flowse.pretrained import resolve
from flowse.refusal import Refusal, refusing
from flowse.seeding import derive_seed
from pipelines.corpora import MadeReader
from pipelines.corpora.checked_rows import remarks
from pipelines.corpora.config import CorpusConfig, outside_of, refuse_repeated, roots_of
from pipelines.corpora.listing import Listing, list_units
from pipelines.corpora.readers import READERS, reader_of
from pipelines.engine.accounts import StageReport, Tally, UnitReport
from pipelines.engine.fingerprint import content_of
from pipelines.engine.stage import StageContext, UnitOutput

if TYPE_CHECKING:
    from flowse.audio.waveform import AudioInfo
    from flowse.data.enhanced import TarWriter

NAME = "enhance"
READS = ("export",)
REVISION = 2

MODEL = "model"
"""Folder of the export stage that holds the model."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which recordings are enhanced, and how.

    Attributes:
        corpora: Corpora of recordings, as in ingest: reader `folder` reads a tree of files, `lhotse` a CutSet,
            `manifest` what another workspace kept. Empty: nothing is enhanced.
        model: Name of an embedded model, or a model folder; empty: the model that this run exported.
        steps: Solver steps; empty: the model's own.
        guidance: Scale of classifier-free guidance; empty: the model's own.
        synthesis: "vocoder" or "noisy_phase"; empty: the model's own.
        limit_db: Largest attenuation of any mel bin, in dB; empty: the model's own.
        with_text: Whether a model that was trained with text gets the transcript of a recording that fits one window.
        recordings_per_unit: Most recordings of one tar.
    """

    corpora: tuple[CorpusConfig, ...] = field(default=(), metadata={"unit": False})
    model: str = field(default="", metadata={"model": True})
    steps: int | None = None
    guidance: float | None = None
    synthesis: str = ""
    limit_db: float | None = None
    with_text: bool = True
    recordings_per_unit: int = field(default=100, metadata={"unit": False})

    def __post_init__(self) -> None:
        refuse_repeated(self.corpora)
        for corpus in self.corpora:
            if isinstance(READERS[corpus.reader], MadeReader):
                raise ValueError(f"corpora: {corpus.name!r} is made by reader {corpus.reader!r}; name recordings")
        if self.recordings_per_unit < 1:
            raise ValueError(f"recordings_per_unit is {self.recordings_per_unit}; it must be at least 1")
        if self.synthesis not in ("", *SYNTHESES):
            raise ValueError(f"synthesis is {self.synthesis!r}; allowed: {', '.join(SYNTHESES)}, or empty")
        self.sampling(Sampling())

    def reads(self) -> tuple[str, ...]:
        """Return the stages that are read: none if `model` names a model."""
        return () if self.model else READS

    def speech(self) -> Iterator[tuple[Kind, CorpusConfig]]:
        """Yield every corpus with the kind of its recordings, which is always speech."""
        for corpus in self.corpora:
            yield "speech", corpus

    def outside(self) -> dict[str, Outside]:
        """Return each corpus' folder, by name; new or changed files in it rerun the stage."""
        return outside_of(self.corpora)

    def sampling(self, own: Sampling) -> Sampling:
        """Return the model's settings of sampling, overridden by what this config sets.

        Raises:
            ValueError: A value is out of range.
        """
        return own.override(
            steps=self.steps, guidance=self.guidance, synthesis=self.synthesis or None, limit_db=self.limit_db
        )


class Worker:
    """Enhances recordings with a model that is loaded once."""

    def __init__(self, config: Config, roots: Mapping[str, Path], model: Path, seed: int, device: str) -> None:
        from flowse.enhancer import Enhancer

        self._config, self._roots, self._seed = config, roots, seed
        self._corpora = {corpus.name: corpus for corpus in config.corpora}
        self._enhancer = Enhancer.from_pretrained(model, device)
        self._enhancer.sampling = config.sampling(self._enhancer.sampling)

    def __call__(self, payload: Listing, output: UnitOutput) -> UnitReport:
        """Write one tar of enhanced recordings, and its part of the manifest."""
        from flowse.audio.waveform import probe
        from flowse.data.enhanced import FLAC_CHANNELS, TarWriter
        from flowse.data.measure import apply_header
        from flowse.data.parquet import read_rows

        rejects: list[Reject] = []
        kept_s: list[float] = []
        names = ("audio seconds", "enhancing seconds", "network evaluations", "with text", "lowered to full scale")
        sums = dict.fromkeys((*names, "bytes"), 0.0)
        name = f"{output.name}.tar"
        with (
            TarWriter(output.path(".tar"), output.path(".parquet"), name) as tar,
            tempfile.TemporaryDirectory(prefix="flowse-enhance-") as scratch,
        ):
            for position, row in enumerate(read_rows(payload.path, Utterance)):
                try:
                    payload.check(position, row)
                    with refusing(row.path):
                        info = probe(self._roots[row.corpus] / row.path)
                        row = dataclasses.replace(
                            apply_header(row, info), licence=self._corpora[row.corpus].licence_of(row)
                        )
                        if info.channels > FLAC_CHANNELS:
                            raise Refusal(
                                "too_many_channels",
                                f"{row.path}: {info.channels}, FLAC holds {FLAC_CHANNELS}; split the file",
                            )
                        self._enhance(row, info, tar, Path(scratch) / "enhanced.flac", sums)
                    kept_s.append(row.duration_s)
                except Refusal as error:
                    rejects.append(Reject.of(row, NAME, error))
                output.count(row.duration_s)
        sums["bytes"] = float(output.path(".tar").stat().st_size)
        taken = Tally.of([*kept_s, *(reject.duration_s for reject in rejects)])
        return UnitReport(Tally.of(kept_s), tuple(rejects), sums, taken)

    def _enhance(self, row: Utterance, info: AudioInfo, tar: TarWriter, flac: Path, sums: dict[str, float]) -> None:
        """Enhance a recording window by window, and append it to the tar.

        Args:
            row: The recording, completed by its header.
            info: The header.
            tar: Where to append it.
            flac: Temporary file for the samples.
            sums: Sums over the unit; those of this recording are added.

        Raises:
            Refusal: The file cannot be read to the end, or a sample is not finite; then nothing is appended.
        """
        from flowse.audio.waveform import HIGH_RESOLUTION, gain_to_full_scale, read_span, sample_format
        from flowse.data.enhanced import file_name, write_flac

        begun = time.perf_counter()
        path = self._roots[row.corpus] / row.path
        first = round(row.offset_s * row.sample_rate)
        n_samples = max(1, min(round(row.duration_s * row.sample_rate), info.frames - first))
        windows = len(self._enhancer.windowing.starts(n_samples, row.sample_rate))
        usable = self._config.with_text and self._enhancer.spec.vocabulary and windows == 1
        text = row.text.strip() if usable else ""
        peaks = {"peak_before": 0.0, "peak": 0.0}
        gain = np.float32(gain_to_full_scale(path, first, first + n_samples, row.sample_rate))

        def read_piece(start: int, stop: int) -> Float32[np.ndarray, "C N"]:
            samples = read_span(path, first + start, first + stop, row.sample_rate)
            peaks["peak_before"] = max(peaks["peak_before"], float(np.abs(samples).max()))
            return samples

        def enhanced_pieces() -> Iterator[Float32[np.ndarray, "C N"]]:
            seed = derive_seed(self._seed, NAME, row.utt_id)
            for piece in self._enhancer.stream(read_piece, n_samples, row.sample_rate, text=text or None, seed=seed):
                piece = piece * gain if gain != 1 else piece
                peaks["peak"] = max(peaks["peak"], float(np.abs(piece).max(initial=0.0)))
                yield piece

        bits = 24 if sample_format(path) in HIGH_RESOLUTION else 16
        self._enhancer.evaluations = 0
        written = write_flac(flac, enhanced_pieces(), row.sample_rate, row.channels, bits)
        if written != n_samples:
            raise RuntimeError(f"{path}: {n_samples} samples came in and {written} out")
        tar.add(
            row,
            flac,
            {"sampling": dataclasses.asdict(self._enhancer.sampling), "with_text": bool(text)}
            # Beyond full scale, integers would be clipped.
            | ({"gain_db": round(20 * math.log10(gain), 3)} if gain != 1 else {}),
            file=file_name(row, n_samples, bits, whole=n_samples == info.frames),
            samples=n_samples,
            bits=bits,
            **{name: round(value, 6) for name, value in peaks.items()},
        )
        sums["audio seconds"] += row.duration_s
        sums["network evaluations"] += self._enhancer.evaluations * windows * row.channels
        sums["with text"] += bool(text)
        sums["lowered to full scale"] += gain != 1
        sums["enhancing seconds"] += time.perf_counter() - begun


def run(config: Config, context: StageContext) -> StageReport:
    """List the recordings and enhance them."""
    if not config.corpora:
        context.say(f"{NAME:<16} no recordings to enhance; name some in enhance.corpora")
        return StageReport(taken=Tally(), kept=Tally())
    model = _find_model(config, context)
    roots = roots_of(config.speech(), context.storage)
    for corpus in config.corpora:
        reader_of(corpus.reader, corpus.options, f"enhance.corpora {corpus.name!r}")
    listed = list_units(config.speech(), roots, context.storage, config.recordings_per_unit, context.seed)
    by_whom = "" if config.model else context.inputs["export"].digest
    units = [dataclasses.replace(unit, content=content_of(unit.content, by_whom)) for unit in listed]
    count = sum(unit.taken.utterances for unit in units)
    context.say(f"{NAME:<16} {count:,} recordings found in {len(roots)} corpora, {len(units):,} units; model: {model}")
    device = context.resources.device
    lines = remarks(config.speech(), roots)
    report = context.map_units(Worker, (config, roots, model, context.seed, device), units)
    return dataclasses.replace(
        report, metrics={**report.metrics, **_speed(report.metrics)}, notes=(*report.notes, *lines, *_notes(report))
    )


def _find_model(config: Config, context: StageContext) -> Path:
    """Return the folder of the model; what the model cannot do is refused before any work.

    Raises:
        UserError: There is no such model, or it cannot be sampled as the config asks.
    """
    from flowse.export import ExportError, read_config

    try:
        model = (resolve(config.model) if config.model else context.inputs["export"].tree(MODEL)).resolve()
        own = read_config(model)
    except (FileNotFoundError, ExportError) as error:
        raise UserError(f"enhance.model: {error}") from None
    predicts = own.spec.objective == "regression" or own.spec.flow.source == "predicted"
    if config.sampling(own.sampling).steps == 0 and not predicts:
        raise UserError("enhance.steps is 0, which only a model with a predictor can do; give 1 or more")
    return model


def _speed(sums: Mapping[str, float]) -> dict[str, float]:
    audio_s, enhancing_s = sums.get("audio seconds", 0.0), sums.get("enhancing seconds", 0.0)
    if not audio_s or not enhancing_s:
        return {}
    return {"rtf": enhancing_s / audio_s, "network evaluations a second": sums["network evaluations"] / enhancing_s}


def _notes(report: StageReport) -> list[str]:
    kept, speed = report.kept, _speed(report.metrics)
    if not speed:
        return []
    lowered = report.metrics.get("lowered to full scale", 0.0)
    beyond = (
        [f"{lowered:,.0f} recordings were beyond full scale and were lowered to it, not clipped"] if lowered else []
    )
    return [
        f"{kept.utterances:,} recordings, {console.audio(kept.seconds)}, RTF of one worker {speed['rtf']:.3f}",
        *beyond,
        "as files: python -m pipelines unpack-enhanced OUT (with this run's --experiment and --workspace)",
    ]
