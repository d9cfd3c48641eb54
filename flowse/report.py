"""The listening page: an HTML file with tables, plots and, for each example, players under spectrograms."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from flowse.audio.waveform import flac_bytes
from flowse.names import readable

_RANGE_DB = 80.0


@dataclass(frozen=True, kw_only=True)
class Track:
    """One version of an example.

    Attributes:
        label: Name of the version, e.g. "noisy".
        samples: Mono samples; full scale is ±1.
        sample_rate: In Hz.
        facts: Scores and other values by name, shown under the player.
        text: The recogniser's transcript.
    """

    label: str
    samples: Float[np.ndarray, " N"]
    sample_rate: int
    facts: Mapping[str, str] = field(default_factory=dict)
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class Example:
    """A recording in all its versions.

    Attributes:
        title: Name of the recording.
        tracks: Its versions, in the order in which they are shown.
        facts: What is known of the recording, by name.
        text: The reference transcript.
        group: Heading above the first of several examples that belong together.
    """

    title: str
    tracks: Sequence[Track]
    facts: Mapping[str, str] = field(default_factory=dict)
    text: str = ""
    group: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of plain strings.

    Attributes:
        title: Heading.
        columns: Heads of the columns; the first column is left-aligned, the others are right-aligned.
        rows: Cells; a tuple (text, class) gives a cell the class "good", "bad" or "dim".
        note: A sentence under the table.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | tuple[str, str]]]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A drawing.

    Attributes:
        title: Caption.
        svg: The drawing as an <svg> element.
    """

    title: str
    svg: str


def render(
    title: str,
    *,
    lead: str = "",
    facts: Mapping[str, str] | None = None,
    tables: Sequence[Table] = (),
    plots: Sequence[Plot] = (),
    examples: Sequence[Example] = (),
) -> str:
    """Write the page as one HTML document that fetches nothing; its policy forbids all scripts but its own.

    Args:
        title: Title of the page.
        lead: A sentence that says what was found.
        facts: Model, data and settings, by name; at the end of the page.
        tables: Shown first.
        plots: Shown after the tables.
        examples: Shown after the plots.
    """
    parts = [f"<h1>{_e(title)}</h1>"]
    if lead:
        parts.append(f'<p class="lead">{_e(lead)}</p>')
    parts += [_table(table) for table in tables]
    if plots:
        figures = "".join(f"<figure>{plot.svg}<figcaption>{_e(plot.title)}</figcaption></figure>" for plot in plots)
        parts.append(f'<section class="plots">{figures}</section>')
    if examples:
        parts += _examples(examples)
    if facts:
        parts.append(f"<h2>Made from</h2>{_facts(facts)}")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f'<link rel="icon" href="data:,">\n<title>{_e(title)}</title>\n<style>{_STYLE}</style>\n</head>\n'
        "<body>\n<main>\n" + "\n".join(parts) + f"\n</main>\n<script>{_SCRIPT}</script>\n</body>\n</html>\n"
    )


def _e(text: str) -> str:
    """Write a text as HTML: no character of it is markup, hides, or turns the order of what follows."""
    return html.escape("\n".join(readable(line) for line in text.split("\n")), quote=True)


def _facts(facts: Mapping[str, str]) -> str:
    items = "".join(f"<div><dt>{_e(name)}</dt><dd>{_e(value)}</dd></div>" for name, value in facts.items())
    return f'<dl class="facts">{items}</dl>'


def _table(table: Table) -> str:
    def cell(value: str | tuple[str, str]) -> str:
        text, kind = (value, "") if isinstance(value, str) else value
        return f'<td class="{_e(kind)}">{_e(text)}</td>' if kind else f"<td>{_e(text)}</td>"

    head = "".join(f"<th>{_e(column)}</th>" for column in table.columns)
    body = "".join(f"<tr>{''.join(cell(value) for value in row)}</tr>" for row in table.rows)
    note = f'<p class="note">{_e(table.note)}</p>' if table.note else ""
    return (
        f'<section><h2>{_e(table.title)}</h2><div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>{note}</section>"
    )


def _examples(examples: Sequence[Example]) -> Iterator[str]:
    """Yield the examples, with a heading where a group begins."""
    for number, example in enumerate(examples):
        if not number or example.group != examples[number - 1].group:
            yield f"<h2>{_e(example.group or 'Listen')}</h2>"
        yield _example(example)


def _example(example: Example) -> str:
    tracks = "".join(_track(track) for track in example.tracks)
    reference = f'<p class="reference">{_e(example.text)}</p>' if example.text else ""
    facts = _facts(example.facts) if example.facts else ""
    return f'<article><h3>{_e(example.title)}</h3>{reference}{facts}<div class="tracks">{tracks}</div></article>'


