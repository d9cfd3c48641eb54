"""Every stage keeps the contract: four sentences say what it does, and its names come in one order."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import pkgutil
import re
import subprocess
import sys

import pytest

from pipelines import stages
from pipelines.engine.stage import Stage
from pipelines.experiment import STAGES, ClusterConfig, ExperimentConfig

EACH_STAGE = pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.NAME)


def test_every_module_of_the_package_is_a_stage_of_the_experiment() -> None:
    assert {stage.NAME for stage in STAGES} == {module.name for module in pkgutil.iter_modules(stages.__path__)}


@EACH_STAGE
def test_the_names_of_a_stage_come_in_the_order_of_the_contract(stage: Stage) -> None:
    names = {"NAME", "READS", "REVISION", "Config", "Worker", "run"}
    found = []
    for node in ast.parse(inspect.getsource(stage)).body:  # type: ignore[arg-type]
        if isinstance(node, ast.Assign):
            found += [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.append(node.target.id)
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.append(node.name)
    in_order = [name for name in found if name in names]
    assert in_order in (
        ["NAME", "READS", "REVISION", "Config", "Worker", "run"],
        ["NAME", "READS", "REVISION", "Config", "run"],  # not cut into units
    )


@EACH_STAGE
def test_the_docstring_of_a_stage_says_what_it_reads_writes_drops_and_fails(stage: Stage) -> None:
    sentences = re.findall(r"(?:^|(?<=[.)] ))(Reads|Writes|Drops|Fails)\b", stage.__doc__ or "", re.MULTILINE)
    assert sentences == ["Reads", "Writes", "Drops", "Fails"]


@EACH_STAGE
def test_a_config_of_a_stage_is_frozen_and_needs_no_values(stage: Stage) -> None:
    config = stage.Config()
    assert dataclasses.is_dataclass(config)
    field = dataclasses.fields(config)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, field, getattr(config, field))


@EACH_STAGE
def test_a_stage_reads_only_stages_before_it(stage: Stage) -> None:
    names = [other.NAME for other in STAGES]
    assert set(stage.READS) <= set(names[: names.index(stage.NAME)])
    assert len(set(stage.READS)) == len(stage.READS)


@EACH_STAGE
def test_both_configurations_have_a_section_for_every_stage(stage: Stage) -> None:
    assert isinstance(getattr(ExperimentConfig(), stage.NAME), stage.Config)  # type: ignore[arg-type]
    assert getattr(ClusterConfig().stages, stage.NAME).unit_timeout_s > 0


@pytest.mark.parametrize(
    "name", ["evaluate", "export", "filter_language", "quality", "simulate", "train", "transcribe"]
)
def test_settings_of_a_stage_need_none_of_the_libraries_of_its_work(name: str) -> None:
    heavy = ["jiwer", "matplotlib", "mlflow", "pandas", "pyarrow", "ray", "scipy", "soundfile", "torch", "whisper"]
    code = f"import sys, pipelines.stages.{name}; print([name for name in {heavy} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
