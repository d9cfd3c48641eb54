"""Laws of the model card: its figures are those of the evaluation, and it says what was not recorded."""

from __future__ import annotations

import yaml
from huggingface_hub import ModelCard

from flowse.card import model_card
from flowse.flow.sampling import Sampling
from flowse.metrics.bootstrap import Interval
from flowse.metrics.evaluation import Evaluation
from flowse.metrics.scores import Summary
from flowse.model.spec import ModelSpec
from flowse.simulation.dataset import DatasetSummary
from tests.dataset_summaries import dataset_summary, noise_use


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


def card(dataset: DatasetSummary, spec: ModelSpec | None = None) -> list[str]:
    evaluation = Evaluation(
        recordings=5,
        model="",
        sampling=Sampling(steps=8),
        vocoder="vocos",
        with_text=False,
        summary=(summary("all"), summary("language en")),
        worst=(),
        evaluations=8.0,
    )
    return model_card("Small", spec or ModelSpec(), 8_400_000, evaluation, dataset).splitlines()


def test_the_figures_are_those_of_all_recordings_once() -> None:
    lines = card(dataset_summary())
    assert lines[lines.index("---", 1) + 2] == "# Small"
    assert lines.count("| wer | 0.500 | 0.250 | 0.125 | -0.250 (-0.500 … -0.125) |") == 1
    assert "## Scores on 5 test recordings" in lines
    assert "- sampling: euler, 8 steps, guidance 0, vocoder; 8 evaluation(s) of the network a window" in lines
    assert any(line.startswith("- 8.40 M parameters: DiT, ") for line in lines)


def test_the_segments_of_the_training_are_listed() -> None:
    evaluation = Evaluation(
        recordings=5, model="", sampling=Sampling(steps=8), vocoder="vocos", with_text=False,
        summary=(summary("all"),), worst=(),
    )  # fmt: skip
    segments = ["steps 0 to 12, lr 0.002", "steps 12 to 18, lr 0.001"]
    lines = model_card("Small", ModelSpec(), 1, evaluation, dataset_summary(), segments=segments).splitlines()
    at = lines.index("## Training")
    assert lines[at + 2 : at + 4] == [f"- {segment}" for segment in segments]
    assert "## Training" not in card(dataset_summary())


def test_the_data_are_listed_as_the_dataset_records_them() -> None:
    lines = card(dataset_summary(licences=[noise_use()]))
    assert "- digest: abc123" in lines
    assert "  - demo: mixtures 100, licences CC0-1.0, languages en, hours 0.500" in lines
    assert "  - train: mixtures 100, shards 1, hours 0.500" in lines
    assert not any("terms" in line for line in lines)


def test_licences_are_a_table_and_a_dataset_without_them_says_how_to_get_them() -> None:
    lines = card(dataset_summary(licences=[noise_use()]))
    assert "| noise | wham | CC-BY-NC-4.0 | 7 | 0.250 | NON-COMMERCIAL |" in lines
    lines = card(dataset_summary(licences=None))
    assert "lineage --model" in lines[lines.index("## Licences of the data") + 2]


def test_the_front_matter_is_what_the_hub_reads() -> None:
    text = "\n".join(card(dataset_summary()))
    values = yaml.safe_load(text.split("---\n")[1])
    assert values["language"] == ["en"]
    assert values["license"] == "other"
    data = ModelCard(text).data
    assert (data.library_name, data.pipeline_tag) == ("flowse-pipeline", "audio-to-audio")
    results = [(result.metric_type, result.metric_value) for result in data.eval_results]
    assert results == [("wer", 0.25)]
    assert ModelCard(text).text.lstrip().startswith("# Small")
