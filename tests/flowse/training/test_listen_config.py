"""Laws of the settings of listening: a metric that does not exist, or that nothing gives, is refused by name."""

import dataclasses

import pytest

from flowse.metrics.pairs import Pairs
from flowse.metrics.scores import METRICS
from flowse.training.config import TrainConfig
from flowse.training.listen_config import LONG_NAMES, ListenConfig, metric_of
from tests.small_shards import TINY

ON = ListenConfig(every=1)
PAIRS = (Pairs(name="real", noisy="x"),)


def test_every_metric_of_the_summary_can_choose_under_its_name() -> None:
    assert {metric_of(f"metric:{metric.name}") for metric in METRICS} == set(METRICS)
    for name, short in LONG_NAMES.items():
        metric = metric_of(f"metric:{name}")
        assert metric is not None
        assert metric.name == short
    assert metric_of("best") is None


def test_a_metric_that_does_not_exist_is_refused_with_the_list() -> None:
    with pytest.raises(ValueError, match=r"metric:mos.*no such metric; known are ovrl \(dnsmos_overall\), .*wer"):
        dataclasses.replace(TINY, select="metric:mos", listen=ON)


@pytest.mark.parametrize(
    ("select", "listen", "key"),
    [
        ("metric:dnsmos_overall", ListenConfig(), "listen.every"),
        ("metric:wer", dataclasses.replace(ON, whisper=""), "listen.whisper"),
        ("metric:wer", dataclasses.replace(ON, pairs=PAIRS), "transcripts"),
        ("metric:speaker_cosine", dataclasses.replace(ON, speaker=""), "listen.speaker"),
        ("metric:speaker_cosine", dataclasses.replace(ON, pairs=PAIRS), "clean"),
    ],
)
def test_a_metric_that_the_settings_never_give_is_refused(select: str, listen: ListenConfig, key: str) -> None:
    with pytest.raises(ValueError, match=key):
        dataclasses.replace(TINY, select=select, listen=listen)


@pytest.mark.parametrize(
    ("key", "values"),
    [("every", {"every": -1}), ("max_items", {"max_items": -1}), ("pairs", {"pairs": PAIRS * 2})],
)
def test_impossible_settings_are_refused_by_name(key: str, values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=key):
        ListenConfig(**values)  # type: ignore[arg-type]


def test_listening_changes_no_old_fingerprint() -> None:
    (field,) = (field for field in dataclasses.fields(TrainConfig) if field.name == "listen")
    assert field.metadata["fingerprint"] == "unless default"
    assert field.default == ListenConfig()
