"""Laws of `flowse export-onnx`: it writes what a model has, and names a model that is not there."""

from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest

from flowse import cli


@pytest.fixture(autouse=True)
def _untyped() -> Iterator[None]:
    """The exporter traces sizes as tensors, which the annotations of the tests' type checks do not allow."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_the_embedded_mask_becomes_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export-onnx", str(tmp_path / "out")]) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["predictor.onnx"]
    assert "differs from the model by" in capsys.readouterr().out


def test_a_model_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export-onnx", str(tmp_path), "--model", "nowhere"]) == 2
    assert "'nowhere' is neither a path nor an embedded model" in capsys.readouterr().err
