"""The reject report: what was turned away, by stage, corpus and reason, in utterances and hours."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from flowse.data.manifest import Reject
from flowse.data.parquet import schema_of
from pipelines.commands.session import Session
from pipelines.engine import console
from pipelines.engine.ledger import REJECTS_SUFFIX, atomic_file
from pipelines.engine.plan import StagePlan

REPORT = Path("reports") / "rejects.parquet"
"""Where the report lies in the workspace."""

_BY = ["stage", "corpus", "kind", "reason"]
_EXAMPLE_WIDTH = 70


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the form of the answer."""
    parser.add_argument("--csv", action="store_true", help="as CSV, for programs")


def run(arguments: argparse.Namespace) -> int:
    """Print the report; as a table it is also written into the workspace, where that can be written to."""
    session = Session.of(arguments)
    report = reject_report(reject_files(session.plans))
    print(report.to_csv(index=False) if arguments.csv else reject_table(report, session.plans))
    if not arguments.csv and os.access(session.workspace, os.W_OK):
        print(f"\nas parquet: {write_report(report, session.workspace)}")
    return 0


def reject_files(plans: Mapping[str, StagePlan]) -> list[Path]:
    """Return the reject files of all stages; where a stage is not finished, those of the units that are."""
    files: list[Path] = []
    for one in plans.values():
        if one.folder is None:
            continue
        whole = one.folder / "rejects.parquet"
        files += [whole] if whole.exists() else sorted(one.folder.glob(f"*{REJECTS_SUFFIX}"))
    return files


def reject_report(files: Sequence[Path]) -> pd.DataFrame:
    """Sum up reject rows: one row a stage, corpus, kind and reason, with utterances, hours and an example."""
    frames = [pd.read_parquet(path) for path in files]
    rows = pd.concat(frames) if frames else pd.DataFrame(columns=schema_of(Reject).names)
    grouped = rows.groupby(_BY, sort=False)
    report = grouped.agg(
        utterances=("utt_id", "size"), seconds=("duration_s", "sum"), example=("detail", "first")
    ).reset_index()
    report["hours"] = report.pop("seconds").astype(float) / 3600
    return report[[*_BY, "utterances", "hours", "example"]]


def write_report(report: pd.DataFrame, workspace: Path) -> Path:
    """Write the report into the workspace; return the file."""
    path = workspace / REPORT
    with atomic_file(path) as (temporary, _):
        report.to_parquet(temporary, index=False)
    return path


def reject_table(report: pd.DataFrame, plans: Mapping[str, StagePlan] | None = None) -> str:
    """Write the report for a terminal, with a line for each stage's sum.

    Args:
        report: Of `reject_report`.
        plans: Where given, each stage's sum is also shown as a share of what came in.
    """
    if report.empty:
        return "nothing was rejected"
    rows: list[tuple[str, ...]] = []
    for stage, lines in report.groupby("stage", sort=False):
        for _, line in lines.iterrows():
            example = str(line["example"])
            rows.append(
                (
                    str(stage),
                    line["corpus"],
                    line["kind"],
                    line["reason"],
                    f"{line['utterances']:,}",
                    f"{line['hours']:,.4f}",
                    "",
                    example if len(example) <= _EXAMPLE_WIDTH else f"{example[: _EXAMPLE_WIDTH - 1]}…",
                )
            )
        count, hours = int(lines["utterances"].sum()), float(lines["hours"].sum())
        rows.append((str(stage), "all", "", "", f"{count:,}", f"{hours:,.4f}", _share(stage, count, plans), ""))
    heads = ("stage", "corpus", "kind", "reason", "utterances", "hours", "of those in", "example")
    return console.table(heads, rows, right=(4, 5, 6))


def _share(stage: object, count: int, plans: Mapping[str, StagePlan] | None) -> str:
    one = plans.get(str(stage)) if plans else None
    if one is None or one.finished is None:
        return ""
    taken = one.finished.report.taken.utterances
    return f"{count / taken:.1%}" if taken else ""
