"""Plots as SVG elements in the page's own colours, light or dark."""

from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flowse.names import readable

# matplotlib writes colours as numbers. These stand for the page's variables (page.css), which differ by light and dark.
_VARIABLES = {
    "#0a0001": "var(--ink)",
    "#0a0002": "var(--dim)",
    "#0a0003": "var(--line)",
    "#0a0004": "var(--noisy)",
    "#0a0005": "var(--enhanced)",
    "#0a0006": "var(--clean)",
    "#0a0007": "var(--previous)",
    "#0a0008": "var(--bad)",
}
_SIZE = (4.8, 3.4)  # inches; one size, so that plots beside each other align
_COLOURS = {variable.removeprefix("var(--").removesuffix(")"): number for number, variable in _VARIABLES.items()}


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A drawing.

    Attributes:
        title: Caption.
        svg: The drawing as an <svg> element.
    """

    title: str
    svg: str


def _label(text: str) -> str:
    """Return a text for a plot: readable, and short enough to leave room for the plot."""
    shown = readable(text)
    return shown if len(shown) <= 40 else f"{shown[:39]}…"


def _figure_svg(draw: Any, width: float, height: float) -> str:
    """Run `draw(axes)` and return the drawing as an SVG element that is the same in every run.

    Args:
        draw: Draws on matplotlib's axes.
        width: In inches.
        height: In inches.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    settings = {
        "svg.hashsalt": "flowse",
        "svg.fonttype": "none",
        "text.parse_math": False,  # a name with a dollar is no formula
        "text.color": _COLOURS["ink"],
        "font.size": 11,
        "font.family": "sans-serif",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": _COLOURS["dim"],
        "axes.labelcolor": _COLOURS["ink"],
        "xtick.color": _COLOURS["dim"],
        "ytick.color": _COLOURS["dim"],
    }
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.DOTALL)
    for number, variable in _VARIABLES.items():
        text = text.replace(number, variable)
    # The caption says what the picture shows; a screen reader would read the labels of its axes without an order.
    return text[text.index("<svg") :].replace("<svg ", '<svg aria-hidden="true" ', 1)


def scatter_plot(title: str, before: Sequence[float], after: Sequence[float], label: str) -> Plot:
    """Draw a dot for each utterance; above the diagonal, its value rose.

    Args:
        title: Caption.
        before: Values of the noisy utterances; what is not finite is left out with its partner.
        after: Values of the enhanced utterances, in the same order.
        label: Name of the value.
    """
    name = _label(label)
    pairs = [pair for pair in zip(before, after, strict=True) if all(map(math.isfinite, pair))]

    def draw(axes: Any) -> None:
        values = [value for pair in pairs for value in pair] or [0.0, 1.0]
        margin = 0.05 * (max(values) - min(values) or 1)
        limits = (min(values) - margin, max(values) + margin)
        axes.plot(limits, limits, color=_COLOURS["dim"], linewidth=1, zorder=0)
        axes.scatter([x for x, _ in pairs], [y for _, y in pairs], s=22, color=_COLOURS["enhanced"], linewidths=0)
        axes.set(xlim=limits, ylim=limits, xlabel=f"{name}, noisy", ylabel=f"{name}, enhanced", aspect="equal")

    return Plot(title=title, svg=_figure_svg(draw, *_SIZE))


def grouped_plot(title: str, groups: Sequence[str], series: Mapping[str, Sequence[float]], label: str) -> Plot:
    """Draw the mean of each series in each group as marks on lines.

    Args:
        title: Caption.
        groups: Names along the horizontal axis.
        series: For each name, the mean of each group; NaN leaves a gap.
        label: Name of the value.
    """
    # Marks differ as well as colours, for readers who cannot tell the colours apart.
    marks = {"noisy": "s", "enhanced": "o", "clean": "^", "previous": "D"}

    def draw(axes: Any) -> None:
        lines = [
            axes.plot(
                range(len(groups)), values, marker=marks.get(name, "o"), color=_COLOURS.get(name, _COLOURS["ink"]),
                markersize=5,
            )[0]
            for name, values in series.items()
        ]  # fmt: skip
        crowded = len(groups) > 5
        axes.set_xticks(
            range(len(groups)), [_label(group) for group in groups], rotation=35 if crowded else 0,
            ha="right" if crowded else "center", rotation_mode="anchor" if crowded else "default",
        )  # fmt: skip
        axes.set_ylabel(_label(label))
        axes.legend(lines, [_label(name) or " " for name in series], frameon=False)
        axes.margins(x=0.1)

    return Plot(title=title, svg=_figure_svg(draw, *_SIZE))


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
        colours = [_COLOURS["enhanced" if good else "bad"] for good in passes]
        axes.bar(edges[:-1], counts, width=edges[1] - edges[0], align="edge", color=colours, linewidth=0)
        if threshold is not None:
            axes.axvline(threshold, color=_COLOURS["bad"], linewidth=1.2)
            axes.annotate(f"{threshold:g}", (threshold, 1), xycoords=("data", "axes fraction"), color=_COLOURS["bad"],
                          ha="left", va="top", xytext=(3, 0), textcoords="offset points")  # fmt: skip
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")  # the default is a formula
        axes.yaxis.set_minor_formatter(lambda value, _: "")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set(xlim=(edges[0], edges[-1]), ylim=(0.7, 1.6 * max([*counts, 1])))
        axes.set(xlabel=_label(label), ylabel="utterances")

    return Plot(title=title, svg=_figure_svg(draw, 4.6, 2.8))
