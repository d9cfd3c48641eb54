"""Training of the vocoder: reconstruction first, adversarial from a given step on, resumable from any checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import vocos
from omegaconf import OmegaConf
from torch import Tensor, nn

from flowse.audio.mel import LogMel
from flowse.audio.mel_config import MelConfig
from flowse.files import atomic_path
from flowse.seeding import derive_seed
from pipelines.pretrain.vocos.crops import Crops
from pipelines.pretrain.vocos.discriminators import Discriminators
from pipelines.pretrain.vocos.losses import (
    SpectralLoss,
    SpectralLossConfig,
    discriminator_loss,
    feature_loss,
    generator_loss,
)


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Size of the network; the published ``vocos-mel-24khz`` has width 512 and 8 layers.

    Attributes:
        dim: Width.
        layers: Number of ConvNeXt blocks.
        expansion: Inner width of a block, as a multiple of ``dim``.
    """

    dim: int = 320
    layers: int = 8
    expansion: int = 3


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How the vocoder is trained.

    Attributes:
        network: Size of the network.
        mel: Definition of the input mel.
        loss: Settings of the reconstruction loss.
        steps: Length of the schedule, in steps.
        adversarial_from: Share of the steps after which the discriminators join; 1: never. A step with discriminators
            takes about three times as long.
        adversarial_samples: Length of the stretch of each crop that the discriminators judge, in samples.
        learning_rate: Peak of the generator's learning rate.
        discriminator_learning_rate: Peak of the discriminators' learning rate.
        warmup: Length of the linear warm-up, in steps.
        ema_decay: Decay of the averaged weights, which are exported.
        reconstruction_weight: Weight of the reconstruction loss beside the adversarial loss.
        feature_weight: Weight of the feature-matching loss.
        mel_noise: Largest standard deviation of Gaussian noise on a quarter of the input mels, in nepers: predicted
            mels are less exact than measured ones.
        seed: Root seed of all draws.
    """

    network: NetworkConfig = field(default_factory=NetworkConfig)
    mel: MelConfig = field(default_factory=MelConfig)
    loss: SpectralLossConfig = field(default_factory=SpectralLossConfig)
    steps: int = 9_000
    adversarial_from: float = 1.0
    adversarial_samples: int = 6144
    learning_rate: float = 1e-3
    discriminator_learning_rate: float = 4e-4
    warmup: int = 300
    ema_decay: float = 0.9985
    reconstruction_weight: float = 5.0
    feature_weight: float = 2.0
    mel_noise: float = 0.1
    seed: int = 0


@dataclass(frozen=True)
class Progress:
    """A line of the log.

    Attributes:
        step: Number of steps taken.
        losses: Mean of each loss since the last line.
        seconds: Wall-clock time since the last line, in seconds.
    """

    step: int
    losses: dict[str, float]
    seconds: float

    def __str__(self) -> str:
        """Return step, losses and time in one line."""
        losses = "  ".join(f"{name} {value:.4f}" for name, value in self.losses.items())
        return f"step {self.step}  {losses}  ({self.seconds:.0f} s)"


def hparams(network: NetworkConfig, mel: MelConfig) -> dict[str, Any]:
    """Return the network's configuration in the layout of Vocos' ``config.yaml``."""
    return {
        "feature_extractor": {
            "class_path": "vocos.feature_extractors.MelSpectrogramFeatures",
            "init_args": {
                "sample_rate": mel.sample_rate,
                "n_fft": mel.n_fft,
                "hop_length": mel.hop_length,
                "n_mels": mel.n_mels,
                "padding": "center",
            },
        },
        "backbone": {
            "class_path": "vocos.models.VocosBackbone",
            "init_args": {
                "input_channels": mel.n_mels,
                "dim": network.dim,
                "intermediate_dim": network.expansion * network.dim,
                "num_layers": network.layers,
            },
        },
        "head": {
            "class_path": "vocos.heads.ISTFTHead",
            "init_args": {
                "dim": network.dim,
                "n_fft": mel.n_fft,
                "hop_length": mel.hop_length,
                "padding": "center",
            },
        },
    }


def build(network: NetworkConfig, mel: MelConfig) -> vocos.Vocos:
    """Build the network with fresh weights."""
    model = vocos.Vocos(
        feature_extractor=vocos.feature_extractors.MelSpectrogramFeatures(
            **hparams(network, mel)["feature_extractor"]["init_args"]
        ),
        backbone=vocos.models.VocosBackbone(**hparams(network, mel)["backbone"]["init_args"]),
        head=vocos.heads.ISTFTHead(**hparams(network, mel)["head"]["init_args"]),
    )
    with torch.no_grad():
        # Speech has small magnitudes: a start with exp(0) = 1 in every bin would waste the first hundred steps.
        model.head.out.bias[: mel.n_fft // 2 + 1] = -3.0
    return model


class VocoderTraining:
    """The state of a training run: networks, averaged weights, optimisers and the number of steps taken."""

    def __init__(self, config: TrainingConfig, crops: Crops) -> None:
        """Start with fresh weights; `load` resumes from a checkpoint."""
        self.config, self.crops = config, crops
        torch.manual_seed(derive_seed(config.seed, "pretrain/vocos/weights"))
        self.model = build(config.network, config.mel)
        self.ema = build(config.network, config.mel).requires_grad_(False)
        self.ema.load_state_dict(self.model.state_dict())
        self.discriminators = Discriminators()
        self.log_mel = LogMel(config.mel)
        self.loss = SpectralLoss(config.loss)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), config.learning_rate, betas=(0.8, 0.95), weight_decay=0.01
        )
        self.discriminator_optimizer = torch.optim.AdamW(
            self.discriminators.parameters(), config.discriminator_learning_rate, betas=(0.8, 0.95)
        )
        self.step = 0

    def learning_rate_factor(self) -> float:
        """Return the factor of the learning rate at the current step: linear warm-up, then a cosine down to 2 %."""
        c = self.config
        if self.step < c.warmup:
            return (self.step + 1) / c.warmup
        done = min(1.0, (self.step - c.warmup) / max(1, c.steps - c.warmup))
        return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))

    def run(self, log_every: int = 50) -> Iterator[Progress]:
        """Train to the end of the schedule; yield the progress every `log_every` steps."""
        sums: dict[str, float] = {}
        since = time.monotonic()
        count = 0
        while self.step < self.config.steps:
            for name, value in self.train_step().items():
                sums[name] = sums.get(name, 0.0) + value
            count += 1
            if self.step % log_every == 0 or self.step == self.config.steps:
                losses = {name: value / count for name, value in sums.items()}
                yield Progress(self.step, losses, time.monotonic() - since)
                sums, count, since = {}, 0, time.monotonic()

    def train_step(self) -> dict[str, float]:
        """Take an optimiser step and return its losses.

        Raises:
            FloatingPointError: The loss is not finite.
        """
        c = self.config
        real = torch.from_numpy(self.crops.batch(self.step))
        real = real[:, : (real.shape[1] // c.mel.hop_length) * c.mel.hop_length]
        generated = self.model.head(self._backbone(self._input(real)))
        terms = self.loss(generated, real)
        total = self.loss.total(terms)
        if self.step >= c.adversarial_from * c.steps:
            adversarial = self._adversarial(generated, real)
            terms |= adversarial
            total = (
                c.reconstruction_weight * total + adversarial["generator"] + c.feature_weight * adversarial["features"]
            )
        if not torch.isfinite(total):
            raise FloatingPointError(f"loss is {total.item()} at step {self.step}; lower the learning rate")
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(total)
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = c.learning_rate * self.learning_rate_factor()
        self.optimizer.step()
        self.step += 1
        self._average()
        return {name: float(value.detach()) for name, value in terms.items()}

    def _backbone(self, log_mel: Tensor) -> Tensor:
        """Run the backbone with its blocks in bfloat16, which is twice as fast on a CPU that supports it.

        The first layer stays in 32 bits: the ripple of a log-mel from frame to frame, its only information about phase,
        is smaller than the resolution of bfloat16 around −8.
        """
        backbone = self.model.backbone
        x = backbone.norm(backbone.embed(log_mel.transpose(1, 2)).transpose(1, 2)).transpose(1, 2)
        with torch.autocast("cpu", torch.bfloat16):
            for block in backbone.convnext:
                x = block(x)
        hidden: Tensor = backbone.final_layer_norm(x.float().transpose(1, 2))
        return hidden

    def _input(self, real: Tensor) -> Tensor:
        """Return the log-mels of the crops, with noise on a quarter of them."""
        mel: Tensor = self.log_mel(real)
        rng = torch.Generator().manual_seed(derive_seed(self.config.seed, "pretrain/vocos/mel-noise", self.step))
        scale = torch.rand(len(mel), 1, 1, generator=rng) * self.config.mel_noise
        scale = scale * (torch.rand(len(mel), 1, 1, generator=rng) < 0.25)
        return (mel + scale * torch.randn(mel.shape, generator=rng)).clamp_min(self.config.mel.log_floor)

    def _adversarial(self, generated: Tensor, real: Tensor) -> dict[str, Tensor]:
        """Train the discriminators on a stretch of each crop, then compute the generator's adversarial losses."""
        c = self.config
        rng = torch.Generator().manual_seed(derive_seed(c.seed, "pretrain/vocos/piece", self.step))
        spare = real.shape[1] - c.adversarial_samples
        start = int(torch.randint(max(1, spare + 1), (), generator=rng))
        piece = slice(start, start + c.adversarial_samples)
        generated, real = generated[:, piece], real[:, piece]
        with torch.autocast("cpu", torch.bfloat16):
            loss = discriminator_loss(self.discriminators(real)[0], self.discriminators(generated.detach())[0])
        self.discriminator_optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.discriminators.parameters(), 1.0)
        begin = c.adversarial_from * c.steps
        for group in self.discriminator_optimizer.param_groups:
            # The discriminators have their own warm-up: at the full rate from the first step they outrun the generator.
            warm = min(1.0, (self.step - begin + 1) / c.warmup)
            group["lr"] = c.discriminator_learning_rate * warm
        self.discriminator_optimizer.step()

        self.discriminators.requires_grad_(False)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                _, real_features = self.discriminators(real)
            scores, features = self.discriminators(generated)
        self.discriminators.requires_grad_(True)
        return {
            "discriminator": loss.detach(),
            "generator": generator_loss(scores),
            "features": feature_loss(real_features, features),
        }

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        average, current = self.ema.state_dict(), self.model.state_dict()
        for name, value in average.items():
            if value.dtype.is_floating_point:
                value.lerp_(current[name], 1 - decay)

    def save(self, path: Path) -> None:
        """Write a checkpoint atomically, with everything that `load` needs."""
        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "discriminators": self.discriminators.state_dict(),
            "discriminator_optimizer": self.discriminator_optimizer.state_dict(),
        }
        replace_with(path, state)

    def load(self, path: Path) -> None:
        """Resume from a checkpoint of the same sizes."""
        state = torch.load(path, map_location="cpu", weights_only=True)
        for name in ("model", "ema", "optimizer", "discriminators", "discriminator_optimizer"):
            getattr(self, name).load_state_dict(state[name])
        self.step = state["step"]


def replace_with(path: Path, state: object) -> None:
    """Write ``state`` with ``torch.save`` atomically."""
    with atomic_path(path) as temporary:
        torch.save(state, temporary)


def export(model: vocos.Vocos, config: TrainingConfig, folder: Path) -> None:
    """Write ``config.yaml`` and ``pytorch_model.bin`` (16-bit floats) in the layout of a published Vocos."""
    with atomic_path(folder / "config.yaml") as temporary:
        OmegaConf.save(OmegaConf.create(hparams(config.network, config.mel)), temporary)
    # Buffers (window, filters) stay in 32 bits: they are small, and rounding would change the mel.
    parameters = dict(model.named_parameters())
    state = {name: value.half() if name in parameters else value for name, value in model.state_dict().items()}
    replace_with(folder / "pytorch_model.bin", state)
