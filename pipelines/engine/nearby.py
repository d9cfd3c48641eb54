"""What brings files to a process of the pipeline: from the store of its workspace, and from those of corpora."""

from __future__ import annotations

from pathlib import Path

from flowse.fetching import use_source
from pipelines.engine.mirror import Mirror, mirror_of

_MOST_FOLDERS = 10_000


class Nearby:
    """The source of a process (`flowse.fetching.Source`)."""

    def __init__(self) -> None:
        """Know no folder yet."""
        self._mirrors: dict[Path, Mirror | None] = {}

    def _mirror_of(self, path: Path) -> Mirror | None:
        """Return the mirror in whose folder a file lies; a folder is looked up once."""
        folder = path.parent
        if folder not in self._mirrors:
            if len(self._mirrors) > _MOST_FOLDERS:
                self._mirrors.clear()
            self._mirrors[folder] = mirror_of(folder)
        return self._mirrors[folder]

    def fetched(self, path: Path, sha256: str = "") -> Path:
        """Return the path of a file that is here now, if it is anywhere."""
        mirror = self._mirror_of(path)
        return path if mirror is None else mirror.fetched(path, sha256)

    def stretch(self, path: Path, begin: int, end: int, sha256: str, size: int) -> bytes | None:
        """Return bytes of a file that is not here; None: read it from `fetched`."""
        mirror = self._mirror_of(path)
        return None if mirror is None else mirror.stretch(path, begin, end, sha256, size)

    def facts(self, path: Path) -> str | None:
        """Return None: size and times of files of a workspace are looked at as they are."""
        return None

    def made(self, path: Path) -> None:
        """Send a recording that was made here."""
        if mirror := self._mirror_of(path):
            mirror.made(path)


def bring_files_here() -> None:
    """Let this process read files of stores by their paths."""
    use_source(Nearby())
