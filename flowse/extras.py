"""Says which extra to install where an import of this project's modules fails: the library alone needs torch only."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.machinery import ModuleSpec
from types import FrameType, ModuleType

EXTRA_OF = {
    "av": "pipeline",
    "ctranslate2": "faster",
    "espeakng_loader": "pipeline",
    "faster_whisper": "faster",
    "gradio": "demo",
    "huggingface_hub": "hub",
    "jinja2": "eval",
    "jiwer": "eval",
    "lhotse": "pipeline",
    "matplotlib": "eval",
    "miniaudio": "pipeline",
    "mlflow": "pipeline",
    "obstore": "pipeline",
    "omegaconf": "pipeline",
    "onnx": "pipeline",
    "onnxruntime": "eval",
    "opencc": "eval",
    "pandas": "pipeline",
    "pesq": "eval",
    "psutil": "pipeline",
    "pyarrow": "eval",
    "pypinyin": "eval",
    "pyroomacoustics": "pipeline",
    "pystoi": "eval",
    "ray": "pipeline",
    "scipy": "eval",
    "speechmos": "eval",
    "tensorboardX": "eval",
    "torchaudio": "eval",
    "torchdiffeq": "pipeline",
    "vocos": "pipeline",
    "webdataset": "pipeline",
    "whisper": "eval",
    "xxhash": "pipeline",
}
"""By name of an imported package, the extra of flowse-pipeline that installs it."""

_OURS = ("flowse", "pipelines")


class _Hint:
    """The last finder: it is asked for what no other has found, and explains it if one of our modules asked."""

    def find_spec(
        self, name: str, path: Iterable[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find nothing.

        Raises:
            ModuleNotFoundError: A module of this project asks for a package of an extra.
        """
        if name in EXTRA_OF and _asked_by_us():
            raise ModuleNotFoundError(
                f"No module named {name!r}: pip install 'flowse-pipeline[{EXTRA_OF[name]}]'", name=name
            )
        return None


def _asked_by_us() -> bool:
    """Whether the statement that imports stands in a module of this project."""
    frame: FrameType | None = sys._getframe(1)
    for of_import_system in (False, True):  # first the frames of the finder, then those of the import system
        while frame is not None and ("importlib" in _module(frame)) is of_import_system:
            if _module(frame) == "importlib.util":  # `find_spec` asks whether a package is there: no is an answer
                return False
            frame = frame.f_back
    return frame is not None and _module(frame).partition(".")[0] in _OURS


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def install_hint() -> None:
    """Explain failing imports from now on."""
    if not any(isinstance(finder, _Hint) for finder in sys.meta_path):
        sys.meta_path.append(_Hint())
