"""The model card: what a model is, how well it did, and which data and licences it comes from."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flowse import __version__
from flowse.data import licences
from flowse.json_records import to_json
from flowse.metrics.evaluation import Evaluation
from flowse.metrics.scores import Summary
from flowse.model.spec import ModelSpec
from flowse.simulation.dataset import DatasetSummary


def model_card(
    title: str,
    spec: ModelSpec,
    parameters: int,
    evaluation: Evaluation,
    dataset: DatasetSummary,
    lacks: Sequence[str] = (),
    segments: Sequence[str] = (),
) -> str:
    """Write the model card in Markdown, with the front matter (YAML) that the Hugging Face Hub reads.

    Args:
        title: Heading.
        spec: The model.
        parameters: Number of weights, without the vocoder's.
        evaluation: How the model was sampled and scored.
        dataset: The training data.
        lacks: Parts of the data that could not be made and that were done without.
        segments: The stretches of its training with the same settings and data, a line each, in their order.
    """
    source = f"from {spec.flow.source}" if spec.objective == "flow" else "one pass"
    text = f"with text ({len(spec.vocabulary)} symbols)" if spec.vocabulary else "without text"
    return "\n".join(
        [
            *_front_matter(title, evaluation, dataset),
            f"# {title}",
            "",
            f"Speech enhancement, {spec.mel.sample_rate // 1000} kHz; made with flowse-pipeline {__version__}.",
            "",
            "```",
            "flowse enhance noisy.wav enhanced.wav --model PATH/TO/THIS/FOLDER",
            "```",
            "",
            "## Model",
            "",
            f"- {parameters / 1e6:.2f} M parameters: {_networks(spec)}, {text}",
            f"- objective: {spec.objective} ({source})",
            f"- sampling: {evaluation.sampling}{_evaluations(evaluation)}",
            f"- vocoder: {evaluation.vocoder} (in `vocoder/`)",
            "",
            *(["## Training", "", *(f"- {line}" for line in segments), ""] if segments else []),
            f"## Scores on {evaluation.recordings} test recordings",
            "",
            *_score_lines(evaluation.overall.values()),
            "",
            "ESTOI, PESQ and SI-SDR compare sample with sample: not meaningful for non-aligned output.",
            "",
            "## Data",
            "",
            *_data_lines(dataset),
            *([f"- done without {len(lacks)} quarantined units: {_plain(list(lacks))}"] if lacks else []),
            "",
            "## Licences of the data",
            "",
            *_licence_lines(dataset),
            "",
            "## Limits",
            "",
            "- A generative model can invent sounds where the input is unintelligible; do not use it as evidence.",
            "- It was measured on the test set above only; other languages, rooms and devices may fare worse.",
            "",
        ]
    )


def _front_matter(title: str, evaluation: Evaluation, dataset: DatasetSummary) -> list[str]:
    """Write what the Hub sorts and shows models by; every value is JSON, which YAML reads as it is.

    Source: https://huggingface.co/docs/hub/model-cards#model-card-metadata
    """
    metrics = [
        {"type": row.metric, "name": f"{row.metric} (noisy {row.noisy:.3f})", "value": round(row.enhanced, 4)}
        for row in evaluation.overall.values()
        if math.isfinite(row.enhanced)
    ]
    task = {"type": "audio-to-audio", "name": "Speech enhancement"}
    data = {"type": "simulated", "name": f"{evaluation.recordings} test recordings of dataset {dataset.digest[:16]}"}
    result = {"task": task, "dataset": data, "metrics": metrics}
    values: dict[str, Any] = {
        "library_name": "flowse-pipeline",
        "pipeline_tag": "audio-to-audio",
        "tags": ["speech-enhancement", "denoising", "dereverberation", "flowse"],
        "language": sorted(
            {language for corpus in dataset.speech.values() for language in corpus.languages if language}
        ),
        # The corpora's licences bind the weights; the table at the end of the card names them.
        "license": "other",
        "license_name": "licences-of-the-data",
        "license_link": "README.md#licences-of-the-data",
        "model-index": [{"name": title, "results": [result] if metrics else []}],
    }
    return ["---", *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()), "---", ""]


def _score_lines(summaries: Iterable[Summary]) -> list[str]:
    """Write a table with a row a metric."""
    lines = ["| metric | noisy | enhanced | clean | enhanced − noisy (95 %) |", "|---|---|---|---|---|"]
    for row in summaries:
        clean = "" if row.clean is None else f"{row.clean:.3f}"
        lines.append(
            f"| {row.metric} | {row.noisy:.3f} | {row.enhanced:.3f} | {clean} | "
            f"{row.gain.value:+.3f} ({row.gain.low:+.3f} … {row.gain.high:+.3f}) |"
        )
    return lines


def _licence_lines(dataset: DatasetSummary) -> list[str]:
    """Write the table of licences, or how to get one for a dataset of an older version."""
    if dataset.licences is None:
        return ["The dataset's record has no roll-up of licences: `python -m pipelines lineage --model` makes one."]
    return licences.markdown(dataset.licences)


def _evaluations(evaluation: Evaluation) -> str:
    """Say how often the networks are evaluated, if it was counted."""
    return f"; {evaluation.evaluations:.4g} evaluation(s) of the network a window" if evaluation.evaluations else ""


def _networks(spec: ModelSpec) -> str:
    """Name the networks that the weights belong to."""
    dit = f"DiT, {spec.model.depth} blocks of width {spec.model.dim}"
    scales = f", and scales of guidance up to {spec.guidance_max:g}" if spec.guidance_max else ""
    dit += f" (distilled: it takes steps of any length{scales})" if spec.jumps else ""
    of = spec.dual_path
    mask = (
        f"dual-path mask, levels of {', '.join(map(str, of.channels))} channels, {of.blocks} blocks of width "
        f"{of.frequency_dim} along frequency and {of.time_dim} along time"
    )
    single_pass = mask if spec.predictor == "dual_path" else "DiT"
    if spec.objective == "regression":
        return mask if spec.predictor == "dual_path" else dit
    return f"{dit}, from the estimate of a {single_pass}" if spec.flow.source == "predicted" else dit


def _data_lines(dataset: DatasetSummary) -> list[str]:
    """List everything that is known of the dataset but its licences, nested values indented."""
    lines = []
    for name, value in to_json(dataset).items():
        if name == "licences":
            continue
        if isinstance(value, Mapping):
            lines.append(f"- {name}:")
            lines += [f"  - {licences.as_markdown(key)}: {_plain(item)}" for key, item in value.items()]
        else:
            lines.append(f"- {name}: {_plain(value)}")
    return lines


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{licences.as_markdown(name)} {_plain(item)}" for name, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_plain(item) for item in value)
    return f"{value:.3f}" if isinstance(value, float) else licences.as_markdown(str(value))
