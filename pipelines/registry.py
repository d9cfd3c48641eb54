"""The trained model in MLflow: logged with its code, under a version of a name, and back from its address."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import warnings
from importlib import metadata
from pathlib import Path

import numpy as np

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its import warns of its own type hints
    import mlflow
    import mlflow.pyfunc
    from mlflow.exceptions import MlflowException
    from mlflow.models import ModelSignature
    from mlflow.types import ParamSchema, ParamSpec

from flowse.errors import UserError
from flowse.export import CONFIG

NAME = "enhancer"
"""Name of the model within its MLflow run: `runs:/<run>/enhancer`."""

SIGNATURE = ModelSignature(
    params=ParamSchema(
        [
            ParamSpec("sample_rate", "long", 24_000),
            ParamSpec("seed", "long", 0),
            ParamSpec("steps", "long", -1),
            ParamSpec("text", "string", ""),
        ]
    ),
)
"""`steps` -1: the model's own number. The input has no schema, as it is samples or a table: see `pipelines.served`."""

REQUIREMENTS = ("torch", "jaxtyping", "numpy", "pyyaml", "safetensors", "soundfile", "soxr", "pandas")
"""What the library needs to enhance. The library itself travels with the model: whatever package an index has under its
name is not installed."""

_SERVED = Path(__file__).with_name("served.py")


def requirements() -> list[str]:
    """Return what a logged model needs beside its own code, in the versions that are installed here."""
    return [f"{name}=={metadata.version(name).partition('+')[0]}" for name in ("mlflow", *REQUIREMENTS)]


def copy_code(folder: Path) -> Path:
    """Copy the library without the embedded models into a folder; return the package's path there."""
    import flowse

    source = Path(flowse.__file__).parent
    models = source / "pretrained"

    def left_out(place: str, names: list[str]) -> list[str]:
        return [name for name in names if name == "__pycache__" or (Path(place) == models and (models / name).is_dir())]

    return Path(shutil.copytree(source, folder / "flowse", ignore=left_out))


def example(rate: int = 24_000) -> np.ndarray:
    """Make a tenth of a second of quiet noise at 24 kHz: what MLflow shows as the model's input."""
    return (0.01 * np.random.default_rng(0).standard_normal(rate // 10)).astype(np.float32)


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
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # it would write over ours
    try:
        with (
            mlflow.start_run(run_id=run_id),
            tempfile.TemporaryDirectory() as scratch,
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")  # MLflow's remarks on its own matters would stand in the run's log
            info = mlflow.pyfunc.log_model(
                name=NAME,
                python_model=str(_SERVED),
                code_paths=[str(copy_code(Path(scratch)))],
                artifacts={"model": str(folder)},
                signature=SIGNATURE,
                input_example=example(),
                pip_requirements=requirements(),
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
