"""`run` takes one stage, a range or a stage with all that it needs; a dry run does nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowse.errors import UserError
from pipelines.__main__ import main
from pipelines.commands.run import selection
from pipelines.experiment import STAGE_NAMES, ExperimentConfig


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("..", STAGE_NAMES),
        ("rooms", ("rooms",)),
        ("simulate..", STAGE_NAMES[STAGE_NAMES.index("simulate") :]),
        ("rooms..transcribe", ("rooms", "quality", "filter_language", "transcribe")),
        ("..filter_language", ("ingest", "quality", "filter_language")),
        ("..simulate", ("ingest", "rooms", "quality", "filter_language", "transcribe", "simulate")),
    ],
)
def test_stages_are_selected_in_their_order(text: str, names: tuple[str, ...]) -> None:
    assert selection(text, ExperimentConfig()) == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bake", "no stage 'bake'; the stages are: ingest, rooms"),
        ("..bake", "no stage 'bake'"),
        ("train..ingest", "train..ingest: train comes after ingest; the order is"),
    ],
)
def test_wrong_selections_are_refused_with_what_there_is(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        selection(text, ExperimentConfig())


def test_a_dry_run_says_what_would_run_and_does_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workspace = tmp_path / "w"
    assert main(["run", "ingest..rooms", "--dry-run", "--no-probe", f"--workspace={workspace}"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "would run  ingest           has never run in this workspace",
        "would run  rooms            reads ingest, which is missing",
    ]
    assert not workspace.exists()


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            ['evaluate.pairs=[{name: real, noisy: "/no/such/folder"}]', "train.listen.pairs=${evaluate.pairs}"],
            "train.listen.pairs: evaluate.pairs real: noisy",
        ),
        (["train.listen.speaker=nobody"], "train.listen.speaker"),
    ],
)
def test_what_training_could_not_listen_to_is_refused_before_the_first_stage(
    lines: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["train.listen.every=1", "cluster.backend=local", *lines]
    arguments = ["run", "..train", "--workspace", str(tmp_path / "w")]
    assert main([*arguments, *(word for line in settings for word in ("--set", line))]) != 0
    assert said in capsys.readouterr().err
    assert not (tmp_path / "w" / "ingest").exists()