def _track(track: Track) -> str:
    image = base64.b64encode(spectrogram_png(track.samples, track.sample_rate)).decode()
    audio = base64.b64encode(flac_bytes(np.clip(track.samples, -1, 1), track.sample_rate)).decode()
    seconds, khz = len(track.samples) / track.sample_rate, track.sample_rate / 2000
    transcript = f'<p class="transcript">{_e(track.text)}</p>' if track.text else ""
    return (
        f'<div class="track"><h4>{_e(track.label)}</h4>'
        f'<div class="spectrum"><img alt="Spectrogram, {_e(track.label)}" src="data:image/png;base64,{image}">'
        f'<i class="head"></i><span class="axis">{khz:.0f} kHz</span>'
        f'<span class="axis end">{seconds:.1f} s</span></div>'
        f'<audio controls preload="metadata" src="data:audio/flac;base64,{audio}"></audio>'
        f"{_facts(track.facts) if track.facts else ''}{transcript}</div>"
    )


def spectrogram_png(samples: Float[np.ndarray, " N"], sample_rate: int, width: int = 480, height: int = 150) -> bytes:
    """Draw a spectrogram as a PNG image, with a range of 80 dB below full-scale speech and 0 Hz at the bottom.

    Args:
        samples: Mono samples; full scale is ±1.
        sample_rate: In Hz; half of it is at the top.
        width: In pixels.
        height: In pixels.
    """
    from matplotlib import colormaps
    from matplotlib.image import imsave

    size = 1024
    padded = np.pad(samples.astype(np.float64), size // 2)
    starts = np.linspace(0, len(padded) - size, width).round().astype(int)
    frames = padded[starts[:, None] + np.arange(size)] * np.hanning(size)
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2 / (np.hanning(size).sum() / 2) ** 2
    edges = np.linspace(0, size // 2, height, endpoint=False).astype(int)
    level_db = 10 * np.log10(np.maximum.reduceat(power[:, : size // 2], edges, axis=1).T[::-1] + 1e-12)
    shade = np.clip((level_db + 20 + _RANGE_DB) / _RANGE_DB, 0, 1)
    buffer = io.BytesIO()
    # Without the "Software" tag, the same samples give the same bytes with every version of matplotlib.
    imsave(buffer, colormaps["magma"](shade), format="png", metadata={"Software": None})  # type: ignore[dict-item]
    return buffer.getvalue()


def _figure_svg(draw: Any, width: float, height: float) -> str:
    """Run `draw(axes)` and return the drawing as an SVG element that is the same in every run."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    settings = {
        "svg.hashsalt": "flowse",
        "svg.fonttype": "none",
        "text.parse_math": False,  # a name with a dollar is no formula
        "font.size": 10,
        "font.family": "sans-serif",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": "#9a9a9a",
        "axes.labelcolor": "#444",
        "xtick.color": "#666",
        "ytick.color": "#666",
    }
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def scatter_plot(title: str, before: Sequence[float], after: Sequence[float], label: str) -> Plot:
    """Draw a dot for each utterance; above the diagonal, its value rose.

    Args:
        title: Caption.
        before: Values of the noisy utterances.
        after: Values of the enhanced utterances, in the same order.
        label: Name of the value.
    """
    name = readable(label)

    def draw(axes: Any) -> None:
        low, high = min([*before, *after]), max([*before, *after])
        margin = 0.05 * (high - low or 1)
        limits = (low - margin, high + margin)
        axes.plot(limits, limits, color="#bbb", linewidth=1, zorder=0)
        axes.scatter(before, after, s=22, color="#2b6cb0", alpha=0.65, linewidths=0)
        axes.set(xlim=limits, ylim=limits, xlabel=f"{name}, noisy", ylabel=f"{name}, enhanced", aspect="equal")

    return Plot(title=title, svg=_figure_svg(draw, 3.8, 3.8))


def grouped_plot(title: str, groups: Sequence[str], series: Mapping[str, Sequence[float]], label: str) -> Plot:
    """Draw the mean of each series in each group as dots on lines.

    Args:
        title: Caption.
        groups: Names along the horizontal axis.
        series: For each name, the mean of each group; NaN leaves a gap.
        label: Name of the value.
    """
    colours = {"noisy": "#b7791f", "enhanced": "#2b6cb0", "clean": "#2f855a", "previous": "#805ad5"}

    def draw(axes: Any) -> None:
        for name, values in series.items():
            axes.plot(range(len(groups)), values, "o-", color=colours.get(name), label=readable(name), markersize=5)
        axes.set_xticks(range(len(groups)), [readable(group) for group in groups])
        axes.set_ylabel(readable(label))
        axes.legend(frameon=False)
        axes.margins(x=0.1)

    return Plot(title=title, svg=_figure_svg(draw, 4.8, 3.2))


def histogram_plot(
    title: str,
    *,
    edges: Sequence[float],
    counts: Sequence[int],
    label: str,
    threshold: float | None = None,
    passes_above: bool = True,
) -> Plot:
    """Draw how often values occur, on a logarithmic scale that also shows rare ones; bins beyond a threshold are red.

    Args:
        title: Caption.
        edges: Edges of the bins, ascending; one more than `counts`.
        counts: Number of values in each bin.
        label: Name of the value, with its unit.
        threshold: Drawn as a line; None: there is none.
        passes_above: Whether values above the threshold pass; otherwise those below do.
    """

    from matplotlib.ticker import MaxNLocator

    def draw(axes: Any) -> None:
        centres = [(left + right) / 2 for left, right in itertools.pairwise(edges)]
        passes = [threshold is None or (centre >= threshold) == passes_above for centre in centres]
        colours = ["#2b6cb0" if good else "#c53030" for good in passes]
        axes.bar(edges[:-1], counts, width=edges[1] - edges[0], align="edge", color=colours, linewidth=0)
        if threshold is not None:
            axes.axvline(threshold, color="#c53030", linewidth=1.2)
            axes.annotate(f"{threshold:g}", (threshold, 1), xycoords=("data", "axes fraction"), color="#c53030",
                          ha="left", va="top", xytext=(3, 0), textcoords="offset points")  # fmt: skip
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")  # the default is a formula
        axes.yaxis.set_minor_formatter(lambda value, _: "")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set(xlim=(edges[0], edges[-1]), ylim=(0.7, 1.6 * max([*counts, 1])))
        axes.set(xlabel=readable(label), ylabel="utterances")

    return Plot(title=title, svg=_figure_svg(draw, 4.8, 2.8))


_STYLE = """
:root{--ink:#1c1c1e;--dim:#6b6b70;--line:#e3e3e6;--page:#fcfcfb;--card:#fff;--accent:#2b6cb0}
@media(prefers-color-scheme:dark){:root{--ink:#ececec;--dim:#a0a0a6;--line:#36363a;--page:#17171a;--card:#1f1f23}
.plots figure{background:#f4f4f2;color:#222}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1180px;margin:0 auto;padding:2.5rem 1.25rem 5rem}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 .5rem}h2{font-size:1.25rem;margin:2.4rem 0 .7rem}
h3{font-size:1rem;margin:0;overflow-wrap:anywhere}h4{margin:0 0 .4rem;font-size:.9rem;color:var(--dim);font-weight:600}
.lead{font-size:1.1rem;margin:0 0 1rem}.note{color:var(--dim);font-size:.9rem;margin:.5rem 0 0}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.94rem}
th,td{padding:.35rem .9rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th{font-weight:600;color:var(--dim)}th:first-child,td:first-child{text-align:left;padding-left:0}
.good{color:#2f855a}.bad{color:#c53030}.dim{color:var(--dim)}
.plots{display:flex;flex-wrap:wrap;gap:1.5rem;margin-top:2rem}
figure{margin:0;padding:.8rem;border:1px solid var(--line);border-radius:8px;background:var(--card)}
figcaption{font-size:.88rem;color:var(--dim)}figure svg{max-width:100%;height:auto}
article{border:1px solid var(--line);border-radius:10px;background:var(--card);padding:1rem 1.1rem;margin:0 0 1.1rem}
.reference{margin:.3rem 0;font-size:1.02rem}.transcript{margin:.3rem 0 0;font-size:.9rem;color:var(--dim)}
.facts{display:flex;flex-wrap:wrap;gap:.1rem 1.1rem;margin:.35rem 0;font-size:.86rem}
.facts div{display:flex;gap:.35rem}dt{color:var(--dim)}
dd{margin:0;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.tracks{display:grid;grid-template-columns:repeat(auto-fit,minmax(260px,1fr));gap:1rem;margin-top:.8rem}
.spectrum{position:relative;line-height:0;cursor:pointer}.spectrum img{width:100%;height:130px;border-radius:4px}
.head{position:absolute;top:0;bottom:0;left:0;width:1px;background:#fff;opacity:0}
.axis{position:absolute;left:.4rem;top:.4rem;font-size:.7rem;line-height:1;color:#fff;opacity:.75}
.axis.end{left:auto;right:.4rem;top:auto;bottom:.4rem}audio{width:100%;height:36px;margin-top:.45rem}
"""

_SCRIPT = """
const players=[...document.querySelectorAll('audio')];
for(const audio of players){
 const spectrum=audio.previousElementSibling,head=spectrum.querySelector('.head');
 const draw=()=>{if(audio.duration){head.style.opacity=1;head.style.left=100*audio.currentTime/audio.duration+'%'}
  if(!audio.paused)requestAnimationFrame(draw)};
 audio.addEventListener('play',()=>{players.forEach(other=>{if(other!==audio)other.pause()});draw()});
 audio.addEventListener('seeked',draw);
 spectrum.addEventListener('click',event=>{const box=spectrum.getBoundingClientRect();
  if(audio.duration)audio.currentTime=audio.duration*(event.clientX-box.left)/box.width;audio.play()});
}
"""

_SCRIPT_SHA256 = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
_POLICY = (
    "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; "
    f"script-src 'sha256-{_SCRIPT_SHA256}'; base-uri 'none'; form-action 'none'"
)
"""A second lock behind the escaping of every text: whatever came through could neither run nor send anything."""
