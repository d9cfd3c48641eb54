"""A name and a home for a user that the system does not know, as containers with an arbitrary uid have."""

from __future__ import annotations

import getpass
import os
import tempfile
from pathlib import Path


def ensure_name_and_home() -> None:
    """Set USER and HOME of this process, and of those that it starts, where the system knows neither.

    Ray, MLflow and torch ask for both and fail with a traceback where there is none. The home is the folder of
    temporary files: nothing there is worth keeping.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = f"uid-{os.getuid()}"
    try:
        Path.home()
    except (KeyError, RuntimeError):
        os.environ["HOME"] = tempfile.gettempdir()
