"""What a flow's network is conditioned on, and the network with its conditions bound: a velocity of state and time."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flowse.flow.path import velocity_of_data
from flowse.model.dit import DiT


@dataclass(frozen=True)
class Conditions:
    """What a network is conditioned on.

    Attributes:
        y: Noisy log-mel, normalised.
        mask: True on real frames; None: all are real.
        text_ids: Token ids, as long as the mel; None: the network has no text encoder.
        drop_condition: True where the noisy mel (and the estimate) is withheld; None: nowhere.
        drop_text: True where the text is withheld; None: nowhere.
        predicted: A predictor's estimate of the clean mel, normalised; None: there is no predictor.
        predicts: What the network estimates, see `flowse.flow.config.FlowConfig`.
        text: The encoded text, see `encoded`; None: every evaluation encodes it.
        guidance: Scale of guidance that a guided network is to imitate, as a share of its largest: of each row, or of
            all, ``[1]``; None: 0.
    """

    y: Float[Tensor, "B T F"]
    mask: Bool[Tensor, "B T"] | None
    text_ids: Int[Tensor, "B T"] | None
    drop_condition: Bool[Tensor, " B"] | None = None
    drop_text: Bool[Tensor, " B"] | None = None
    predicted: Float[Tensor, "B T F"] | None = None
    predicts: str = "velocity"
    text: Float[Tensor, "B T W"] | None = None
    guidance: Float[Tensor, " G"] | None = None

    def encoded(self, network: DiT) -> Conditions:
        """Return the same with the text encoded by the network, once for all evaluations that follow."""
        text = network.encode(self.y, self.mask, self.text_ids, self.drop_text)
        return dataclasses.replace(self, text=text)

    def rows(self, rows: Int[Tensor, " R"]) -> Conditions:
        """Return those of some utterances."""

        def of(value: Tensor | None) -> Tensor | None:
            return None if value is None else value[rows]

        return Conditions(
            self.y[rows],
            of(self.mask),
            of(self.text_ids),
            of(self.drop_condition),
            of(self.drop_text),
            of(self.predicted),
            self.predicts,
            of(self.text),
            self.guidance if self.guidance is None or len(self.guidance) == 1 else self.guidance[rows],
        )

    def withheld(self, null: Bool[Tensor, " B"] | None = None) -> Conditions:
        """Return the same with everything withheld where `null` is true, or everywhere: the null branch."""
        nothing = torch.ones(len(self.y), dtype=torch.bool, device=self.y.device) if null is None else null
        return Conditions(self.y, self.mask, self.text_ids, nothing, nothing, self.predicted, self.predicts)

    def repeated(self, copies: int) -> Conditions:
        """Return `copies` of the batch, one after another."""
        if copies == 1:
            return self
        return self.rows(torch.arange(len(self.y), device=self.y.device).repeat(copies))

    def estimate(
        self, network: DiT, x_t: Float[Tensor, "B T F"], t: Float[Tensor, " U"], r: Float[Tensor, " K"] | None = None
    ) -> Float[Tensor, "B T F"]:
        """Return what the network estimates, in float32: the velocity, the average velocity, or the clean mel.

        A data prediction is a change of the predictor's estimate, or of the noisy mel: an untrained network then
        predicts that, and what it withholds in the null branch it does not give away here.

        Args:
            network: The flow's network.
            x_t: State at time `t`.
            t: Flow time, 0..1.
            r: End of the interval, for a network with jumps.
        """
        rest = (self.mask, self.text_ids, self.drop_condition, self.drop_text, r, self.text, self.guidance)
        if self.predicts == "velocity":
            out: Tensor = network(x_t, t, self.y, *rest)
            return out.float()
        condition, base = self.y, self.y
        if self.predicted is not None:
            condition, base = torch.cat((self.y, self.predicted), dim=-1), self.predicted
        if self.drop_condition is not None:
            base = base.masked_fill(self.drop_condition[:, None, None], 0.0)
        change = network(x_t, t, condition, *rest)
        estimated: Tensor = base + change.float()
        return estimated


@dataclass(frozen=True)
class Bound:
    """A network with its conditions: a velocity of ``(x_t, t)``, or an average velocity of ``(x_t, t, r)``, in float32.

    Attributes:
        network: The flow's network.
        conditions: What it is conditioned on.
    """

    network: DiT
    conditions: Conditions

    def __call__(self, x_t: Tensor, t: Tensor, r: Tensor | None = None) -> Tensor:
        """Return the velocity at time `t`, or the average velocity until time `r`; ``[1]`` is the time of all rows."""
        out = self.conditions.estimate(self.network, x_t, t, r)
        return velocity_of_data(out, x_t, t) if self.conditions.predicts == "data" else out
