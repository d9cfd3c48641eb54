"""Laws of light imports: modules with settings and rows import no torch, so that commands answer at once."""

from __future__ import annotations

import subprocess
import sys

import pytest

LIGHT = [
    "flowse.audio.mel_config",
    "flowse.data.augment_config",
    "flowse.data.manifest",
    "flowse.errors",
    "flowse.flow.config",
    "flowse.flow.sampling",
    "flowse.hallucination",
    "flowse.language_filter",
    "flowse.metrics.languages",
    "flowse.metrics.evaluation",
    "flowse.metrics.pairs",
    "flowse.metrics.scores",
    "flowse.model.spec",
    "flowse.normalisation",
    "flowse.pretrained",
    "flowse.refusal",
    "flowse.seeding",
    "flowse.simulation.recipe",
    "flowse.simulation.rooms",
    "pipelines.corpora.listing",
    "pipelines.stages.enhance",
    "pipelines.stages.ingest",
    "pipelines.stages.rooms",
    "pipelines.stages.simulate",
    "flowse.tokenizer",
    "flowse.training.config",
    "flowse.whisper.config",
    "flowse.whisper.transcript",
    "flowse.whisper.windows",
]
HEAVY = ["matplotlib", "mlflow", "pandas", "pyarrow", "ray", "scipy", "torch", "torchaudio"]


@pytest.mark.parametrize("module", LIGHT)
def test_a_light_module_imports_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
