"""Laws of the processor's name: the highest level whose flags are all there, and never an error."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from pipelines.engine import processor

V2 = "sse4_1 sse4_2 ssse3 popcnt cx16"
V3 = f"{V2} avx avx2 bmi1 bmi2 f16c fma movbe"
V4 = f"{V3} avx512f avx512bw avx512cd avx512dq avx512vl"


@pytest.mark.parametrize(
    ("flags", "level"),
    [(V4, "x86-64-v4"), (V3, "x86-64-v3"), (V3.replace("fma", ""), "x86-64-v2"), (V2, "x86-64-v2"), ("", "x86_64")],
)
def test_the_level_is_the_highest_whose_flags_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, level: str
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: fpu {flags}\n")
    monkeypatch.setattr(processor, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert processor.level() == level


def test_where_nothing_is_known_it_is_the_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "_CPUINFO", tmp_path / "absent")
    for machine in ("x86_64", "arm64"):
        monkeypatch.setattr(platform, "machine", lambda machine=machine: machine)
        assert processor.level() == machine
