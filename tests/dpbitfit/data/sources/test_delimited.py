"""CSV and TSV files as hospitals' exports write them: read, or refused with the reason."""

import csv
import gzip
import io
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpbitfit.data.tables import Table, read_table
from dpbitfit.errors import InputError
from dpbitfit.tasks.text_classification.settings import COLUMNS

LABELS = ("card", "loan")
SECRET = "sensitive words"
PRINTED = ("nan", "nat", "<na>")  # as programs write what is missing: refused as text too
PLAIN = "text,label,who\nMüller hustet,card,7\nbeißt,loan,8\n"


def table(path: Path, content: bytes | str, unit: str | None = "who") -> Table:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(path, COLUMNS, LABELS, unit_column=unit)


def refusal(path: Path, content: bytes | str, unit: str | None = "who") -> str:
    with pytest.raises(InputError) as caught:
        table(path, content, unit)
    assert SECRET not in str(caught.value)
    return str(caught.value)


READABLE = {
    "as it is": ("a.csv", PLAIN.encode()),
    "with a mark": ("a.csv", PLAIN.encode("utf-8-sig")),
    "UTF-16 with a mark": ("a.csv", PLAIN.encode("utf-16")),
    "UTF-16 of the other order": ("a.csv", b"\xfe\xff" + PLAIN.encode("utf-16-be")),
    "UTF-32 with a mark": ("a.csv", PLAIN.encode("utf-32")),
    "semicolons": ("a.csv", PLAIN.replace(",", ";").encode()),
    "semicolons that the first line declares": (
        "a.csv",
        ("sep=;\r\n" + PLAIN.replace(",", ";").replace("\n", "\r\n")).encode("utf-8-sig"),
    ),
    "a comma that the first line declares": ("a.csv", ("sep=,\n" + PLAIN).encode("utf-16")),
    "tabs": ("a.csv", PLAIN.replace(",", "\t").encode()),
    "tabs, by its name": ("a.TSV", PLAIN.replace(",", "\t").encode()),
    "compressed": ("a.csv.gz", gzip.compress(PLAIN.encode())),
    "compressed, with tabs": ("a.tsv.gz", gzip.compress(PLAIN.replace(",", "\t").encode("utf-16"))),
    "line ends of Windows": ("a.csv", PLAIN.replace("\n", "\r\n").encode()),
    "line ends of an old Mac": ("a.csv", PLAIN.replace("\n", "\r").encode()),
    "blanks round the names": ("a.csv", PLAIN.replace(",", " , ").encode()),
    "empty lines between and after": ("a.csv", PLAIN.replace("\n", "\n\n").encode() + b"\n\n"),
    "no line end at the end": ("a.csv", PLAIN.rstrip().encode()),
}


@pytest.mark.parametrize("name", READABLE)
def test_an_ordinary_export_is_read(tmp_path: Path, name: str) -> None:
    file, content = READABLE[name]
    read = table(tmp_path / file, content)
    assert read.columns == {"text": ["Müller hustet", "beißt"], "label": [0, 1]}
    assert read.units == ["7", "8"]


