"""The system that is trained and that enhances: network, predictor, normalisation and flow in one module."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from flowse.audio.mel_config import DB_PER_NEPER
from flowse.flow.average_velocity import sample_by_jumps
from flowse.flow.config import DistilConfig, FlowConfig, LossConfig
from flowse.flow.loss import data_loss, flow_loss, regression_loss
from flowse.flow.path import Draws, noise_of, point, source_point
from flowse.flow.sampling import Sampling
from flowse.flow.solver import sample
from flowse.model.blocks import Attention
from flowse.model.conditions import Bound, Conditions
from flowse.model.distillation import Averaged, Distillation
from flowse.model.dit import DiT
from flowse.model.dual_path import DualPath
from flowse.model.spec import OBJECTIVES, ModelSpec
from flowse.model.text_encoder import fit_text


def frame_mask(lengths: Int[Tensor, " B"], frames: int) -> Bool[Tensor, "B T"]:
    """Return a mask that is true for the real frames of a padded batch."""
    return torch.arange(frames, device=lengths.device) < lengths.unsqueeze(-1)


class System(nn.Module):
    """Estimates clean log-mel from noisy log-mel and text.

    Callers pass log-mels as `LogMel` computes them; the networks see them normalised to about zero mean and unit
    deviation. Padding has the normalised log floor and changes no result: every layer and every loss is masked.

    Example:
        >>> system = build(ModelSpec(objective="regression", predictor="dual_path"))
        >>> enhanced_log_mel, evaluations = system.enhance(noisy_log_mel)
    """

    def __init__(
        self,
        network: DiT | DualPath,
        predictor: DiT | DualPath | None,
        *,
        flow: FlowConfig,
        objective: str,
        mel_mean: float,
        mel_std: float,
        log_floor: float,
        n_mels: int,
        guidance_max: float = 0.0,
    ) -> None:
        """Assemble a system; `build` assembles one from a spec.

        Args:
            network: Estimates the velocity ("flow", a DiT) or the difference from noisy to clean mel ("regression").
            predictor: Estimates the difference from noisy to clean mel for ``source="predicted"``; None otherwise.
            flow: Source of the flow.
            objective: "flow" or "regression".
            mel_mean: Mean of the clean log-mel in the training data.
            mel_std: Standard deviation of the clean log-mel in the training data.
            log_floor: Log-mel of silence and of padding.
            n_mels: Number of mel bins ``F``.
            guidance_max: Largest scale of guidance that the network takes; 0: it takes none.

        Raises:
            ValueError: The objective is unknown, or there is a predictor without ``source="predicted"``, or none with
                it.
        """
        super().__init__()
        if objective not in OBJECTIVES:
            raise ValueError(f"objective={objective!r} must be one of {', '.join(OBJECTIVES)}")
        if (predictor is not None) != (objective == "flow" and flow.source == "predicted"):
            raise ValueError(f"a predictor belongs to source='predicted' alone, not to {flow.source!r}, {objective!r}")
        self.network = network
        self.predictor = predictor
        self.flow = flow
        self.objective = objective
        self.mel_mean = mel_mean
        self.mel_std = mel_std
        self.log_floor = log_floor
        self.n_mels = n_mels
        self.guidance_max = guidance_max
        self.bf16 = False
        """Whether `enhance` computes in bfloat16; see `flowse.model.precision`."""
        self.distillation: Distillation | None = None
        self.averaged: Averaged = contextlib.nullcontext
        """Puts averaged weights in place while its block runs; whoever trains the system and averages them sets it."""

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        device: torch.device = self.network.input.weight.device
        return device

    def normalise(self, log_mel: Float[Tensor, "B T F"]) -> Float[Tensor, "B T F"]:
        """Normalise log-mel to about zero mean and unit deviation."""
        return (log_mel - self.mel_mean) / self.mel_std

    def denormalise(self, x: Float[Tensor, "B T F"]) -> Float[Tensor, "B T F"]:
        """Invert `normalise` and raise values to the log floor, the smallest value that a vocoder was trained on."""
        return (x * self.mel_std + self.mel_mean).clamp_min(self.log_floor)

    @property
    def networks(self) -> list[DiT | DualPath]:
        """The network, and the predictor if there is one."""
        return [self.network] if self.predictor is None else [self.network, self.predictor]

    @property
    def jumps(self) -> bool:
        """Whether one evaluation takes a step of any length."""
        return isinstance(self.network, DiT) and self.network.span is not None

    @property
    def terms(self) -> list[str]:
        """Names of the losses that `forward` returns, sorted."""
        if self.objective == "regression":
            return ["loss"]
        if self.distillation is not None:
            return ["error", "loss"]
        return ["loss", "mel_l1", *([] if self.predictor is None else ["predictor"]), "velocity"]

    def distil_from(self, teacher: System, config: DistilConfig) -> None:
        """Learn the average velocity of a trained flow from now on; its predictor, if there is one, is frozen.

        Args:
            teacher: The flow, with the same source and conditions; it is not trained.
            config: How to distil.

        Raises:
            ValueError: One of the two is no flow, or this system's network takes no intervals.
        """
        if not self.jumps or teacher.objective != "flow" or not isinstance(teacher.network, DiT):
            raise ValueError("distillation needs a flow as teacher, and a network with jumps as student")
        if self.predictor is not None:
            self.predictor.requires_grad_(False)
        self.distillation = Distillation(teacher.network.eval().requires_grad_(False), config)

    def compile_blocks(self) -> None:
        """Compile the networks' blocks for inputs of any length: faster on a GPU, after a minute at the first call."""
        for network in self.networks:
            for block in network.blocks:
                block.compile(dynamic=True)

    def activation_checkpointing(self, on: bool) -> None:
        """Choose whether the backward pass computes each block again: far less memory, about a third more time."""
        for network in self.networks:
            network.activation_checkpointing = on

    def flash_attention(self, on: bool) -> None:
        """Choose whether padded batches are computed by flash kernels; see `flowse.model.blocks.flash_agrees`."""
        for module in self.modules():
            if isinstance(module, Attention):
                module.flash = on

    def forward(
        self,
        noisy: Float[Tensor, "B T F"],
        clean: Float[Tensor, "B T F"],
        lengths: Int[Tensor, " B"] | None,
        text_ids: Int[Tensor, "B L"] | None,
        draws: Draws,
        loss: LossConfig,
        progress: float = 1.0,
        predicted: Float[Tensor, "B T F"] | None = None,
    ) -> dict[str, Float[Tensor, " B"]]:
        """Return the training losses, summed over the real frames of each utterance; "loss" is to be minimised.

        Args:
            noisy: Noisy log-mel as `LogMel` computes it.
            clean: Clean log-mel as `LogMel` computes it.
            lengths: Number of real frames of each utterance; None: all frames are real, and attention needs no mask.
            text_ids: Token ids, 0 is the filler; None: no text.
            draws: Drawn times, noise and withheld conditions.
            loss: Weights of the terms.
            progress: Fraction of the training that is done, 0..1; the schedule of a distillation follows it.
            predicted: What `predict` returned for these mels, if the predictor is not trained; None: the predictor
                runs here, and learns.
        """
        mask = None if lengths is None else frame_mask(lengths, noisy.shape[1])
        text_ids = self._fit(text_ids, noisy)
        y, x_1 = self.normalise(noisy), self.normalise(clean)
        if self.objective == "regression":
            estimate = self._regress(self.network, y, mask, text_ids, draws.drop_text)
            return regression_loss(estimate, x_1, mask, loss, self.mel_std)
        terms: dict[str, Tensor] = {}
        if self.predictor is not None and predicted is None:
            estimate = self._regress(self.predictor, y, mask, text_ids, draws.drop_text)
            if self.distillation is None:
                terms["predictor"] = regression_loss(estimate, x_1, mask, loss, self.mel_std)["loss"]
            # The flow's loss must not change the predictor: the flow sees the estimate without its gradient, and the
            # predictor learns from its own loss alone.
            predicted = self._raised(estimate.detach(), mask)
        x_0 = source_point(self.flow, draws.noise, y, predicted)
        conditions = Conditions(y, mask, text_ids, draws.drop_condition, draws.drop_text, predicted, self.flow.predicts)
        if self.distillation is not None and isinstance(self.network, DiT):
            return self.distillation.losses(self.network, self.averaged, x_0, x_1, conditions, draws, progress)
        path = point(x_0, x_1, draws.t)
        assert isinstance(self.network, DiT)
        if self.flow.predicts == "data":
            terms |= data_loss(conditions.estimate(self.network, path.x_t, path.t), path, mask, loss)
        else:
            terms |= flow_loss(Bound(self.network, conditions), path, mask, loss)
        if "predictor" in terms:
            terms["loss"] = terms["loss"] + terms["predictor"]
        return terms

    @torch.no_grad()
    def predict(
        self, noisy: Float[Tensor, "B T F"], lengths: Int[Tensor, " B"] | None = None, *, raised: bool = True
    ) -> Float[Tensor, "B T F"]:
        """Return the single-pass estimate of the clean mel, normalised, without text; of a flow, as the flow sees it.

        Args:
            noisy: Noisy log-mel as `LogMel` computes it.
            lengths: Number of real frames of each utterance; None: all frames are real.
            raised: As the flow sees it, see `flowse.flow.config.FlowConfig.range_db`; False: as it is.

        Raises:
            ValueError: There is no predictor.
        """
        predictor = self.network if self.objective == "regression" else self.predictor
        if predictor is None:
            raise ValueError("only a flow whose source is 'predicted' has a predictor")
        mask = None if lengths is None else frame_mask(lengths, noisy.shape[1])
        estimate = self._regress(predictor, self.normalise(noisy), mask, self._fit(None, noisy), None)
        return self._raised(estimate, mask) if raised else estimate

    @torch.no_grad()
    def enhance(
        self,
        noisy_log_mel: Float[Tensor, "B T F"],
        lengths: Int[Tensor, " B"] | None = None,
        text_ids: Int[Tensor, "B L"] | None = None,
        sampling: Sampling | None = None,
        seed: int | Sequence[int] = 0,
    ) -> tuple[Float[Tensor, "B T F"], int]:
        """Enhance a batch; the result of an utterance is the same alone, padded, and in any batch.

        The solver "dopri5" is the exception: it chooses its steps for the batch as a whole.

        Args:
            noisy_log_mel: Noisy log-mel as `LogMel` computes it.
            lengths: Number of real frames of each utterance; None: all frames are real.
            text_ids: Token ids, 0 is the filler; None: no text.
            sampling: Solver settings; 0 steps return the predictor's estimate (``source="predicted"`` only). None: the
                defaults of `Sampling`.
            seed: Seed of the noise: one for each utterance, or the same for all utterances.

        Returns:
            Enhanced log-mel, which is the log floor on padding, and the number of network evaluations: the predictor
            counts as one, a guided step as two. A regression system takes one evaluation, whatever `sampling.steps` is,
            and one with `jumps` one a step, whatever `method` is. Its guidance is in what it learned: it is told the
            scale if it takes one (up to its `guidance_max`), and else `guidance` has no effect.
        """
        was_training = self.training
        self.eval()
        batch, frames = noisy_log_mel.shape[:2]
        counts = [frames] * batch if lengths is None else [int(length) for length in lengths]
        mask = None if min(counts) == frames else frame_mask(torch.tensor(counts, device=self.device), frames)
        y = self.normalise(noisy_log_mel.to(self.device))
        ids = self._fit(None if text_ids is None else text_ids.to(self.device), y)
        seeds = [seed] * batch if isinstance(seed, int) else list(seed)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            x_1, evaluations = self._generate(y, mask, ids, seeds, counts, sampling or Sampling())
        self.train(was_training)
        log_mel = self.denormalise(x_1.float())
        if mask is not None:
            log_mel = log_mel.masked_fill(~mask.unsqueeze(-1), self.log_floor)
        return log_mel, evaluations

    def _generate(
        self,
        y: Tensor,
        mask: Tensor | None,
        ids: Tensor | None,
        seeds: list[int],
        counts: list[int],
        sampling: Sampling,
    ) -> tuple[Tensor, int]:
        if self.objective == "regression":
            return self._regress(self.network, y, mask, ids, None), 1
        estimate = None if self.predictor is None else self._regress(self.predictor, y, mask, ids, None)
        before = int(estimate is not None)
        if sampling.steps == 0 and estimate is not None:
            return estimate, before
        predicted = None if estimate is None else self._raised(estimate, mask)
        noise = noise_of(seeds, counts, self.n_mels).to(y)
        # The batch may be padded beyond its longest utterance: the noise gets the caller's length.
        noise = nn.functional.pad(noise, (0, 0, 0, y.shape[1] - noise.shape[1]))
        x_0 = source_point(self.flow, noise, y, predicted)

        network = self.network
        assert isinstance(network, DiT)
        conditions = Conditions(y, mask, ids, predicted=predicted, predicts=self.flow.predicts)
        # The text is encoded once, and time, the same for all rows, is embedded for one of them.
        if self.jumps:
            if self.guidance_max:
                share = min(1.0, sampling.guidance / self.guidance_max)
                conditions = dataclasses.replace(conditions, guidance=y.new_full((1,), share))
            bound = Bound(network, conditions.encoded(network))
            solution = sample_by_jumps(lambda x, t, r: bound(x, t[:1], r[:1]), x_0, sampling.steps, sampling.grid)
        else:
            encoded: dict[int, Bound] = {}

            def velocity(x_t: Tensor, t: Tensor, null: Tensor | None, packed: int) -> Tensor:
                if packed not in encoded:
                    copies = conditions.repeated(packed)
                    copies = copies if null is None else copies.withheld(null)
                    encoded[packed] = Bound(network, copies.encoded(network))
                return encoded[packed](x_t, t[:1])

            solution = sample(velocity, x_0, sampling)
        x_1 = solution.x_1
        if estimate is not None and sampling.guard < 1:
            x_1 = estimate + sampling.guard * (x_1 - estimate)
        return x_1, before + solution.evaluations

    def _raised(self, estimate: Tensor, mask: Tensor | None) -> Tensor:
        """Raise an estimate to so far below its loudest bin as the flow's config says."""
        if not self.flow.range_db:
            return estimate
        real = estimate if mask is None else estimate.masked_fill(~mask.unsqueeze(-1), -math.inf)
        floor = real.amax(dim=(1, 2), keepdim=True) - self.flow.range_db / DB_PER_NEPER / self.mel_std
        return torch.maximum(estimate, floor)

    def _fit(self, text_ids: Tensor | None, mel: Tensor) -> Tensor | None:
        """Pad or cut text to the mel's length, so that a compiled network sees a single length."""
        if self.network.text is None:
            return None
        if text_ids is None:
            return torch.zeros(mel.shape[:2], dtype=torch.long, device=self.device)
        return fit_text(text_ids, mel.shape[1])

    def _regress(
        self, network: DiT | DualPath, y: Tensor, mask: Tensor | None, text_ids: Tensor | None, drop_text: Tensor | None
    ) -> Tensor:
        if isinstance(network, DualPath):
            log_gain: Tensor = network(y, mask)
            return y + log_gain / self.mel_std
        change: Tensor = network(y, y.new_zeros(y.shape[0]), y, mask, text_ids, None, drop_text)
        return y + change.float()


def build(spec: ModelSpec) -> System:
    """Build the system that a spec describes, with fresh weights from torch's global generator."""
    size, mels = len(spec.vocabulary), spec.mel.n_mels

    def single_pass(depth: int) -> DiT | DualPath:
        if spec.predictor == "dual_path":
            return DualPath(spec.dual_path, mels)
        return DiT(dataclasses.replace(spec.model, depth=depth), mels, size)

    predictor, network, data = None, None, spec.flow.predicts == "data"
    if spec.objective == "regression":
        network = single_pass(spec.model.depth)
    elif spec.flow.source == "predicted":
        predictor = single_pass(spec.flow.predictor_depth or spec.model.depth)
    return System(
        network
        or DiT(spec.model, mels, size, spec.jumps, 1 + int(predictor is not None and data), spec.guidance_max > 0),
        predictor,
        flow=spec.flow,
        objective=spec.objective,
        mel_mean=spec.mel_mean,
        mel_std=spec.mel_std,
        log_floor=spec.mel.log_floor,
        n_mels=mels,
        guidance_max=spec.guidance_max,
    )
