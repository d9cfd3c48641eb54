"""The small embedded models and how to find them by name; the recipes in ``pipelines/pretrain`` trained them."""

from __future__ import annotations

from pathlib import Path

DEFAULT = "flowse-small"
"""Name of the embedded model that enhances where no model is named."""

_ROOT = Path(__file__).parent


def names() -> list[str]:
    """List the embedded models, in alphabetical order."""
    folders = (path for path in _ROOT.iterdir() if path.is_dir())
    return sorted(folder.name for folder in folders if not folder.name.startswith(("_", ".")))


def resolve(name_or_path: str) -> Path:
    """Find a model's file or folder.

    Args:
        name_or_path: An existing path, which has precedence, or the name of an embedded model.

    Returns:
        The given path, or the folder of the embedded model.

    Raises:
        FileNotFoundError: There is neither such a path nor such a model; the message names the embedded models.
    """
    path = Path(name_or_path).expanduser()
    if name_or_path and path.exists():
        return path
    if name_or_path in names():
        return _ROOT / name_or_path
    embedded = ", ".join(names()) or "none"
    raise FileNotFoundError(f"{name_or_path!r} is neither a path nor an embedded model ({embedded})")
