"""How well the language filter agrees with the corpora's own labels: its confusions, recall and precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """How many recordings with a corpus label, and with speech, met which decision; a row of `languages.parquet`.

    Attributes:
        label: Language by the corpus.
        decision: The language that they were kept as, or why they were rejected and the likeliest language
            ("other_language fr").
        kept: Whether they were kept.
        utterances: How many.
    """

    label: str
    decision: str
    kept: bool
    utterances: int


def confusion_key(label: str, decision: str) -> str:
    """Name the metric that counts recordings with a label and a decision.

    Unit records on disk hold these names ("told fr heard other_language de"), so they stay as they are.
    """
    return f"told {label} heard {decision}"


def confusions(metrics: Mapping[str, float], languages: Sequence[str]) -> tuple[list[Confusion], dict[str, float]]:
    """Take the table of labels against decisions out of the summed metrics of units.

    Args:
        metrics: By name; those named by `confusion_key` are taken.
        languages: Codes of the languages that are kept.

    Returns:
        The table, in order of name, and the metrics that are left.
    """
    table, left = [], {}
    for key, value in sorted(metrics.items()):
        label, heard, decision = key.removeprefix("told ").partition(" heard ")
        if heard and confusion_key(label, decision) == key:
            table.append(Confusion(label=label, decision=decision, kept=decision in languages, utterances=int(value)))
        else:
            left[key] = value
    return table, left


def score(table: Sequence[Confusion], languages: Sequence[str]) -> dict[str, float]:
    """Score the decision to keep against the corpora's labels.

    Args:
        table: Labels against decisions.
        languages: Codes of the languages that are kept.

    Returns:
        "labelled" (recordings), "recall", "precision" and "accuracy of kept language" (shares of 1); those without
        recordings are left out.
    """
    labelled = sum(row.utterances for row in table)
    wanted = sum(row.utterances for row in table if row.label in languages)
    kept = sum(row.utterances for row in table if row.kept)
    right = sum(row.utterances for row in table if row.kept and row.label in languages)
    correct = sum(row.utterances for row in table if row.kept and row.label == row.decision)
    scores = {"labelled": float(labelled)} if labelled else {}
    if wanted:
        scores["recall"] = right / wanted
    if kept:
        scores["precision"] = right / kept
        scores["accuracy of kept language"] = correct / kept
    return scores
