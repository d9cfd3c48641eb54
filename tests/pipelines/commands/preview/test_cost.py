"""The table of costs adds up what is known and names what is not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipelines.commands.preview.cost import Cost, speed, table
from pipelines.engine.accounts import Tally


@pytest.mark.parametrize(("rate", "text"), [(7.34, "7.3× real time"), (210.4, "210× real time")])
def test_a_slow_rate_has_a_decimal(rate: float, text: str) -> None:
    assert speed(rate) == text


def test_the_sum_leaves_out_what_is_unknown_and_names_it() -> None:
    known = Cost(stage="ingest", taken=Tally(10, 7200.0), wall_s=60.0, workers=2, bytes=2048.0, source="tried")
    bound = replace(known, stage="transcribe", at_most=True)
    lines = table([known, bound, Cost(stage="export", source="unknown; soon done")]).splitlines()
    assert "≤ 2.0 h" in lines[2]
    assert "≤ 1:00" in lines[2]
    assert lines[-1].split() == ["together", "2:00", "4.0", "KiB", "without", "export"]
