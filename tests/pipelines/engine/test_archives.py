"""Laws of tars as folders: every member that is whole is found and read, whatever else in the tar is damaged."""

from __future__ import annotations

import io
import random
import tarfile
from pathlib import Path

import pytest

from flowse.fetching import use_source
from pipelines.engine.archives import Archive, forget_copies, scan, tar_above
from pipelines.engine.nearby import Nearby


def made(seed: int) -> tuple[bytes, dict[str, tuple[int, bytes]]]:
    """Make a tar of random members; return it, and offset and content of each by name."""
    draw = random.Random(seed)
    buffer, contents = io.BytesIO(), dict[str, bytes]()
    with tarfile.open(fileobj=buffer, mode="w", format=draw.choice([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])) as tar:
        for number in range(draw.randint(1, 6)):
            name = f"{number}{'n' * draw.choice([1, 90, 180])}/ü.wav"
            contents[name] = draw.randbytes(draw.choice([0, 1, 511, 512, 513, 5000]))
            info = tarfile.TarInfo(name)
            info.size = len(contents[name])
            tar.addfile(info, io.BytesIO(contents[name]))
            if draw.random() < 0.3:
                folder = tarfile.TarInfo(f"{number}")
                folder.type = tarfile.DIRTYPE
                tar.addfile(folder)
    buffer.seek(0)
    with tarfile.open(fileobj=buffer) as tar:
        places = {info.name: info.offset_data for info in tar if info.isreg()}
    return buffer.getvalue(), {name: (places[name], content) for name, content in contents.items()}


@pytest.mark.parametrize("seed", range(25))
def test_every_member_that_is_whole_is_found_and_what_is_not_is_said(seed: int) -> None:
    content, members = made(seed)
    whole = scan(io.BytesIO(content), len(content))
    assert {member.name: member.begin for member in whole.members} == {name: at for name, (at, _) in members.items()}
    assert not whole.faults

    draw, damaged = random.Random(seed), bytearray(content)
    victim = draw.choice(sorted(members))
    begin = members[victim][0]
    for at in range(begin - 512, begin):  # its header
        damaged[at] = draw.randrange(1, 256)
    found = scan(io.BytesIO(bytes(damaged)), len(damaged))
    assert {member.name for member in found.members if member.name in members} == members.keys() - {victim}
    assert found.faults

    ends = {at - 512 + 512 * (1 + -(-len(data) // 512)) for at, data in members.values()}
    cut = draw.randrange(max(ends) + 512)  # zeros follow
    found = scan(io.BytesIO(content[:cut]), cut)
    read = {member.name for member in found.members if not member.fault}
    assert read == {name for name, (at, data) in members.items() if at + len(data) <= cut}
    assert found.faults or any(member.fault for member in found.members)


def test_members_are_read_by_their_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    content, members = made(3)
    path = tmp_path / "a.TAR"
    path.write_bytes(content)
    assert tar_above(path / "x" / "y") == path
    assert tar_above(tmp_path) is None
    archive = Archive(path)
    for name, (_, data) in members.items():
        assert archive.fetched(path / name).read_bytes() == data
    assert list((tmp_path / "tmp").rglob("*.wav"))
    forget_copies()
    assert not [file for file in (tmp_path / "tmp").rglob("*") if file.is_file()]
    assert archive.fetched(path / name).read_bytes() == data
    missing = path / "missing.wav"
    assert archive.fetched(missing) == missing, "its reader says that it is not there"
    path.unlink()
    assert archive.fetched(path / name) == path / name
    use_source(Nearby())
    try:
        assert not Nearby().is_far(path / name)
    finally:
        use_source(None)
