"""Laws of the plots: colours are the page's, numbers are plain, and what is no number is left out."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("matplotlib", reason="the [eval] extra is not installed")

from flowse.report.plots import grouped_plot, histogram_plot, scatter_plot


def test_every_colour_is_one_of_the_page_s() -> None:
    """Those differ by light and dark."""
    plots = [
        scatter_plot("t", [1.0, 2.0], [2.0, 1.0], "x"),
        grouped_plot("t", ["a", "b"], {"noisy": [1.0, 2.0], "clean": [2.0, 3.0], "another": [1.0, 1.0]}, "x"),
        histogram_plot("t", edges=[0.0, 1.0, 2.0], counts=[3, 4], label="x", threshold=1.0),
    ]
    for plot in plots:
        assert not re.search(r"#[0-9a-f]{6}\b", plot.svg)
        assert "var(--ink)" in plot.svg
        assert "<metadata" not in plot.svg


def test_text_without_a_colour_of_its_own_is_ink() -> None:
    svg = scatter_plot("t", [1.0, 2.0], [2.0, 1.0], "x").svg
    for style in re.findall(r'<text [^>]*style="([^"]*)"', svg):
        assert "fill: var(" in style


def test_what_is_not_finite_is_left_out_with_its_partner() -> None:
    nan = float("nan")
    assert scatter_plot("t", [1.0, nan, 2.0], [2.0, 3.0, 1.0], "x") == scatter_plot("t", [1.0, 2.0], [2.0, 1.0], "x")
    assert "nan" not in scatter_plot("t", [nan], [1.0], "x").svg.lower()


def test_a_histogram_marks_what_its_threshold_cuts_off_and_writes_plain_numbers() -> None:
    def reds(**values: object) -> int:
        plot = histogram_plot("t", edges=[0.0, 1.0, 2.0, 3.0], counts=[5, 0, 2000], label="SNR, dB", **values)  # type: ignore[arg-type]
        assert "mathdefault" not in plot.svg
        assert "1,000" in plot.svg
        return plot.svg.count("fill: var(--bad)")

    assert reds() == 0
    above, below = reds(threshold=1.0), reds(threshold=1.0, passes_above=False)
    assert 0 < above < below  # one bin of three is cut off, or two
