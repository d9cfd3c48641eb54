"""An exported model as MLflow serves it: this file travels with the model, beside a copy of the library `flowse`."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Mapping
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
import soundfile as sf
from mlflow.models import set_model

from flowse.enhancer import Enhancer
from flowse.refusal import Refusal

AUDIO = ("audio", "waveform", "samples")
"""Columns of a table that hold recordings, the first of them that is there counts."""
RATE = ("sample_rate", "sampling_rate", "rate")
"""Columns of a table that hold the sample rate of waveforms, in Hz; encoded audio knows its own."""


class EnhancerModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """An exported model as MLflow's pyfunc."""

    def load_context(self, context: Any) -> None:
        """Load the model folder."""
        self._enhancer = Enhancer.from_pretrained(context.artifacts["model"])

    # MLflow takes a type hint for the input's schema, and knows none for samples or a table.
    def predict(self, context: Any, model_input, params: dict[str, Any] | None = None) -> Any:  # type: ignore[no-untyped-def]
        """Enhance one recording, or a table of them.

        Args:
            context: MLflow's.
            model_input: Samples `(N,)` or `(C, N)` of one recording, or a table: a column of `AUDIO` holds waveforms or
                encoded audio (a file's bytes; in JSON base64), `RATE` rates of the waveforms, and "text" transcripts.
            params: See `pipelines.registry.SIGNATURE`.

        Returns:
            The enhanced samples in the form that was given. Of a table, a table with the same column in the same form
            (audio that was encoded comes back as FLAC), the rates, and "error": why a row could not be enhanced.

        Raises:
            ValueError: The samples are no recording, or a table has none of the columns.
        """
        given = {"sample_rate": 24_000, "seed": 0, "steps": -1, "text": "", **(params or {})}
        if isinstance(model_input, pd.DataFrame):
            return self._table(model_input, given)
        return self._samples(_as_samples(model_input), int(given["sample_rate"]), str(given["text"]), given)

    def _table(self, table: pd.DataFrame, given: Mapping[str, Any]) -> pd.DataFrame:
        column = next((name for name in AUDIO if name in table), None)
        if column is None:
            raise ValueError(
                f"a table needs a column {' or '.join(AUDIO)}; it has {', '.join(map(str, table.columns))}"
            )
        of_rate = next((name for name in RATE if name in table), None)
        rows = []
        for index in range(len(table)):
            row = table.iloc[index]
            rate = given["sample_rate"] if of_rate is None else row[of_rate]
            text = str(row["text"] if "text" in table and row["text"] else given["text"])
            try:
                rows.append((*self._cell(row[column], rate, text, given), ""))
            except (Refusal, ValueError, TypeError, sf.LibsndfileError) as error:
                rows.append((None, 0, " ".join(str(error).split())))  # one bad recording costs the others nothing
        return pd.DataFrame(rows, columns=[column, of_rate or RATE[0], "error"], index=table.index)

    def _cell(self, cell: Any, rate: Any, text: str, given: Mapping[str, Any]) -> tuple[Any, int]:
        """Enhance a cell; return it in its form, with its rate in Hz."""
        if isinstance(cell, Mapping):  # Hugging Face `datasets`: {"array", "sampling_rate"} or {"bytes", "path"}
            if cell.get("bytes") is None:
                return self._samples(_as_samples(cell["array"]), int(cell["sampling_rate"]), text, given), int(
                    cell["sampling_rate"]
                )
            cell = cell["bytes"]
        if isinstance(cell, str):
            try:
                cell = base64.b64decode(cell, validate=True)
            except binascii.Error as error:
                raise ValueError(f"text in a column of audio is the base64 of a file's bytes: {error}") from None
        if isinstance(cell, bytes | bytearray | memoryview):
            samples, own = sf.read(io.BytesIO(cell), dtype="float32", always_2d=True)
            enhanced = self._samples(np.ascontiguousarray(samples.T), own, text, given)
            file = io.BytesIO()
            sf.write(file, np.clip(enhanced.T, -1, 1), own, format="FLAC")
            return file.getvalue(), own
        return self._samples(_as_samples(cell), int(rate), text, given), int(rate)

    def _samples(self, samples: np.ndarray, rate: int, text: str, given: Mapping[str, Any]) -> np.ndarray:
        steps = int(given["steps"])
        return self._enhancer.enhance(
            samples,
            rate,
            text=text or None,
            seed=int(given["seed"]),
            sampling=self._enhancer.sampling.override(steps=None if steps < 0 else steps),
        )


def _as_samples(samples: Any) -> np.ndarray:
    """Return samples as float32 with full scale ±1; JSON gives nested lists of float64.

    Raises:
        ValueError: They are no numbers, or channels have different lengths.
    """
    array = np.asarray(samples)
    if array.dtype == object:
        array = np.asarray([np.asarray(channel, np.float32) for channel in array])
    return array if array.dtype in (np.int16, np.int32, np.uint8) else array.astype(np.float32)


set_model(EnhancerModel())
