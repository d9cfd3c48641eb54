"""The program: the stages in order, and the command line around them. Start reading here."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from flowse.data.enhanced import unpack
from flowse.errors import UserError
from pipelines.commands import doctor, export_cuts, gc, lineage, listen, preview, rejects, status
from pipelines.engine import console, tracking
from pipelines.engine.lock import workspace_lock
from pipelines.engine.plan import StagePlan, plan
from pipelines.engine.stage import reads_of
from pipelines.experiment import STAGES, ClusterConfig, ExperimentConfig, load_cluster, load_experiment, split_overrides
from pipelines.stages import filter_language, ingest, transcribe

NAMES = tuple(stage.NAME for stage in STAGES)


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    where = common.add_argument_group("which experiment, where")
    where.add_argument(
        "--experiment",
        type=Path,
        default=Path("configs/experiment/demo.yaml"),
        metavar="FILE",
        help="what is made (default: %(default)s)",
    )
    where.add_argument(
        "--cluster",
        type=Path,
        default=Path("configs/cluster/local.yaml"),
        metavar="FILE",
        help="where it is made: Ray, MLflow, workers (default: %(default)s)",
    )
    where.add_argument("--workspace", type=Path, metavar="DIR", help="all outputs (default: runs/<experiment name>)")
    where.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="KEY=VALUE",
        help="change one key, e.g. train.max_steps=500 or cluster.stages.simulate.workers=4; repeatable",
    )

    parser = argparse.ArgumentParser(prog="python -m pipelines", description=f"FlowSE pipeline: {' → '.join(NAMES)}.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, parents=[common], help=text, description=text[0].upper() + text[1:] + ".")

    run = command("run", "run the stages that are not fresh; finished work is never done twice")
    run.add_argument(
        "stages",
        nargs="?",
        default="..",
        metavar="STAGE | A..B",
        help="one stage; ..b, a stage with all that it needs; a range a..b or a..; .. all (default: %(default)s); "
        f"the stages are {', '.join(NAMES)}",
    )
    run.add_argument("--force", action="store_true", help="run the named stages again, fresh or not")
    run.add_argument(
        "--dry-run", action="store_true", help="say what would run, why, and what it would cost, and do nothing"
    )
    run.add_argument("--no-probe", action="store_true", help="with --dry-run: try nothing out, so say nothing of cost")
    show = command("status", "show every stage: state, counts, hours")
    show.add_argument("--json", action="store_true", help="as JSON, for programs")
    why = command("explain", "say exactly why a stage will run, or that it will not")
    why.add_argument("stage", choices=NAMES, metavar="STAGE", help=", ".join(NAMES))
    turned_away = command("rejects", "show what was turned away, by stage, corpus and reason")
    turned_away.add_argument("--csv", action="store_true", help="as CSV, for programs")
    command("doctor", "look at corpora, models, disk, MLflow and Ray before work starts")
    line = command("lineage", "follow an utterance to all that used it, or a model back to all that it was made of")
    what = line.add_mutually_exclusive_group(required=True)
    what.add_argument("--utterance", metavar="ID", help="id of speech, noise or impulse response; or a mixture's key")
    what.add_argument("--model", type=Path, metavar="DIR", help="an export, a stage's folder, or a copy of a model")
    line.add_argument("--json", action="store_true", help="all of it as JSON, for programs")
    hear = command("listen", "write a page to hear the mixtures by: random and extreme ones, with recipes and scores")
    hear.add_argument("--split", default="train", help="part of the data: train, dev or test (default: %(default)s)")
    hear.add_argument(
        "--count", type=int, default=10, help="random mixtures, and at most as many extreme ones (default: %(default)s)"
    )
    hear.add_argument("--draw", type=int, default=0, help="another number draws other mixtures (default: %(default)s)")
    hear.add_argument(
        "--output", type=Path, metavar="FILE", help="write it here and nowhere else (default: workspace and MLflow)"
    )
    check = command("verify", "hash every output against its record")
    check.add_argument(
        "--mend", action="store_true", help="forget the units with wrong files: the next run makes them anew"
    )
    cuts = command("export-cuts", "write a stage's manifest as a CutSet for lhotse")
    manifests = (ingest.NAME, filter_language.NAME, transcribe.NAME)
    cuts.add_argument("stage", choices=manifests, metavar="STAGE", help=", ".join(manifests))
    cuts.add_argument("out", type=Path, metavar="OUT", help="the file to write: .jsonl or .jsonl.gz")
    files = command("unpack-enhanced", "write what enhance made as a tree of files, under their original paths")
    files.add_argument("out", type=Path, metavar="OUT", help="folder to write: OUT/<corpus>/<path>")
    files.add_argument("--corpus", default="", metavar="NAME", help="only this corpus (default: all)")
    files.add_argument("--overwrite", action="store_true", help="replace files that exist")
    clean = command("gc", "list (and delete) outputs that this configuration does not need")
    clean.add_argument("--yes", action="store_true", help="really delete them")
    ui = command("ui", "open the MLflow UI on this workspace")
    ui.add_argument("--port", type=int, default=5000, help="port of the UI (default: %(default)s)")
    return parser


def _selection(text: str, config: ExperimentConfig) -> tuple[str, ...]:
    """Read `STAGE` or `A..B` (either end may be left out; `..B` is B and what it reads, directly or not).

    Raises:
        UserError: No such stage, or the range runs backwards.
    """
    first, dots, last = text.partition("..")
    if not dots:
        last = first
    begin, end = first or NAMES[0], last or NAMES[-1]
    for name in (begin, end):
        if name not in NAMES:
            raise UserError(f"no stage {name!r}; the stages are: {', '.join(NAMES)}")
    if NAMES.index(begin) > NAMES.index(end):
        raise UserError(f"{text}: {begin} comes after {end}; the order is {', '.join(NAMES)}")
    if last and dots and not first:
        needed = {last}
        for stage in reversed(STAGES):
            if stage.NAME in needed:
                needed.update(reads_of(stage, getattr(config, stage.NAME)))
        return tuple(name for name in NAMES if name in needed)
    return NAMES[NAMES.index(begin) : NAMES.index(end) + 1]


def _run(arguments: argparse.Namespace, config: ExperimentConfig, cluster: ClusterConfig, workspace: Path) -> int:
    wanted = _selection(arguments.stages, config)
    plans = plan(STAGES, config, workspace)
    if arguments.dry_run:
        for name in wanted:
            runs = arguments.force or plans[name].finished is None
            verdict = "would run" if runs else "fresh"
            print(f"{verdict:<10} {name:<16} {'; '.join(plans[name].reasons) if runs else ''}".rstrip(), flush=True)
        running = [name for name in wanted if arguments.force or plans[name].finished is None]
        if running and not arguments.no_probe:
            busy = preview.busy()
            looked = preview.Preview(config, cluster, workspace, preview.capacity(cluster))
            print(f"\n{preview.table(list(looked.costs(STAGES, plans, running)))}")
            print("NOTE  expected is work alone: starting workers and loading models adds some seconds to a stage")
            if busy:
                print(f"NOTE  {busy}")
        return 0
    begun = time.monotonic()
    if arguments.force or any(plans[name].finished is None for name in wanted):
        from pipelines.engine.runner import Runner

        with workspace_lock(workspace, " ".join(["python -m pipelines", *sys.argv[1:]])):
            runner = Runner(STAGES, config, cluster, workspace)
            plans = runner.run(wanted, arguments.force)
            report = rejects.reject_report(rejects.reject_files(plans))
            runner.experiment.artifact(rejects.write_report(report, workspace))
    else:
        console.say("nothing to do: every stage asked for is fresh")
    _summary(plans, wanted, workspace, time.monotonic() - begun)
    return 0


def _summary(plans: dict[str, StagePlan], wanted: Sequence[str], workspace: Path, seconds: float) -> None:
    """Say at the end where everything is."""
    print()
    print(status.status_table({name: one for name, one in plans.items() if name in wanted}))
    print(f"\ndone in {console.duration(seconds)}; workspace: {workspace}")
    for name in wanted:
        finished = plans[name].finished
        if finished is not None:
            for note in finished.report.notes:
                print(f"{name:<16} {note}")
    print(f"{'MLflow UI':<16} make ui WORKSPACE={workspace}")


def _gc(arguments: argparse.Namespace, plans: dict[str, StagePlan], workspace: Path) -> int:
    folders = gc.unneeded(plans, workspace)
    total = 0
    for folder in folders:
        size = gc.size_bytes(folder)
        total += size
        print(f"{size / 2**20:10,.1f} MiB  {folder}")
        if arguments.yes:
            gc.delete(folder)
    verb = "deleted" if arguments.yes else "not needed by this configuration; delete with --yes"
    print(f"{total / 2**20:10,.1f} MiB  {len(folders)} folders {verb}")
    return 0


def _lineage(arguments: argparse.Namespace, workspace: Path) -> int:
    if arguments.utterance:
        found = lineage.of_utterance(lineage.Workspace(workspace, NAMES), arguments.utterance)
        print(lineage.to_json(found) if arguments.json else lineage.utterance_table(found))
        return 0
    made_of = lineage.of_model(*lineage.locate(arguments.model, workspace, NAMES))
    print(lineage.to_json(made_of) if arguments.json else lineage.model_table(made_of))
    return 0


def _listen(arguments: argparse.Namespace, cluster: ClusterConfig, plans: dict[str, StagePlan], workspace: Path) -> int:
    simulated = plans["simulate"].finished
    if simulated is None:
        why = "; ".join(plans["simulate"].reasons[:2])
        raise UserError(f"there is no dataset to hear: simulate is {plans['simulate'].state} ({why}); run it first")
    page = listen.write_page(simulated, workspace, arguments.split, arguments.count, arguments.draw, arguments.output)
    print(f"listen: {page}")
    if arguments.output is None and (run_id := simulated.record.get("mlflow_run")):
        tracking.attach(cluster.mlflow_uri or tracking.default_uri(workspace), run_id, page, listen.FOLDER)
        print(f"in MLflow: run {run_id} (simulate), artifact {listen.FOLDER}/{page.name}")
    return 0


def _export_cuts(arguments: argparse.Namespace, config: ExperimentConfig, stage: StagePlan, workspace: Path) -> int:
    if stage.finished is None:
        raise UserError(f"{stage.name} is {stage.state} ({'; '.join(stage.reasons[:2])}); run it first")
    roots = ingest.corpus_roots(config.ingest, workspace / "made")
    count = export_cuts.export_cuts(stage.finished.parts(".parquet"), roots, arguments.out)
    print(f"{arguments.out}: {count:,} cuts")
    return 0


def _unpack_enhanced(arguments: argparse.Namespace, stage: StagePlan) -> int:
    if stage.finished is None:
        raise UserError(f"enhance is {stage.state} ({'; '.join(stage.reasons[:2])}); run it first")
    parts = stage.finished.parts(".parquet")
    try:
        written = sum(1 for _ in unpack(parts, arguments.out, overwrite=arguments.overwrite, corpus=arguments.corpus))
    except (FileExistsError, ValueError) as error:
        raise UserError(str(error)) from None
    if not written:
        of = f" of corpus {arguments.corpus!r}" if arguments.corpus else ""
        raise UserError(f"enhance has made nothing{of}; name recordings in enhance.corpora")
    print(f"{arguments.out}: {written:,} files")
    return 0


def _dispatch(arguments: argparse.Namespace) -> int:
    experiment_overrides, cluster_overrides = split_overrides(arguments.overrides)
    config = load_experiment(arguments.experiment, experiment_overrides)
    cluster = load_cluster(arguments.cluster, cluster_overrides)
    workspace = (arguments.workspace or Path(cluster.workspace or f"runs/{config.name}")).expanduser().resolve()
    if arguments.command == "run":
        return _run(arguments, config, cluster, workspace)
    if arguments.command == "doctor":
        findings = list(doctor.examine(config, cluster, workspace))
        print(doctor.report(findings))
        return 0 if all(one.sound for one in findings) else 1
    if arguments.command == "ui":
        uri = cluster.mlflow_uri or tracking.default_uri(workspace)
        if not cluster.mlflow_uri and not (workspace / "mlflow.db").exists():
            raise UserError(f"{workspace}: nothing has been tracked here yet; run the pipeline first")
        return subprocess.call(tracking.ui_command(uri, arguments.port))
    if arguments.command == "lineage":
        return _lineage(arguments, workspace)
    plans = plan(STAGES, config, workspace)
    if arguments.command == "status":
        print(status.status_json(plans) if arguments.json else status.status_table(plans))
        return 0
    if arguments.command == "explain":
        print(status.explanation(plans[arguments.stage]))
        return 0
    if arguments.command == "rejects":
        report = rejects.reject_report(rejects.reject_files(plans))
        print(report.to_csv(index=False) if arguments.csv else rejects.reject_table(report, plans))
        if not arguments.csv and os.access(workspace, os.W_OK):
            print(f"\nas parquet: {rejects.write_report(report, workspace)}")
        return 0
    if arguments.command == "listen":
        return _listen(arguments, cluster, plans, workspace)
    if arguments.command == "export-cuts":
        return _export_cuts(arguments, config, plans[arguments.stage], workspace)
    if arguments.command == "unpack-enhanced":
        return _unpack_enhanced(arguments, plans["enhance"])
    if arguments.command == "gc":
        return _gc(arguments, plans, workspace)
    wrong = gc.verify(plans)
    for line in wrong:
        print(f"BAD  {line}")
    checked = sum(one.finished is not None for one in plans.values())
    print(f"{len(wrong)} wrong files; {checked} finished stages hashed")
    if wrong and arguments.mend:
        forgotten = gc.mend(plans)
        print(f"forgotten, and made anew by the next run: {', '.join(forgotten) or 'nothing (surplus files stay)'}")
    return 1 if wrong else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 good, 1 found wanting, 2 a mistake to mend, 130 interrupted."""
    parsed = _parser().parse_args(arguments)
    try:
        return _dispatch(parsed)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `… | head` has seen enough; Python must not complain when it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        what = f"{error.filename or 'a file'}: {error.strerror}"
        print(f"error: {what}; mend that and run again: finished units are kept", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        console.say("interrupted; finished units are kept, run again to go on")
        return 130


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
