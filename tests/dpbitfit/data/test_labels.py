"""A label set is read as it is meant, whatever wrote the file."""

import unicodedata
from pathlib import Path

import pytest

from dpbitfit.data.labels import read_labels
from dpbitfit.data.tables import read_table
from dpbitfit.errors import InputError
from dpbitfit.tasks.text_classification.settings import COLUMNS


def test_label_sets(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("card\nloan\n\n")
    (tmp_path / "a.json").write_text('["card", "loan"]')
    wanted = ("card", "loan")
    assert read_labels("card, loan") == wanted
    assert read_labels(str(tmp_path / "a.txt")) == wanted
    assert read_labels(str(tmp_path / "a.json")) == wanted


@pytest.mark.parametrize("spec", ["card", "card,card", ",", "missing.json"])
def test_label_sets_that_are_none_are_refused(spec: str) -> None:
    with pytest.raises(InputError, match="label"):
        read_labels(spec)


@pytest.mark.parametrize("content", ['{"a": 1}', "[1, 2]", "nonsense", '["a"]'])
def test_label_files_that_are_no_list_of_names_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match="label"):
        read_labels(str(tmp_path / "a.json"))


@pytest.mark.parametrize(
    "content",
    [
        "flu\ncold\n".encode("utf-8-sig"),
        "flu\ncold\n".encode("utf-16"),
        b"flu \r\n\tcold\r\n\r\n",
        "flu\u200b\ncold\ufeff".encode(),
    ],
    ids=["a mark", "UTF-16", "blanks and line ends of Windows", "characters that are not seen"],
)
@pytest.mark.parametrize("name", ["a.txt", "A.TXT"])
def test_what_is_not_seen_in_a_label_file_is_not_in_a_label(
    tmp_path: Path, content: bytes, name: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert read_labels(str(tmp_path / name)) == ("flu", "cold")


def test_a_json_list_may_begin_with_a_mark(tmp_path: Path) -> None:
    (tmp_path / "a.JSON").write_bytes('["flu ", "cold"]'.encode("utf-8-sig"))
    assert read_labels(str(tmp_path / "a.JSON")) == ("flu", "cold")


@pytest.mark.parametrize("inside", ["\u2028", "\v", "\x85", "\f"])
def test_a_line_ends_at_a_line_feed_only(tmp_path: Path, inside: str) -> None:
    (tmp_path / "a.txt").write_text(f"acute{inside}otitis\ncold\n", encoding="utf-8")
    labels = read_labels(str(tmp_path / "a.txt"))
    assert labels == ("acute otitis", "cold")
    (tmp_path / "a.csv").write_text(f'text,label\nx,"acute{inside}otitis"\n', encoding="utf-8")
    assert read_table(tmp_path / "a.csv", COLUMNS, labels).columns["label"] == [0]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("other", ["NFC", "NFD"])
def test_composed_and_decomposed_labels_are_one(tmp_path: Path, form: str, other: str) -> None:
    labels = tmp_path / "a.txt"
    labels.write_text(unicodedata.normalize(form, "aiguë\nchronique\n"), encoding="utf-8")
    data = tmp_path / "a.csv"
    data.write_text(unicodedata.normalize(other, "text,label\nx,aiguë\n"), encoding="utf-8")
    assert read_table(data, COLUMNS, read_labels(str(labels))).columns["label"] == [0]
    labels.write_text("aiguë\n" + unicodedata.normalize("NFD", "aiguë"), encoding="utf-8")
    with pytest.raises(InputError, match="as number 1 and 2"):
        read_labels(str(labels))


@pytest.mark.parametrize("name", ["labels.csv", "labels.xlsx", "labels,of,ours.tsv", "labels"])
def test_a_file_of_another_kind_is_not_taken_for_names(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("flu\ncold\n")
    with pytest.raises(InputError, match=r"\.txt file with one a line"):
        read_labels(str(tmp_path / name))


def test_a_label_file_that_is_no_unicode_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("Müller\nMaier\n".encode("latin-1"))
    with pytest.raises(InputError, match="no Unicode text: convert it to UTF-8") as caught:
        read_labels(str(tmp_path / "a.txt"))
    assert "ller" not in str(caught.value)


@pytest.mark.parametrize("label", ["NA", "null", "n/a", "nan", "None", "<NA>"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_a_label_that_the_label_set_names_is_no_missing_value(
    tmp_path: Path, label: str, quote: str
) -> None:
    data = tmp_path / "a.csv"
    data.write_text(f"text,label\na,{quote}{label}{quote}\nb,known\n")
    labels = read_labels(f"known,{label}")
    assert read_table(data, COLUMNS, labels).columns == {"text": ["a", "b"], "label": [1, 0]}
    with pytest.raises(InputError, match=r"row 1.*label"):
        read_table(data, COLUMNS, ("known", "other"))
    data.write_text("text,label\na,\nb,known\n")  # empty is missing all the same
    with pytest.raises(InputError, match="row 1: column 'label' is empty"):
        read_table(data, COLUMNS, labels)
    data.write_text("text,label\nNA,known\nb,known\n")  # and the text is still none
    with pytest.raises(InputError, match="row 1: column 'text' is empty"):
        read_table(data, COLUMNS, labels)
