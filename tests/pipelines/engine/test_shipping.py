"""Laws of values for other machines: paths become those of the same files there, and the files are there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from flowse.errors import DamagedFile
from flowse.fetching import use_source
from pipelines.engine import mirror as mirror_module
from pipelines.engine import shipping
from pipelines.engine.accounts import Tally, UnitReport
from pipelines.engine.mirror import Mirror, open_mirror, open_node_mirror
from pipelines.engine.scratch import use_scratch
from pipelines.engine.shipping import Origin, Parcel, bring_named
from pipelines.engine.store import Store
from pipelines.engine.units import UnitFolder

KEY = "0123456789abcdef0123"


@dataclass(frozen=True)
class Payload:
    part: Path
    others: tuple[Path, ...] = ()
    number: int = 7


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """The mirror of the driver's machine; `elsewhere` opens parcels as on another."""
    monkeypatch.setattr(mirror_module, "_open", {})
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    store = Store("memory://ws", MemoryStore())
    monkeypatch.setattr(mirror_module, "Store", lambda url: store)
    yield open_mirror(store, tmp_path / "driver", ("first",))
    use_source(None)
    use_scratch("", 0.0)


def elsewhere(value: object, driver: Mirror) -> object:
    """Send a value to another machine."""
    return Parcel.of(value, replace(Origin.of(driver.folder), node="that of the driver")).open()


def unit(driver: Mirror, content: bytes = b"rows") -> Path:
    """Commit a unit on the driver's machine, and delete the copy."""
    folder = driver.folder / "first" / "units"
    folder.mkdir(parents=True, exist_ok=True)
    output = UnitFolder(folder, f"part-{KEY}")
    output.path(".tar").write_bytes(content)
    output.commit(Tally(1, 1.0), UnitReport(Tally(1, 1.0)))
    (folder / f"part-{KEY}.tar").unlink()
    return folder / f"part-{KEY}.tar"


@pytest.mark.parametrize("known", [True, False])
def test_a_file_of_a_unit_comes_from_the_store(driver: Mirror, tmp_path: Path, known: bool) -> None:
    path = unit(driver)
    if known:
        driver.know(path, hashlib.sha256(b"rows").hexdigest())
    sent = elsewhere(Payload(path), driver)
    assert isinstance(sent, Payload)
    assert sent.part.is_relative_to(tmp_path / "tmp")
    assert sent.part.name == path.name
    from flowse.fetching import fetched

    assert fetched(sent.part).read_bytes() == b"rows"
    assert not path.exists(), "the driver's copy is its own"


def test_what_only_the_driver_has_travels_with_the_value(driver: Mirror) -> None:
    listing = driver.folder / "first" / "abc" / ".state" / "listing.parquet"
    listing.parent.mkdir(parents=True)
    for content in (b"one", b"two"):
        listing.write_bytes(content)
        sent = elsewhere({"listing": listing}, driver)
        assert isinstance(sent, dict)
        assert sent["listing"] != listing
        assert sent["listing"].read_bytes() == content


def test_what_came_with_a_unit_goes_with_it(driver: Mirror) -> None:
    listing = driver.folder / "first" / "abc" / ".state" / "listing.parquet"
    listing.parent.mkdir(parents=True)
    listing.write_bytes(b"rows")
    origin = replace(Origin.of(driver.folder), node="that of the driver")
    with Parcel.of(listing, origin).opened() as path:
        assert path.read_bytes() == b"rows"
    assert not path.exists()
    with Parcel.of(listing, Origin.of(driver.folder)).opened() as path:
        assert path == listing
    assert listing.exists(), "the driver keeps its own"


def test_a_folder_of_an_output_gets_its_model_and_not_its_tables(driver: Mirror) -> None:
    output = driver.folder / "first" / "abc"
    output.mkdir(parents=True)
    for name in ("model.safetensors", "spec.json", "history.parquet", "units.json"):
        (output / name).write_text(name)
    driver.publish("first")
    sent = elsewhere([output], driver)
    assert isinstance(sent, list)
    assert sorted(path.name for path in sent[0].iterdir()) == ["model.safetensors", "spec.json"]


