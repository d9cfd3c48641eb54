"""`verify` finds every file that is not as recorded, and `--mend` forgets just the units that have such a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.__main__ import main
from pipelines.engine.plan import plan
from pipelines.engine.workspace import units_of
from tests.pipelines.two_stages import STAGES, config


def test_sound_outputs_are_hashed(use: Callable[[Any], None], capsys: pytest.CaptureFixture[str]) -> None:
    use(config())
    assert main(["verify"]) == 0
    assert capsys.readouterr().out == "0 wrong files; 2 finished stages hashed\n"


def test_a_flipped_byte_is_found_and_its_unit_forgotten(
    done: Path, use: Callable[[Any], None], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = plan(STAGES, config(), done)["second"].folder
    assert folder is not None
    (path,) = units_of(folder).glob("part-*.parquet")
    path.write_bytes(b"rowS")
    use(config())
    assert main(["verify"]) == 1
    said = capsys.readouterr().out
    assert said.startswith("BAD  ")
    assert path.name in said
    use(config())
    assert main(["verify", "--mend"]) == 1
    assert f"forgotten, and made anew by the next run: second/{path.stem}" in capsys.readouterr().out
    states = {name: stage.state for name, stage in plan(STAGES, config(), done).items()}
    assert states == {"first": "fresh", "second": "incomplete"}
