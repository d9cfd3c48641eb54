"""Laws of the quality page: every corpus and measure is shown once, thresholds stand beside the values they judge."""

from __future__ import annotations

import pytest

pytest.importorskip("matplotlib", reason="the [pipeline] extra is not installed")

from flowse.quality import MEASURES, QualityLimits
from flowse.quality_page import CorpusQuality, quality_page, quantile

DNSMOS = next(measure for measure in MEASURES if measure.name == "dnsmos")


def corpus(name: str, values: list[float], limits: QualityLimits, dropped: int = 2) -> CorpusQuality:
    histograms = {measure.name: [0] * measure.bins for measure in MEASURES}
    for value in values:
        histograms["dnsmos"][DNSMOS.bin_of(value)] += 1
    return CorpusQuality(
        corpus=name,
        limits=limits,
        utterances=len(values),
        hours=0.1,
        histograms=histograms,
        dropped={"low_dnsmos": dropped} if dropped else {},
    )


def test_the_page_shows_each_corpus_and_its_threshold() -> None:
    page = quality_page(
        [corpus("a<b", [2.0, 2.5, 3.0], QualityLimits(min_dnsmos=2.75)), corpus("other", [3.1], QualityLimits(), 0)]
    )
    assert page.count("<figure>") == 2  # one measure was taken, of two corpora
    assert "2.75" in page
    assert "a&lt;b" in page
    assert "a<b" not in page
    assert "2 (66.7%)" in page
    assert "4 utterances (0.20 h) were measured, 2 are dropped" in page


def test_a_page_of_nothing_can_be_written() -> None:
    assert "0 utterances" in quality_page([corpus("empty", [], QualityLimits(min_dnsmos=3.0), 0)])


@pytest.mark.parametrize("share", [0.01, 0.5, 0.95])
def test_a_quantile_is_right_to_a_bin(share: float) -> None:
    values = [1 + 4 * (index + 0.5) / 1000 for index in range(1000)]
    counts = corpus("a", values, QualityLimits()).histograms["dnsmos"]
    found = quantile(DNSMOS, counts, share)
    assert found is not None
    assert found - 1e-9 <= values[int(share * 1000) - 1] <= found + DNSMOS.step


def test_nothing_has_no_quantile() -> None:
    assert quantile(DNSMOS, [0] * DNSMOS.bins, 0.5) is None