def test_paths_outside_of_the_workspace_and_on_the_same_machine_stay(driver: Mirror, tmp_path: Path) -> None:
    assert elsewhere((Path("/data"), tmp_path), driver) == (Path("/data"), tmp_path)
    inside = driver.folder / "first" / "units"
    assert Parcel.of(inside, Origin.of(driver.folder)).open() == inside


def test_a_recording_of_a_test_set_travels_with_the_value(
    driver: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pairs").mkdir()
    recordings = [tmp_path / "pairs" / name for name in ("a.wav", "b.FLAC", "large.wav")]
    for path in recordings:
        path.write_bytes(path.name.encode())
    monkeypatch.setattr(shipping, "_MOST_CARRIED", 6)
    origin = replace(Origin.of(driver.folder), node="that of the driver")
    with Parcel.of(Payload(recordings[0], (*recordings[1:], tmp_path / "gone.wav")), origin).opened() as sent:
        assert sent.part.is_relative_to(tmp_path / "tmp")
        assert (sent.part.name, sent.part.read_bytes()) == ("a.wav", b"a.wav")
        assert sent.others[0].read_bytes() == b"b.FLAC"
        assert sent.others[1:] == (recordings[2], tmp_path / "gone.wav"), "what is large, or not there, stays a path"
    assert not sent.part.exists()
    with Parcel.of(recordings[0], Origin.of(driver.folder)).opened() as here:
        assert here == recordings[0]
    assert recordings[0].exists()


def test_a_unit_that_is_made_elsewhere_is_in_the_store(driver: Mirror) -> None:
    folder = elsewhere(driver.folder / "first" / "units", driver)
    assert isinstance(folder, Path)
    assert folder != driver.folder / "first" / "units"
    output = UnitFolder(folder, f"made-{KEY}")
    output.path(".tar").write_bytes(b"made")
    output.commit(Tally(1, 1.0), UnitReport(Tally(1, 1.0)))
    digest = hashlib.sha256(b"made").hexdigest()[:16]
    assert {f"first/units/made-{KEY}.tar@{digest}", f"first/units/made-{KEY}.json"} <= set(driver.store.list())
    path = driver.folder / "first" / "units" / f"made-{KEY}.tar"
    bring_named([path], driver.folder)
    assert driver.fetched(path).read_bytes() == b"made", "the driver reads it when it asks"


def test_other_bytes_than_the_record_says_are_one_line(driver: Mirror, tmp_path: Path) -> None:
    path = unit(driver)
    name = next(name for name in driver.store.list() if ".tar@" in name)
    (tmp_path / "bad").write_bytes(b"ROWS")
    driver.store.put(name, tmp_path / "bad")
    driver.know(path, hashlib.sha256(b"rows").hexdigest())
    with pytest.raises(DamagedFile, match="differs from its record"):
        elsewhere(path, driver)


def test_stretches_are_read_by_range_until_the_whole_is_worth_it(driver: Mirror, tmp_path: Path) -> None:
    content = bytes(range(100))
    path, sha256 = unit(driver, content), hashlib.sha256(content).hexdigest()
    node = open_node_mirror("memory://ws", tmp_path / "node")
    there = tmp_path / "node" / path.relative_to(driver.folder)
    assert node.stretch(there, 10, 20, sha256, 100) == content[10:20]
    assert not there.exists()
    assert node.stretch(there, 50, 70, sha256, 100) is None, "a quarter was asked for"
    assert node.fetched(there, sha256).read_bytes() == content
    there.unlink()  # there was no room for it
    assert node.stretch(there, 0, 50, sha256, 100) == content[:50], "it is not fetched again and again"


def test_the_origin_names_no_credentials(driver: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    parcel = Parcel.of((driver.folder, driver.store), Origin.of(driver.folder))
    assert b"hidden" not in parcel.content
    assert "hidden" not in repr(parcel.origin)
    assert shipping.Origin.of(driver.folder).url == "memory://ws"
