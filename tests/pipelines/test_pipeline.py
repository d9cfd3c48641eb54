"""The whole program on a small made corpus: real Ray, real MLflow, real models, and what happens when things die."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import yaml

from flowse.data.manifest import Reject, Utterance
from flowse.data.parquet import read_rows
from flowse.simulation.recipe import Recipe
from pipelines.engine.records import STAGE_RECORD
from tests.pipelines.program import (
    CLUSTER,
    EXPERIMENT,
    ROOT,
    STAGES,
    call,
    running,
    shards,
    stage_folder,
    states,
    status,
    unit_paths,
)

# Where another test has the same with Ray, or nothing is to be shared out: no Ray is started.
HERE: dict[str, Any] = {"cluster.backend": "local"}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in whose workspace everything has run once."""
    folder = tmp_path_factory.mktemp("done")
    said = call(folder, "run")
    for word in ("report.html", "make ui", "language filter"):
        assert word in said
    return folder


def test_every_stage_is_fresh_and_its_books_balance(done: Path) -> None:
    rows = status(done)
    assert list(rows) == STAGES
    for name, row in rows.items():
        assert row["state"] == "fresh", name
        assert row["in"]["utterances"] == sum(row[key]["utterances"] for key in ("kept", "dropped", "failed")), name
        assert row["in"]["hours"] == pytest.approx(sum(row[key]["hours"] for key in ("kept", "dropped", "failed")))


def test_what_the_filter_dropped_is_listed(done: Path) -> None:
    rejects = list(read_rows(stage_folder(done, "filter_language") / "rejects.parquet", Reject))
    assert len(rejects) == status(done)["filter_language"]["dropped"]["utterances"]
    assert "filter_language" in call(done, "rejects")
    report = pq.read_table(done / "w" / "reports" / "rejects.parquet").to_pylist()
    assert sum(entry["utterances"] for entry in report if entry["stage"] == "filter_language") == len(rejects)


def test_lineage_and_cost_are_told_from_the_command_line(done: Path) -> None:
    model = stage_folder(done, "export") / "model"
    made_of = json.loads(call(done, "lineage", "--json", "--model", str(model)))
    assert [stage["stage"] for stage in made_of["stages"]] == STAGES[:-1]  # enhance uses the model
    assert {shard["shard"] for shard in made_of["shards"]} == set(shards(done))
    recipe = next(
        read_rows([path for path in unit_paths(done, "simulate", ".recipes.parquet") if "train" in path.name], Recipe)
    )
    found = json.loads(call(done, "lineage", "--json", "--utterance", recipe.utt_id))
    assert recipe.key in {appearance["key"] for appearance in found["appearances"]}
    assert [reader["stage"] for reader in found["readers"]] == ["train", "export"]
    before = {path: path.stat().st_mtime_ns for path in (done / "w").rglob("*")}
    cost = call(done, "run", "simulate..train", "--dry-run", **{"simulate.copies": 2})
    assert "together" in cost
    assert "unknown" not in cost
    assert {path: path.stat().st_mtime_ns for path in (done / "w").rglob("*")} == before


def test_a_page_to_listen_to_is_written_and_tracked(done: Path) -> None:
    said = call(done, "listen", "--split", "dev", "--count", "1")
    name = f"{stage_folder(done, 'simulate').name}-dev.html"
    assert f"artifact listen/{name}" in said
    assert (done / "w" / "listen" / name).read_text().count('"flac":') >= 2
    assert len(list((done / "w" / "mlartifacts").rglob(name))) == 1


def test_a_second_run_finds_nothing_to_do_and_leaves_every_byte(done: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (done / "w").rglob("*") if path.is_file()}
    assert "nothing to do" in call(done, "run")
    assert {path: path.stat().st_mtime_ns for path in (done / "w").rglob("*") if path.is_file()} == before


def test_a_changed_key_reruns_its_stage_and_its_readers_only(done: Path) -> None:
    changed = {"simulate.copies": 2}
    before = STAGES.index("simulate")
    assert states(done, **changed)[:before] == ["fresh"] * before
    assert set(states(done, **changed)[before:]) == {"stale"}
    assert "copies changed: 1 → 2" in call(done, "explain", "simulate", **changed)
    plan = call(done, "run", "--dry-run", "--no-probe", **changed).splitlines()
    assert [line.split()[0] for line in plan] == ["fresh"] * before + ["would"] * (len(STAGES) - before)


def test_a_stage_whose_input_is_stale_says_what_to_run(done: Path) -> None:
    said = call(done, "run", "evaluate", code=2, **{"simulate.copies": 2})
    assert "run ..evaluate" in said


