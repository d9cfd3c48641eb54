"""The record of an evaluation, `summary.json`: what was scored, how it was sampled, and the summary of its scores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from flowse.flow.sampling import Sampling
from flowse.json_records import from_json, to_json
from flowse.metrics.scores import Score, Summary, worst


@dataclass(frozen=True, kw_only=True)
class WorstGain:
    """A recording that gained little: DNSMOS overall of its noisy and its enhanced version."""

    key: str
    noisy: float
    enhanced: float


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What `summary.json` holds. It has no timings, so that the same run writes the same bytes.

    Attributes:
        recordings: Number of recordings that were scored.
        model: Exported model or embedded name that was scored; empty: what the same run trained.
        sampling: How the model was sampled.
        vocoder: Vocoder of what was trained; empty if the model brought its own.
        with_text: Whether the model was given the transcripts.
        summary: A row for each group and metric.
        worst: The recordings that gained least by DNSMOS overall, the worst first.
        evaluations: Evaluations of the networks a window; 0: an older version did not count them.
    """

    recordings: int
    model: str
    sampling: Sampling
    vocoder: str
    with_text: bool
    summary: tuple[Summary, ...]
    worst: tuple[WorstGain, ...]
    evaluations: float = field(default=0.0, metadata={"optional": True})

    @classmethod
    def of(
        cls,
        scores: Sequence[Score],
        summaries: Sequence[Summary],
        *,
        model: str,
        sampling: Sampling,
        vocoder: str,
        with_text: bool,
        evaluations: float = 0.0,
    ) -> Evaluation:
        """Make the record of scores and their summary; the other arguments are those of the class."""
        return cls(
            recordings=len({score.key for score in scores}),
            model=model,
            sampling=sampling,
            vocoder=vocoder,
            with_text=with_text,
            summary=tuple(summaries),
            worst=tuple(
                WorstGain(key=noisy.key, noisy=noisy.ovrl, enhanced=enhanced.ovrl) for noisy, enhanced in worst(scores)
            ),
            evaluations=evaluations,
        )

    @property
    def overall(self) -> dict[str, Summary]:
        """The summary of all recordings together, by metric."""
        return {row.metric: row for row in self.summary if row.group == "all"}

    def to_text(self) -> str:
        """Return the text of `summary.json`."""
        return json.dumps(to_json(self), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_text(cls, text: str) -> Evaluation:
        """Read what `to_text` wrote.

        Raises:
            ValueError: It is no JSON, or a key is missing, unknown or of another type; the message names the key.
        """
        return from_json(cls, json.loads(text))
