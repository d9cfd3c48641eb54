"""The few-step recipe on sounds that are made: a flow, its distillation and a refinement, resumed and exported."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from flowse.enhancer import Enhancer
from flowse.errors import UserError
from flowse.flow.average_velocity import FLOW, Intervals
from flowse.flow.sampling import Sampling
from flowse.metrics.dnsmos import DnsmosScore
from flowse.model.spec import DiTConfig, DualPathConfig, ModelSpec
from flowse.model.system import build
from flowse.seeding import generator
from flowse.simulation.rirs import LEAD
from pipelines.pretrain.fewstep import __main__ as command
from pipelines.pretrain.fewstep.training import FewStepConfig, FewStepTraining, spec_of
from pipelines.pretrain.fewstep.validation import Validation
from pipelines.pretrain.mask.mixing import MixConfig
from pipelines.pretrain.mask.pools import Pool, Pools, Rooms

MODEL = DiTConfig(dim=32, depth=1, heads=1, ff_mult=1, conv_groups=4, qk_norm=True)
MASK = ModelSpec(
    objective="regression",
    predictor="dual_path",
    dual_path=DualPathConfig(channels=(4, 4, 6), blocks=1, frequency_dim=4, time_dim=4),
    mel_mean=-2.6,
    mel_std=2.3,
)
MASK_WEIGHTS = build(MASK).state_dict()

Start = tuple[ModelSpec, dict[str, Tensor]]


@pytest.fixture(scope="module")
def pools() -> Pools:
    def pool(seed: int) -> Pool:
        samples = torch.from_numpy((generator(seed).standard_normal(4 * 24_000) * 3000).astype(np.int16))
        return Pool(samples, torch.tensor([0]), torch.tensor([len(samples)]), torch.tensor([1]))

    response = torch.zeros(1, LEAD + 1)
    response[:, LEAD] = 1.0
    return Pools(pool(1), pool(2), Rooms(response, response, response))


def _training(
    pools: Pools, kind: str, flow: Start | None = None, sigma: float = 0.0, **changes: object
) -> FewStepTraining:
    config = FewStepConfig.of(
        kind, **{"model": MODEL, "mix": MixConfig(seconds=1.0), "batch": 4, "steps": 8, "precision": "fp32", **changes}
    )
    return FewStepTraining(config, pools, (MASK, MASK_WEIGHTS), flow, sigma)


@pytest.fixture(scope="module")
def flow(pools: Pools) -> Start:
    training = _training(pools, "flow")
    assert len(list(training.run(log_every=4))) == 2
    return training.spec, training.averaged()


@pytest.mark.parametrize("kind", ["flow", "distil", "data", "regression"])
def test_a_resumed_training_ends_with_the_same_weights(kind: str, pools: Pools, flow: Start, tmp_path: Path) -> None:
    whole, first, second = (_training(pools, kind, flow, 0.3) for _ in range(3))
    for _ in range(5):
        whole.advance()
    for _ in range(4):
        first.advance()
    first.save(tmp_path / "checkpoint.pt")
    second.load(tmp_path / "checkpoint.pt")
    second.advance()
    for name, weight in whole.averaged().items():
        assert torch.allclose(weight, second.averaged()[name], atol=1e-6), name


def test_the_same_mixtures_return_with_other_noise(pools: Pools) -> None:
    training = _training(pools, "flow", again=2)
    draws = []
    for _ in range(4):
        training.advance()
        draws.append(training._draws(torch.zeros(4, 2, 100)).noise)
    assert sorted(training._mixtures) == [0, 1]
    assert not torch.equal(draws[0], draws[1])


def test_a_distillation_starts_at_its_flow_and_a_refinement_at_its_mask(pools: Pools, flow: Start) -> None:
    plain, distilled, refined = (_training(pools, kind, flow, 0.3) for kind in ("flow", "distil", "data"))
    plain.system.load_state_dict(flow[1])
    noisy, _ = plain.mels(plain.mixer, 0, 2)
    for steps in (1, 4):
        sampling = Sampling(steps=steps)
        jumped, _ = distilled.system.enhance(noisy, sampling=sampling)
        assert torch.allclose(jumped, plain.system.enhance(noisy, sampling=sampling)[0], atol=1e-4)
        estimate, _ = refined.system.enhance(noisy, sampling=sampling)
        predicted = refined.system.denormalise(refined.system.predict(noisy))
        assert torch.allclose(estimate, predicted, atol=1e-4)
    assert not any(weight.requires_grad for weight in refined.system.predictor.parameters())  # type: ignore[union-attr]


def test_jumps_are_drawn_where_sampling_takes_them(pools: Pools, flow: Start) -> None:
    training = _training(pools, "distil", flow, grid_share=1.0)
    draws = training._draws(torch.zeros(400, 1, 100))
    assert draws.interval is not None
    found = Intervals.of(draws.t, draws.interval, training.config.distil, 0.5)
    own = found.kind != FLOW
    length, count = (found.r - found.t)[own], (found.t / (found.r - found.t))[own]
    assert sorted({round(value, 4) for value in length.tolist()}) == [0.25, 0.5, 1.0]
    assert torch.allclose(count, count.round(), atol=1e-4)
    assert float(found.t[~own].std()) / 0.2887 * 1.0 > 0.3
    assert float(own.float().mean()) == pytest.approx(0.5, abs=0.01)


def test_measurements_have_their_limits(pools: Pools, flow: Start) -> None:
    refined = _training(pools, "data", flow, 0.3)
    validation = Validation.of(refined, pools, 3)
    sigma = validation.deviation(refined.system.eval())
    assert 0 < sigma < 5
    perfect = dataclasses.replace(
        validation, clean=refined.system.denormalise(refined.system.predict(validation.noisy))
    )
    assert perfect.deviation(refined.system) == pytest.approx(0, abs=1e-3)
    assert perfect.distance(refined.system, Sampling(steps=1)) == pytest.approx(0, abs=1e-3)
    assert len(validation.mixtures) == len(validation.noisy) == 3
    distilled = _training(pools, "distil", flow)
    # A plain flow's velocity over an interval is no average: two halves see the change that one jump does not.
    assert validation.residual(distilled) > 0


def test_what_cannot_be_trained_is_refused(pools: Pools) -> None:
    with pytest.raises(ValueError, match="kind='both'"):
        FewStepConfig.of("both")
    with pytest.raises(ValueError, match="kind='both'"):
        spec_of("both", MODEL, MASK)
    with pytest.raises(ValueError, match="needs the weights of a flow"):
        _training(pools, "distil")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--steps 0", "steps=0 must be at least 1"),
        ("--batch 0", "batch=0 must be at least 1"),
        ("--again 0", "again=0 must be at least 1"),
        ("--seconds -1", "seconds=-1.0 must be finite"),
        ("--seconds nan", "seconds=nan must be finite"),
        ("--lr 0", "lr=0.0 must be above 0 and finite"),
        ("--lr nan", "lr=nan must be above 0 and finite"),
        ("--validate 0", "at least one mixture"),
        ("--dim 7", "--dim, --depth"),
    ],
)
def test_impossible_settings_are_one_line(
    words: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["flow", "--pack", str(tmp_path / "none"), "--held-out", str(tmp_path / "none"), "--device", "cpu"]
    assert command.main([*common, "--out", str(tmp_path / "out"), *words.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pack")
    lines = ["file,kind,rate"]
    for number, kind in enumerate(("speech", "noise")):
        soundfile.write(folder / f"{kind}.wav", 0.1 * generator(number).standard_normal(2 * 16_000), 16_000)
        lines.append(f"{kind}.wav,{kind},16000")
    (folder / "pack.csv").write_text("\n".join(lines) + "\n")
    return folder


def _by_level(waveform: np.ndarray, sample_rate: int) -> DnsmosScore:
    value = 1 + float(np.abs(waveform).mean())
    return DnsmosScore(ovrl=value, sig=value, bak=value, p808=value)


def test_the_commands_train_measure_and_export_models_that_enhance(
    pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.pretrain.fewstep.validation.Dnsmos", lambda threads: _by_level)
    common = [
        "--pack",
        str(pack),
        "--held-out",
        str(pack),
        "--steps",
        "2",
        "--batch",
        "2",
        "--dim",
        "32",
        "--depth",
        "1",
    ]
    common += [
        "--validate",
        "2",
        "--device",
        "cpu",
        "--threads",
        "1",
        "--workers",
        "1",
        "--flow",
        str(tmp_path / "flow" / "model"),
    ]
    for kind, evaluations in (("flow", 32), ("distil", 2), ("data", 3), ("regression", 1), ("both", 3)):
        start = ["--flow", str(tmp_path / "data" / "model")] if kind == "both" else []
        words = ["distil" if kind == "both" else kind, *common, *start, "--out", str(tmp_path / kind)]
        assert command.main(words) == 0
        enhancer = Enhancer.from_pretrained(tmp_path / kind / "model")
        enhanced = enhancer.enhance(np.random.default_rng(0).standard_normal(16_000).astype(np.float32) * 0.1, 16_000)
        assert np.isfinite(enhanced).all()
        assert enhancer.evaluations == evaluations
    printed = capsys.readouterr().out
    assert "residual" in json.loads(next(line for line in printed.splitlines() if "residual" in line))
    config = json.loads((tmp_path / "data" / "model" / "config.json").read_text())
    assert config["spec"]["flow"]["sigma"] > 0
    assert 0 <= config["sampling"]["guard"] <= 1
    assert printed.count("by DNSMOS overall of 2 mixtures") == 2
    with pytest.raises(UserError, match="--flow"):
        command.start_of("distil", None, MODEL)
    for kind, other in (("distil", "distil"), ("distil", "regression"), ("data", "data")):
        with pytest.raises(UserError, match=r"no plain flow|no flow that was not distilled"):
            command.start_of(kind, tmp_path / other / "model", MODEL)
