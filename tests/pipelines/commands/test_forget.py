"""Laws of forgetting: after a run and `gc` no file of the workspace holds it, and no other unit has changed."""

from __future__ import annotations

import hashlib
import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile as sf
import yaml

from flowse.data.manifest import Reject
from flowse.data.parquet import read_rows
from flowse.seeding import generator
from pipelines.__main__ import main
from pipelines.corpora.forgotten import read_list

RATE = 16_000
FORGOTTEN = "talks/anna-2-wav"


def voice(name: str) -> np.ndarray:
    """Noise that comes and goes as syllables do, other noise for every name."""
    n = round(1.2 * RATE)
    envelope = np.maximum(0.01, np.sin(np.arange(n) * 2 * np.pi * 3 / RATE))
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    return (0.1 * envelope * generator(seed).standard_normal(n)).astype(np.float32)


def write_corpus(root: Path, corpus: str, speakers: dict[str, int]) -> None:
    (root / corpus).mkdir(parents=True)
    lines = ["path,speaker,language,text"]
    for speaker, count in speakers.items():
        for number in range(count):
            sf.write(root / corpus / f"{speaker}-{number}.wav", voice(f"{corpus} {speaker} {number}"), RATE)
            lines.append(f"{speaker}-{number}.wav,{speaker},en,some words")
    (root / corpus / "table.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three corpora, and a workspace `w` in which all up to simulate has run."""
    root = tmp_path_factory.mktemp("forget")
    write_corpus(root, "talks", {"anna": 4, "bert": 4, "carl": 3})
    write_corpus(root, "calls", {"anna": 2, "dora": 3})
    write_corpus(root, "noise", {"rain": 3})
    speech = [
        {"name": name, "root": str(root / name), "split": "train", "options": {"table": "table.csv"}}
        for name in ("talks", "calls")
    ]
    experiment = {
        "name": "forget",
        "seed": 3,
        "ingest": {
            "speech": speech,
            "noise": [{"name": "noise", "root": str(root / "noise"), "split": "train"}],
            "utterances_per_unit": 2,
        },
        "rooms": {"train_rooms": 0, "dev_rooms": 0, "test_rooms": 0},
        "quality": {"enabled": True, "dnsmos": False},
        "filter_language": {"labels": "trust"},
        "simulate": {"mixtures_per_shard": 2, "mixture": {"reverberation": 0.0, "competitor": 0.0, "codec": 0.0}},
    }
    (root / "experiment.yaml").write_text(yaml.safe_dump(experiment))
    (root / "cluster.yaml").write_text(yaml.safe_dump({"backend": "local"}))
    assert call(root, "run", "..simulate") == 0
    return root


@pytest.fixture
def there(world: Path, tmp_path: Path) -> Iterator[Path]:
    """The world, with a workspace of its own; the corpora stay where they are."""
    shutil.copytree(world / "w", tmp_path / "w", symlinks=True)
    for name in ("experiment.yaml", "cluster.yaml"):
        shutil.copy(world / name, tmp_path / name)
    return tmp_path


def call(folder: Path, *command: str) -> int:
    where = [f"--experiment={folder / 'experiment.yaml'}", f"--cluster={folder / 'cluster.yaml'}"]
    return main([*command, *where, f"--workspace={folder / 'w'}"])


def units(workspace: Path) -> dict[str, str]:
    """Every file of a unit, with the hash of its content."""
    return {
        str(path.relative_to(workspace)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(workspace.glob("*/units/*"))
    }


def holders(workspace: Path, *names: str) -> list[str]:
    """Every file in which one of the names stands, in plain bytes or in a cell of a table."""
    found = []
    for path in sorted(workspace.rglob("*")):
        if not path.is_file():
            continue
        content = path.read_bytes()
        if path.suffix == ".parquet":
            content += str(pq.read_table(path).to_pylist()).encode()
        if any(name.encode() in content for name in names):
            found.append(str(path.relative_to(workspace)))
    return found


def forgotten_rejects(workspace: Path) -> list[Reject]:
    rows = [row for path in workspace.glob("ingest/*/rejects.parquet") for row in read_rows(path, Reject)]
    return [row for row in rows if row.reason == "forgotten"]


def test_after_a_run_and_gc_no_file_holds_it_and_no_other_unit_has_changed(
    there: Path, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = there / "w"
    before = units(workspace)
    inside = holders(workspace, FORGOTTEN)
    assert any(name.endswith(".tar") for name in inside)
    assert call(there, "listen", "--count", "1") == 0

    capsys.readouterr()
    assert call(there, "forget", "--utterance", FORGOTTEN) == 0
    said = capsys.readouterr().out
    (shard,) = (name for name in inside if name.endswith(".tar"))
    assert Path(shard).name in said
    assert "1 shard(s) hold them" in said
    assert "gc --yes" in said

    assert call(there, "gc", "--yes") == 0  # before the run nothing can go
    assert "run these stages" in capsys.readouterr().out
    assert set(inside) <= set(holders(workspace, FORGOTTEN))

    assert call(there, "run", "..simulate") == 0
    assert call(there, "gc", "--yes") == 0
    assert "the files that held the audio of what was forgotten" in capsys.readouterr().out
    recording = (world / "talks" / "anna-2.wav").read_bytes()
    assert holders(workspace, FORGOTTEN, "anna-2.wav") == []
    assert not any(recording[2000:2064] in path.read_bytes() for path in workspace.rglob("*") if path.is_file())

    after = units(workspace)
    touched = {Path(name).name.partition(".")[0] for name in inside}
    assert {Path(name).name.partition(".")[0] for name in set(before) - set(after)} <= touched
    assert all(after[name] == content for name, content in before.items() if name in after)
    assert sum(name.endswith(".tar") for name in set(after) - set(before)) <= 1
    (reject,) = forgotten_rejects(workspace)
    assert (reject.corpus, reject.kind) == ("talks", "dropped")

    assert call(there, "forget", "--list") == 0
    assert "gone" in capsys.readouterr().out
    for command in (("lineage", "--utterance", FORGOTTEN), ("forget", "--utterance", FORGOTTEN)):
        assert call(there, *command) == 0
        assert "forgotten since" in capsys.readouterr().out


def test_undone_it_is_as_it_was(there: Path) -> None:
    before = units(there / "w")
    call(there, "forget", "--utterance", FORGOTTEN)
    call(there, "run", "..simulate")
    call(there, "gc", "--yes")
    assert call(there, "forget", "--undo", "--utterance", FORGOTTEN) == 0
    assert read_list(there / "w") == ()
    call(there, "run", "..simulate")
    call(there, "gc", "--yes")
    assert units(there / "w") == before


def test_a_speaker_is_forgotten_in_one_corpus(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(there, "forget", "--speaker", "anna") == 2
    assert "calls, talks; say which is meant, e.g. --corpus calls" in capsys.readouterr().err
    assert call(there, "forget", "--speaker", "anna", "--corpus", "talks") == 0
    assert "4 recording(s) of corpus 'talks'" in capsys.readouterr().out
    call(there, "run", "..simulate")
    call(there, "gc", "--yes")
    assert holders(there / "w", "talks/anna") == []
    assert holders(there / "w", "calls/anna") != []
    assert len(forgotten_rejects(there / "w")) == 4
    assert call(there, "forget", "--undo", "--speaker", "anna", "--corpus", "talks") == 0
    assert read_list(there / "w") == ()


def test_a_corpus_is_forgotten_also_of_noise(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(there, "forget", "--corpus", "calls") == 0
    assert "5 recording(s) of corpus 'calls'" in capsys.readouterr().out
    assert call(there, "forget", "--utterance", "noise/rain-1-wav") == 0
    assert "shard(s) hold them" in capsys.readouterr().out
    call(there, "run", "..simulate")
    call(there, "gc", "--yes")
    assert holders(there / "w", "calls/anna", "calls/dora", "noise/rain-1-wav") == []


def test_a_copy_under_another_name_is_turned_away_too(there: Path, world: Path) -> None:
    call(there, "forget", "--utterance", FORGOTTEN)
    copied, linked = world / "calls" / "copy.wav", world / "talks" / "zz-link.wav"
    shutil.copy(world / "talks" / "anna-2.wav", copied)
    linked.symlink_to("anna-2.wav")
    try:
        assert call(there, "run", "ingest") == 0
        assert sorted(reject.corpus for reject in forgotten_rejects(there / "w")) == ["calls", "talks", "talks"]
    finally:
        copied.unlink()
        linked.unlink()


def test_the_file_that_a_recording_was_unpacked_to_is_deleted(tmp_path: Path) -> None:
    buffers = [io.BytesIO() for _ in range(3)]
    for number, buffer in enumerate(buffers):
        sf.write(buffer, voice(f"hub {number}"), RATE, format="FLAC")
    audio = [{"bytes": buffer.getvalue(), "path": "a.flac"} for buffer in buffers]
    table = pa.table({"audio": audio, "text": ["some words"] * 3, "speaker_id": ["0", "1", "2"]})
    (tmp_path / "hub").mkdir()
    pq.write_table(table, tmp_path / "hub" / "train.parquet")
    corpus = {"name": "hub", "reader": "hf_datasets", "options": {"data": str(tmp_path / "hub"), "language": "en"}}
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump({"name": "hub", "ingest": {"speech": [corpus]}}))
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump({"backend": "local"}))
    assert call(tmp_path, "run", "ingest") == 0
    made = sorted((tmp_path / "w" / "made").rglob("*.flac"))
    assert len(made) == 3
    assert call(tmp_path, "forget", "--speaker", "1") == 0
    assert call(tmp_path, "run", "ingest") == 0
    assert call(tmp_path, "gc", "--yes") == 0
    assert sorted((tmp_path / "w" / "made").rglob("*.flac")) == [made[0], made[2]]
    assert call(tmp_path, "forget", "--undo", "--speaker", "1") == 0
    assert call(tmp_path, "run", "ingest") == 0
    assert sorted((tmp_path / "w" / "made").rglob("*.flac")) == made


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ([], "forget takes one of"),
        (["--utterance", FORGOTTEN, "--corpus", "talks"], "forget takes one of"),
        (["--list", "--corpus", "talks"], "forget takes one of"),
        (["--utterance", "talks/anna-9"], "did you mean"),
        (["--speaker", "nobody"], "no recording of speaker 'nobody'"),
        (["--corpus", "other"], "there are calls, noise, talks"),
        (["--undo", "--corpus", "talks"], "is not on the list"),
    ],
)
def test_what_is_not_there_is_refused_with_what_there_is(
    world: Path, command: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(world, "forget", *command) == 2
    assert message in capsys.readouterr().err
    assert read_list(world / "w") == ()


def test_an_empty_list_says_so(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(world, "forget", "--list") == 0
    assert "nothing is forgotten" in capsys.readouterr().out
