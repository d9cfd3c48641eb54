"""`gc` lists, and with --yes deletes, the outputs that the configuration does not need, and no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from obstore.store import MemoryStore

from pipelines.__main__ import main
from pipelines.commands.gc import unneeded
from pipelines.engine import mirror as mirror_module
from pipelines.engine.mirror import open_mirror
from pipelines.engine.plan import plan
from pipelines.engine.store import Store
from tests.pipelines.two_stages import STAGES, Config, carry_out, config


@dataclass(frozen=True, kw_only=True)
class Listed(Config):
    """A configuration with a key that only decides which units there are."""

    more: int = field(default=0, metadata={"unit": False})


def test_outputs_of_other_settings_are_not_needed(done: Path) -> None:
    settings = config(second=Config(key=2.0))
    old = plan(STAGES, config(), done)["second"].folder
    # Until the stage is done anew its youngest output stays: the next run does the units that are new.
    assert list(unneeded(plan(STAGES, settings, done), done)) == []
    carry_out(done, settings, "second")
    (waste,) = unneeded(plan(STAGES, settings, done), done)
    assert waste.folders == [old]
    assert (waste.count, len(waste.files)) == (1, 2)
    # While `first` is stale nobody knows which output of `second` will fit: keep them all.
    unknown = config(first=Config(key=9.0))
    assert list(unneeded(plan(STAGES, unknown, done), done)) == []


def test_units_that_two_outputs_share_are_needed_by_either(done: Path) -> None:
    settings = config(second=Listed(more=1))
    carry_out(done, settings, "second")
    carry_out(done, config(second=Listed(more=2)), "second")
    (waste,) = unneeded(plan(STAGES, settings, done), done)
    assert len(waste.folders) == 2
    assert waste.files == []


def test_units_of_an_output_that_is_only_begun_are_kept(tmp_path: Path) -> None:
    carry_out(tmp_path, config(), "first", commit=False)
    assert list(unneeded(plan(STAGES, config(), tmp_path), tmp_path)) == []


def test_outputs_of_an_earlier_version_are_not_needed(done: Path) -> None:
    old = done / "second" / "0123456789abcdef"
    old.mkdir()
    (old / "part-00000.parquet").touch()
    unknown = config(first=Config(key=9.0))
    assert [waste.folders for waste in unneeded(plan(STAGES, unknown, done), done)] == [[old]]


def test_only_what_is_listed_is_deleted_and_only_with_yes(
    done: Path, use: Callable[[Any], None], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = config(second=Config(key=2.0))
    old = plan(STAGES, config(), done)["second"].folder
    assert old is not None
    carry_out(done, settings, "second")
    use(settings)
    assert main(["gc"]) == 0
    said = capsys.readouterr().out
    assert str(old) in said
    assert "1 folders and 1 units not needed by this configuration; delete with --yes" in said
    assert old.is_dir()
    assert main(["gc", "--yes"]) == 0
    assert "1 folders and 1 units deleted" in capsys.readouterr().out
    assert not old.exists()
    assert {stage.state for stage in plan(STAGES, settings, done).values()} == {"fresh"}


def test_of_a_workspace_in_a_store_the_objects_are_deleted_also_those_that_are_not_copied_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_module, "_open", {})
    store, names = Store("memory://ws", MemoryStore()), ("first", "second")
    folders = [tmp_path / "a", tmp_path / "b"]
    here, there = (open_mirror(store, folder, names) for folder in folders)
    carry_out(here.folder, config(), "first", b"old")
    settings = config(first=Config(key=2.0))
    carry_out(here.folder, settings, "first", b"new")
    there.refresh()
    (waste,) = unneeded(plan(STAGES, settings, there.folder), there.folder)
    assert (len(waste.folders), waste.count, waste.size_bytes()) == (1, 1, len(b"old") + _record_bytes(store, "old"))
    waste.delete()
    assert sum(name.endswith("STAGE.json") for name in store.list("first")) == 1
    assert [store.get(name) for name in store.list("first/units") if "@" in name] == [b"new"]
    there.publish()
    for folder in folders:
        open_mirror(store, folder, names).refresh()
        assert [stage.state for stage in plan(STAGES, settings, folder).values()] == ["fresh", "missing"]
        assert list(unneeded(plan(STAGES, settings, folder), folder)) == []


def _record_bytes(store: Store, content: str) -> int:
    """Size of the record of the unit whose file has this content."""
    (name,) = [name for name in store.list("first/units") if "@" in name and store.get(name) == content.encode()]
    return len(store.get(name.rpartition(".parquet@")[0] + ".json"))
