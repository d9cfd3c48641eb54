"""The summary of a small dataset, for tests of what reads one."""

from __future__ import annotations

from typing import Any

from flowse.data.licences import LicenceUse
from flowse.simulation.dataset import DatasetSummary, SourceSummary, SpeechSummary, SplitSummary


def dataset_summary(**changes: Any) -> DatasetSummary:
    """Return a summary of half an hour of English, with some of its fields changed."""
    values: dict[str, Any] = {
        "digest": "abc123",
        "seed": 1,
        "sample_rate": 24_000,
        "target": "early",
        "early_s": 0.05,
        "splits": {"train": SplitSummary(mixtures=100, shards=1, hours=0.5)},
        "speech": {"demo": SpeechSummary(mixtures=100, licences=["CC0-1.0"], languages=["en"], hours=0.5)},
        "noise": {"wham": SourceSummary(recordings=7, licences=["CC-BY-NC-4.0"])},
        "rooms": {"simulated": SourceSummary(recordings=3, licences=[""])},
        "hours": 0.5,
        "mixtures": 100,
        "licences": [],
    }
    return DatasetSummary(**(values | changes))


def noise_use(**changes: Any) -> LicenceUse:
    """Return what a dataset takes from a corpus of noises, with some of the fields changed."""
    values: dict[str, Any] = {
        "use": "noise",
        "corpus": "wham",
        "licence": "CC-BY-NC-4.0",
        "recordings": 7,
        "hours": 0.25,
        "terms": ("non-commercial",),
    }
    return LicenceUse(**(values | changes))
