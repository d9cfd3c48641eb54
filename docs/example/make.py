"""Make the example of the README: a noisy recording of a synthetic voice, and its picture before and after enhancement.

python docs/example/make.py [FOLDER]

The sentence is spoken by espeak-ng and the noise is computed, so that both may be shipped (CC0-1.0).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import soundfile as sf
from jaxtyping import Float32
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from flowse import Enhancer
from flowse.audio.waveform import resample
from flowse.seeding import generator
from pipelines.corpora.demo.noise import make_noise
from pipelines.corpora.demo.speech import SAMPLE_RATE, Voice, synthesise

RATE = 16_000
TEXT = "The stage lamp glows behind the curtain, and a quiet voice carries across the empty hall."
SNR_DB = 5.0
FLOOR_DB = -90.0


def noisy_recording() -> Float32[np.ndarray, " N"]:
    """Return half a second of noise, the sentence in the same noise, and half a second of noise, at 16 kHz."""
    spoken = resample(synthesise(TEXT, Voice(language="en", variant="f2", rate=150)), SAMPLE_RATE, RATE)
    speech = np.pad(spoken, RATE // 2)
    speech *= 0.1 / np.sqrt(np.mean(speech**2))
    noise = make_noise("pink", len(speech) / RATE, RATE, generator(3))
    noise *= 0.1 / np.sqrt(np.mean(noise**2)) * 10 ** (-SNR_DB / 20)
    mixed = speech + noise[: len(speech)]
    return (mixed * (0.7 / np.abs(mixed).max())).astype(np.float32)


def spectrogram(samples: Float32[np.ndarray, " N"]) -> Float32[np.ndarray, "K T"]:
    """Return levels in dB below the loudest that a sine of full scale has, 0 Hz first."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, 512)[::80] * np.hanning(512)
    return (20 * np.log10(np.abs(np.fft.rfft(frames, axis=1)).T / 128 + 1e-9)).astype(np.float32)


def draw(pictures: dict[str, Float32[np.ndarray, " N"]], path: Path) -> None:
    """Draw the spectrograms side by side, in colours that are read on a light and on a dark page."""
    figure = Figure(figsize=(10, 3.2), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, samples) in zip(figure.subplots(1, len(pictures), sharey=True), pictures.items(), strict=True):
        seconds = len(samples) / RATE
        axes.imshow(
            spectrogram(samples), origin="lower", aspect="auto", cmap="magma", vmin=FLOOR_DB, vmax=-15,
            extent=(0, seconds, 0, RATE / 2000),
        )  # fmt: skip
        axes.set_title(title)
        axes.set_xlabel("time (s)")
    figure.axes[0].set_ylabel("frequency (kHz)")
    figure.savefig(path, metadata={"Software": None})


def main(folder: Path) -> None:
    """Write `noisy.wav` and `spectrograms.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    sf.write(folder / "noisy.wav", noisy_recording(), RATE, subtype="PCM_16")
    noisy, _ = sf.read(folder / "noisy.wav", dtype="float32")
    enhanced = Enhancer.from_pretrained()(noisy, RATE)
    draw({"noisy": noisy, "enhanced by flowse-small": enhanced}, folder / "spectrograms.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
