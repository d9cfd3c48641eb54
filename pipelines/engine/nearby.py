"""What brings files to a process of the pipeline: from the store of its workspace, from those of corpora, from tars."""

from __future__ import annotations

from pathlib import Path

from flowse.data.content import file_facts
from flowse.fetching import use_source
from pipelines.engine.archives import Archive, tar_above
from pipelines.engine.mirror import Mirror, mirror_of
from pipelines.engine.remote_tree import RemoteTree, is_in_store, tree_at, tree_of

_MOST_FOLDERS = 10_000


class Nearby:
    """The source of a process (`flowse.fetching.Source`)."""

    def __init__(self) -> None:
        """Know no folder yet."""
        self._owners: dict[Path, Mirror | RemoteTree | Archive | None] = {}

    def __reduce__(self) -> tuple[type[Nearby], tuple[()]]:
        """Pickle nothing of what is known: another process looks for itself."""
        return Nearby, ()

    def _owner(self, path: Path) -> Mirror | RemoteTree | Archive | None:
        """Return what holds copies in the folder in which a file lies; a folder is looked up once."""
        folder = path.parent
        if folder not in self._owners:
            if len(self._owners) > _MOST_FOLDERS:
                self._owners.clear()
            tar = tar_above(folder)
            self._owners[folder] = Archive(tar) if tar else tree_of(folder) or mirror_of(folder)
        return self._owners[folder]

    def fetched(self, path: Path, sha256: str = "") -> Path:
        """Return the path of a file that is here now, if it is anywhere."""
        owner = self._owner(path)
        if owner is None:
            return path
        return owner.fetched(path, sha256) if isinstance(owner, Mirror) else owner.fetched(path)

    def is_far(self, path: Path) -> bool:
        """Whether a file lies in a store."""
        owner = self._owner(path)
        return owner.is_far if isinstance(owner, Archive) else owner is not None

    def stretch(self, path: Path, begin: int, end: int, sha256: str, size: int) -> bytes | None:
        """Return bytes of a file that is not here; None: read it from `fetched`."""
        owner = self._owner(path)
        return owner.stretch(path, begin, end, sha256, size) if isinstance(owner, Mirror) else None

    def facts(self, path: Path) -> str | None:
        """Return what the store's listing says of a recording; None: the file itself says it."""
        owner = self._owner(path)
        if isinstance(owner, Archive):  # who replaces a tar may replace any member
            return file_facts(owner.path)
        return owner.facts(path) if isinstance(owner, RemoteTree) else None

    def made(self, path: Path) -> None:
        """Send a recording that was made here."""
        if isinstance(owner := self._owner(path), Mirror):
            owner.made(path)

    def folder_at(self, url: str, key: str, *, again: bool) -> Path | None:
        """List a folder of a store; None: it is no address of one."""
        return tree_at(url).listed(key, again=again) if is_in_store(url) else None

    def file_at(self, url: str) -> Path | None:
        """Return the path of an object; None: it is no address of one."""
        folder, _, name = url.rpartition("/")
        return tree_at(folder).root / name if is_in_store(folder) and name else None


def bring_files_here() -> None:
    """Let this process read files of stores by their paths."""
    use_source(Nearby())
