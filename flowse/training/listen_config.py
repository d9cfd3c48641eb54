"""Settings of judging a training by ear, and the metrics that can choose its weights; importable without torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from flowse.flow.sampling import Sampling
from flowse.metrics.pairs import Pairs
from flowse.metrics.scores import METRICS, Metric
from flowse.whisper.config import Backend, Compute, WhisperConfig

BY_METRIC = "metric:"
"""What `TrainConfig.select` begins with where a metric chooses the weights."""
LONG_NAMES = {"dnsmos_overall": "ovrl", "dnsmos_speech": "sig", "dnsmos_background": "bak", "dnsmos_p808": "p808"}
"""Other names of metrics, which say more."""
_WITH_CLEAN = ("dwer", "speaker_cosine", "estoi", "pesq_wb", "si_sdr_db")
_WITH_RECOGNISER = ("wer", "dwer")


@dataclass(frozen=True, kw_only=True)
class ListenConfig:
    """How a training's averaged weights are judged by ear while it runs: real recordings are enhanced and scored.

    Attributes:
        every: Validations between two such judgements, the last step has one as well; 0: never.
        pairs: Test sets to judge by, as a rule `${evaluate.pairs}`; empty: held-out mixtures of split dev.
        max_items: Recordings of each test set at most, chosen by a hash of their names; 0: all. They are held in
            memory, and spread over the ranks.
        vocoder: Vocos folder or an embedded model's name; its mel must be the model's.
        sampling: Solver, steps, guidance and synthesis.
        whisper: Recogniser for word errors, see `WhisperConfig.model`; empty: none.
        whisper_backend: Which program runs the recogniser: "openai" or "faster-whisper".
        whisper_compute: Precision of the recogniser, see `WhisperConfig.compute`.
        speaker: Speaker encoder (ONNX of WeSpeaker's interface): a file or an embedded model's name; empty: none.

    Raises:
        ValueError: A value is out of its range, or two test sets have the same name; the message names the key.
    """

    every: int = 0
    pairs: tuple[Pairs, ...] = ()
    max_items: int = 16
    vocoder: str = field(default="vocos-mel-24khz-small", metadata={"model": True})
    sampling: Sampling = field(default=Sampling())
    whisper: str = field(default="whisper-tiny", metadata={"model": True})
    whisper_backend: Backend = "openai"
    whisper_compute: Compute = "auto"
    speaker: str = field(default="speaker-small", metadata={"model": True})

    def __post_init__(self) -> None:
        for name in ("every", "max_items"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")
        names = [pairs.name for pairs in self.pairs]
        if len(set(names)) < len(names):
            raise ValueError(f"pairs have the names {', '.join(names)}; they must differ")
        try:
            self.recogniser()
        except ValueError as error:  # the message begins with "backend" or "compute", as WhisperConfig names them
            raise ValueError(f"whisper_{error}") from None

    def recogniser(self) -> WhisperConfig | None:
        """Return which Whisper counts word errors; None if none does."""
        if not self.whisper:
            return None
        return WhisperConfig(model=self.whisper, backend=self.whisper_backend, compute=self.whisper_compute)

    def require(self, metric: Metric) -> None:
        """Refuse settings that never give a metric.

        Raises:
            ValueError: What is missing, with the key that gives it.
        """
        what = f"select is {BY_METRIC}{metric.name}, which"
        if not self.every:
            raise ValueError(f"{what} needs listen.every above 0")
        if metric.name in _WITH_RECOGNISER and not self.whisper:
            raise ValueError(f"{what} needs a recogniser: set listen.whisper")
        if metric.name == "speaker_cosine" and not self.speaker:
            raise ValueError(f"{what} needs a speaker encoder: set listen.speaker")
        if self.pairs and metric.name in _WITH_CLEAN and not any(pairs.clean for pairs in self.pairs):
            raise ValueError(f"{what} compares with clean versions, and none of listen.pairs names a folder `clean`")
        if self.pairs and metric.name == "wer" and not any(pairs.transcripts for pairs in self.pairs):
            raise ValueError(f"{what} compares with texts, and none of listen.pairs names a table `transcripts`")


def metric_of(select: str) -> Metric | None:
    """Return the metric that chooses the weights; None: the loss or the last step does.

    Args:
        select: `TrainConfig.select`.

    Raises:
        ValueError: There is no such metric; the message lists all.
    """
    if not select.startswith(BY_METRIC):
        return None
    name = select.removeprefix(BY_METRIC)
    by_name = {metric.name: metric for metric in METRICS}
    found = by_name.get(LONG_NAMES.get(name, name))
    if found is None:
        long_names = {short: name for name, short in LONG_NAMES.items()}
        known = ", ".join(f"{name} ({long_names[name]})" if name in long_names else name for name in by_name)
        raise ValueError(f"select is {select!r}, and there is no such metric; known are {known}")
    return found
