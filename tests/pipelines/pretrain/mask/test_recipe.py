"""The mask's recipe on recordings that are made: packed, mixed, trained, resumed and exported."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from flowse.enhancer import Enhancer
from flowse.errors import UserError
from flowse.model.spec import DualPathConfig
from flowse.seeding import generator
from pipelines.pretrain.mask import __main__ as command
from pipelines.pretrain.mask.losses import MaskLoss, MaskLossConfig
from pipelines.pretrain.mask.mixing import MixConfig, Mixer, active_power
from pipelines.pretrain.mask.pack import PackConfig, made_speech, prepared, recordings, write_pack
from pipelines.pretrain.mask.pools import Pools
from pipelines.pretrain.mask.testset import write_testset
from pipelines.pretrain.mask.training import SPEC, MaskTraining, MaskTrainingConfig

RATE = 16_000
FEW = PackConfig(corpus_s=20, made_noise_s=2, made_speech_s=2, rooms=1)
SMALL = MaskTrainingConfig(
    spec=dataclasses.replace(SPEC, dual_path=DualPathConfig(channels=(2, 3, 4), blocks=1, frequency_dim=3, time_dim=3)),
    mix=MixConfig(seconds=1.0),
    steps=6,
    batch=2,
)


def voice(number: int, seconds: float = 4.0) -> np.ndarray:
    """Harmonics that come and go, with silence between."""
    t = np.arange(round(seconds * RATE)) / RATE
    tone = sum(np.sin(2 * np.pi * (110 + 15 * number) * k * t) / k for k in range(1, 20))
    return np.asarray(0.1 * np.clip(np.sin(2 * np.pi * 1.7 * t), 0, None) * tone, np.float32)


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three voices, two noises and a room in each split, and one that may not be used."""
    root = tmp_path_factory.mktemp("audio")
    rows = []
    for split in ("train", "dev"):
        for number in range(3):
            rows.append((f"{split}/voice{number}.wav", "speech", split, voice(number), f"{split}{number}", "CC0-1.0"))
        for number in range(2):
            hiss = 0.1 * generator(number).standard_normal(3 * RATE)
            rows.append((f"{split}/hiss{number}.wav", "noise", split, hiss, "", "CC0-1.0"))
    rows.append(("train/paid.wav", "speech", "train", voice(9), "nobody", "CC BY-NC 4.0"))
    response = np.exp(-np.arange(3000) / 500) * generator(7).standard_normal(3000) * 0.1
    response[20] = 1.0
    rows.append(("train/room.wav", "rir", "train", response, "", "CC0-1.0"))
    with (root / "manifest.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "kind", "split", "corpus", "speaker", "language", "licence"])
        for path, kind, split, samples, speaker, licence in rows:
            (root / path).parent.mkdir(exist_ok=True)
            soundfile.write(root / path, samples, RATE)
            table.writerow([path, kind, split, "made", speaker, "en", licence])
    return root


@pytest.fixture(scope="module")
def pack(audio: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pack")
    write_pack(folder, recordings(audio, None), FEW, workers=1)
    return folder


@pytest.fixture(scope="module")
def pools(pack: Path) -> Pools:
    return Pools.load([pack, pack / "absent"], "cpu")


def test_a_pack_holds_its_split_and_nothing_forbidden(pack: Path) -> None:
    with (pack / "pack.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    people = {row["speaker"] for row in rows if row["kind"] == "speech" and row["corpus"] != "made-speech"}
    assert people == {"train0", "train1", "train2"}
    assert all((pack / row["file"]).is_file() for row in rows)
    assert {row["corpus"] for row in rows} == {"made", "made-noise", "made-speech"}


def test_synthetic_voices_share_no_timbre_between_splits_and_are_as_long_as_asked() -> None:
    timbres = {}
    for split in ("train", "dev"):
        config = dataclasses.replace(FEW, split=split, made_speech_s=30.0)
        chunks = list(made_speech(config))
        assert 30 <= sum(len(samples) for _, _, samples in chunks) / 24_000 < 60
        timbres[split] = {recording.speaker.rsplit("-p", 1)[0].split("-")[-1] for recording, _, _ in chunks}
    assert not timbres["train"] & timbres["dev"]


def test_noisy_speech_is_left_out_and_silence_around_it_cut() -> None:
    clean = np.pad(voice(0), RATE)
    kept = prepared(clean, RATE, 30)
    assert kept is not None
    assert len(kept) < len(clean) - 1.2 * RATE
    assert prepared(clean + 0.02 * generator(0).standard_normal(len(clean)).astype(np.float32), RATE, 30) is None


def test_the_same_seed_and_step_make_the_same_mixtures(pools: Pools) -> None:
    config = MixConfig(seconds=1.0, silent=0.3)
    first, again, other = (Mixer(pools, config, seed) for seed in (1, 1, 2))
    noisy, target = first.batch(3, 12)
    assert torch.equal(noisy, again.batch(3, 12)[0])
    assert not torch.equal(noisy, other.batch(3, 12)[0])
    assert not torch.equal(noisy, first.batch(4, 12)[0])
    assert torch.isfinite(noisy).all()
    silent = (target == 0).all(dim=1)
    assert 0 < silent.sum() < 12
    level = 10 * active_power(noisy).log10()
    assert ((level - -25).abs() < 15).all()


def test_without_noise_or_effects_a_mixture_is_its_target(pools: Pools) -> None:
    config = MixConfig(
        seconds=1.0, snr_edges_db=(99.0, 100.0), snr_weights=(1.0,), silent=0, reverberant=0, clipped=0, holed=0
    )
    noisy, target = Mixer(pools, config, 1).batch(0, 4)
    assert torch.allclose(noisy, target, atol=1e-4)


def test_the_loss_knows_what_is_right_and_which_error_is_worse(pools: Pools) -> None:
    noisy, target = Mixer(pools, MixConfig(seconds=1.0), 1).batch(0, 4)
    loss = MaskLoss(MaskLossConfig(), SPEC.mel)
    ideal = (loss.log_mel(target) - loss.log_mel(noisy)).clamp(-8, 0)
    best, nothing = (loss(noisy, target, gain)["total"] for gain in (ideal, torch.zeros_like(ideal)))
    assert best < 0.5 * nothing
    plain = MaskLoss(MaskLossConfig(leak=0, loss=0), SPEC.mel)
    assert (
        plain(noisy, target, torch.zeros_like(ideal))["magnitude"]
        < loss(noisy, target, torch.zeros_like(ideal))["magnitude"]
    )


def test_a_training_that_stops_ends_as_if_it_had_not(pools: Pools, tmp_path: Path) -> None:
    whole = MaskTraining(SMALL, pools)
    assert list(whole.run(log_every=2))[-1].startswith("6 ")
    cut = MaskTraining(SMALL, pools)
    for _ in range(3):
        cut.advance()
    cut.save(tmp_path / "checkpoint.pt")
    resumed = MaskTraining(SMALL, pools)
    resumed.load(tmp_path / "checkpoint.pt")
    list(resumed.run())
    for name, weight in whole.average.state_dict().items():
        assert torch.allclose(weight, resumed.average.state_dict()[name], atol=1e-6)


def test_a_new_schedule_begins_at_the_averages_of_another_training(pools: Pools, tmp_path: Path) -> None:
    before = MaskTraining(SMALL, pools)
    for _ in range(2):
        before.advance()
    before.save(tmp_path / "before.pt")
    after = MaskTraining(SMALL, pools)
    after.begin_from(tmp_path / "before.pt")
    assert after.step == 0
    for name, weight in before.average.state_dict().items():
        assert torch.equal(after.system.state_dict()[name], weight)
        assert torch.equal(after.average.state_dict()[name], weight)


def test_the_command_makes_a_model_that_enhances(
    pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--out", str(tmp_path), "--pack", str(pack), "--steps", "1", "--batch", "1", "--device", "cpu"]
    assert command.main(["train", *arguments, "--workers", "1", "--threads", "1"]) == 0
    assert command.main(["export", *arguments]) == 0
    assert "parameters" in capsys.readouterr().out
    enhancer = Enhancer.from_pretrained(tmp_path / "model")
    noisy = voice(1) + 0.01
    assert enhancer.enhance(noisy, RATE).shape == noisy.shape
    assert command.main(["pack", "--out", str(tmp_path / "other")]) == 2


def test_a_test_set_has_pairs_of_unheard_voices(audio: Path, tmp_path: Path) -> None:
    write_testset(tmp_path, recordings(audio, None), 2, 1, rooms=1)
    with (tmp_path / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == ["noisy/000.flac", "noisy/001.flac"]
    assert all(row["speaker"].startswith("dev") for row in rows)
    for row in rows:
        noisy, clean = (soundfile.read(tmp_path / kind / Path(row["path"]).name)[0] for kind in ("noisy", "clean"))
        assert len(noisy) == len(clean)
    with pytest.raises(UserError, match="split dev"):
        write_testset(tmp_path, [], 2, 1)
