"""Laws of all readers: they satisfy the protocol, the README describes them, and no collection is read twice."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from flowse.errors import UserError
from pipelines import corpora
from pipelines.corpora import MadeReader, Reader, SharedReader
from pipelines.corpora.readers import READERS, reader_of
from pipelines.stages import ingest

README = Path(inspect.getfile(corpora)).parent / "README.md"


@pytest.mark.parametrize("name", READERS)
def test_every_reader_satisfies_the_protocol(name: str) -> None:
    module = READERS[name]
    protocols: dict[str, type] = {"read": Reader, "listing_digest": Reader, "make": MadeReader, "holds": SharedReader}
    for function, protocol in protocols.items():
        if not isinstance(module, protocol):
            assert protocol is not Reader
            continue
        parameters = inspect.signature(getattr(protocol, function)).parameters
        expected = [parameter for parameter in parameters if parameter != "self"]
        assert list(inspect.signature(getattr(module, function)).parameters) == expected
    assert isinstance(module.LICENCE, str)
    assert module.Options.__dataclass_params__.frozen
    assert all(field.kw_only for field in dataclasses.fields(module.Options))
    assert all(f"    {field.name}: " in module.Options.__doc__ for field in dataclasses.fields(module.Options))


def test_a_missing_root_is_refused_and_has_a_digest(tmp_path: Path) -> None:
    options: dict[str, dict[str, Any]] = {"lhotse": {"cuts": "cuts.jsonl"}}
    for name, module in READERS.items():
        if isinstance(module, MadeReader):
            continue
        _, chosen = reader_of(name, options.get(name, {}), "c")
        assert module.listing_digest(tmp_path / "nowhere", chosen)
        kind = next(kind for kind in ("speech", "noise", "rir") if _gives(module, chosen, kind, tmp_path))
        with pytest.raises(UserError, match="does not exist"):
            list(module.read(tmp_path / "nowhere", "c", kind, chosen, 0))


def _gives(module: Any, options: Any, kind: Any, root: Path) -> bool:
    try:
        list(module.read(root, "c", kind, options, 0))
    except UserError as error:
        return "gives nothing for" not in str(error)
    return True


def test_an_unknown_option_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'subsets'"):
        reader_of("gigaspeech", {"subset": ["S"]}, "corpus 'giga'")


def test_openslr28_beside_openslr26_is_refused_until_it_leaves_out_what_both_hold(bench: Any) -> None:
    def roots(**options: object) -> dict[str, Path]:
        both = tuple(
            ingest.CorpusConfig(name=name, reader=name, root=str(bench.root), options=dict(given))
            for name, given in (("openslr26", {}), ("openslr28", options))
        )
        return ingest.corpus_roots(ingest.Config(rirs=both), bench.root)

    with pytest.raises(UserError, match=r"'openslr26' and 'openslr28' both hold OpenSLR 26 .*count twice"):
        roots()
    assert set(roots(simulated=False)) == {"openslr26", "openslr28"}


def test_vctk_beside_the_dns_challenge_is_refused_until_dns_leaves_it_out(bench: Any) -> None:
    bench.audio("clean/vctk_wav48_silence_trimmed/p225/p225_001_mic1.flac", "clean/read_speech/x.wav")

    def roots(reader: str, **options: object) -> dict[str, Path]:
        both = tuple(
            ingest.CorpusConfig(name=name, reader=name, root=str(bench.root), options=dict(given))
            for name, given in ((reader, {}), ("dns", options))
        )
        return ingest.corpus_roots(ingest.Config(speech=both), bench.root)

    for reader in ("vctk", "voicebank"):
        with pytest.raises(UserError, match="both hold VCTK"):
            roots(reader)
        assert roots(reader, leave_out=["vctk_wav48_silence_trimmed"])
    # The noise of the DNS Challenge holds nothing of VCTK.
    dns = ingest.CorpusConfig(name="noise", reader="dns", root=str(bench.root))
    vctk = ingest.CorpusConfig(name="vctk", reader="vctk", root=str(bench.root))
    assert ingest.corpus_roots(ingest.Config(speech=(vctk,), noise=(dns,)), bench.root)


def test_the_readme_describes_exactly_these_readers() -> None:
    text = README.read_text(encoding="utf-8")
    table = re.findall(r"^\| [^|]+ \| `(\w+)` \|", text, re.MULTILINE)
    assert sorted(table) == sorted(READERS)
    for name in READERS:
        cells = next(line for line in text.splitlines() if f"| `{name}` |" in line).split("|")
        if licence := READERS[name].LICENCE:
            assert licence in cells[5], name
        assert all(f"`{field.name}`" in cells[6] for field in dataclasses.fields(READERS[name].Options)), name


def test_the_readmes_examples_are_configurations() -> None:
    shown: set[str] = set()
    for block in re.findall(r"```yaml\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL):
        section = yaml.safe_load(block)["ingest"]
        config = ingest.Config(
            **{kind: tuple(ingest.CorpusConfig(**row) for row in rows) for kind, rows in section.items()}
        )
        for _, corpus in config.corpora():
            reader_of(corpus.reader, corpus.options, f"corpus {corpus.name!r}")
            shown.add(corpus.reader)
    assert shown == set(READERS)
