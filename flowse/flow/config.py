"""Settings of conditional flow matching: the path's source, the random draws of training, the loss, distillation."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

SOURCES = ("gaussian", "noisy", "predicted")
TIMES = ("uniform", "logit_normal")
PREDICTS = ("velocity", "data")


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """Where the probability path begins; part of the model's spec, as the weights have no meaning without it.

    Attributes:
        source: "gaussian": standard normal noise (as in the paper's code); "noisy": the noisy mel plus noise (the
            paper's eq. 1); "predicted": a regression estimate plus noise (predict, then refine).
        sigma: Standard deviation of the noise around "noisy" and "predicted" sources, in normalised log-mel; no
            effect on "gaussian".
        predictor_depth: Blocks of the predictor for "predicted"; 0: as many as the flow's network.
        predicts: What the network estimates: "velocity", or "data", the clean mel as a change of the predictor's
            estimate (of the noisy mel where there is none), from which the velocity follows; a last step then returns
            that clean mel. With the source "predicted" the network sees the predictor's estimate beside the noisy mel.
        range_db: Of "predicted": the estimate is raised to so many dB below its loudest bin before the flow begins
            there; 0: never. The depth of a silence is inaudible, and no noise of any deviation covers its error.
    """

    source: str = "gaussian"
    sigma: float = 0.5
    predictor_depth: int = 0
    predicts: str = field(default="velocity", metadata={"fingerprint": "unless default"})
    range_db: float = field(default=0.0, metadata={"fingerprint": "unless default"})

    def __post_init__(self) -> None:
        """Refuse impossible settings.

        Raises:
            ValueError: Naming the key, its value and what is allowed.
        """
        if self.source not in SOURCES:
            raise ValueError(f"source={self.source!r} must be one of {', '.join(SOURCES)}")
        if not 0 <= self.sigma < math.inf:
            raise ValueError(f"sigma={self.sigma} must be finite and not negative")
        if not 0 <= self.predictor_depth <= 1000:
            raise ValueError(f"predictor_depth={self.predictor_depth} must be in 0..1000")
        if not 0 <= self.range_db < math.inf:
            raise ValueError(f"range_db={self.range_db} must be finite and not negative")
        if self.predicts not in PREDICTS:
            raise ValueError(f"predicts={self.predicts!r} must be one of {', '.join(PREDICTS)}")


@dataclass(frozen=True, kw_only=True)
class DrawConfig:
    """How flow time and withheld conditions are drawn in training, independently for each utterance.

    Attributes:
        time: "uniform" in 0..1, or "logit_normal" (more weight on the middle).
        time_mean: Mean of the logit, for "logit_normal".
        time_std: Standard deviation of the logit, for "logit_normal".
        drop_condition: Probability that the noisy mel is withheld.
        drop_text: Probability that the text is withheld, independent of `drop_condition`.
        drop_both: Probability that both are withheld, independent of the two above: trains the null branch that
            guidance needs.
    """

    time: str = "uniform"
    time_mean: float = 0.0
    time_std: float = 1.0
    drop_condition: float = 0.0
    drop_text: float = 0.3
    drop_both: float = 0.1

    def __post_init__(self) -> None:
        """Refuse impossible settings.

        Raises:
            ValueError: Naming the key, its value and what is allowed.
        """
        if self.time not in TIMES:
            raise ValueError(f"time={self.time!r} must be one of {', '.join(TIMES)}")
        if self.time_std <= 0:
            raise ValueError(f"time_std={self.time_std} must be above 0")
        for name in ("drop_condition", "drop_text", "drop_both"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must be a probability, 0..1")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the loss terms.

    Attributes:
        mel_l1: Weight of the L1 distance between the clean mel and the flow's one-step estimate (paper, eq. 7); the
            velocity's term has weight 1.
        range_db: Of a regression: clamp both mels this many dB below the utterance's loudest clean bin before their L1
            distance is taken; 0: no clamp. The depth of a silence is inaudible, and the noisy mel does not tell it.
        compressed: Of a regression: weight of the squared error of mel magnitudes to the power 0.3, relative to the
            loudest clean bin; the L1 distance of the log-mels has weight 1. Loud bins weigh more in this term.
    """

    mel_l1: float = 0.1
    range_db: float = 0.0
    compressed: float = 0.0

    def __post_init__(self) -> None:
        """Refuse negative values.

        Raises:
            ValueError: Naming the key and its value.
        """
        for name in ("mel_l1", "range_db", "compressed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")


@dataclass(frozen=True, kw_only=True)
class DistilConfig:
    """How the average velocity is distilled from a trained flow; see `flowse.flow.average_velocity`.

    Attributes:
        flow_share: Share of the utterances whose target is the velocity of the path itself.
        teacher_share: Share whose target is two Heun steps of the frozen teacher; the rest compose the model's own
            jumps.
        guidance: Scale of classifier-free guidance inside the teacher's targets; 0: none. Sampling then needs none.
        guidance_max: The network is told the scale, which is drawn from 0 to this for each utterance: sampling can then
            choose it (`sampling.guidance`), at no cost. 0: `guidance` holds for all. Either asks for a teacher that
            was trained with `train.draw.drop_both`.
        early: Fraction of the training in which intervals are at most `early_span` long, and the teacher stands in for
            the model's own jumps.
        early_span: Longest interval in that time; afterwards it is 1.
        teacher_span: Longest interval of a teacher's target at any time: over a long one, two Heun steps are coarse.
        teacher_steps: Heun steps in each of the two parts of a teacher's interval, two evaluations each.
        shortest: Shortest interval: displacements are divided by its length.
        power: ``p`` of the weight ``(e + c)^-p`` of an utterance whose mean squared error is ``e``; 0: no weight.
        offset: ``c`` of that weight.
    """

    flow_share: float = 0.5
    teacher_share: float = 0.25
    guidance: float = 0.0
    guidance_max: float = field(default=0.0, metadata={"fingerprint": "unless default"})
    early: float = 1 / 3
    early_span: float = 0.1
    teacher_span: float = 1.0
    teacher_steps: int = field(default=1, metadata={"fingerprint": "unless default"})
    shortest: float = 1 / 64
    power: float = 0.5
    offset: float = 1e-3

    def __post_init__(self) -> None:
        """Refuse impossible settings.

        Raises:
            ValueError: Naming the key, its value and what is allowed.
        """
        for name in ("flow_share", "teacher_share", "early", "power"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must be in 0..1")
        if self.flow_share + self.teacher_share > 1:
            raise ValueError(f"flow_share={self.flow_share} and teacher_share={self.teacher_share} exceed 1 together")
        for name in ("guidance", "guidance_max"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)} must be finite, 0 or more")
        if self.guidance and self.guidance_max:
            raise ValueError(f"guidance={self.guidance} is of all, guidance_max={self.guidance_max} of none: leave one")
        if not 1 <= self.teacher_steps <= 1000:
            raise ValueError(f"teacher_steps={self.teacher_steps} must be in 1..1000")
        if not 0 < self.shortest < 1:
            raise ValueError(f"shortest={self.shortest} must be above 0 and below 1")
        for name in ("early_span", "teacher_span"):
            if not self.shortest <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must be in shortest={self.shortest}..1")
        if not 0 < self.offset < math.inf:
            raise ValueError(f"offset={self.offset} must be above 0 and finite")
