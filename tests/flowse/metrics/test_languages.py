"""Laws of the language filter's scores: they follow from the table, and the table from metrics of unit records."""

from __future__ import annotations

from flowse.metrics.languages import Confusion, confusion_key, confusions, score


def test_scores_of_a_known_table() -> None:
    table = [
        Confusion(label="en", decision="en", kept=True, utterances=8),
        Confusion(label="en", decision="zh", kept=True, utterances=1),
        Confusion(label="en", decision="other_language fr", kept=False, utterances=1),
        Confusion(label="fr", decision="en", kept=True, utterances=1),
        Confusion(label="fr", decision="other_language fr", kept=False, utterances=9),
    ]
    assert score(table, ("en", "zh")) == {
        "labelled": 20.0,
        "recall": 0.9,
        "precision": 0.9,
        "accuracy of kept language": 0.8,
    }
    assert score([], ("en",)) == {}


def test_the_table_is_read_out_of_the_metrics_of_unit_records() -> None:
    """The names are those of records on disk: they never change."""
    metrics = {"told en heard en": 8.0, "told fr heard other_language de": 2.0, "seconds": 1.5}
    table, left = confusions(metrics, ("en", "zh"))
    assert table == [
        Confusion(label="en", decision="en", kept=True, utterances=8),
        Confusion(label="fr", decision="other_language de", kept=False, utterances=2),
    ]
    assert left == {"seconds": 1.5}
    assert [confusion_key(row.label, row.decision) for row in table] == list(metrics)[:2]
