"""Score a FlowSE model on real noisy recordings with clean versions, recording by recording and in total."""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32

from flowse import console, score_page
from flowse.audio.level import level_dbfs
from flowse.audio.protection import PROTECTIONS
from flowse.audio.recordings import find_recordings
from flowse.audio.waveform import check, probe, read_mono
from flowse.data.parquet import write_rows
from flowse.enhancer import Enhancer
from flowse.errors import UserError
from flowse.export import ExportError
from flowse.metrics.dnsmos import Dnsmos
from flowse.metrics.scores import SIGNALS, Score, summarise
from flowse.metrics.scoring import RecordingVersions, Scorer
from flowse.metrics.speaker import SpeakerEncoder, onnx_file
from flowse.metrics.testsets import Item
from flowse.refusal import Refusal
from flowse.seeding import derive_seed
from flowse.whisper.config import WhisperConfig
from flowse.whisper.labeller import Labeller

LEVEL_SLACK_DB = 0.5
"""An enhanced recording may be this much louder than the noisy one: the enhancer restores levels by measurement."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A noisy recording with its clean version.

    Attributes:
        name: Path of the recording within its folder.
        noisy: File of the noisy recording.
        clean: File of the clean version.
        text: Transcript; empty if unknown.
        language: ISO 639-1 code; empty if unknown.
    """

    name: str
    noisy: Path
    clean: Path
    text: str = ""
    language: str = ""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.pretrain.flowse_score",
        description="Enhance AUDIO/dev/pairs and score noisy, enhanced and clean versions, file by file and together. "
        "Exit status 1: an enhanced recording is shorter, louder or clipped.",
    )
    parser.add_argument("--audio", type=Path, required=True, metavar="DIR", help="holds dev/pairs and manifest.csv")
    parser.add_argument("--pairs", type=Path, metavar="DIR", help="holds noisy/ and clean/ (default: AUDIO/dev/pairs)")
    parser.add_argument(
        "--model", default="flowse-small", help="model folder or embedded name (default: %(default)s)"
    )  # fmt: skip
    parser.add_argument(
        "--whisper", default="", metavar="MODEL",
        help="recogniser for word errors: an embedded name, a checkpoint, or a CTranslate2 folder (default: none)",
    )  # fmt: skip
    parser.add_argument("--speaker", default="", metavar="ONNX", help="encoder for speaker cosines (default: none)")
    parser.add_argument("--steps", type=int, metavar="N", help="solver steps (default: the model's)")
    parser.add_argument("--guidance", type=float, metavar="S", help="guidance scale (default: the model's)")
    parser.add_argument("--protect", choices=PROTECTIONS, help="leave some of the input in (default: the model's)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="cpu, cuda (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write every score there, as parquet")
    return parser.parse_args(arguments)


def find_pairs(folder: Path, manifest: Path) -> list[Pair]:
    """List noisy recordings with their clean versions of the same name.

    Args:
        folder: Folder with noisy/ and clean/.
        manifest: CSV file of texts and languages by path relative to its folder; may not exist.

    Raises:
        UserError: A folder is missing or empty, or a recording has no clean version.
    """
    described: dict[Path, Mapping[str, str]] = {}
    if manifest.is_file():
        with manifest.open(encoding="utf-8", newline="") as file:
            described = {(manifest.parent / row["path"]).resolve(): row for row in csv.DictReader(file)}
    noisy = list(find_recordings(folder / "noisy"))
    if not noisy:
        raise UserError(f"{folder / 'noisy'}: no recordings there; say where noisy/ and clean/ lie with --pairs DIR")
    pairs = []
    for path in noisy:
        name = path.relative_to(folder / "noisy").as_posix()
        clean = folder / "clean" / name
        if not clean.is_file():
            raise UserError(f"{path}: has no clean version {clean}; add it, or take the recording away")
        row = described.get(path.resolve(), {})
        pairs.append(
            Pair(name=name, noisy=path, clean=clean, text=row.get("text", ""), language=row.get("language", ""))
        )
    return pairs


def enhanced_versions(pair: Pair, enhancer: Enhancer, seed: int) -> tuple[RecordingVersions, list[str]]:
    """Read a pair as mono and enhance it.

    Returns:
        The noisy, enhanced and clean versions, cut to the shortest, and the faults of the enhanced version.

    Raises:
        Refusal: A file cannot be read, or is silent.
    """
    rate = probe(pair.noisy).sample_rate
    noisy, clean = (read_mono(path, rate) for path in (pair.noisy, pair.clean))
    for samples, path in ((noisy, pair.noisy), (clean, pair.clean)):
        check(samples, str(path))
    enhanced = enhancer.enhance(noisy, rate, seed=derive_seed(seed, "score", pair.name))
    length = min(len(noisy), len(clean), len(enhanced))
    recording = RecordingVersions(
        signals={"noisy": noisy[:length], "enhanced": enhanced[:length], "clean": clean[:length]},
        sample_rate=rate,
        item=Item(key=pair.name, test_set="pairs", seconds=length / rate, language=pair.language, text=pair.text),
    )
    return recording, list(faults(pair.name, noisy, enhanced))


def faults(name: str, noisy: Float32[np.ndarray, " N"], enhanced: Float32[np.ndarray, " M"]) -> Iterator[str]:
    """Yield the faults of an enhanced recording: wrong length, clipping, a higher level, or samples not finite."""
    if len(noisy) != len(enhanced):
        yield f"{name}: {len(enhanced)} samples, the noisy one has {len(noisy)}"
    if not np.isfinite(enhanced).all():
        yield f"{name}: samples are not finite"
        return
    peak, before = (float(np.abs(samples).max(initial=0.0)) for samples in (enhanced, noisy))
    if peak >= 1.0 and peak > before:
        yield f"{name}: clipped, its peak is {peak:.3f} (noisy: {before:.3f})"
    louder = level_dbfs(enhanced) - level_dbfs(noisy)
    if louder > LEVEL_SLACK_DB:
        yield f"{name}: {louder:.1f} dB louder than the noisy one"


def whisper_config(model: str) -> WhisperConfig:
    """Return how to run a Whisper model: a folder with a `model.bin` is run by CTranslate2."""
    converted = (Path(model) / "model.bin").is_file()
    return WhisperConfig(model=model, backend="faster-whisper" if converted else "openai")


def table(scores: Sequence[Score]) -> str:
    """Return the table of scores, with a line for each version of a recording."""
    heads = ("recording", "", "OVRL", "SIG", "BAK", "ESTOI", "PESQ", "SI-SDR", "WER", "speaker", "peak", "s")
    rows = []
    for score in scores:
        first = score.signal == SIGNALS[0]
        wer = None if not score.tokens or score.errors is None else score.errors / score.tokens
        numbers = [(score.ovrl, 2), (score.sig, 2), (score.bak, 2), (score.estoi, 3), (score.pesq_wb, 2)]
        numbers += [(score.si_sdr_db, 1), (wer, 2), (score.speaker_cosine, 2), (score.peak, 2)]
        cells = ["" if value is None else f"{value:.{digits}f}" for value, digits in numbers]
        rows.append([score.key if first else "", score.signal, *cells, f"{score.seconds:.1f}" if first else ""])
    return console.table(heads, rows, right=range(2, len(heads)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Enhance, score and print; return the exit status: 0, 1 if a recording has a fault, 2 after a user's mistake."""
    args = parse(arguments)
    try:
        return score(args)
    except (UserError, Refusal) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def score(args: argparse.Namespace) -> int:
    """Score as the command line says; return the exit status.

    Raises:
        UserError: Recordings or a model are missing.
        Refusal: A recording cannot be read.
    """
    torch.set_num_threads(args.threads)
    pairs = find_pairs(args.pairs or args.audio / "dev" / "pairs", args.audio / "manifest.csv")
    try:
        enhancer = Enhancer.from_pretrained(args.model, args.device)
        enhancer.sampling = enhancer.sampling.override(steps=args.steps, guidance=args.guidance, protect=args.protect)
    except (FileNotFoundError, ExportError) as error:
        raise UserError(f"--model: {error}; make pretrain MODEL=flowse trains one") from None
    try:
        labeller = Labeller(whisper_config(args.whisper), args.device) if args.whisper else None
        speaker = SpeakerEncoder(onnx_file(args.speaker), args.threads) if args.speaker else None
    except FileNotFoundError as error:
        raise UserError(str(error)) from None
    begun = time.perf_counter()
    made = [enhanced_versions(pair, enhancer, args.seed) for pair in pairs]
    recordings = [recording for recording, _ in made]
    spent, seconds = time.perf_counter() - begun, sum(recording.item.seconds for recording in recordings)
    scores = Scorer(Dnsmos(args.threads), labeller, speaker)(recordings)
    print(table(scores))
    # Groups of a small set have too few recordings to be meaningful: only the whole set is summarised.
    print("\n" + "\n".join(score_page.lines(summarise(scores, args.seed, 2000))))
    print(f"\n{len(recordings)} recordings, {seconds:.0f} s; RTF {spent / seconds:.2f}; * compares sample with sample")
    for option, given in (("WER", args.whisper), ("speaker cosine", args.speaker)):
        if not given:
            print(f"{option}: not measured; give --{'whisper MODEL' if option == 'WER' else 'speaker ONNX'}")
    if args.out:
        write_rows(args.out, Score, scores)
        print(f"all scores: {args.out}")
    found = [fault for _, of in made for fault in of]
    print("\n".join(f"FAULT {fault}" for fault in found) or "no recording is louder, clipped or shorter")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