def test_columns_that_were_not_asked_for_may_hold_anything(tmp_path: Path) -> None:
    """Another encoding, dates that no calendar has, a header of two lines, a name twice."""
    content = (
        'text,"Größe\nin cm",label,Größe,seen,seen\n'
        "fine,übel,card,ü,0000-00-00,9999999999-01-01T00:00:00.123456789Z\n"
    ).encode("latin-1")
    assert table(tmp_path / "a.csv", content, None).columns == {"text": ["fine"], "label": [0]}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (PLAIN.encode("latin-1"), "row 1: column 'text' is no Unicode text: convert it to UTF-8"),
        (PLAIN.encode("cp1250"), "row 1: column 'text' is no Unicode text: convert it to UTF-8"),
        (
            b"text,label,wh\xf6\n" + SECRET.encode() + b",card,7\n",
            "no column 'who' .*; the first line is no UTF-8: convert it",
        ),
        (gzip.compress(PLAIN.encode()), "no text: unpack it, or give it the ending"),
        (b"PK\x03\x04\x14\x00\x08", "no text: unpack it, or give it the ending"),
        (PLAIN.encode("utf-16-le"), "UTF-16 without a mark: convert it"),
        (PLAIN.encode("utf-16")[:-1], "cannot be read: it is no Unicode text"),
        (PLAIN.replace(",", "#").encode(), "among the 1 that .* separate them by a comma"),
        (f"{SECRET},card,7\nb,loan,8\n", "no column 'text' among the 3 that it has"),
        (PLAIN + f"{SECRET}, and more,card,7\n", "row 3 has 4 fields and the first line 3, .* ','"),
        (PLAIN + f"{SECRET},card\n", "row 3 has 2 fields and the first line 3"),
        ("sep=;\n" + PLAIN.replace(",", ";") + f"{SECRET};card\n", "row 3 has 2 fields .* ';'"),
        (PLAIN.replace("who", "text"), "there are 2 columns 'text'"),
        (PLAIN.replace("who", " label"), "there are 2 columns 'label'"),
        (f'text,who,label\nb,8,loan\n"{SECRET}","7,card\n', "row 2 has 2 fields"),
        (f'label,who,text\nloan,8,b\ncard,7,"{SECRET}\nloan,9,c\n', "quote is never closed"),
        (f'text,label,who,x\n{SECRET},card,7,"open\nc,loan,9,\n', "quote is never closed"),
        # Two of them, and the rows between still have as many fields: they would be one person's.
        (
            f'label,text,who\nloan,"b,7\ncard,{SECRET},8\nloan,"c,9\ncard,d,7\n',
            "quote is never closed, .*: see line 4",
        ),
        (f'text,label,who\n"{SECRET}" said he,card,7\n', "stands once .* twice: see line 2"),
        (f'text,label,who\n"a \\"{SECRET}\\"",card,7\n', "stands once .* twice: see line 2"),
        ("sep=\r\n" + PLAIN, "among the 1 that it has"),
        ("", "is empty"),
        ("text,label,who\n", "there are no records"),
    ],
)
def test_what_is_wrong_is_said_by_its_kind(
    tmp_path: Path, content: bytes | str, reason: str
) -> None:
    assert re.search(reason, refusal(tmp_path / "a.csv", content))


def test_a_compressed_file_that_was_cut_is_damaged(tmp_path: Path) -> None:
    whole = gzip.compress(PLAIN.encode() * 9)
    for content in (whole[:-12], b"", PLAIN.encode()):
        assert refusal(tmp_path / "a.csv.gz", content)


def test_a_quote_within_a_text_closes_nothing(tmp_path: Path) -> None:
    read = table(tmp_path / "a.csv", 'text,label,who\na 5" pipe,card,7\n"two\nlines",loan,8\n')
    assert read.columns["text"] == ['a 5" pipe', "two\nlines"]


WORDS = st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda text: text.strip())


@settings(max_examples=60)
@given(texts=st.lists(WORDS.filter(lambda text: text.strip().lower() not in PRINTED), min_size=1))
def test_any_text_survives_a_round_through_a_file(
    texts: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = io.StringIO()
    rows = csv.writer(file, quoting=csv.QUOTE_ALL)
    rows.writerows([("text", "label"), *((text, "card") for text in texts)])
    path = tmp_path_factory.mktemp("rows") / "a.csv"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        assert table(path, file.getvalue().encode(encoding), None).columns["text"] == [
            text.strip() for text in texts
        ]


@pytest.mark.parametrize("length", [1_200_000, 9_000_000])
def test_a_long_text_is_read_whole(tmp_path: Path, length: int) -> None:
    read = table(tmp_path / "a.csv", f"text,label,who\na,loan,8\n{'x' * length},card,7\nb,loan,9\n")
    assert [len(text) for text in read.columns["text"]] == [1, length, 1]


@pytest.mark.parametrize("word", ["NA", "n/a", "null", "NULL"])
def test_a_word_for_nothing_is_a_text_in_quotes_only(tmp_path: Path, word: str) -> None:
    quoted = table(tmp_path / "a.csv", f'text,label,who\nb,loan,8\n"{word}",card,"{word}7"\n')
    assert quoted.columns["text"] == ["b", word]
    bare = refusal(tmp_path / "a.csv", f"text,label,who\nb,loan,8\n{word},card,7\n")
    assert "row 2: column 'text' is empty" in bare
