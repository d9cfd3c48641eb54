"""The trained model in MLflow: waveform in, waveform out, under a version of a name, and back from its address."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its import warns of its own type hints
    import mlflow
    import mlflow.pyfunc
    from mlflow.exceptions import MlflowException
    from mlflow.models import ModelSignature
    from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

from flowse.enhancer import Enhancer
from flowse.errors import UserError
from flowse.export import CONFIG

NAME = "enhancer"
"""Name of the model within its MLflow run: `runs:/<run>/enhancer`."""

SIGNATURE = ModelSignature(
    inputs=Schema([TensorSpec(np.dtype(np.float32), (-1,), name=None)]),
    outputs=Schema([TensorSpec(np.dtype(np.float32), (-1,), name=None)]),
    params=ParamSchema(
        [
            ParamSpec("sample_rate", "long", 24_000),
            ParamSpec("seed", "long", 0),
            ParamSpec("steps", "long", -1),
            ParamSpec("text", "string", ""),
        ]
    ),
)
"""The model maps a mono waveform (full scale ±1) to one of equal length; `steps` -1: the model's own number."""


class EnhancerModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """An exported model as MLflow's pyfunc."""

    def load_context(self, context: Any) -> None:
        """Load the model folder."""
        self._enhancer = Enhancer.from_pretrained(context.artifacts["model"])

    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> np.ndarray:
        """Enhance one waveform, as `Enhancer.enhance` does."""
        given = {"sample_rate": 24_000, "seed": 0, "steps": -1, "text": "", **(params or {})}
        samples = np.asarray(model_input, np.float32).reshape(-1)
        return self._enhancer.enhance(
            samples,
            int(given["sample_rate"]),
            text=str(given["text"]) or None,
            seed=int(given["seed"]),
            sampling=self._enhancer.sampling.override(steps=None if given["steps"] < 0 else int(given["steps"])),
        )


def log_model(uri: str, run_id: str, folder: Path, registered_name: str = "") -> str:
    """Log an exported model to a run, and make it a new version of a registered name if one is given.

    Args:
        uri: Tracking store.
        run_id: Run that it belongs to.
        folder: What `flowse.export.save` wrote.
        registered_name: In the model registry; empty: not registered.

    Returns:
        Address that `find_model` and `flowse enhance --model` take.

    Raises:
        UserError: MLflow does not take it.
    """
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        with mlflow.start_run(run_id=run_id):
            info = mlflow.pyfunc.log_model(
                name=NAME,
                python_model=EnhancerModel(),
                artifacts={"model": str(folder)},
                signature=SIGNATURE,
                pip_requirements=["flowse-pipeline[pipeline]"],
                registered_model_name=registered_name or None,
            )
    except MlflowException as error:
        why = str(error).strip().splitlines()[0]
        raise UserError(f"MLflow at {uri} did not take the model: {why}; mend the store and run export again") from None
    finally:
        mlflow.set_tracking_uri(before)
    if registered_name:
        return f"models:/{registered_name}/{info.registered_model_version}"
    return f"runs:/{run_id}/{NAME}"


def find_model(address: str) -> Path:
    """Fetch a model by its address, `runs:/<run>/…` or `models:/<name>/<version>`, from MLFLOW_TRACKING_URI's store.

    `flowse enhance --model` comes here through the entry points "flowse.models".

    Raises:
        FileNotFoundError: There is no such model, or it is not one of this project's.
    """
    for name in ("alembic", "mlflow.store.db.utils"):  # they announce every table of a new store
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        fetched = Path(mlflow.artifacts.download_artifacts(artifact_uri=address))
    except (MlflowException, OSError) as error:
        why = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise FileNotFoundError(
            f"{address}: not found in MLflow at {mlflow.get_tracking_uri()}: {why}; MLFLOW_TRACKING_URI says which "
            "store to look in"
        ) from None
    for folder in (fetched, fetched / "artifacts" / "model", *sorted(fetched.glob("artifacts/*"))):
        if (folder / CONFIG).is_file():
            return folder
    raise FileNotFoundError(f"{address}: MLflow has it, but it is no model of this project: there is no {CONFIG} in it")
