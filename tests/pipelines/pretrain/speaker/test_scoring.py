"""Laws of the speaker score: error rates of perfect and random encoders, the interval, refusal without pairs."""

import numpy as np
import pytest

from flowse.seeding import generator
from pipelines.pretrain.speaker.scoring import speaker_score


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x)


def embeddings(closeness: float, speakers: int = 8, each: int = 10) -> dict[str, list[np.ndarray]]:
    rng = generator(1)
    centres = {f"s{n}": unit(rng.standard_normal(16)) for n in range(speakers)}
    return {
        name: [unit(closeness * centre + (1 - closeness) * unit(rng.standard_normal(16))) for _ in range(each)]
        for name, centre in centres.items()
    }


def test_a_perfect_encoder_has_no_errors() -> None:
    score = speaker_score(embeddings(0.95), resamples=50)
    assert score.eer < 0.01
    assert score.pairs == 80 * 79 // 2


def test_a_random_encoder_has_an_error_rate_of_one_half() -> None:
    score = speaker_score(embeddings(0.0), resamples=100)
    assert score.low <= 0.5 <= score.high + 0.03
    assert score.eer == pytest.approx(0.5, abs=0.06)


def test_the_interval_contains_the_error_rate_and_narrows_with_more_recordings() -> None:
    few, many = (speaker_score(embeddings(0.4, each=count), resamples=100) for count in (4, 24))
    for score in (few, many):
        assert score.low <= score.eer + 0.01
        assert score.eer - 0.01 <= score.high
    assert many.high - many.low < few.high - few.low


def test_one_speaker_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="no pairs"):
        speaker_score(embeddings(0.5, speakers=1))
