"""Laws of the package's front door: its names are the classes of their modules, imported on first use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import flowse
from flowse.enhancer import Enhancer, Windowing
from flowse.flow.sampling import Sampling


def test_public_names_are_the_classes_of_their_modules() -> None:
    assert (flowse.Enhancer, flowse.Windowing, flowse.Sampling) == (Enhancer, Windowing, Sampling)
    assert set(flowse.__all__) <= set(dir(flowse))


def test_importing_the_package_imports_neither_torch_nor_numpy() -> None:
    code = "import sys, flowse; print([name for name in ('numpy', 'torch') if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'flowse' has no attribute 'Enhancers'"):
        flowse.Enhancers  # noqa: B018


def test_the_stub_has_every_public_name() -> None:
    stub = Path(flowse.__file__).with_suffix(".pyi").read_text(encoding="utf-8")
    assert all(name in stub for name in flowse.__all__)
