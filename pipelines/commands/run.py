"""Run the stages that are not fresh, or say what a run would do and what it would cost."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from flowse import console
from flowse.errors import UserError
from pipelines.commands.session import Session
from pipelines.commands.status import status_table
from pipelines.engine.mirror import mirror_of
from pipelines.engine.plan import StagePlan
from pipelines.engine.stage import reads_of
from pipelines.experiment import STAGE_NAMES, STAGES, ExperimentConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the stages to run and how to run them."""
    parser.add_argument(
        "stages",
        nargs="?",
        default="..",
        metavar="STAGE | A..B",
        help="one stage; ..b, a stage with all that it needs; a range a..b or a..; .. all (default: %(default)s); "
        f"the stages are {', '.join(STAGE_NAMES)}",
    )
    parser.add_argument(
        "--accept-quarantine",
        nargs="+",
        default=[],
        metavar="UNIT",
        help="do without these units where they are quarantined; status, lineage and the model card say so",
    )
    parser.add_argument("--force", action="store_true", help="run the named stages again, fresh or not")
    parser.add_argument(
        "--fresh", action="store_true", help="train anew from step 0, instead of going on with the run that is there"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would run, why, and what it would cost, and do nothing"
    )
    parser.add_argument(
        "--no-probe", action="store_true", help="with --dry-run: try nothing out, so say nothing of cost"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the stages asked for and print where everything is; with --dry-run only print what would run."""
    session = Session.of(arguments, looks=True)
    names = selection(arguments.stages, session.config)
    anew = ["train"] if arguments.fresh and "train" in names else []
    running = [name for name in names if arguments.force or name in anew or session.plans[name].finished is None]
    if arguments.dry_run:
        _dry_run(session, names, running, probe=not arguments.no_probe)
        return 0
    begun = time.monotonic()
    plans: Mapping[str, StagePlan] = session.plans
    if "train" in running and session.config.train.listen.every:
        from flowse.training.listening import pair_items, require_models

        # Hours later, the training would refuse what it cannot use.
        require_models(session.config.train.listen, session.config.train.mel)
        pair_items(session.config.train.listen)
    if running:
        plans = _carry_out(session, names, arguments.force, anew, arguments.accept_quarantine)
    else:
        session.listing.save()
        console.say("nothing to do: every stage asked for is fresh")
    _summary(plans, names, session.workspace, time.monotonic() - begun)
    return 0


def selection(text: str, config: ExperimentConfig) -> tuple[str, ...]:
    """Read `STAGE` or `A..B`: names of the stages in order.

    Either end of a range may be left out; `..B` is B and what it reads, directly or not.

    Raises:
        UserError: No such stage, or the range runs backwards.
    """
    first, dots, last = text.partition("..")
    if not dots:
        last = first
    begin, end = first or STAGE_NAMES[0], last or STAGE_NAMES[-1]
    for name in (begin, end):
        if name not in STAGE_NAMES:
            raise UserError(f"no stage {name!r}; the stages are: {', '.join(STAGE_NAMES)}")
    if STAGE_NAMES.index(begin) > STAGE_NAMES.index(end):
        raise UserError(f"{text}: {begin} comes after {end}; the order is {', '.join(STAGE_NAMES)}")
    if last and dots and not first:
        needed = {last}
        for stage in reversed(STAGES):
            if stage.NAME in needed:
                needed.update(reads_of(stage, getattr(config, stage.NAME)))
        return tuple(name for name in STAGE_NAMES if name in needed)
    return STAGE_NAMES[STAGE_NAMES.index(begin) : STAGE_NAMES.index(end) + 1]


def _carry_out(
    session: Session, names: Sequence[str], force: bool, anew: Sequence[str], may_lack: Sequence[str]
) -> Mapping[str, StagePlan]:
    """Run stages on the cluster, then write the reject report; return the state of all stages after it.

    Args:
        session: Configurations and workspace.
        names: The stages.
        force: Whether fresh ones run, too.
        anew: Those that go on with nothing that they did before.
        may_lack: Units that the output may do without.
    """
    from pipelines.commands import rejects
    from pipelines.engine.lock import workspace_lock
    from pipelines.engine.runner import Runner
    from pipelines.stages import train
    from pipelines.stages.ingest import corpus_roots

    command = shlex.join(["python", "-m", "pipelines", *sys.argv[1:]])
    with workspace_lock(session.workspace, command):
        session.listing.save()
        if train.NAME in anew and (retired := train.begin_anew(session.workspace / train.NAME)):
            console.say(f"{train.NAME:<16} {retired} run(s) are kept and no longer gone on with")
        roots = corpus_roots(session.config.ingest, session.workspace / "made")
        look = session.listing.digest
        runner = Runner(
            STAGES,
            session.config,
            session.cluster,
            session.workspace,
            roots,
            look,
            may_lack,
            changes=session.changes,
            command=command,
        )
        plans = runner.run(names, force, anew)
        report = rejects.reject_report(rejects.reject_files(plans))
        runner.experiment.artifact(rejects.write_report(report, session.workspace))
    return plans


def _dry_run(session: Session, names: Sequence[str], running: Sequence[str], *, probe: bool) -> None:
    """Print which stages would run and why, and, with `probe`, what each would cost."""
    for name in names:
        verdict = "would run" if name in running else "fresh"
        reasons = "; ".join(session.plans[name].reasons) if name in running else ""
        if name in running and probe and (new := session.new_units(name)):
            reasons += f"; {new}"
        print(f"{verdict:<10} {name:<16} {reasons}".rstrip(), flush=True)
    if not running or not probe:
        return
    from pipelines.commands import preview
    from pipelines.commands.preview.cost import table

    busy = preview.busy()
    estimate = preview.Preview(session.config, session.cluster, session.workspace, preview.capacity(session.cluster))
    print(f"\n{table(list(estimate.costs(STAGES, session.plans, running)))}")
    print("NOTE  expected is work alone: starting workers and loading models adds some seconds to a stage")
    if busy:
        print(f"NOTE  {busy}")


def _summary(plans: Mapping[str, StagePlan], names: Sequence[str], workspace: Path, seconds: float) -> None:
    """Print the state of the stages asked for, their notes, and where everything is."""
    print()
    print(status_table({name: standing for name, standing in plans.items() if name in names}))
    print(f"\ndone in {console.duration(seconds)}; workspace: {workspace}")
    for name in names:
        finished = plans[name].finished
        if finished is not None:
            for note in finished.report.notes:
                print(f"{name:<16} {note}")
    mirror = mirror_of(workspace)
    print(f"{'MLflow UI':<16} make ui WORKSPACE={mirror.store.url if mirror else workspace}")
