"""The demo's corpus is generated, reproducible, and readable by the project itself."""

from pathlib import Path

from dpbitfit.data.corpus import LABELS, write_corpus
from dpbitfit.data.labels import read_labels
from dpbitfit.data.tables import read_table
from dpbitfit.tasks.text_classification.settings import COLUMNS


def test_the_same_seed_gives_the_same_file(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_corpus(tmp_path / f"{name}.csv", records=200, seed=seed)
    a, b, c = ((tmp_path / f"{name}.csv").read_bytes() for name in "abc")
    assert a == b != c


def test_it_holds_all_intents_and_several_messages_of_a_customer(tmp_path: Path) -> None:
    labels = read_labels(str(write_corpus(tmp_path / "m.csv", records=1000)))
    assert labels == LABELS
    table = read_table(tmp_path / "m.csv", COLUMNS, labels, unit_column="customer")
    assert set(table.columns["label"]) == set(range(len(LABELS)))
    assert len(set(table.columns["text"])) > 800
    assert len(set(table.units or [])) < 300
