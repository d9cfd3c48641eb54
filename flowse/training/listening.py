"""Judging a training by ear: recordings are enhanced with the averaged weights and scored, spread over the ranks."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from flowse.audio.mel_config import MelConfig
from flowse.audio.vocoder import load_vocoder
from flowse.data.content import content_if_there
from flowse.data.row_table import RowTable
from flowse.enhancer import Enhancer
from flowse.errors import UserError
from flowse.export import ModelConfig
from flowse.json_records import to_json
from flowse.metrics.scores import Metric, Score, summarise
from flowse.metrics.scoring import RecordingVersions, Scorer
from flowse.metrics.speaker import SpeakerEncoder, onnx_file
from flowse.metrics.testsets import Item, choose, choose_simulated, folder_items, read_item
from flowse.model.spec import ModelSpec
from flowse.model.system import build
from flowse.pretrained import resolve
from flowse.refusal import Refusal, refusing
from flowse.seeding import derive_seed
from flowse.training.listen_config import ListenConfig, metric_of
from flowse.training.ranks import Ranks

_RESAMPLES = 2  # of the intervals that `summarise` gives, which nobody reads here


@dataclass(frozen=True)
class Listening:
    """What a training is judged by; small and picklable.

    Attributes:
        config: How.
        select: `TrainConfig.select`.
        items: The recordings.
        digest: Hash of how and by what it is judged: figures of one digest can be compared.
    """

    config: ListenConfig
    select: str
    items: tuple[Item, ...]
    digest: str

    @property
    def metric(self) -> Metric | None:
        """The metric that chooses the weights; None: none does."""
        return metric_of(self.select)

    def is_better(self, value: float, best: float | None) -> bool:
        """Whether a value of the metric is better than the best so far (None: there is none)."""
        if not math.isfinite(value):
            return False
        lower = self.metric is not None and self.metric.lower_is_better
        return best is None or (value < best if lower else value > best)


def prepare_listening(
    config: ListenConfig, select: str, spec: ModelSpec, dev: RowTable, shards: Path
) -> Listening | None:
    """Choose the recordings that a training is judged by, and decode each: a bad one is found before the first step.

    Args:
        config: How.
        select: `TrainConfig.select`.
        spec: What is trained.
        dev: Held-out mixtures, which are taken where no test set is named.
        shards: Folder of the dataset.

    Returns:
        None if the training is not judged by ear.

    Raises:
        UserError: A folder, table, recording or model cannot be used; the message names it.
    """
    if not config.every:
        return None
    require_models(config, spec.mel)
    if config.sampling.steps == 0 and not (spec.objective == "regression" or spec.flow.source == "predicted"):
        raise UserError("train.listen.sampling.steps is 0, which only a model with a predictor can do; give 1 or more")
    if config.pairs:
        items = pair_items(config)
    else:
        items = [item for items in choose_simulated(dev, config.max_items) for item in items]
        if not items:
            raise UserError(
                "train.listen has no recording: listen.pairs is empty, and the dataset has no mixture of split dev; "
                "name a test set, e.g. pairs: ${evaluate.pairs}, or raise ingest.splits.dev"
            )
        for item in items:
            _read(item, shards)
    metric = metric_of(select)
    if metric is not None and metric.name == "wer" and not any(item.text for item in items):
        raise UserError(f"train.select is {select}, and none of the {len(items)} recordings to listen to has a text")
    contents = [[item.key, item.text, *map(_content, (item.noisy, item.clean))] for item in items]
    how = dataclasses.replace(config, every=1, pairs=())
    facts = [to_json(how), metric.name if metric else "", contents, [item.row.content for item in items if item.row]]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    return Listening(config, select, tuple(items), digest)


def pair_items(config: ListenConfig) -> list[Item]:
    """List the recordings of the named test sets that are listened to.

    Raises:
        UserError: A folder or table is missing or of no use, or a recording cannot be decoded.
    """
    items = []
    for pairs in config.pairs:
        try:
            items += choose(folder_items(pairs), config.max_items)
        except UserError as error:
            raise UserError(f"train.listen.pairs: {error}") from None
    for item in items:
        _read(item, Path())
    return items


def _content(file: Path | None) -> str:
    return content_if_there(file) if file else ""


def _read(item: Item, shards: Path) -> RecordingVersions:
    """Read a recording.

    Raises:
        UserError: It cannot be decoded, is silent or damaged.
    """
    try:
        with refusing(item.key):
            signals, rate = read_item(item, shards)
    except Refusal as refusal:
        raise UserError(
            f"train.listen: {item.key} cannot be listened to: {refusal.detail}; mend the file or take it out"
        ) from None
    return RecordingVersions(item=item, signals=signals, sample_rate=rate)


def require_models(config: ListenConfig, mel: MelConfig) -> None:
    """Refuse models that cannot be used, before any work is done.

    Args:
        config: How a training is judged.
        mel: Of the model that is trained.

    Raises:
        UserError: There is no such model, or the vocoder has another mel; the message names the key.
        ModuleNotFoundError: A package that scores need is not installed; the message says what to install.
    """
    from flowse.metrics.dnsmos import Dnsmos

    Dnsmos()
    try:
        load_vocoder(resolve(config.vocoder), mel=mel)
    except (FileNotFoundError, ValueError) as error:
        raise UserError(f"train.listen.vocoder: {error}") from None
    if recogniser := config.recogniser():
        recogniser.require("train.listen.whisper", "train.listen.whisper_backend", "; or leave it empty")
    try:
        if config.speaker:
            onnx_file(config.speaker)
    except FileNotFoundError as error:
        raise UserError(f"train.listen.speaker: {error}; or leave it empty") from None


class ListeningError(Exception):
    """A rank could not enhance or score a recording; the message says which, why, and what a rerun does."""


class Listener:
    """Enhances and scores recordings with a training's averaged weights; all ranks do it together, a share each.

    Example:
        >>> listener = Listener(listening, spec, shards, seed=0)
        >>> listener(weights, Ranks())["ovrl"]
    """

    def __init__(
        self,
        listening: Listening,
        spec: ModelSpec,
        shards: Path,
        *,
        seed: int,
        device: str = "cpu",
        threads: int = 1,
        rank: int = 0,
        world_size: int = 1,
        to_spec: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = lambda weights: weights,
    ) -> None:
        """Read this rank's recordings, which stay in memory; networks are loaded at the first judgement, and stay, too.

        Args:
            listening: What is judged by.
            spec: What is trained.
            shards: Folder of the dataset.
            seed: Seed of the noise that speech is generated from; the same in every judgement.
            device: Where networks run.
            threads: CPU threads of DNSMOS and of the speaker encoder.
            rank: Rank of this process.
            world_size: Number of ranks.
            to_spec: Turns the averaged weights into those that the spec's system has.

        Raises:
            UserError: A recording cannot be read.
        """
        self.listening = listening
        self._spec, self._seed = spec, seed
        self._recordings = [_read(item, shards) for item in listening.items[rank::world_size]]
        self._device, self._threads, self._to_spec = device, threads, to_spec
        self._loaded: tuple[Enhancer, Scorer] | None = None
        self._noisy: dict[str, Score] = {}

    def __call__(self, weights: Mapping[str, Tensor], ranks: Ranks) -> dict[str, float]:
        """Judge weights; return the same figures on every rank: by metric, those of the noisy versions as `noisy_…`.

        The ranks meet after every recording, so none waits for longer than the slowest recording takes.

        Args:
            weights: All averaged weights by name.
            ranks: The ranks, all of which call this at the same time.

        Raises:
            ListeningError: A rank could not enhance or score a recording.
        """
        begun = time.perf_counter()
        found: list[Score] = []
        weights = self._to_spec(weights)
        for number in range(-(-len(self.listening.items) // ranks.world_size)):
            mine: list[Score] | str = []
            for recording in self._recordings[number : number + 1]:
                try:
                    mine = self._judge(recording, weights if number == 0 else None)
                except Exception as error:  # noqa: BLE001 - all ranks have to hear of it, or they wait for this one
                    why = f"{type(error).__name__}: {error}; a rerun goes on after this step"
                    mine = f"train.listen: rank {ranks.rank} could not judge {recording.item.key}: {why}"
            for scores in ranks.gather(mine):
                if isinstance(scores, str):
                    raise ListeningError(scores)
                found += scores
        figures: dict[str, float] = {}
        for summary in summarise(found, self._seed, _RESAMPLES):
            if summary.group == "all":
                figures |= {summary.metric: summary.enhanced, f"noisy_{summary.metric}": summary.noisy}
        return {**figures, "seconds": time.perf_counter() - begun}

    @torch.no_grad()
    def _judge(self, recording: RecordingVersions, weights: Mapping[str, Tensor] | None) -> list[Score]:
        """Return the scores of a recording's noisy and enhanced version; `weights` replace those of before."""
        enhancer, scorer = self._networks()
        if weights is not None:
            enhancer.system.load_state_dict(weights)
        key = recording.item.key
        signals = dict(recording.signals)
        seed = derive_seed(self._seed, "listen", key)
        signals["enhanced"] = enhancer.enhance(signals["noisy"], recording.sample_rate, seed=seed)
        if key in self._noisy:  # the input's scores stay as they are
            del signals["noisy"]
        for score in scorer([dataclasses.replace(recording, signals=signals)]):
            if score.signal == "noisy":
                self._noisy[key] = score
            elif score.signal == "enhanced":
                enhanced = score
        return [self._noisy[key], enhanced]

    def _networks(self) -> tuple[Enhancer, Scorer]:
        """Load the networks once; torch's generator is left as it was."""
        if self._loaded is None:
            from flowse.metrics.dnsmos import Dnsmos
            from flowse.whisper.labeller import Labeller

            config = self.listening.config
            with torch.random.fork_rng(devices=[]):
                system = build(self._spec).to(self._device).eval().requires_grad_(False)
            model = ModelConfig(spec=self._spec, sampling=config.sampling)
            recogniser = config.recogniser()
            self._loaded = (
                Enhancer.from_parts(system, model, resolve(config.vocoder)),
                Scorer(
                    Dnsmos(self._threads),
                    Labeller(recogniser, self._device) if recogniser else None,
                    SpeakerEncoder(onnx_file(config.speaker), self._threads) if config.speaker else None,
                ),
            )
        return self._loaded
