"""The page of `flowse demo`: record or upload a recording, hear it before and after, and see both spectrograms."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import gradio
import numpy as np
from jaxtyping import Float32
from PIL import Image

from flowse.audio.protection import PROTECTIONS
from flowse.audio.waveform import probe, read
from flowse.enhancer import Enhancer
from flowse.refusal import Refusal
from flowse.report.spectrogram import spectrogram_png

MAX_S = 600
"""Longest recording, in seconds: a page is for trying, and `flowse enhance` takes any length."""

FONTS = ["system-ui", "sans-serif"]  # of the reader's own machine: the page asks no other server for anything


STYLE = "time, [data-testid='waveform-controls'] * { color: var(--body-text-color) !important; }"
"""Gradio draws times and buttons of its players in a grey that is hard to read on white."""

KEPT_HERE = ["download"]
"""Buttons of players and pictures: there is none that shares them, so that no recording leaves the machine."""

WAVES = gradio.WaveformOptions(waveform_color="#8a8f98", waveform_progress_color="#ea580c")
"""Colours of the waves: seen on white and on black, and what was played stands out."""


class DemoPage:
    """The page and what its button does.

    Args:
        enhancer: The model.
    """

    def __init__(self, enhancer: Enhancer) -> None:
        self._enhancer = enhancer
        self.aligned = enhancer.sampling.synthesis == "noisy_phase"
        """Whether the model can leave some of the input in."""

    def enhance(
        self, recording: str | None, limit_db: float = 0.0, protect: str = "none"
    ) -> tuple[tuple[int, np.ndarray], Image.Image, Image.Image]:
        """Enhance what was recorded or uploaded.

        Args:
            recording: Path of the audio file; None if there is none yet.
            limit_db: Attenuate by so much at most, in dB; 0: without limit.
            protect: For whom some of the input is left in (`flowse.audio.protection.PROTECTIONS`).

        Returns:
            Sample rate in Hz and 16-bit samples `(N, C)`; the spectrograms before and after.

        Raises:
            gradio.Error: There is no recording, or it cannot be used; the page shows the message.
        """
        if recording is None:
            raise gradio.Error("Record or upload something first.")
        try:
            length_s = probe(Path(recording)).duration_s
            if length_s > MAX_S:
                raise gradio.Error(f"This recording has {length_s:.0f} s, the page takes {MAX_S}: use flowse enhance.")
            noisy, rate = read(Path(recording))
            sampling = self._enhancer.sampling.override(limit_db=limit_db or None, protect=protect)
            enhanced = np.atleast_2d(self._enhancer(noisy, rate, sampling=sampling))
        except (Refusal, ValueError) as error:
            raise gradio.Error(str(error)) from error
        integers = np.clip(np.rint(enhanced.T * 32768), -32768, 32767).astype(np.int16)
        return (rate, integers), _picture(noisy, rate), _picture(enhanced, rate)

    def build(self) -> gradio.Blocks:
        """Lay the page out."""
        with gradio.Blocks(title="FlowSE", analytics_enabled=False) as page:
            gradio.Markdown(
                "# Enhance a recording\nNoise and reverberation are removed on the machine that serves this page "
                f"({self._enhancer.name or 'a model'}, {self._enhancer.device}); no recording leaves it."
            )
            with gradio.Row():
                with gradio.Column(min_width=280):
                    recording = gradio.Audio(
                        sources=["upload", "microphone"], type="filepath", label="Before", buttons=KEPT_HERE,
                        waveform_options=WAVES,
                    )  # fmt: skip
                    button = gradio.Button("Enhance", variant="primary")
                with gradio.Column(min_width=280):
                    result = gradio.Audio(label="After", interactive=False, buttons=KEPT_HERE, waveform_options=WAVES)
            with gradio.Row():
                before = gradio.Image(label="Spectrogram before", interactive=False, min_width=280, buttons=KEPT_HERE)
                after = gradio.Image(label="Spectrogram after", interactive=False, min_width=280, buttons=KEPT_HERE)
            with gradio.Accordion("Settings", open=False):
                limit = gradio.Slider(0, 60, value=0, step=1, label="Attenuate by at most … dB (0: as the model does)")
                protect = gradio.Radio(
                    list(PROTECTIONS),
                    value=self._enhancer.sampling.protect,
                    label="Leave some of the input in, for …",
                    visible=self.aligned,
                )
            button.click(self.enhance, [recording, limit, protect], [result, before, after], api_name="enhance")
        return page


def launch(enhancer: Enhancer, **options: Any) -> gradio.Blocks:
    """Serve the page; `options` are those of `gradio.Blocks.launch`."""
    page = DemoPage(enhancer).build()
    theme = gradio.themes.Default(font=FONTS, font_mono=["ui-monospace", "monospace"])
    page.launch(theme=theme, css=STYLE, share=False, footer_links=[], **options)
    return page


def _picture(samples: Float32[np.ndarray, "C N"], rate: int) -> Image.Image:
    return Image.open(io.BytesIO(spectrogram_png(samples.mean(axis=0), rate, width=600, height=240))).convert("RGB")
