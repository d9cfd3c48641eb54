"""Corpora and test sets in a store give what they give in folders; whatever is wrong there is one line."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flowse.data.manifest import Reject, Utterance
from flowse.data.parquet import read_rows
from flowse.errors import UserError
from flowse.fetching import use_source
from flowse.metrics.pairs import Pairs
from flowse.metrics.testsets import folder_items, read_item
from pipelines.corpora.config import CorpusConfig, outside_of, roots_of
from pipelines.engine.nearby import bring_files_here
from pipelines.engine.plan import StagePlan
from pipelines.engine.records import REJECTS_SUFFIX
from pipelines.engine.scratch import use_scratch
from pipelines.engine.shipping import Origin, Parcel
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


def test_a_test_set_in_a_store_has_the_identity_and_the_recordings_of_one_in_folders(
    server: None, tmp_path: Path
) -> None:
    folder = tmp_path / "pairs"
    for name in ("noisy/u1.flac", "clean/u1.flac", "noisy/deep/u2.flac", "clean/deep/u2.flac"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        speak(folder / name, len(name))
    (folder / "texts.csv").write_text("path,text\nu1.flac,hello there\n")

    def pairs(root: str) -> Pairs:
        return Pairs(name="p", noisy=f"{root}/noisy", clean=f"{root}/clean/", transcripts=f"{root}/texts.csv")

    here, there = pairs(str(folder)), pairs(URL)
    with pytest.raises(UserError, match=r"evaluate\.pairs p: noisy: s3://bucket/corpora/noisy: holds no object"):
        folder_items(there)
    send(folder)
    digests = {name: outside.digest() for name, outside in here.outside().items()}
    assert {name: outside.digest() for name, outside in there.outside().items()} == digests
    items = [folder_items(of) for of in (here, there)]
    for mine, other in zip(*items, strict=True):
        assert replace(mine, noisy=None, clean=None) == replace(other, noisy=None, clean=None)
        assert read_item(mine)[0].keys() == read_item(other)[0].keys()
        assert all((samples == read_item(other)[0][name]).all() for name, samples in read_item(mine)[0].items())
    assert [item.text for item in items[1]] == ["", "hello there"]
    # A worker on another machine has no list of the names; it asks for what it reads.
    origin = replace(Origin.of(tmp_path), node="that of the driver", scratch=str(tmp_path / "node"))
    sent = Parcel.of(items[1], origin).open()
    assert sent[0].noisy.is_relative_to(tmp_path / "node")
    assert (read_item(sent[0])[0]["noisy"] == read_item(items[0][0])[0]["noisy"]).all()
    # What is replaced is seen by the listing, before a byte is read.
    facts = {name: outside.facts() for name, outside in there.outside().items() if outside.facts}
    (folder / "texts.csv").write_text("path,text\nu1.flac,hello again\n")
    speak(folder / "noisy" / "u1.flac", 77)
    send(folder)
    after = {name: outside.facts() for name, outside in there.outside().items() if outside.facts}
    assert {name for name in facts if after[name] != facts[name]} >= {"noisy", "transcripts"}
    assert there.outside()["noisy"].digest() != digests["noisy"]
    with pytest.raises(UserError, match=r"evaluate\.pairs p: s3://bucket/corpora/no\.csv: there is no such table"):
        folder_items(replace(there, transcripts=f"{URL}/no.csv"))
    with pytest.raises(UserError, match=r"evaluate\.pairs q: noisy: ftp://x/y is a URL"):
        folder_items(Pairs(name="q", noisy="ftp://x/y"))


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
        ("ftp://host/x", {}, r"root of corpus 'c': ftp://host/x: not the URL of a store"),
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
