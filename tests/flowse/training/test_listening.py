"""Laws of listening: every so many validations, on all ranks together; it chooses the weights and disturbs nothing."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
from torch import Tensor

from flowse.errors import UserError
from flowse.flow.sampling import Sampling
from flowse.metrics.pairs import Pairs
from flowse.training import listening as module
from flowse.training import run
from flowse.training.checkpoint import latest, listed, load
from flowse.training.config import TrainConfig
from flowse.training.history import History, read_history
from flowse.training.job import Job, prepare
from flowse.training.listen_config import ListenConfig
from flowse.training.listening import Listener, ListeningError, pair_items, prepare_listening
from flowse.training.lora_config import LoraConfig
from flowse.training.mixtures import Mixtures
from flowse.training.progress import Progress
from flowse.training.rank import Rank
from flowse.training.ranks import Ranks
from flowse.training.trained import Trained
from tests.small_shards import TINY

QUICK = ListenConfig(every=2, max_items=2, whisper="", speaker="", sampling=Sampling(steps=1))
HEARD = dataclasses.replace(TINY, select="metric:dnsmos_overall", listen=QUICK)


def job(shards: Path, folder: Path, config: TrainConfig = HEARD) -> Job:
    return prepare(config, Mixtures.read(shards), folder, seed=5)


def train(given: Job) -> list[Progress]:
    reports: list[Progress] = []
    rank = Rank(given)
    history = History(given, rank.trainer.state)
    rank.train(reports.append, history)
    history.close()
    return reports


@pytest.fixture(scope="module")
def undisturbed(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Progress]]:
    """A training that is judged by ear after steps 8 and 12, and what it reported; nobody writes there."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, train(job(shards, folder))


def real_pairs(folder: Path, count: int = 3) -> Pairs:
    for number in range(count):
        for kind, level in (("noisy", 0.2), ("clean", 0.02)):
            path = folder / kind / f"r{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            tone = 0.2 * np.sin(np.arange(24_000) / (9 + number))
            sf.write(path, tone + level * np.random.default_rng(number).standard_normal(24_000) * 0.3, 16_000)
    return Pairs(name="real", noisy=str(folder / "noisy"), clean=str(folder / "clean"), language="en")


def scored(monkeypatch: pytest.MonkeyPatch, values: Mapping[int, float]) -> None:
    """Let the averaged weights have a given score at each listening, one after the other."""
    left = iter(values.values())

    def judge(self: Listener, weights: Mapping[str, Tensor], ranks: Ranks) -> dict[str, float]:
        return {"ovrl": next(left)}

    monkeypatch.setattr(Listener, "__call__", judge)


def test_every_second_validation_and_the_end_are_heard_and_logged(undisturbed: tuple[Path, list[Progress]]) -> None:
    folder, reports = undisturbed
    assert [p.step for p in reports if p.validation is not None] == [4, 8, 12]
    assert [p.step for p in reports if p.heard is not None] == [8, 12]
    heard = [record for record in read_history(folder) if "listen_ovrl" in record]
    assert [record["step"] for record in heard] == [8, 12]
    assert {"listen_ovrl", "listen_noisy_ovrl", "listen_si_sdr_db", "listen_seconds"} <= set(heard[0])
    assert 1 <= heard[0]["listen_ovrl"] <= 5
    assert heard[0]["listen_noisy_ovrl"] == heard[1]["listen_noisy_ovrl"]
    assert "DNSMOS" in str(next(p for p in reports if p.heard is not None))


