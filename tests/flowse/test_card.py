"""Laws of the model card: its figures are those of the evaluation, and it says what was not recorded."""

from __future__ import annotations

from typing import Any

from flowse.card import model_card
from flowse.flow.sampling import Sampling
from flowse.metrics.bootstrap import Interval
from flowse.metrics.evaluation import Evaluation
from flowse.metrics.scores import Summary
from flowse.model.spec import ModelSpec


def summary(group: str) -> Summary:
    return Summary(
        group=group,
        metric="wer",
        recordings=5,
        noisy=0.5,
        enhanced=0.25,
        clean=0.125,
        previous=None,
        gain=Interval(value=-0.25, low=-0.5, high=-0.125),
        gain_previous=None,
    )


def card(dataset: dict[str, Any], spec: ModelSpec | None = None) -> list[str]:
    evaluation = Evaluation(
        recordings=5,
        model="",
        sampling=Sampling(steps=8),
        vocoder="vocos",
        with_text=False,
        summary=(summary("all"), summary("language en")),
        worst=(),
    )
    return model_card("Small", spec or ModelSpec(), 8_400_000, evaluation, dataset).splitlines()


def test_the_figures_are_those_of_all_recordings_once() -> None:
    lines = card({"hours": 1.5})
    assert lines[0] == "# Small"
    assert lines.count("| wer | 0.500 | 0.250 | 0.125 | -0.250 (-0.500 … -0.125) |") == 1
    assert "## Scores on 5 test recordings" in lines
    assert "- sampling: euler, 8 steps, guidance 0, vocoder" in lines
    assert any(line.startswith("- 8.40 M parameters: DiT, ") for line in lines)


def test_the_data_are_listed_as_the_dataset_records_them() -> None:
    lines = card({"digest": "abc", "speech": {"demo": {"hours": 0.5, "licences": ["CC0-1.0"]}}})
    assert "- digest: abc" in lines
    assert "  - demo: hours 0.500, licences CC0-1.0" in lines


def test_a_dataset_without_licences_says_how_to_get_them() -> None:
    (heading,) = [number for number, line in enumerate(card({})) if line == "## Licences of the data"]
    assert "lineage --model" in card({})[heading + 2]
    use = {"use": "noise", "corpus": "wham", "licence": "CC-BY-NC-4.0", "recordings": 7, "hours": 0.25}
    lines = card({"licences": [{**use, "terms": ["non-commercial"]}]})
    assert "| noise | wham | CC-BY-NC-4.0 | 7 | 0.250 | NON-COMMERCIAL |" in lines
