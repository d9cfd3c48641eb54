"""Corpora in a store give the rows and the shards that they give in folders; whatever is wrong there is one line."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowse.data.manifest import Reject, Utterance
from flowse.data.parquet import read_rows
from flowse.errors import UserError
from flowse.fetching import use_source
from pipelines.corpora.config import CorpusConfig, outside_of, roots_of
from pipelines.engine.nearby import bring_files_here
from pipelines.engine.plan import StagePlan
from pipelines.engine.records import REJECTS_SUFFIX
from pipelines.engine.scratch import use_scratch
from pipelines.engine.store import Store
from pipelines.engine.workspace import units_of
from pipelines.experiment import ExperimentConfig
from pipelines.stages import ingest
from tests.pipelines.engine.s3 import KEYS, s3_server
from tests.pipelines.small_workspace import DATA_STAGES, run_stage, small_config, speak, write_corpora

URL = "s3://bucket/corpora"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with s3_server() as address:
        for key, value in (KEYS | {"AWS_ENDPOINT_URL": address}).items():
            monkeypatch.setenv(key, value)
        use_scratch(str(tmp_path / "scratch"), 0.0)
        bring_files_here()
        yield
    use_source(None)
    use_scratch("", 0.0)


def in_store(config: ExperimentConfig) -> ExperimentConfig:
    """The same experiment with the corpora in the store."""

    def moved(corpora: tuple[CorpusConfig, ...]) -> tuple[CorpusConfig, ...]:
        return tuple(dataclasses.replace(corpus, root=f"{URL}/{Path(corpus.root).name}") for corpus in corpora)

    corpora = {name: moved(getattr(config.ingest, name)) for name in ("speech", "noise", "rirs")}
    return dataclasses.replace(config, ingest=dataclasses.replace(config.ingest, **corpora))


def send(folder: Path) -> None:
    store = Store(URL)
    for path in folder.rglob("*"):
        if path.is_file():
            store.put(path.relative_to(folder).as_posix(), path)


def ingested(plan: StagePlan) -> tuple[list[Utterance], list[Reject]]:
    assert plan.finished is not None
    rows, rejects = (
        list(read_rows(plan.finished.parts(suffix), kind))
        for suffix, kind in ((".parquet", Utterance), (REJECTS_SUFFIX, Reject))
    )
    return rows, [dataclasses.replace(reject, detail="") for reject in rejects]  # details name files of this machine


def test_corpora_in_a_store_make_the_shards_of_corpora_in_folders(server: None, tmp_path: Path) -> None:
    write_corpora(tmp_path / "corpora")
    config = small_config(tmp_path / "corpora")
    send(tmp_path / "corpora")
    plans: dict[str, dict[str, StagePlan]] = {"folder": {}, "store": {}}
    for where, of in (("folder", config), ("store", in_store(config))):
        for stage in DATA_STAGES:
            run_stage(stage, of, tmp_path / where, plans[where])
    assert ingested(plans["store"]["ingest"]) == ingested(plans["folder"]["ingest"])
    shards = []
    for where in plans:
        done = plans[where]["simulate"].finished
        assert done is not None
        shards.append({name: (units_of(done.folder) / name).read_bytes() for name in done.table.file_names()})
    assert shards[0] == shards[1]


def test_an_object_that_is_replaced_is_seen_and_decoded_again(server: None, tmp_path: Path) -> None:
    write_corpora(tmp_path / "corpora")
    send(tmp_path / "corpora")
    config = in_store(small_config(tmp_path / "corpora"))
    first = run_stage(ingest, config, tmp_path / "w", {})
    assert run_stage(ingest, config, tmp_path / "w", {}).fingerprint == first.fingerprint
    speak(tmp_path / "corpora" / "speech" / "u3.flac", 1234)
    Store(f"{URL}/speech").put("u3.flac", tmp_path / "corpora" / "speech" / "u3.flac")
    second = run_stage(ingest, config, tmp_path / "w", {})
    assert second.fingerprint != first.fingerprint
    before, after = ({row.utt_id: row.content for row in ingested(plan)[0]} for plan in (first, second))
    assert [utt_id for utt_id in after if after[utt_id] != before.get(utt_id)] == ["speech/u3-flac"]


@pytest.mark.parametrize(
    ("root", "change", "said"),
    [
        (
            "s3://nowhere/x",
            {},
            r"root of corpus 'c': s3://nowhere/x: there is no such bucket; make it, or mend the URL",
        ),
        ("s3://bucket/empty", {}, r"root of corpus 'c': s3://bucket/empty: holds no object; mend the bucket"),
        (URL, {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, r"root of corpus 'c': s3://bucket/corpora: cannot be listed"),
        ("ftp://host/x", {}, r"root of corpus 'c': ftp://host/x is a URL"),
    ],
)
def test_what_is_wrong_with_a_store_is_one_line(
    server: None, monkeypatch: pytest.MonkeyPatch, root: str, change: dict[str, str], said: str
) -> None:
    for key, value in change.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr("pipelines.engine.store._FIRST_ANSWER_S", 0.5)
    with pytest.raises(UserError, match=said) as caught:
        outside_of([CorpusConfig(name="c", root=root)])["c"].digest()
    assert "\n" not in str(caught.value)


def test_a_corpus_that_is_made_lies_in_no_store() -> None:
    with pytest.raises(UserError, match=r"root of corpus 'd': .* is a store, and reader 'demo' makes its recordings"):
        roots_of([("speech", CorpusConfig(name="d", reader="demo", root=URL))], Path("made"))
