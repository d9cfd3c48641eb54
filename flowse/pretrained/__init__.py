"""The embedded default models: small, made by this repository's own recipes, and found by name."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent


def embedded() -> list[str]:
    """Name the embedded models."""
    return sorted(path.name for path in _HERE.iterdir() if path.is_dir() and not path.name.startswith("_"))


def resolve(name_or_path: str) -> Path:
    """Return the path of a model: an embedded model's folder by its name, or the path itself.

    Raises:
        FileNotFoundError: There is neither; the message lists the embedded names.
    """
    if name_or_path in embedded():
        return _HERE / name_or_path
    path = Path(name_or_path).expanduser()
    if path.exists():
        return path.resolve()
    raise FileNotFoundError(
        f"{name_or_path}: no such file or folder, and no embedded model of that name; embedded: {', '.join(embedded()) or 'none'}"
    )
