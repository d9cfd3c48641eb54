"""Vocoders turn log-mels into waveforms; each is bound to the mel definition that it was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
import yaml
from jaxtyping import Float
from torch import Tensor, nn

from flowse.audio.griffin_lim import approach_mel
from flowse.audio.mel import LogMel
from flowse.audio.mel_config import MelConfig
from flowse.audio.vocos import VocosConfig, VocosFeatures, VocosNetwork

CONFIG_FILE = "config.yaml"
WEIGHTS_FILE = "pytorch_model.bin"


@runtime_checkable
class Vocoder(Protocol):
    """The interface of every vocoder: it turns log-mel frames into samples."""

    @property
    def mel(self) -> MelConfig:
        """Definition of the mel that `decode` takes."""

    def decode(self, log_mel: Float[Tensor, "B T F"]) -> Float[Tensor, "B N"]:
        """Synthesise ``N = (T - 1) * mel.hop_length`` samples, full scale ±1, from ``T`` frames."""


class VocosVocoder(nn.Module):
    """Vocos (Siuzdak 2023): it predicts one spectral frame for each mel frame, then inverts the STFT.

    Example:
        >>> vocoder = load_vocoder(flowse.pretrained.resolve("vocos-mel-24khz-small"))
        >>> vocoder.decode(LogMel(vocoder.mel)(torch.zeros(1, 24_000))).shape
        torch.Size([1, 23808])
    """

    def __init__(self, network: VocosNetwork, mel: MelConfig, refine_steps: int = 0) -> None:
        """Wrap a built network.

        Args:
            network: The network; this project computes its mel.
            mel: The mel definition that the network was trained on.
            refine_steps: Steps of `approach_mel` after the network. They make the output follow the mel exactly, which
                improves mels that were measured and harms mels that a model predicted: there the network's prior for
                speech is worth more (scores in the embedded model's card).
        """
        super().__init__()
        self.backbone: nn.Module = network.backbone
        self.head: nn.Module = network.head
        self.log_mel = LogMel(mel)
        self.refine_steps = refine_steps
        self.eval().requires_grad_(False)

    @property
    def mel(self) -> MelConfig:
        """Definition of the mel that `decode` takes."""
        return self.log_mel.config

    @torch.inference_mode()
    def decode(self, log_mel: Float[Tensor, "B T F"]) -> Float[Tensor, "B N"]:
        """Synthesise ``N = (T - 1) * hop_length`` samples.

        Args:
            log_mel: Frames as `LogMel` computes them, not normalised. Values below the floor are raised to it.

        Returns:
            Samples at ``mel.sample_rate``; nominally within ±1, not clipped.

        Raises:
            ValueError: The number of bins is not the vocoder's, or there are fewer than two frames.
        """
        if log_mel.shape[-1] != self.mel.n_mels:
            raise ValueError(f"this vocoder takes {self.mel.n_mels} mel bins, got {log_mel.shape[-1]}")
        if log_mel.shape[1] < 2:
            raise ValueError(f"a vocoder needs two frames or more, got {log_mel.shape[1]}")
        log_mel = log_mel.clamp_min(self.mel.log_floor)
        waveform: Tensor = self.head(self.backbone(log_mel.transpose(1, 2)))
        if waveform.shape[-1] <= self.mel.n_fft // 2:
            # The waveform is too short for another STFT.
            return waveform
        return approach_mel(waveform, log_mel, self.log_mel, self.refine_steps)


def require_same_mel(expected: MelConfig, vocoder: Vocoder) -> None:
    """Refuse a vocoder whose mel definition is not the expected one.

    Raises:
        ValueError: Some values differ; the message names each with both values.
    """
    differences = [
        f"{name}: expected {wanted}, the vocoder has {getattr(vocoder.mel, name)}"
        for name, wanted in vars(expected).items()
        if wanted != getattr(vocoder.mel, name)
    ]
    if differences:
        raise ValueError("the vocoder's mel is not the model's: " + "; ".join(differences))


def load_vocoder(
    path: Path,
    device: torch.device | str = "cpu",
    *,
    mel: MelConfig | None = None,
    refine_steps: int = 0,
) -> VocosVocoder:
    """Load a Vocos folder in the layout of ``charactr/vocos-mel-24khz``.

    Args:
        path: Folder with ``config.yaml`` and ``pytorch_model.bin``; see `flowse.pretrained.resolve`.
        device: Device of the network.
        mel: Definition of the mels that the vocoder will decode, if known; it must be the vocoder's own.
        refine_steps: Steps of Griffin-Lim after the network, for mels that were measured; see `VocosVocoder`.

    Raises:
        FileNotFoundError: One of the two files is missing.
        ValueError: `mel` is not the vocoder's definition, the folder holds another kind of Vocos (EnCodec features,
            uncentred frames), its configuration names classes of other packages, or the weights do not fit it.
    """
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (path / name).is_file():
            raise FileNotFoundError(f"{path} is no Vocos folder: it has no {name}")
    try:
        config = VocosConfig.of(yaml.safe_load((path / CONFIG_FILE).read_text(encoding="utf-8")))
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {CONFIG_FILE} {' '.join(str(error).split())}") from error
    network = VocosNetwork(config)
    own = _mel_of(config.features)
    state = torch.load(path / WEIGHTS_FILE, map_location="cpu", weights_only=True)
    # The features hold no weights: their filters and windows follow from the configuration.
    state = {name: weights for name, weights in state.items() if not name.startswith("feature_extractor.")}
    try:
        # This also converts weights that were stored in 16 bits to 32.
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path / WEIGHTS_FILE} does not fit {CONFIG_FILE} beside it: {error}") from error
    vocoder = VocosVocoder(network, own, refine_steps).to(device)
    if mel is not None:
        require_same_mel(mel, vocoder)
    return vocoder


def _mel_of(features: VocosFeatures) -> MelConfig:
    """Return the definition of the mel that `MelSpectrogramFeatures` computes with these arguments."""
    return MelConfig(
        sample_rate=features.sample_rate,
        n_fft=features.n_fft,
        win_length=features.n_fft,
        hop_length=features.hop_length,
        n_mels=features.n_mels,
        f_min=0.0,
        f_max=float(features.sample_rate // 2),
        # Vocos itself clips at 1e-7; the floor of this project's mel is higher, and the vocoder was trained with it.
        floor=MelConfig().floor,
    )
