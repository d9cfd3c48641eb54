"""Laws of vocoders: a vocoder accepts only its own mel definition, and the embedded vocoder reproduces a mel."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from flowse.audio.mel import LogMel
from flowse.audio.mel_config import MelConfig
from flowse.audio.vocoder import load_vocoder, require_same_mel
from flowse.pretrained import names, resolve

EMBEDDED = "vocos-mel-24khz-small"


def hparams(n_mels: int = 100, padding: str = "center", features: str = "MelSpectrogramFeatures") -> dict[str, object]:
    """Return the configuration of a tiny network in the published layout."""
    mel = {"sample_rate": 24_000, "n_fft": 1024, "hop_length": 256, "n_mels": n_mels, "padding": padding}
    sizes = {"input_channels": n_mels, "dim": 8, "intermediate_dim": 16, "num_layers": 1}
    head = {"dim": 8, "n_fft": 1024, "hop_length": 256, "padding": padding}
    return {
        "feature_extractor": {"class_path": f"vocos.feature_extractors.{features}", "init_args": mel},
        "backbone": {"class_path": "vocos.models.VocosBackbone", "init_args": sizes},
        "head": {"class_path": "vocos.heads.ISTFTHead", "init_args": head},
    }


def write(folder: Path, half: bool = False, **options: object) -> Path:
    """Write a folder of that network with random weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from vocos import Vocos
    (folder / "config.yaml").write_text(yaml.safe_dump(hparams(**options)))  # type: ignore[arg-type]
    torch.manual_seed(0)
    network = Vocos.from_hparams(str(folder / "config.yaml"))
    state = {key: value.half() if half else value for key, value in network.state_dict().items()}
    torch.save(state, folder / "pytorch_model.bin")
    return folder


def test_a_vocoder_makes_as_many_samples_as_the_mel_config_computes(tmp_path: Path) -> None:
    vocoder = load_vocoder(write(tmp_path))
    for frames in (2, 3, 4, 40):
        assert vocoder.decode(torch.full((2, frames, 100), -8.0)).shape == (2, vocoder.mel.samples(frames))


def test_without_refinement_the_output_is_that_of_vocos(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from vocos import Vocos
    vocoder = load_vocoder(write(tmp_path), refine_steps=0)
    reference = Vocos.from_hparams(str(tmp_path / "config.yaml")).eval()
    reference.load_state_dict(torch.load(tmp_path / "pytorch_model.bin", weights_only=True))
    log_mel = torch.randn(1, 20, 100, generator=torch.Generator().manual_seed(1)) - 5
    torch.testing.assert_close(vocoder.decode(log_mel), reference.decode(log_mel.transpose(1, 2)))


def test_weights_of_16_bits_are_converted_to_32(tmp_path: Path) -> None:
    vocoder = load_vocoder(write(tmp_path, half=True))
    assert all(parameter.dtype == torch.float32 for parameter in vocoder.parameters())


def test_the_mel_definition_is_read_from_the_configuration(tmp_path: Path) -> None:
    assert load_vocoder(write(tmp_path)).mel == MelConfig()
    assert load_vocoder(write(tmp_path, n_mels=80)).mel == MelConfig(n_mels=80)


def test_another_mel_definition_is_refused_with_both_values(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(ValueError, match="n_mels: expected 80, the vocoder has 100"):
        load_vocoder(tmp_path, mel=MelConfig(n_mels=80))
    with pytest.raises(ValueError, match="takes 100 mel bins, got 80"):
        load_vocoder(tmp_path).decode(torch.zeros(1, 9, 80))
    require_same_mel(MelConfig(), load_vocoder(tmp_path))


@pytest.mark.parametrize("missing", ["config.yaml", "pytorch_model.bin"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    (write(tmp_path) / missing).unlink()
    with pytest.raises(FileNotFoundError, match=missing):
        load_vocoder(tmp_path)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(hparams(n_mels=80)))
    with pytest.raises(ValueError, match=r"does not fit config\.yaml"):
        load_vocoder(tmp_path)


def test_uncentred_frames_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='padding "same"'):
        load_vocoder(write(tmp_path, padding="same"))


def test_a_single_frame_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two frames"):
        load_vocoder(write(tmp_path)).decode(torch.zeros(1, 1, 100))


@pytest.mark.skipif(EMBEDDED not in names(), reason=f"{EMBEDDED} is not embedded in this checkout")
@pytest.mark.parametrize(("refine_steps", "bound"), [(0, 0.6), (16, 0.35)])
def test_the_embedded_vocoder_reproduces_the_mel(refine_steps: int, bound: float) -> None:
    vocoder, log_mel = load_vocoder(resolve(EMBEDDED), refine_steps=refine_steps), LogMel()
    time = torch.arange(24_000) / 24_000
    phase = 2 * math.pi * torch.cumsum(140 + 50 * torch.sin(2 * math.pi * 1.5 * time), 0) / 24_000
    voice = sum((0.08 / k * torch.sin(k * phase) for k in range(1, 40)), torch.zeros(24_000))[None]
    mel = log_mel(voice)
    again = log_mel(vocoder.decode(mel))
    # The distance is in nepers, over the bins with sound; in bins far below, the network's own noise does not matter.
    assert float((again - mel).abs()[mel > -4].mean()) < bound


@pytest.mark.skipif(EMBEDDED not in names(), reason=f"{EMBEDDED} is not embedded in this checkout")
def test_the_embedded_vocoder_keeps_silence_silent() -> None:
    vocoder = load_vocoder(resolve(EMBEDDED))
    silence = torch.full((1, 60, 100), vocoder.mel.log_floor)
    assert float(vocoder.decode(silence).abs().max()) < 1e-3


@pytest.mark.parametrize(
    ("part", "changed", "said"),
    [
        ("head", {"class_path": "os.system", "init_args": {"command": "true"}}, "head is a os.system, only vocos"),
        ("head", {"class_path": "vocos.heads.IMDCTSymExpHead"}, "head is a vocos.heads.IMDCTSymExpHead, only vocos"),
        ("head", None, "has no head"),
        ("backbone", {"class_path": "vocos.models.VocosBackbone", "init_args": {"depth": 1}}, "are not known"),
        ("backbone", {"class_path": "vocos.models.VocosBackbone"}, "missing .*input_channels"),
    ],
)
def test_a_configuration_of_other_classes_or_arguments_is_refused(
    tmp_path: Path, part: str, changed: object, said: str
) -> None:
    write(tmp_path)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(hparams() | {part: changed}))
    with pytest.raises(ValueError, match=rf"config\.yaml .*{said}"):
        load_vocoder(tmp_path)


@pytest.mark.parametrize(
    ("part", "argument", "value", "said"),
    [
        ("head", "n_fft", 512, "n_fft is 1024 in one part of the configuration and 512 in another"),
        ("backbone", "num_layers", "many", "backbone.num_layers is 'many'"),
        ("backbone", "adanorm_num_embeddings", 4, "is conditioned on a bandwidth"),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(
    tmp_path: Path, part: str, argument: str, value: object, said: str
) -> None:
    write(tmp_path)
    changed: dict[str, Any] = hparams()
    changed[part]["init_args"][argument] = value
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(changed))
    with pytest.raises(ValueError, match=said):
        load_vocoder(tmp_path)


def test_what_is_no_yaml_is_one_line(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "config.yaml").write_text("head: [")
    with pytest.raises(ValueError, match=r"config\.yaml while parsing") as error:
        load_vocoder(tmp_path)
    assert "\n" not in str(error.value)
