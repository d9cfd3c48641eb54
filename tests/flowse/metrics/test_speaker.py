"""Laws of speaker similarity, with a network of WeSpeaker's interface that the test writes."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="the [pipeline] extra is not installed")

from flowse.metrics.speaker import RATE, SpeakerEncoder, cosine, equal_error_rate, filterbank
from flowse.seeding import generator


def _field(number: int, value: int | bytes) -> bytes:
    """Encode one protobuf field: varint for an integer, length-delimited for bytes."""

    def varint(n: int) -> bytes:
        out = bytearray()
        while n > 127:
            out.append(n & 127 | 128)
            n >>= 7
        return bytes([*out, n])

    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def mean_square_encoder(bands: int) -> bytes:
    """Write an ONNX network with WeSpeaker's interface: embs = mean over time of feats squared."""

    def tensor(name: str, *shape: int | str) -> bytes:
        dims = b"".join(_field(1, _field(1, d) if isinstance(d, int) else _field(2, d.encode())) for d in shape)
        return _field(1, name.encode()) + _field(2, _field(1, _field(1, 1) + _field(2, dims)))

    axes = _field(1, b"axes") + _field(20, 7) + _field(8, 1)
    keep = _field(1, b"keepdims") + _field(20, 2) + _field(3, 0)
    square = _field(1, b"feats") + _field(1, b"feats") + _field(2, b"squared") + _field(4, b"Mul")
    mean = _field(1, b"squared") + _field(2, b"embs") + _field(4, b"ReduceMean") + _field(5, axes) + _field(5, keep)
    graph = (
        _field(1, square)
        + _field(1, mean)
        + _field(2, b"encoder")
        + _field(11, tensor("feats", "B", "T", bands))
        + _field(12, tensor("embs", "B", bands))
    )
    return _field(1, 8) + _field(7, graph) + _field(8, _field(2, 13))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> SpeakerEncoder:
    path = tmp_path_factory.mktemp("speaker") / "encoder.onnx"
    path.write_bytes(mean_square_encoder(bands=80))
    return SpeakerEncoder(path)


def voice(seed: int, seconds: float = 1.0) -> np.ndarray:
    return (0.1 * generator(seed).standard_normal(round(seconds * RATE))).astype(np.float32)


def test_a_recording_is_as_similar_as_can_be_to_itself(encoder: SpeakerEncoder) -> None:
    a = encoder.embed(voice(0), RATE)
    assert np.linalg.norm(a) == pytest.approx(1.0)
    assert cosine(a, a) == pytest.approx(1.0)


def test_loudness_does_not_matter(encoder: SpeakerEncoder) -> None:
    assert cosine(encoder.embed(voice(0), RATE), encoder.embed(0.3 * voice(0), RATE)) > 0.999


def test_a_filtered_voice_is_another(encoder: SpeakerEncoder) -> None:
    x = voice(0)
    modulated = x * np.linspace(0, 1, len(x), dtype=np.float32) ** 4
    assert cosine(encoder.embed(x, RATE), encoder.embed(modulated, RATE)) < 0.99


def test_filterbank_is_centred() -> None:
    features = filterbank(voice(1))
    assert features.shape == (98, 80)
    np.testing.assert_allclose(features.mean(0), 0, atol=1e-4)


def test_too_short_and_foreign_networks_are_refused(encoder: SpeakerEncoder, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="25 ms"):
        encoder.embed(np.zeros(100, np.float32), RATE)
    path = tmp_path / "other.onnx"
    path.write_bytes(mean_square_encoder(bands=40))
    with pytest.raises(ValueError, match="expected one input of shape"):
        SpeakerEncoder(path)


def test_equal_error_rate_of_known_sets() -> None:
    high, low = np.array([0.8, 0.9, 0.7]), np.array([0.1, 0.2, 0.3])
    assert equal_error_rate(high, low) == 0
    assert equal_error_rate(low, high) == 1
    same, different = np.array([0.2, 0.6, 0.7, 0.8]), np.array([0.1, 0.3, 0.4, 0.65])
    assert equal_error_rate(same, different) == pytest.approx(0.25)
