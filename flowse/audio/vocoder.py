"""Vocoders turn log-mels into waveforms; each is bound to the mel definition that it was trained on."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flowse.audio.griffin_lim import approach_mel
from flowse.audio.mel import LogMel
from flowse.audio.mel_config import MelConfig

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

    def __init__(self, network: Any, mel: MelConfig, refine_steps: int = 0) -> None:
        """Wrap a built network.

        Args:
            network: A ``vocos.Vocos``. Only its ``backbone`` and ``head`` are used: this project computes the mel.
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
    _refuse_foreign_classes(path / CONFIG_FILE)
    with warnings.catch_warnings():
        # The package encodec, which vocos imports and nothing here uses, warns about torch's weight_norm at import.
        warnings.simplefilter("ignore")
        from vocos import Vocos
    network = Vocos.from_hparams(str(path / CONFIG_FILE))
    own = _mel_of(network, path)
    state = torch.load(path / WEIGHTS_FILE, map_location="cpu", weights_only=True)
    try:
        # This also converts weights that were stored in 16 bits to 32.
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path / WEIGHTS_FILE} does not fit {CONFIG_FILE} beside it: {error}") from error
    vocoder = VocosVocoder(network, own, refine_steps).to(device)
    if mel is not None:
        require_same_mel(mel, vocoder)
    return vocoder


def _refuse_foreign_classes(config: Path) -> None:
    """Refuse a configuration that names classes outside Vocos, which builds any class by name: a model is fetched data.

    The text is searched before YAML reads it, so what could spell a name in another way is refused as well.

    Raises:
        ValueError: The configuration names another class, or has escapes, anchors or tags.
    """
    text = config.read_text(encoding="utf-8")
    known = re.findall(r"^\s*class_path:\s*vocos\.(?:feature_extractors|models|heads)\.\w+\s*$", text, re.MULTILINE)
    if len(known) != text.count("class_path") or re.search(r"[\\&*!]", text):
        raise ValueError(f"{config}: every class_path must name a class of vocos, without escapes, anchors and tags")


def _mel_of(network: Any, path: Path) -> MelConfig:
    """Read the mel definition from the network's own feature extractor."""
    features = network.feature_extractor
    if not hasattr(features, "mel_spec"):
        raise ValueError(f"{path} takes {type(features).__name__}, not a mel spectrogram")
    if features.padding != "center" or network.head.istft.padding != "center":
        raise ValueError(f'{path} frames with padding "{features.padding}"; only "center" is known here')
    spectrogram = features.mel_spec
    return MelConfig(
        sample_rate=spectrogram.sample_rate,
        n_fft=spectrogram.n_fft,
        win_length=spectrogram.win_length,
        hop_length=spectrogram.hop_length,
        n_mels=spectrogram.n_mels,
        f_min=float(spectrogram.mel_scale.f_min),
        f_max=float(spectrogram.mel_scale.f_max),
        # Vocos itself clips at 1e-7; the floor of this project's mel is higher, and the vocoder was trained with it.
        floor=MelConfig().floor,
    )