def test_the_best_by_ear_is_exported_and_its_checkpoint_kept(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = dataclasses.replace(HEARD, listen=dataclasses.replace(QUICK, every=1), keep_last=1, max_steps=20)
    scored(monkeypatch, {4: 2.0, 8: 3.5, 12: math.nan, 16: 3.0, 20: 3.4})
    given = job(shards, tmp_path, every)
    train(given)
    trained = Trained.of(given)
    assert (trained.step, trained.figures()["listen/best_ovrl"]) == (8, 3.5)
    assert trained.weights.exists()
    assert listed(given.checkpoints)[0].name == "step-00000008"


def test_word_errors_are_better_where_they_are_fewer(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listen = dataclasses.replace(QUICK, every=1, whisper="whisper-tiny")
    given = job(shards, tmp_path, dataclasses.replace(HEARD, select="metric:wer", listen=listen))
    left = iter([0.5, 0.2, 0.3])
    monkeypatch.setattr(Listener, "__call__", lambda self, weights, ranks: {"wer": next(left)})
    train(given)
    assert Trained.of(given).step == 8


def test_listening_changes_no_weight(undisturbed: tuple[Path, list[Progress]], shards: Path, tmp_path: Path) -> None:
    train(job(shards, tmp_path, TINY))
    heard, unheard = (load(latest(folder / "checkpoints") or Path()) for folder in (undisturbed[0], tmp_path))
    for name, value in unheard.model.items():
        assert torch.equal(value, heard.model[name]), name


def test_a_resumed_training_hears_what_an_undisturbed_one_hears(
    undisturbed: tuple[Path, list[Progress]], shards: Path, tmp_path: Path
) -> None:
    whole = {p.step: p.heard for p in undisturbed[1] if p.heard}
    given = job(shards, tmp_path / "cut")
    rank = Rank(given)
    asked = iter([False] * 10 + [True])
    rank.trainer._stop = lambda: next(asked)
    rank.train()
    assert rank.trainer.state.step == 10
    resumed = {p.step: p.heard for p in train(job(shards, tmp_path / "cut")) if p.heard}
    assert resumed[12] is not None
    assert whole[12] is not None
    assert _scores(resumed[12]) == _scores(whole[12])
    ends = [load(latest(folder / "checkpoints") or Path()).state for folder in (undisturbed[0], tmp_path / "cut")]
    assert (ends[0].heard, ends[0].heard_step) == (ends[1].heard, ends[1].heard_step)


def test_adapters_are_heard_merged(shards: Path, tmp_path: Path) -> None:
    run.train(dataclasses.replace(TINY, max_steps=2), shards, tmp_path / "base", seed=5)
    tuned = dataclasses.replace(HEARD, init_from=str(tmp_path / "base"), lora=LoraConfig(rank=4), max_steps=4)
    given = job(shards, tmp_path / "t", tuned)
    (heard,) = (p.heard for p in train(given) if p.heard)
    # The exported model alone has the same scores.
    assert given.listening is not None
    listener = Listener(given.listening, given.spec, shards, seed=5)
    assert _scores(listener(Trained.of(given).averaged(), Ranks())) == _scores(heard)


def _scores(heard: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in heard.items() if name != "seconds"}


def test_other_recordings_begin_a_comparison_of_their_own(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(monkeypatch, {8: 4.9, 12: 4.8, 16: 1.5, 20: 1.4})
    train(job(shards, tmp_path / "t"))
    listen = dataclasses.replace(QUICK, pairs=(real_pairs(tmp_path),))
    longer = job(shards, tmp_path / "t", dataclasses.replace(HEARD, listen=listen, max_steps=20))
    train(longer)
    assert (Trained.of(longer).step, Trained.of(longer).state.heard) == (16, 1.5)


def test_real_pairs_are_heard_with_every_metric_that_they_allow(shards: Path, tmp_path: Path) -> None:
    listen = dataclasses.replace(QUICK, pairs=(real_pairs(tmp_path, 2),), speaker="speaker-small")
    (heard,) = (
        p.heard for p in train(job(shards, tmp_path / "t", dataclasses.replace(HEARD, listen=listen, max_steps=4)))
        if p.heard
    )  # fmt: skip
    assert {"ovrl", "sig", "bak", "p808", "speaker_cosine", "noisy_speaker_cosine"} <= set(heard)


@pytest.mark.parametrize("fault", ["missing", "silent", "broken"])
def test_a_bad_pair_is_named_before_the_first_step(shards: Path, tmp_path: Path, fault: str) -> None:
    pairs = real_pairs(tmp_path)
    path = tmp_path / "noisy" / "r1.wav"
    if fault == "missing":
        pairs = dataclasses.replace(pairs, noisy=str(tmp_path / "nowhere"))
    elif fault == "silent":
        sf.write(path, np.zeros(16_000), 16_000)
    else:
        path.write_bytes(b"RIFF")
    listen = dataclasses.replace(QUICK, pairs=(pairs,))
    said = r"train\.listen.*(nowhere|r1\.wav)"
    with pytest.raises(UserError, match=said):
        job(shards, tmp_path / "t", dataclasses.replace(HEARD, listen=listen))
    with pytest.raises(UserError, match=said):
        pair_items(listen)


def test_a_model_that_is_not_there_is_named_by_its_key(shards: Path) -> None:
    mixtures = Mixtures.read(shards)
    for key in ("vocoder", "whisper", "speaker"):
        config = dataclasses.replace(QUICK, **{key: "no-such-model"})  # type: ignore[arg-type]
        with pytest.raises(UserError, match=rf"train\.listen\.{key}: .*no-such-model"):
            prepare_listening(config, "best", TINY.spec(), mixtures.dev, shards)


def test_what_fails_on_one_rank_ends_all_of_them_after_a_checkpoint(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Any, take: object, weights: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Listener, "_judge", fail)
    given = job(shards, tmp_path)
    with pytest.raises(ListeningError, match=r"rank 0 could not judge .*out of memory; a rerun goes on"):
        train(given)
    assert load(latest(given.checkpoints) or Path()).state.step == 8
    assert module.ListeningError in __import__("flowse.training.rank", fromlist=["x"]).PERMANENT_ERRORS
