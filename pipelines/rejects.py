"""The reject report: what was turned away, by stage, corpus and reason, in utterances and hours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from flowse.data.manifest import Reject, schema_of
from pipelines.plan import StagePlan

_BY = ["stage", "corpus", "kind", "reason"]


def reject_files(plans: Mapping[str, StagePlan]) -> list[Path]:
    """Return the reject files of all stages, also of those that were refused or are incomplete."""
    files = [one.folder / "rejects.parquet" for one in plans.values() if one.folder is not None]
    return [path for path in files if path.exists()]


def reject_report(files: list[Path]) -> pd.DataFrame:
    """Sum up reject rows: one row a stage, corpus, kind and reason, with utterances, hours and an example."""
    frames = [pd.read_parquet(path) for path in files]
    rows = pd.concat(frames) if frames else pd.DataFrame(columns=schema_of(Reject).names)
    grouped = rows.groupby(_BY, sort=False)
    report = grouped.agg(
        utterances=("utt_id", "size"), seconds=("duration_s", "sum"), example=("detail", "first")
    ).reset_index()
    report["hours"] = report.pop("seconds") / 3600
    return report[[*_BY, "utterances", "hours", "example"]]


def reject_table(report: pd.DataFrame) -> str:
    """Write the report for a terminal."""
    if report.empty:
        return "nothing was rejected"
    shown = report.assign(example=[text if len(text) <= 90 else f"{text[:89]}…" for text in report["example"]])
    return str(shown.to_string(index=False, formatters={"hours": "{:.4f}".format, "utterances": "{:,}".format}))
