"""Enhance from audio file to audio file, in bounded memory."""

from __future__ import annotations

import errno
import math
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import soundfile as sf

from flowse.audio.waveform import HIGH_RESOLUTION, gain_to_full_scale, probe, read_span, sample_format
from flowse.enhancer import Enhancer
from flowse.errors import UserError
from flowse.files import atomic_path
from flowse.flow.sampling import Sampling
from flowse.names import bounded
from flowse.pretrained import DEFAULT

_FORMATS = {".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16"), ".ogg": ("OGG", "VORBIS")}
_NO_PLACE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EISDIR)
_WAV_BYTES = 4_000_000_000
"""Larger WAV files are written as RF64: the sizes of a WAV header have 32 bits."""
_SAMPLE_BYTES = {"PCM_16": 2, "PCM_24": 3, "FLOAT": 4}
_SUFFIX_OF = {
    ".opus": ".ogg",
    ".mp3": ".flac",
    ".m4a": ".flac",
    ".aac": ".flac",
    ".aiff": ".wav",
    ".aif": ".wav",
    ".sph": ".wav",
}


def enhance_file(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    model: str | Path | Enhancer = DEFAULT,
    *,
    text: str | None = None,
    seed: int = 0,
    sampling: Sampling | None = None,
    overwrite: bool = False,
) -> Path:
    """Enhance an audio file, as `flowse enhance` does.

    Example:
        >>> from flowse import enhance_file
        >>> enhance_file("noisy.wav", "enhanced.wav")
        PosixPath('enhanced.wav')

    Args:
        source: Audio file of any format, sample rate, number of channels and length.
        target: File to write: wav, flac or ogg; or a folder to write into. It has the length, sample rate, channels
            and level of the source.
        model: What `Enhancer.from_pretrained` takes; or an `Enhancer`, which is loaded once for many files.
        text: Transcript, if known and if the model was trained with text.
        seed: The same seed gives the same bytes.
        sampling: Solver settings; None: the model's.
        overwrite: Replace a file that exists.

    Returns:
        The file that was written.

    Raises:
        UserError: The target exists, is the source, or has a suffix that names no format that can be written.
        Refusal: The source is missing, damaged or no audio.
    """
    given, to = Path(source).expanduser(), Path(target).expanduser()
    if to.is_dir() or os.fspath(target).endswith(os.sep):
        to = to / as_written(given).name
    check_target(to, given, overwrite)
    probe(given)  # a mistake in a name is said before the model is loaded
    enhancer = model if isinstance(model, Enhancer) else Enhancer.from_pretrained(model)
    write_enhanced(enhancer, given, to, text=text, seed=seed, sampling=sampling)
    return to


def as_written(path: Path) -> Path:
    """Return the name under which a file's format can be written: the same if possible, else a similar one."""
    suffix = path.suffix.lower()
    return path.with_name(bounded(path.stem + _SUFFIX_OF[suffix])) if suffix in _SUFFIX_OF else path


def check_target(target: Path, source: Path | None, overwrite: bool) -> None:
    """Refuse a file that cannot be written or would be lost.

    Raises:
        UserError: The suffix names no known format, or the file exists or is the source itself.
    """
    if target.suffix.lower() not in _FORMATS:
        raise UserError(f"{target}: the suffix names the format; known are {', '.join(_FORMATS)}")
    if target.exists():
        if source is not None and source.exists() and target.samefile(source):
            raise UserError(f"{target} is the input itself; name another file")
        if not overwrite:
            raise UserError(f"{target} exists; --overwrite replaces it (in Python: overwrite=True)")


@contextmanager
def _writable(target: Path) -> Iterator[Path]:
    """Give a temporary path, as `atomic_path` does; libsndfile would only say "System error" where none can be written.

    Raises:
        UserError: The folder takes no file.
    """
    with ExitStack() as stack:
        try:
            temporary = stack.enter_context(atomic_path(target))
            temporary.touch()
        except OSError as error:
            if error.errno not in _NO_PLACE:
                raise
            raise UserError(f"{target} cannot be written: {error.strerror}; name another folder") from error
        yield temporary


def write_enhanced(
    enhancer: Enhancer,
    source: Path,
    target: Path,
    *,
    text: str | None = None,
    seed: int = 0,
    sampling: Sampling | None = None,
    started: Callable[[float], None] | None = None,
    advanced: Callable[[float], None] | None = None,
) -> None:
    """Enhance a file window by window; the result appears when it is whole, and replaces what was there.

    Warns where the result is lowered so that nothing is clipped.

    Args:
        enhancer: The model.
        source: Audio file.
        target: File whose suffix names its format.
        text: Transcript, if known.
        seed: Seed of the noise.
        sampling: Solver settings; None: the enhancer's.
        started: Called before the first window with the length of the recording in seconds.
        advanced: Called after every piece that was written, with its length in seconds.

    Raises:
        Refusal: The source is damaged or no audio.
        UserError: The target cannot be written.
    """
    facts = probe(source)
    stored = sample_format(source)
    kind, subtype = _FORMATS[target.suffix.lower()]
    if stored in HIGH_RESOLUTION and kind != "OGG":
        subtype = "PCM_24" if kind == "FLAC" or stored == "PCM_24" else "FLOAT"
    if kind == "WAV" and facts.frames * facts.channels * _SAMPLE_BYTES[subtype] >= _WAV_BYTES:
        kind = "RF64"
    gain = np.float32(1.0 if subtype == "FLOAT" else gain_to_full_scale(source, 0, facts.frames, facts.sample_rate))
    if gain != 1:
        warnings.warn(
            f"its peak is {1 / gain:.5g}, full scale is 1; the result is lowered by {-20 * math.log10(gain):.1f} dB, "
            "so that nothing is clipped",
            stacklevel=2,
        )
    pieces = enhancer.stream(
        lambda start, stop: read_span(source, start, stop, facts.sample_rate),
        facts.frames,
        facts.sample_rate,
        text=text,
        seed=seed,
        sampling=sampling,
    )
    if started is not None:
        started(facts.duration_s)
    with (
        _writable(target) as temporary,
        sf.SoundFile(temporary, "w", facts.sample_rate, facts.channels, subtype=subtype, format=kind) as out,
    ):
        for piece in pieces:
            out.write((piece * gain).T if gain != 1 else piece.T)
            if advanced is not None:
                advanced(piece.shape[1] / facts.sample_rate)
