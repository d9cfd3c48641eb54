"""Laws of duplicates: of files with the same bytes the first stays, whatever their names, corpora and parts are."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from flowse.data.manifest import Kind, Utterance
from flowse.data.parquet import write_rows
from pipelines.corpora.duplicates import find_duplicates


def row(path: str, content: str, corpus: str = "c", kind: Kind = "speech", offset_s: float = 0.0) -> Utterance:
    return Utterance(
        utt_id=f"{corpus}/{path}-{offset_s}", corpus=corpus, kind=kind, path=path, offset_s=offset_s, content=content
    )


def write(folder: Path, *parts: list[Utterance]) -> list[Path]:
    paths = [folder / f"{number}.parquet" for number in range(len(parts))]
    for path, rows in zip(paths, parts, strict=True):
        write_rows(path, Utterance, rows)
    return paths


def test_rows_of_a_later_file_with_the_same_bytes_name_the_first(tmp_path: Path) -> None:
    parts = write(
        tmp_path,
        [row("a.wav", "f00d"), row("a.wav", "f00d", offset_s=1.0), row("b.wav", "beef")],
        [row("z.wav", "f00d"), row("z.wav", "f00d", offset_s=1.0), row("y.wav", "cafe")],
        [row("x.wav", "f00d", "d"), row("a.wav", "beef", "d")],
    )
    assert find_duplicates(parts) == {
        1: dict.fromkeys((0, 1), "z.wav: holds the same bytes as a.wav; remove one of the two"),
        2: {
            0: "x.wav: holds the same bytes as a.wav of corpus c; remove one of the two",
            1: "a.wav: holds the same bytes as b.wav of corpus c; remove one of the two",
        },
    }


def test_kinds_are_kept_apart_and_unknown_contents_are_no_duplicates(tmp_path: Path) -> None:
    assert find_duplicates([]) == {}
    assert find_duplicates(write(tmp_path, [])) == {}
    parts = write(
        tmp_path, [row("a.wav", "f00d"), row("b.wav", ""), row("c.wav", "")], [row("n.wav", "f00d", "n", "noise")]
    )
    assert find_duplicates(parts) == {}


def test_a_recording_whose_rows_fill_two_parts_is_no_duplicate_of_itself(tmp_path: Path) -> None:
    segments = [row("a.wav", "f00d", offset_s=float(second)) for second in range(6)]
    assert find_duplicates(write(tmp_path, segments[:3], segments[3:])) == {}


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("wxyz")), max_size=20), st.integers(1, 5))
def test_every_content_is_left_under_one_name_the_first(files: list[tuple[str, str]], size: int) -> None:
    """Against the definition, on small alphabets of names and contents."""
    known = dict(files)  # a file has one content
    rows = [row(name, known[name], offset_s=random.Random(at).random()) for at, (name, _) in enumerate(files)]
    first: dict[str, str] = {}
    for listed in rows:
        first.setdefault(listed.content, listed.path)
    with tempfile.TemporaryDirectory() as folder:
        found = find_duplicates(write(Path(folder), *(rows[at : at + size] for at in range(0, len(rows), size))))
    marked = {number * size + position for number, positions in found.items() for position in positions}
    assert marked == {at for at, listed in enumerate(rows) if first[listed.content] != listed.path}
