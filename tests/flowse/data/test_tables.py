"""Laws of tables: what is not there is empty, a word stays a word, and what is doubtful is refused with its line."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowse.data.tables import Columns, neutral_cell, read_table, unread_columns
from flowse.errors import UserError

COLUMNS = Columns(texts=("text", "speaker", "language"), numbers=("offset_s",))


def rows(path: Path, columns: Columns = COLUMNS) -> list[tuple[Any, ...]]:
    return [(row.path, *row.texts.values(), *row.numbers.values()) for row in read_table(path, columns)]


def csv(folder: Path, content: str | bytes) -> Path:
    path = folder / "t.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def parquet(folder: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), folder / "t.parquet")
    return folder / "t.parquet"


def test_nulls_and_empty_cells_are_empty_and_words_stay_words(tmp_path: Path) -> None:
    words = ["nan", "NaN", "None", "NULL", "no", "007", "1e5", "N/A", "-", "true"]
    lines = "".join(f"{word}.wav,{word},{word},,\n" for word in words)
    expected = [(f"{word}.wav", word, word, "", None) for word in words]
    assert rows(csv(tmp_path, f"path,text,speaker,language,offset_s\n{lines}")) == expected
    table = {"path": [f"{word}.wav" for word in words], "text": words, "speaker": words}
    nothing = pa.nulls(len(words))
    assert rows(parquet(tmp_path, **table, language=nothing, offset_s=nothing)) == expected
    assert rows(parquet(tmp_path, **table, language=pa.array([None] * len(words), pa.string()))) == expected


def test_nan_in_a_data_frames_number_is_no_number(tmp_path: Path) -> None:
    path = parquet(tmp_path, path=["a", "b"], offset_s=[1.5, float("nan")], text=pa.array([float("nan")] * 2))
    assert rows(path) == [("a", "", "", "", 1.5), ("b", "", "", "", None)]


def test_whole_numbers_become_their_digits_and_other_types_are_refused(tmp_path: Path) -> None:
    for speaker in ([7, 1234567890123456789], pa.array([7, 1234567890123456789], pa.uint64())):
        found = rows(parquet(tmp_path, path=["a", "b"], speaker=speaker))
        assert [row[2] for row in found] == ["7", "1234567890123456789"]
    assert [row[2] for row in rows(parquet(tmp_path, path=["a", "b"], speaker=[7.0, None]))] == ["7", ""]
    assert [row[2] for row in rows(parquet(tmp_path, path=["a"], speaker=pa.array(["x"]).dictionary_encode()))] == ["x"]
    for wrong in ([7.5], [True], [b"\xff"], [["x"]], [{"a": 1}]):
        with pytest.raises(UserError, match=r"row 1: column 'speaker' holds .*, not text"):
            rows(parquet(tmp_path, path=["a"], speaker=wrong))
    with pytest.raises(UserError, match=r"row 2: column 'offset_s' holds bool"):
        rows(parquet(tmp_path, path=["a", "b"], offset_s=[None, True]))


@pytest.mark.parametrize(
    "content",
    [
        "path,text\na.wav,hello\n",
        "path, text\na.wav, hello\n",
        " Path , TEXT \na.wav , hello\n".replace("a.wav ,", "a.wav,"),
        "\ufeffpath,text\r\na.wav,hello\r\n",
        "path\ttext\na.wav\thello\n",
        "path;text\na.wav;hello",
        "path|text\ra.wav|hello\r",
        '"path","text"\n"a.wav","hello"\n\n\n',
        "text,path\nhello,a.wav\n,\n",
        "path,text,\na.wav,hello,\n",
        "path,text,note\na.wav,hello,\n",
    ],
)
def test_every_usual_form_of_csv_reads_the_same(content: str, tmp_path: Path) -> None:
    assert [row[:2] for row in rows(csv(tmp_path, content))] == [("a.wav", "hello")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "path,text\na.wav,x\nb.wav,Hello, there\n",
            r"line 3: has 3 cells, the first line has 2; put a text that holds a",
        ),
        ("path;text\nb.wav;Hello; there\n", r"line 2: has 3 cells.*holds a semicolon in double quotes"),
        ("path,text\nb.wav\n", r"line 2: has 1 cells, the first line has 2; add the missing"),
        ("path,text,\nb.wav,Hello, there\n", r"line 2: ' there' stands in a column without a name"),
        ('path,text\na.wav,"Hello\nb.wav,fine\nc.wav,"x"\n', r"line 2: "),
        ('path,text\na.wav,"Hello\nb.wav,fine\n', r"line 2: unexpected end of data; a cell that begins with a quote"),
        ('path,text\na.wav,"Hello\nb.wav,fine\nc.wav,so"\n', r"line 2: a quote opens a cell that ends at line 4"),
        ('path,text\na.wav,"Hello" she said\n', r"line 2: .* expected after"),
        ("path,text\n,hello\n", r"line 2: path is empty; name the file"),
        ("path,text,Text\na.wav,x,y\n", r"has column 'text' twice"),
        ("path,offset_s\na.wav,\nb.wav,soon\n", r"line 3: offset_s is 'soon', not a number"),
        ("path;offset_s\na.wav;1,5\n", r"offset_s is '1,5', not a number; write a point for the decimal comma"),
        ("path,offset_s\na.wav,1_000\n", r"offset_s is '1_000', not a number"),
        ("name,text\na.wav,x\n", r"column 'path' is missing; it has: name, text"),
        ("", r"is empty; its first line must name the columns: path, text"),
        ("path,text\na.wav,x\nb.wav,caf\u00e9\n".encode("latin-1"), r"line 3: byte 0xe9 is not UTF-8"),
        ("path,text\n".encode("utf-16"), r"is UTF-16; save it as UTF-8"),
        (b"path,text\na.wav,\0\n", r"line 2: holds a zero byte"),
        (b"PK\x03\x04" + bytes(100), r"is a spreadsheet or an archive"),
        ("path,text\na.wav," + "x" * 200_000, r"line 2: field larger than field limit"),
    ],
)
def test_what_is_doubtful_is_refused_with_its_line(content: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as refused:
        rows(csv(tmp_path, content))
    assert "\n" not in str(refused.value)


def test_a_text_may_have_several_lines_that_do_not_look_like_rows(tmp_path: Path) -> None:
    path = csv(tmp_path, 'path,text,speaker\na.wav,"one, two\nthree",x\nb.wav,four,y\n')
    assert [row[:3] for row in rows(path)] == [("a.wav", "one, two three", "x"), ("b.wav", "four", "y")]


def test_parquet_that_is_none_is_named(tmp_path: Path) -> None:
    for content in (b"path,text\n", b"PAR1 and nothing else", b""):
        (tmp_path / "t.parquet").write_bytes(content)
        with pytest.raises(UserError, match=r"t\.parquet: is (no parquet file|damaged)"):
            rows(tmp_path / "t.parquet")
    for name, damaged in ((b"a.wav", b"a.w\x80v"), (b"path", b"p\xffth")):
        pq.write_table(pa.table({"path": ["a.wav"]}), tmp_path / "t.parquet", use_dictionary=False, compression="none")
        whole = (tmp_path / "t.parquet").read_bytes()
        (tmp_path / "t.parquet").write_bytes(whole.replace(name, damaged))
        for read in (rows, lambda path: unread_columns(path, Columns())):
            with contextlib.suppress(UserError):
                read(tmp_path / "t.parquet")
    with pytest.raises(UserError, match="cannot be read: No such file"):
        rows(tmp_path / "gone.csv")
    with pytest.raises(UserError, match="row 2: path is empty"):
        rows(parquet(tmp_path, path=["a", None]))


def test_columns_that_nobody_reads_are_named(tmp_path: Path) -> None:
    assert unread_columns(csv(tmp_path, "path,Text,langauge,mood\n"), COLUMNS) == [
        "t.csv: column 'langauge' is not read; is 'language' meant?",
        "t.csv: column 'mood' is not read",
    ]
    assert unread_columns(parquet(tmp_path, path=["a"], txt=["b"]), COLUMNS) == [
        "t.parquet: column 'txt' is not read; is 'text' meant?"
    ]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(texts=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n"), max_size=20), max_size=8))
def test_what_a_csv_writer_writes_is_read(texts: list[str], tmp_path: Path) -> None:
    import csv as standard

    file = io.StringIO(newline="")
    writer = standard.writer(file)
    writer.writerow(["path", "text"])
    writer.writerows([f"{number}.wav", text] for number, text in enumerate(texts))
    found = rows(csv(tmp_path, file.getvalue()))
    assert [row[1].split() for row in found] == [text.split() for text in texts]


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t=", " =", "\r", "\uff1d"])
def test_no_spreadsheet_takes_a_cell_for_a_formula(begin: str) -> None:
    assert neutral_cell(f"{begin}cmd|' /C calc'!A0").startswith("'")
    assert neutral_cell("plain = text") == "plain = text"
    assert neutral_cell(-1.5) == -1.5
