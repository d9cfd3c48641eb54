"""Laws of the export stage: the written model is checked, its card says where it comes from, a gate stops it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from flowse.enhancer import Enhancer
from flowse.errors import UserError
from flowse.export import read_config
from flowse.flow.sampling import Sampling
from flowse.metrics.bootstrap import Interval
from flowse.metrics.evaluation import Evaluation
from flowse.metrics.scores import METRICS, Summary
from flowse.model.spec import DiTConfig, ModelSpec
from flowse.model.system import build
from flowse.training.ledger import Segment, read_segments, write_segments
from pipelines.engine.context import Context, UnrecordedOutput
from pipelines.stages import export
from pipelines.stages.export import Config, check_copy, gate, reference_signal
from tests.dataset_summaries import dataset_summary, noise_use
from tests.pipelines.doubles import RememberingTracker
from tests.tiny import write_vocoder

SAMPLING = Sampling(steps=2, guidance=0.0)


def summary(metric: str, noisy: float, enhanced: float) -> Summary:
    gain = Interval(value=enhanced - noisy, low=enhanced - noisy - 0.1, high=enhanced - noisy + 0.1)
    return Summary(
        group="all",
        metric=metric,
        recordings=5,
        noisy=noisy,
        enhanced=enhanced,
        clean=None,
        previous=None,
        gain=gain,
        gain_previous=None,
    )


@pytest.fixture
def context(tmp_path: Path) -> Context:
    """Weights of train, scores of evaluate, the record of simulate."""
    inputs = {name: UnrecordedOutput(tmp_path / name) for name in export.READS}
    for done in inputs.values():
        done.folder.mkdir()
    vocos = write_vocoder(tmp_path / "vocos")
    small = DiTConfig(dim=32, depth=1, heads=2, conv_groups=4, text_dim=16, text_blocks=1)
    spec = ModelSpec(model=small, mel_mean=-6.0, mel_std=3.0)
    torch.manual_seed(0)
    save_file(build(spec).state_dict(), inputs["train"].folder / "model.safetensors")
    (inputs["train"].folder / "spec.json").write_text(json.dumps(spec.to_dict()))
    evaluation = Evaluation(
        recordings=5,
        model="",
        sampling=SAMPLING,
        vocoder=str(vocos),
        with_text=False,
        summary=(summary("ovrl", 2.1, 2.9),),
        worst=(),
    )
    (inputs["evaluate"].folder / "summary.json").write_text(evaluation.to_text())
    (inputs["evaluate"].folder / "report.html").touch()
    dataset_summary().write(inputs["simulate"].folder / "dataset.json")
    return Context(tmp_path / "export", seed=7, inputs=inputs, tracker=RememberingTracker())


def test_export_enhances_by_itself_with_the_sampling_that_was_scored(context: Context) -> None:
    report = export.run(Config(), context)
    assert report.metrics["difference after reload"] <= 1e-5
    enhancer = Enhancer.from_pretrained(context.folder / "model")
    assert enhancer.sampling == SAMPLING
    signal = reference_signal(0, 24_000)
    assert enhancer.enhance(signal, 24_000).shape == signal.shape
    assert isinstance(context.tracker, RememberingTracker)
    assert context.tracker.artifacts == ["model"]
    assert not list(context.storage.iterdir())


def test_the_segments_of_the_training_go_with_the_model(context: Context) -> None:
    segments = (Segment(to_step=12, dataset="d" * 20), Segment(from_step=12, to_step=18, dataset="e" * 20))
    write_segments(context.inputs["train"].folder / "segments.json", segments)
    export.run(export.Config(), context)
    assert read_segments(context.folder / "model" / "segments.json") == segments
    card = (context.folder / "model" / "README.md").read_text()
    assert all(f"- {segment.describe()}" in card for segment in segments)


def test_segments_that_cannot_be_read_are_one_line(context: Context) -> None:
    (context.inputs["train"].folder / "segments.json").write_text("{}")
    with pytest.raises(UserError, match=r"segments.json.*run train again"):
        export.run(export.Config(), context)


def test_weights_are_the_trained_ones(context: Context) -> None:
    export.run(Config(), context)
    trained = load_file(context.inputs["train"].file("model.safetensors"))
    exported = load_file(context.folder / "model" / "model.safetensors")
    assert trained.keys() == exported.keys()
    assert all(torch.equal(trained[name], exported[name]) for name in trained)


def test_the_card_says_where_the_model_comes_from(context: Context) -> None:
    export.run(Config(title="Small FlowSE"), context)
    card = (context.folder / "model" / "README.md").read_text()
    for fact in ("# Small FlowSE", "abc123", "CC0-1.0", "demo", "2.900", "+0.800", "euler, 2 steps"):
        assert fact in card


def test_the_card_names_the_licences_that_bind_the_model(context: Context) -> None:
    uses = [noise_use(), noise_use(corpus="mine", licence="unknown", terms=("unknown",))]
    dataset_summary(licences=uses).write(context.inputs["simulate"].file("dataset.json"))
    export.run(Config(), context)
    card = (context.folder / "model" / "README.md").read_text()
    assert "| noise | wham | CC-BY-NC-4.0 | 7 | 0.250 | NON-COMMERCIAL |" in card
    assert "Part of the data may not be used commercially: wham (noise, CC-BY-NC-4.0, 0.25 h)" in card
    assert "Part of the data has no known licence: mine" in card
    assert "terms" not in card


def test_two_runs_write_the_same_bytes(context: Context) -> None:
    written: list[dict[str, bytes]] = []
    for _ in range(2):
        export.run(Config(), context)
        written.append({p.name: p.read_bytes() for p in (context.folder / "model").rglob("*") if p.is_file()})
    assert written[0] == written[1]


def test_a_gate_that_does_not_hold_leaves_nothing(context: Context) -> None:
    with pytest.raises(UserError, match=r"ovrl is 2\.900, at least 4\.9 is asked for"):
        export.run(Config(limits={"ovrl": 4.9}), context)
    assert not list(context.folder.iterdir())


def test_scores_of_another_model_are_no_ground_to_hand_this_one_on(context: Context) -> None:
    path = context.inputs["evaluate"].file("summary.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "model": "flowse-small"}))
    with pytest.raises(UserError, match=r"evaluate scored flowse-small, .* empty evaluate\.model"):
        export.run(Config(), context)
    assert not list(context.folder.iterdir())


def test_a_record_of_evaluate_that_cannot_be_read_is_named(context: Context) -> None:
    context.inputs["evaluate"].file("summary.json").write_text("{}")
    with pytest.raises(UserError, match=r"summary\.json: recordings is missing; run evaluate again"):
        export.run(Config(), context)


def test_a_gate_can_ask_for_every_metric() -> None:
    limits = {metric.name: 0.0 for metric in METRICS}
    assert Config(limits=limits).limits == limits


def test_weights_that_do_not_fit_are_refused(context: Context) -> None:
    save_file({"stranger": torch.zeros(1)}, context.inputs["train"].file("model.safetensors"))
    with pytest.raises(UserError, match="does not fit"):
        export.run(Config(), context)


def test_a_copy_that_differs_does_not_count(context: Context) -> None:
    export.run(Config(), context)
    folder = context.folder / "model"
    config = read_config(folder)
    torch.manual_seed(1)
    other = build(config.spec)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    with pytest.raises(UserError, match="the reloaded model differs"):
        check_copy(other, config, folder / "vocoder", folder, seed=0)


@pytest.mark.parametrize(
    ("config", "findings"),
    [
        (Config(), 0),
        (Config(limits={"ovrl": 3.0, "wer": 0.2}, tolerance={"wer": 0.11, "ovrl": 0.0}), 0),
        (Config(limits={"ovrl": 3.1, "wer": 0.19}), 2),
        (Config(tolerance={"wer": 0.05}), 1),
        (Config(limits={"estoi": 0.5}, tolerance={"estoi": 0.0}), 2),
    ],
)
def test_gate_of_known_scores(config: Config, findings: int) -> None:
    scores = {"ovrl": summary("ovrl", 2.0, 3.0), "wer": summary("wer", 0.1, 0.2)}
    assert len(gate(config, scores)) == findings


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"limits": {"beauty": 1.0}}, "unknown metric"), ({"tolerance": {"ovrl": "much"}}, "needs a number")],
)
def test_config_refuses_nonsense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**changes)


def test_the_test_signal_is_neither_silent_nor_clipped() -> None:
    signal = reference_signal(3, 24_000)
    assert len(signal) == 48_000
    assert 0.05 < np.abs(signal).max() < 1


def test_half_the_size_is_the_same_model_to_rounding(context: Context) -> None:
    report = export.run(Config(half=True), context)
    assert report.metrics["difference after reload"] <= 1e-5
    half = load_file(context.folder / "model" / "model.safetensors")
    whole = load_file(context.inputs["train"].file("model.safetensors"))
    assert half.keys() == whole.keys()
    for name, value in whole.items():
        assert half[name].dtype == torch.float16
        torch.testing.assert_close(half[name].float(), value, rtol=1e-3, atol=1e-6)
