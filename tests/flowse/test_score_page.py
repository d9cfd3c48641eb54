"""Laws of the score page: gains are marked by sign and certainty, and warnings stand beside what may mislead."""

import dataclasses
import math
import re
from typing import Any

import pytest

from flowse import score_page
from flowse.flow.sampling import Sampling
from flowse.metrics.evaluation import Evaluation
from flowse.metrics.scores import METRICS, Score, summarise


def score(key: str, signal: str, **changes: Any) -> Score:
    values: dict[str, Any] = {"key": key, "test_set": "simulated", "signal": signal, "language": "en", "speaker": ""}
    values |= {"text": "", "seconds": 1.0, "ovrl": 2.0, "sig": 2.0, "bak": 2.0, "p808": 2.0}
    values |= {"snr_db": 3.0, "reverberant": False, "heard": "", "missing": "", "peak": 0.5}
    names = "errors tokens errors_clean tokens_clean speaker_cosine estoi pesq_wb si_sdr_db lag_ms alignment"
    return Score(**{**dict.fromkeys([*names.split(), "residual_db"]), **values, **changes})


@pytest.fixture(scope="module")
def scores() -> list[Score]:
    """Twenty recordings: quality rises, word errors rise too, speech stays as it was."""
    found = []
    for i in range(20):
        snr = {"snr_db": -4.0 if i % 2 else 8.0}
        found.append(score(f"u{i:02d}", "noisy", ovrl=2 + 0.01 * i, errors=1, tokens=10, estoi=0.7, lag_ms=0.0,
                           alignment=0.8, sig=2.0, **snr))  # fmt: skip
        found.append(score(f"u{i:02d}", "enhanced", ovrl=2.5 + 0.012 * i, errors=2, tokens=10, estoi=0.6, lag_ms=-12.5,
                           alignment=0.31, sig=2.0 + 0.1 * (-1) ** (i // 2), **snr))  # fmt: skip
    return found


def page(scores: list[Score], with_text: bool = False, previous: score_page.Previous | None = None) -> str:
    record = Evaluation.of(
        scores, summarise(scores, 0, 200), model="", sampling=Sampling(), vocoder="vocos", with_text=with_text
    )
    return score_page.page(record, scores, score_page.facts(record, "", "speaker-tiny"), {}, previous)


def test_gains_are_marked_by_sign_and_certainty(scores: list[Score]) -> None:
    text = page(scores)
    rows = {
        re.sub("<[^>]*>", "", row.split("</span>")[0]).strip(): row for row in text.split("<tr>") if "data-tip" in row
    }
    assert 'class="good"' in rows["DNSMOS overall"]
    assert 'class="bad"' in rows["WER/CER"]  # more errors are worse
    assert 'class="dim"' in rows["DNSMOS speech"]  # the interval holds zero
    assert "+0.100" in rows["WER/CER"]


def test_lag_is_reported_with_its_warning(scores: list[Score]) -> None:
    text = page(scores)
    assert "not meaningful for non-aligned output" in text
    assert "median 12.5 ms, largest 12.5 ms" in text
    assert "median 0.31" in text


def test_the_page_names_what_was_scored_with_what(scores: list[Score]) -> None:
    text = page(scores)
    for fact in ("trained here", "vocos", "none (no WER)", "speaker-tiny", "32 steps"):
        assert fact in text


def test_the_page_says_if_the_model_was_given_the_text(scores: list[Score]) -> None:
    assert "given the transcripts" in page(scores, with_text=True)
    assert "given the transcripts" not in page(scores)


def test_groups_and_the_smallest_gains_are_shown(scores: list[Score]) -> None:
    text = page(scores)
    assert "SNR -5…0 dB" in text
    assert "u00" in text  # it gained least
    assert "DNSMOS overall by SNR" in text


def test_the_table_for_the_terminal_holds_the_same_figures(scores: list[Score]) -> None:
    lines = score_page.lines(summarise(scores, 0, 200))
    (row,) = [line for line in lines if line.startswith("DNSMOS overall")]
    noisy = math.fsum(score.ovrl for score in scores if score.signal == "noisy") / 20
    assert f"{noisy:.2f}" in row
    assert max(map(len, lines)) <= 80


def test_a_recording_has_a_track_a_version_with_its_scores(scores: list[Score]) -> None:
    versions = {score.signal: score for score in scores if score.key == "u03"}
    made = score_page.recording(versions, {"noisy": b"fLaC", "enhanced": "a.flac"})
    assert [(track.label, track.flac, track.address) for track in made.tracks] == [
        ("noisy", b"fLaC", ""),
        ("enhanced", b"", "a.flac"),
    ]
    assert made.facts == {"language": "en", "set": "simulated", "SNR": "-4.0 dB"}
    assert made.tracks[1].facts["WER"] == "20%"
    assert "speaker" not in made.tracks[1].facts


def test_every_metric_says_what_it_is_its_range_and_its_better_direction(scores: list[Score]) -> None:
    for metric in METRICS:
        assert metric.meaning
        assert metric.explained.endswith("is better.")
    text = page(scores)
    assert METRICS[0].explained in text
    # The gain stands beside the name.
    assert re.findall('<th scope="col">(?:<span[^>]*>)?([a-z]+)', text)[:2] == ["metric", "gain"]


def test_an_earlier_evaluation_stands_beside_this_one_where_the_noisy_recordings_are_equal(scores: list[Score]) -> None:
    earlier = [
        dataclasses.replace(score, ovrl=score.ovrl - (0.3 if score.signal == "enhanced" else 0.0)) for score in scores
    ]
    other = [dataclasses.replace(score, seconds=2.0) if score.key == "u05" else score for score in earlier]
    previous = score_page.beside(scores, other, "abcdef, of yesterday")
    assert previous is not None
    assert len(previous.scores) == 19  # u05 is another mixture now
    text = page(scores, previous=previous)
    assert "the previous evaluation (abcdef, of yesterday) it is +0.30 [+0.30, +0.30] on the 19" in text
    assert "enhanced − previous" in text
    assert "overall, previous" in text
    own = re.findall(r"DNSMOS overall goes from [^.]*\.[^.]*\.[^.]*\.", page(scores))
    assert own[0] in text  # this evaluation's figures are what they are alone
    assert score_page.beside(scores, [], "x") is None
    by_another = [dataclasses.replace(score, errors=0, speaker_cosine=0.5) for score in scores]
    shown = score_page.beside(scores, by_another, "x")
    assert shown is not None
    assert {(score.errors, score.speaker_cosine) for score in shown.scores.values()} == {(None, None)}
    assert (
        "previous"
        not in page(scores).partition("<style>")[0] + page(scores).partition("</style>")[2].partition("<script>")[0]
    )


def test_recordings_come_with_the_smallest_gain_first(scores: list[Score]) -> None:
    names = re.findall(r'<th scope="row">(u\d+)</th>', page(scores))
    gains = {s.key: s.ovrl for s in scores if s.signal == "enhanced"}
    for score in scores:
        if score.signal == "noisy":
            gains[score.key] -= score.ovrl
    assert names == sorted(gains, key=lambda key: (gains[key], key))


def test_what_is_left_without_speech_is_said_and_listed(scores: list[Score]) -> None:
    silent = [
        score("n0", "noisy", residual_db=-20.0, snr_db=None),
        score("n0", "enhanced", residual_db=-63.5, snr_db=None),
    ]
    text = page([*scores, *silent])
    assert "from -20.0 to -63.5 dBFS on 1 recordings" in text
    assert "no speech, enhanced, dBFS" in text
    assert "no speech, enhanced, dBFS" not in page(scores)
    # A page of nothing else can be written, too.
    assert "DNSMOS overall goes" not in page(silent)
