"""Enhance a recording, every recording of a folder, or standard input."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from flowse import console
from flowse.audio.protection import PROTECTIONS
from flowse.audio.recordings import AUDIO_SUFFIXES, find_recordings
from flowse.data.row_files import RowFiles
from flowse.data.tables import Columns, read_table
from flowse.errors import UserError
from flowse.live_area import LOG_EVERY_S, Bar
from flowse.model.spec import PRECISIONS
from flowse.names import readable
from flowse.pretrained import DEFAULT
from flowse.refusal import Refusal, as_refusal, is_of_surroundings

_COLUMNS = Columns(required=("text",))
_NAME_SHOWN = 30  # last characters of a recording's name beside the bar


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what is enhanced, by which model and how."""
    parser.description = (
        "Enhance a recording, every recording of a folder, or standard input. Any sample rate, number of channels "
        "and length; the result has the same length, rate, channels and level. A folder keeps its tree."
    )
    parser.epilog = (
        "Examples: 'flowse enhance noisy.wav clean.flac', 'flowse enhance recordings/ enhanced/ --model DIR', "
        "'flowse enhance - - < noisy.wav > clean.wav'."
    )
    parser.add_argument(
        "input", metavar="IN", help="audio file, folder (searched recursively), or - for standard input"
    )
    parser.add_argument("output", metavar="OUT", help="file, folder if IN is one, or - for standard output (WAV)")
    parser.add_argument(
        "--model", default=DEFAULT, metavar="MODEL",
        help="folder that the export stage wrote, name of an embedded model, hf:owner/name on the Hugging Face Hub, or "
        "MLflow address (runs:/…, models:/…) (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--steps", type=int, metavar="N", help="solver steps; more is slower (default: the model's)")
    parser.add_argument("--guidance", type=float, metavar="S", help="guidance scale, 0 is off (default: the model's)")
    parser.add_argument(
        "--limit", type=float, metavar="DB",
        help="attenuate by so much at most: a little noise left sounds more natural (default: the model's)",
    )  # fmt: skip
    parser.add_argument(
        "--protect", choices=PROTECTIONS,
        help="leave some of the input in: for listening, of clean stretches; for asr, of all, the more the "
        "cleaner (default: the model's)",
    )  # fmt: skip
    texts = parser.add_mutually_exclusive_group()
    texts.add_argument("--text", metavar="TEXT", help="what is said in the recording, for models trained with text")
    texts.add_argument(
        "--transcripts", type=Path, metavar="CSV",
        help="csv or parquet with columns path (as within IN) and text, for a folder",
    )  # fmt: skip
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps (default: %(default)s)")
    parser.add_argument(
        "--precision", default="fp32", choices=PRECISIONS,
        help="of a flow's matrix products: int8 on a CPU and bf16 on a GPU are faster, and nearly as exact (default: "
        "%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--compile", action="store_true",
        help="compile the network: faster on a GPU, after a minute at the first recording",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same bytes (default: %(default)s)")
    parser.add_argument(
        "--batch", type=int, default=4, metavar="N",
        help="20-s windows at once on a GPU; on a CPU they are fastest one by one (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    parser.add_argument("--quiet", action="store_true", help="no progress, no summary")


def run(arguments: argparse.Namespace) -> int:
    """Enhance what was asked for; a recording of a folder that cannot be read is named, and the others are enhanced.

    Raises:
        UserError: A mistake in the arguments, or the only recording cannot be enhanced.
    """
    jobs = list(_jobs(arguments))
    progress = _Progress(len(jobs), quiet=arguments.quiet)
    try:
        progress.prepare(f"loads {readable(arguments.model)}")
        enhancer = _enhancer(arguments)
        progress.begin()
        failed = _enhance_all(jobs, enhancer, arguments.seed, progress)
    finally:
        progress.end()
    progress.summary(failed, enhancer.evaluations)
    return 2 if failed else 0


def _enhancer(arguments: argparse.Namespace) -> Any:
    """Load the model with the settings that were asked for: a `flowse.Enhancer`, which imports torch.

    Raises:
        UserError: There is no such model or device, or a setting cannot be.
    """
    # Imported here: help and completion do without torch.
    from flowse.enhancer import Enhancer, Windowing

    device = _device(arguments.device)
    if arguments.batch < 1:
        raise UserError(f"--batch {arguments.batch} must be at least 1")
    windowing = Windowing(batch=arguments.batch)
    enhancer = Enhancer.from_pretrained(arguments.model, device, windowing, arguments.precision)
    if arguments.compile:
        enhancer.system.compile_blocks()
    # Once and not a recording: a setting that cannot be is a mistake of the call, not of each of its recordings.
    enhancer.sampling = enhancer.sampling.override(
        steps=arguments.steps, guidance=arguments.guidance, limit_db=arguments.limit, protect=arguments.protect
    )
    if (arguments.steps, arguments.guidance) != (None, None):  # what a model brings, older versions took as it is
        enhancer.spec.require(enhancer.sampling)
    return enhancer


def _enhance_all(jobs: Sequence[_Job], enhancer: Any, seed: int, progress: _Progress) -> int:
    """Enhance recordings one by one; return how many could not be enhanced.

    Raises:
        UserError: The only recording cannot be enhanced.
    """
    import soundfile as sf

    from flowse.enhanced_files import write_enhanced

    write = partial(write_enhanced, enhancer, seed=seed)
    failed = 0
    for job in jobs:
        # Of one file the message of main() is enough; of many each is named and the rest goes on.
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", UserWarning)
                _enhance_one(write, job, progress)
        except Exception as error:
            if is_of_surroundings(error):
                raise
            said = (
                error if isinstance(error, Refusal | ValueError | sf.LibsndfileError) else as_refusal(error, job.name)
            )
            if len(jobs) == 1:
                raise UserError(f"{job.name}: {said}") from error
            failed += 1
            progress.say(f"flowse: {job.name}: {' '.join(str(said).split())}")
        for warning in caught:
            if warning.category is UserWarning:
                progress.say(f"flowse: {job.name}: {warning.message}")
        progress.finish()
    return failed


@dataclass(frozen=True)
class _Job:
    """One recording to enhance.

    Attributes:
        name: What to call it: its path within the folder, or the file's name.
        source: File to read, None for standard input.
        target: File to write, None for standard output.
        text: What is said in it; empty if unknown.
    """

    name: str
    source: Path | None
    target: Path | None
    text: str = ""


def _device(name: str) -> str:
    """Check that a device can be used."""
    import torch

    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {name} cannot be used here: {reason}") from error
    return name


def _jobs(arguments: argparse.Namespace) -> Iterator[_Job]:
    """List what is to be enhanced, refusing what cannot work before anything is computed."""
    from flowse.enhanced_files import as_written, check_target

    source, target = arguments.input, arguments.output
    if source == "-" and sys.stdin.isatty():
        raise UserError("standard input is a terminal; hand a file over: flowse enhance - OUT < noisy.wav")
    if target == "-" and sys.stdout.isatty():
        raise UserError("standard output is a terminal, which shows no audio; write to a file: … - > clean.wav")
    if source == "-" or not Path(source).is_dir():
        if arguments.transcripts:
            raise UserError("--transcripts is for a folder; a single recording takes --text")
        if source != "-" and not Path(source).exists():
            raise UserError(f"{source}: no such file or folder")
        to = None if target == "-" else Path(target)
        if to is not None and (to.is_dir() or target.endswith(os.sep)):
            to = to / (as_written(Path(source)).name if source != "-" else "enhanced.wav")
        if to is not None:
            check_target(to, None if source == "-" else Path(source), arguments.overwrite)
        yield _Job(
            "standard input" if source == "-" else source,
            None if source == "-" else Path(source),
            to,
            arguments.text or "",
        )
        return
    if target == "-":
        raise UserError("a folder cannot go to standard output; name a folder to write to")
    if arguments.text:
        raise UserError("--text is for a single recording; a folder takes --transcripts CSV")
    root, out = Path(source), Path(target)
    if out.is_file():
        raise UserError(f"{out} is a file; a folder's recordings need a folder to go to")
    if out.exists() and out.samefile(root):
        raise UserError(f"{out} is the input itself; name another folder")
    found = sorted(find_recordings(root))
    if root.resolve() in out.resolve().parents:  # what is there already is not input
        found = [path for path in found if out.resolve() not in path.resolve().parents]
    if not found:
        raise UserError(f"{root}: no recording in it ({', '.join(AUDIO_SUFFIXES)})")
    names = [path.relative_to(root).as_posix() for path in found]
    texts = _transcripts(arguments.transcripts, root, names) if arguments.transcripts else {}
    bare = [name for name in names if name not in texts] if arguments.transcripts else []
    if bare and not arguments.quiet:
        print(
            f"flowse: {arguments.transcripts}: {len(bare):,} of {len(names):,} recordings have no row, e.g. "
            f"{readable(bare[0])}; they are enhanced without a text",
            file=sys.stderr,
        )
    targets: dict[Path, Path] = {}
    for path in found:
        to = out / as_written(path.relative_to(root))
        if to in targets:
            raise UserError(f"{targets[to]} and {path} would both be written to {to}; rename one")
        targets[to] = path
        check_target(to, path, arguments.overwrite)
    for to, path in targets.items():
        name = path.relative_to(root).as_posix()
        yield _Job(name, path, to, texts.get(name, ""))


def _transcripts(path: Path, root: Path, names: Sequence[str]) -> dict[str, str]:
    """Read the texts of a folder's recordings, by their paths within the folder.

    Raises:
        UserError: The table is not as `read_table` says, names what is not there, or one recording twice.
    """
    files = RowFiles(root, names)
    texts: dict[str, str] = {}
    absent = []
    rows = list(read_table(path, _COLUMNS))
    for row, name in zip(rows, files.find_all([row.path for row in rows]), strict=True):
        if name is None:
            absent.append(readable(row.path))
        elif texts.setdefault(name, row.texts["text"]) != row.texts["text"]:
            raise UserError(f"{row.where}: {readable(name)} stands here twice with different texts; remove one row")
    if absent:
        raise UserError(
            f"{path} names {absent[0]}, which is not in {root} (and {len(absent) - 1} more); correct or remove the rows"
        )
    return texts


def _enhance_one(write: Callable[..., None], job: _Job, progress: _Progress) -> None:
    """Enhance one recording window by window; the result appears when it is whole."""
    with tempfile.TemporaryDirectory(prefix="flowse-") as scratch:
        source = job.source
        if source is None:
            source = Path(scratch) / "input"
            with source.open("wb") as spool:
                shutil.copyfileobj(sys.stdin.buffer, spool)
            if not source.stat().st_size:
                raise UserError("standard input is empty")
        target = job.target or Path(scratch) / "output.wav"
        write(
            source,
            target,
            text=job.text,
            started=lambda length_s: progress.start(job.name, length_s),
            advanced=progress.advance,
        )
        if job.target is None:
            with target.open("rb") as result:
                shutil.copyfileobj(result, sys.stdout.buffer)
            sys.stdout.buffer.flush()


class _Progress:
    """What is said on the standard error while recordings are enhanced: a bar, and in a log a line at times."""

    def __init__(self, total: int, *, quiet: bool) -> None:
        self.total, self.quiet = total, quiet
        self.bar = None if quiet else Bar("enhance", stderr=True)
        self.index = 0
        self.name, self.length_s, self.at_s, self.done_s = "", 0.0, 0.0, 0.0
        self.begun = time.monotonic()
        self.next_s = LOG_EVERY_S

    def prepare(self, what: str) -> None:
        """Say what is done before the first recording."""
        if self.bar is not None:
            self.bar.show(0.0, what)

    def begin(self) -> None:
        """Measure from now on."""
        self.begun = time.monotonic()

    def start(self, name: str, length_s: float) -> None:
        """Begin a recording of this length."""
        self.name, self.length_s, self.at_s = name, length_s, 0.0
        self._show()

    def advance(self, seconds: float) -> None:
        """Count more seconds of the recording as written."""
        self.at_s += seconds
        self.done_s += seconds
        self._show()

    def finish(self) -> None:
        """Count a recording, enhanced or not."""
        self.index += 1
        self.length_s = self.at_s = 0.0

    def say(self, line: str) -> None:
        """Print a line of its own."""
        print(readable(line), file=sys.stderr)

    def end(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.end()

    def summary(self, failed: int, evaluations: int) -> None:
        """Print how many recordings were enhanced, how fast, and by how many evaluations of the network a window."""
        if self.quiet or not self.done_s:
            return
        elapsed = time.monotonic() - self.begun
        what = f"{self.total - failed} recording{'s' if self.total - failed != 1 else ''}"
        self.say(
            f"{what}, {self.done_s:.1f} s of audio in {elapsed:.1f} s (RTF {elapsed / self.done_s:.2f}), "
            f"{evaluations} evaluation{'s' if evaluations != 1 else ''} of the network a window"
            + (f"; {failed} failed" if failed else "")
        )

    def _show(self) -> None:
        if self.bar is None:
            return
        elapsed_s = time.monotonic() - self.begun
        part = min(1.0, self.at_s / self.length_s) if self.length_s else 0.0
        share = (self.index + part) / self.total
        state = f"{self.index}/{self.total}"
        if self.done_s and elapsed_s > 0:
            state += f"  {self.done_s / elapsed_s:,.0f}× real time"
        if share > 0:
            state += f"  {console.duration(elapsed_s * (1 / share - 1))} left"
        state += f"  {readable(self.name[-_NAME_SHOWN:])}"
        if self.bar.live:
            self.bar.show(share, state)
        elif elapsed_s >= self.next_s:
            self.next_s = elapsed_s + LOG_EVERY_S
            self.say(f"enhance  {console.duration(elapsed_s)}  {share:.0%}  {state}")
