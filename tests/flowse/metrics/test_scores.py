"""Laws of the summary: means and corpus rates of known scores, groups that cover all, gains of known sign."""

from typing import Any

import numpy as np
import pytest

from flowse.metrics.scores import METRICS, Score, as_metrics, loudest_left, snr_bucket, summarise, worst


def score(key: str, signal: str, ovrl: float, **changes: Any) -> Score:
    values: dict[str, Any] = {
        "key": key,
        "test_set": "simulated",
        "signal": signal,
        "language": "en",
        "speaker": "",
        "text": "",
        "snr_db": 3.0,
        "reverberant": False,
        "seconds": 1.0,
        "ovrl": float(ovrl),
        "sig": 3.0,
        "bak": 3.0,
        "p808": 3.0,
        "heard": "",
        "missing": "",
        "peak": 0.5,
    }
    names = (
        "errors tokens errors_clean tokens_clean speaker_cosine estoi pesq_wb si_sdr_db lag_ms alignment residual_db"
    )
    return Score(**{**dict.fromkeys([*names.split(), "residual_db"]), **values, **changes})


def pairs(n: int, gain: float, **changes: Any) -> list[Score]:
    found = []
    for i in range(n):
        base = 2 + 0.01 * i
        found += [score(f"u{i}", "noisy", base, **changes), score(f"u{i}", "enhanced", base + gain, **changes)]
    return found


def test_means_and_gain_of_known_scores() -> None:
    (ovrl, *_) = summarise(pairs(11, 0.4), seed=0, resamples=200)
    assert (ovrl.group, ovrl.metric, ovrl.recordings) == ("all", "ovrl", 11)
    assert ovrl.noisy == pytest.approx(2.05)
    assert ovrl.enhanced == pytest.approx(2.45)
    assert ovrl.clean is None
    assert (ovrl.gain.low, ovrl.gain.high) == pytest.approx((0.4, 0.4))


def test_word_error_rates_are_errors_of_all_over_tokens_of_all() -> None:
    scores = [
        score("a", "noisy", 2, errors=5, tokens=10),
        score("a", "enhanced", 2, errors=2, tokens=10),
        score("b", "noisy", 2, errors=0, tokens=2),
        score("b", "enhanced", 2, errors=1, tokens=2),
        score("c", "noisy", 2),
        score("c", "enhanced", 2),
    ]
    wer = next(summary for summary in summarise(scores, 0, 100) if summary.metric == "wer")
    assert (wer.recordings, wer.noisy, wer.enhanced) == (2, pytest.approx(5 / 12), pytest.approx(3 / 12))
    assert wer.gain.value == pytest.approx(-2 / 12)


def test_groups_cover_every_recording_once_and_a_lone_value_makes_no_group() -> None:
    scores = []
    for i, (language, snr) in enumerate([("en", -3.0), ("zh", 2.0), ("zh", 7.5), ("en", 12.0)]):
        scores += [score(f"{i}", s, 2, language=language, snr_db=snr) for s in ("noisy", "enhanced")]
    found = [summary for summary in summarise(scores, 0, 100) if summary.metric == "ovrl"]
    groups = {summary.group: summary.recordings for summary in found}
    assert list(groups) == [
        "all",
        "language en",
        "language zh",
        "SNR -5…0 dB",
        "SNR 0…5 dB",
        "SNR 5…10 dB",
        "SNR 10…15 dB",
    ]
    assert sum(n for name, n in groups.items() if name.startswith("SNR")) == 4


def test_previous_model_is_compared_where_it_was_scored() -> None:
    scores = [*pairs(5, 0.5), *(score(f"u{i}", "previous", 2.2 + 0.01 * i) for i in range(5))]
    ovrl = summarise(scores, 0, 100)[0]
    assert ovrl.previous == pytest.approx(2.22)
    assert ovrl.gain_previous is not None
    assert ovrl.gain_previous.value == pytest.approx(0.3)


def test_snr_steps_hold_their_lower_edge() -> None:
    assert snr_bucket(-0.1) == "-5…0 dB"
    assert snr_bucket(0.0) == "0…5 dB"
    assert snr_bucket(4.99) == "0…5 dB"
    assert snr_bucket(None) == ""


def test_the_worst_come_first() -> None:
    gains = np.linspace(-1, 1, 15)
    scores = []
    for i, gain in enumerate(gains):
        scores += [score(f"{i:02d}", "noisy", 3.0), score(f"{i:02d}", "enhanced", 3.0 + gain)]
    assert [noisy.key for noisy, _ in worst(scores, 3)] == ["00", "01", "02"]


def test_metrics_name_columns_of_score() -> None:
    columns = set(Score.__dataclass_fields__)
    assert {metric.value for metric in METRICS} | {metric.over for metric in METRICS} - {""} <= columns


def test_metrics_for_tracking_hold_each_mean_and_the_gain_of_each_group() -> None:
    scores = []
    for i, language in enumerate(("en", "zh")):
        scores += [score(f"{i}", s, value, language=language) for s, value in (("noisy", 2.0), ("enhanced", 2.5))]
        scores.append(score(f"{i}", "clean", 4.0, language=language))
    found = as_metrics(summarise(scores, 0, 100))
    assert (found["noisy/ovrl"], found["enhanced/ovrl"], found["clean/ovrl"], found["gain/ovrl"]) == (2, 2.5, 4, 0.5)
    assert found["gain/ovrl/language en"] == 0.5
    assert "enhanced/wer" not in found


def test_recordings_without_speech_count_in_their_own_metric_alone() -> None:
    of_speech = pairs(8, 0.4)
    silent = []
    for number in range(3):
        key, changes = f"n{number}", {"test_set": "noise only", "snr_db": None}
        silent += [
            score(key, "noisy", 1.0, residual_db=-20.0, **changes),
            score(key, "enhanced", 5.0, residual_db=-60.0 + 10 * number, **changes),
        ]
    found = {row.metric: row for row in summarise([*of_speech, *silent], 0, 200) if row.group == "all"}
    assert found["ovrl"] == {row.metric: row for row in summarise(of_speech, 0, 200)}["ovrl"]
    left = found["residual_db"]
    assert (left.recordings, left.noisy, left.enhanced, left.gain.value) == (3, -20.0, -50.0, -30.0)
    assert [row[2].key for row in loudest_left([*of_speech, *silent])] == ["n2", "n1", "n0"]
    assert all(noisy.key.startswith("u") for noisy, _ in worst([*of_speech, *silent]))
    # With nothing else to score, there is nothing else in the summary.
    assert {row.metric for row in summarise(silent, 0, 200)} == {"residual_db"}