def test_a_stage_asked_for_with_all_it_needs_leaves_out_what_its_settings_make_needless(tmp_path: Path) -> None:
    """A model from elsewhere is scored and enhances without a training, on folders even without data stages."""

    def needed(last: str, **settings: Any) -> list[str]:
        said = call(tmp_path, "run", f"..{last}", "--dry-run", "--no-probe", **settings)
        return [next(word for word in line.split() if word in STAGES) for line in said.splitlines()]

    assert needed("evaluate") == STAGES[: STAGES.index("evaluate") + 1]
    given = {"evaluate.model": "flowse-small"}
    assert needed("evaluate", **given) == [name for name in needed("evaluate") if name != "train"]
    folders = {"evaluate.simulated": "false", "evaluate.pairs": "[{name: mine, noisy: /n}]"}
    assert needed("evaluate", **given, **folders) == ["evaluate"]
    assert needed("enhance", **{"enhance.model": "flowse-small"}) == ["enhance"]


def test_verify_finds_a_flipped_byte_and_a_rerun_mends_a_lost_shard(done: Path, tmp_path: Path) -> None:
    shutil.copytree(done, tmp_path, dirs_exist_ok=True)
    whole = shards(tmp_path)
    first, second, *_ = unit_paths(tmp_path, "simulate", ".tar")
    content = bytearray(first.read_bytes())
    content[len(content) // 2] ^= 1
    first.write_bytes(content)
    assert "sha256" in call(tmp_path, "verify", code=1)
    first.write_bytes(whole[first.name])
    second.unlink()
    assert states(tmp_path)[STAGES.index("simulate")] == "incomplete"
    call(tmp_path, "run", "simulate", **HERE)
    assert shards(tmp_path) == whole
    assert states(tmp_path) == ["fresh"] * len(STAGES)


def test_forcing_a_stage_reruns_that_alone(done: Path, tmp_path: Path) -> None:
    shutil.copytree(done, tmp_path, dirs_exist_ok=True)
    records = {name: (stage_folder(tmp_path, name) / STAGE_RECORD).stat().st_mtime_ns for name in STAGES}
    call(tmp_path, "run", "rooms", "--force", **HERE)
    after = {name: (stage_folder(tmp_path, name) / STAGE_RECORD).stat().st_mtime_ns for name in STAGES}
    assert [name for name in STAGES if after[name] != records[name]] == ["rooms"]
    assert states(tmp_path) == ["fresh"] * len(STAGES)  # the same rooms: nothing after it is stale


def test_mlflow_holds_a_parent_run_with_a_nested_run_a_stage(done: Path) -> None:
    with sqlite3.connect(done / "w" / "mlflow.db") as store:
        names = dict(store.execute("select run_uuid, name from runs").fetchall())
        parents = dict(store.execute("select run_uuid, value from tags where key = 'mlflow.parentRunId'").fetchall())
        curves = {key for (key,) in store.execute("select distinct key from metrics where step > 0").fetchall()}
        digests = store.execute("select count(*) from tags where key = 'dataset_digest'").fetchone()
        statuses = {status for (status,) in store.execute("select status from runs").fetchall()}
    (parent,) = [run for run, name in names.items() if name == "small"]
    assert sorted(names[run] for run in parents) == sorted(STAGES)
    assert set(parents.values()) == {parent}
    assert any("loss" in key for key in curves)
    assert digests[0] >= 1
    assert statuses == {"FINISHED"}
    artifacts = {path.name for path in (done / "w" / "mlartifacts").rglob("*") if path.is_file()}
    assert {"rejects.parquet", "report.html"} <= artifacts
    assert (done / "w" / "mlartifacts" / parent / "artifacts" / "rejects.parquet").is_file()


def test_the_exported_model_enhances_a_file(done: Path, tmp_path: Path) -> None:
    noisy = np.random.default_rng(0).normal(0, 0.05, (44_100, 2))
    soundfile.write(tmp_path / "in.wav", noisy, 44_100)
    model = stage_folder(done, "export") / "model"
    enhance = [sys.executable, "-m", "flowse.cli", "enhance", "in.wav", "out.wav", f"--model={model}"]
    subprocess.run(enhance, cwd=tmp_path, check=True, timeout=120, capture_output=True)
    enhanced, rate = soundfile.read(tmp_path / "out.wav")
    assert (enhanced.shape, rate) == (noisy.shape, 44_100)


def test_a_gate_refuses_a_model_and_says_by_what(done: Path, tmp_path: Path) -> None:
    shutil.copytree(done, tmp_path, dirs_exist_ok=True)
    asked = {"export.limits": "{ovrl: 4.9}"}
    said = call(tmp_path, "run", "export", code=2, **asked, **HERE)
    assert "the gate refuses this model: ovrl is" in said
    assert "at least 4.9 is asked for" in said
    assert "report.html" in said
    assert states(tmp_path, **asked)[STAGES.index("export")] == "incomplete"


def test_a_folder_is_enhanced_and_unpacked_and_nothing_else_runs(done: Path, tmp_path: Path) -> None:
    shutil.copytree(done, tmp_path, dirs_exist_ok=True)
    (tmp_path / "mine").mkdir()
    soundfile.write(tmp_path / "mine" / "a.wav", np.random.default_rng(0).normal(0, 0.05, (8_000, 2)), 16_000)
    settings = {"enhance.corpora": f"[{{name: mine, root: {tmp_path / 'mine'}}}]"}
    assert states(tmp_path, **settings) == ["fresh"] * (len(STAGES) - 1) + ["stale"]
    assert "1 kept" in call(tmp_path, "run", **settings, **HERE)
    assert "1 files" in call(tmp_path, "unpack-enhanced", str(tmp_path / "files"), **settings)
    assert soundfile.info(tmp_path / "files" / "mine" / "a.wav").frames == 8_000
    assert "--overwrite" in call(tmp_path, "unpack-enhanced", str(tmp_path / "files"), code=2, **settings)
    assert "enhance.corpora" in call(tmp_path, "unpack-enhanced", str(tmp_path / "files"), code=2)


def before_simulate(done: Path, folder: Path) -> None:
    """Copy the finished workspace as it was before simulate."""
    shutil.copytree(done, folder, dirs_exist_ok=True)
    for stage in STAGES[STAGES.index("simulate") :]:
        shutil.rmtree(folder / "w" / stage)


# One process is `test_local_units.py`'s; two workers made what is compared with.
@pytest.mark.parametrize("workers", [4, pytest.param(1, marks=pytest.mark.faults)])
def test_any_number_of_workers_write_the_same_shards(done: Path, tmp_path: Path, workers: int) -> None:
    before_simulate(done, tmp_path)
    settings = {"cluster.num_cpus": 4, "cluster.stages.simulate.workers": workers}
    call(tmp_path, "run", "simulate", **settings)
    assert shards(tmp_path) == shards(done)


def test_two_drivers_do_not_share_a_workspace(done: Path, tmp_path: Path) -> None:
    before_simulate(done, tmp_path)
    with running(tmp_path, "run", "simulate"):
        end = time.monotonic() + 60
        while not (tmp_path / "w" / "LOCK").exists() and time.monotonic() < end:
            time.sleep(0.02)
        assert "in use by" in call(tmp_path, "run", code=2)


def test_mistakes_are_one_clear_line(tmp_path: Path) -> None:
    for settings, message in (
        ({"trian.max_steps": 3}, "did you mean 'train'"),
        ({"train.max_steps": "many"}, "train.max_steps is 'many'"),
        ({"ingest.speech[0].reader": "foldr"}, "'foldr' is not one of"),
    ):
        said = call(tmp_path, "run", code=2, **settings)
        assert message in said
        assert said.count("\n") == 1
    assert "no stage 'bake'" in call(tmp_path, "run", "bake", code=2)
    assert "comes after" in call(tmp_path, "run", "train..ingest", code=2)


def test_gc_lists_and_deletes_only_what_is_not_needed(done: Path, tmp_path: Path) -> None:
    shutil.copytree(done, tmp_path, dirs_exist_ok=True)
    assert " 0 folders" in call(tmp_path, "gc")
    (tmp_path / "w" / "export" / "0123456789abcdef").mkdir()
    assert "0123456789abcdef" in call(tmp_path, "gc")
    assert (tmp_path / "w" / "export" / "0123456789abcdef").exists()
    call(tmp_path, "gc", "--yes")
    assert not (tmp_path / "w" / "export" / "0123456789abcdef").exists()
    assert states(tmp_path) == ["fresh"] * len(STAGES)


@pytest.fixture
def bad_corpus(tmp_path: Path) -> Path:
    """Speech with one of every bad input, and noise."""
    rng = np.random.default_rng(0)
    speech, noise = tmp_path / "speech", tmp_path / "noise"
    speech.mkdir()
    noise.mkdir()
    for number in range(12):
        # Syllables of a buzz: loud and quiet in turns, as speech is.
        samples = np.sign(np.sin(np.arange(32_000) * (0.05 + number / 400))) * (np.arange(32_000) // 3200 % 2) * 0.3
        soundfile.write(speech / f"good{number}.wav", samples + rng.normal(0, 1e-3, 32_000), 16_000)
        soundfile.write(noise / f"n{number}.wav", rng.normal(0, 0.1, 32_000), 16_000)
    good, rate = soundfile.read(speech / "good0.wav")
    (speech / "empty.wav").touch()
    (speech / "pointer.flac").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    (speech / "page.wav").write_text("<!DOCTYPE html><html><body>not found</body></html>")
    (speech / "rubbish.mp3").write_bytes(rng.bytes(4000))
    (speech / "truncated.wav").write_bytes((speech / "good1.wav").read_bytes()[:20_000])
    soundfile.write(speech / "nan.wav", np.where(np.arange(len(good)) == 5, np.nan, good), rate, subtype="FLOAT")
    soundfile.write(speech / "silent.wav", np.zeros(rate), rate)
    soundfile.write(speech / "blink.wav", good[: rate // 20], rate)
    soundfile.write(speech / "EIGHT.wav", np.stack([good] * 8, axis=1), rate)
    soundfile.write(speech / "high.wav", np.repeat(good, 6), 96_000)
    soundfile.write(speech / "Twin.wav", 0.9 * good, rate)
    soundfile.write(speech / "twin.wav", 0.8 * good, rate)
    (speech / "same.wav").write_bytes((speech / "good0.wav").read_bytes())
    rows = ["path,text,language"] + [f"{path.name},hello there,en" for path in sorted(speech.iterdir())]
    (speech / "t.csv").write_text("\n".join([*rows, "gone.wav,hello,en"]))
    return tmp_path


def test_every_bad_input_is_named_and_the_run_goes_on(bad_corpus: Path) -> None:
    experiment = {
        **EXPERIMENT,
        "ingest": {
            "speech": [{"name": "s", "root": str(bad_corpus / "speech"), "options": {"table": "t.csv"}}],
            "noise": [{"name": "n", "root": str(bad_corpus / "noise")}],
            "splits": {"dev": 0.25, "test": 0.25},
        },
        "filter_language": {"labels": "trust"},
    }
    path = bad_corpus / "bad.yaml"
    path.write_text(yaml.safe_dump(experiment))
    (bad_corpus / "cluster.yaml").write_text(yaml.safe_dump({**CLUSTER, "max_failed_fraction": 0.5}))
    where = [f"--experiment={path}", f"--cluster={bad_corpus / 'cluster.yaml'}", f"--workspace={bad_corpus / 'w'}"]
    run = [sys.executable, "-m", "pipelines", "run", "ingest..simulate", *where, "--set=cluster.backend=local"]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rejects = read_rows(stage_folder(bad_corpus, "ingest") / "rejects.parquet", Reject)
    reasons = {reject.utt_id: reject.reason for reject in rejects}
    assert reasons == {
        "s/empty-wav": "empty_file",
        "s/pointer-flac": "git_lfs_pointer",
        "s/page-wav": "html_instead_of_audio",
        "s/rubbish-mp3": "undecodable",
        "s/truncated-wav": "truncated",
        "s/nan-wav": "nan_samples",
        "s/silent-wav": "silent",
        "s/blink-wav": "too_short",
        "s/gone-wav": "not_found",
        "s/same-wav": "duplicate_content",
    }
    # Twin.wav and twin.wav are two recordings: the second one's id is told apart by the hash of its path.
    parts = [path for path in unit_paths(bad_corpus, "ingest", ".parquet") if path.name.startswith("s-")]
    kept = [row.utt_id for part in parts for row in read_rows(part, Utterance)]
    assert len({utt_id for utt_id in kept if utt_id.startswith("s/twin-")}) == 2
    strict = subprocess.run(
        [*run, "--force", "--set=cluster.max_failed_fraction=0.01"],
        cwd=ROOT, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert strict.returncode == 2
    assert "not committed" in strict.stderr
    assert not list((bad_corpus / "w" / "ingest").glob(f"*/{STAGE_RECORD}"))


@pytest.mark.faults  # `make test` has such a cluster in test_nodes.py, and one that loses a node in test_faults.py
def test_a_running_cluster_of_three_nodes_is_used(done: Path, tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    before_simulate(done, tmp_path)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes(timeout=60)
        said = call(tmp_path, "run", "simulate", **{"cluster.ray_address": cluster.address})
        assert "3 node(s)" in said
    finally:
        cluster.shutdown()
    assert shards(tmp_path) == shards(done)
