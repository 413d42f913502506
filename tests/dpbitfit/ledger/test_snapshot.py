"""A ledger at one moment: answers that belong together, as the events and the tables have them."""

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from dpbitfit.errors import InputError, LedgerError
from dpbitfit.ledger import Ledger, schema
from dpbitfit.ledger.encoding import read
from dpbitfit.ledger.reader import Reader

from ...support.ledgers import NAME, OTHER, account, run_rounds, steps


@pytest.fixture
def used(ledger: Ledger) -> Ledger:
    """Two accounts; three rounds of the first have ended, and one is open."""
    first, _ = account(ledger), account(ledger, OTHER)
    ledger.allot(NAME, "one", "plan", steps(100))
    run_rounds(ledger, first, "one", 2, steps(10))
    ledger.reserve("one", 7, {first.id: "k7"}, steps(10))
    ledger.commit({"k7": "no reply"})
    ledger.reserve("one", 8, {first.id: "k8"}, steps(10))
    return ledger


def test_a_snapshot_sees_one_moment(used: Ledger, reopen: Callable[..., Ledger]) -> None:
    other = reopen(used.database.url.render_as_string(hide_password=False))
    with used.snapshot() as snapshot:
        before = snapshot.account(NAME)
        other.commit({"k8": "reply"})
        assert snapshot.account(NAME) == before
        assert snapshot.open_keys([before.id]) == {before.id: {"k8"}}
        assert len(snapshot.events(before.id)) == before.sequence
    assert used.account(NAME).sequence == before.sequence + 1


def test_a_snapshots_answers_agree_with_the_ledgers(used: Ledger) -> None:
    first, second = used.account(NAME), used.account(OTHER)
    events = used.events(NAME)
    with used.snapshot() as snapshot:
        assert {row.read() for row in snapshot.account_rows()} == {first, second}
        assert snapshot.outcomes([first.id, second.id]) == {
            first.id: {"reply": 2, "no reply": 1},
            second.id: {},
        }
        assert snapshot.open_keys([first.id, second.id]) == {first.id: {"k8"}, second.id: set()}
        last = snapshot.last_events({first.id: 3, second.id: 8})
        assert last == {first.id: events[-3:], second.id: used.events(OTHER)}
        assert snapshot.runs(first.id) == used.runs(first)
        history = snapshot.history(NAME)
    assert history.events == events
    assert history.entries == [read(event) for event in events]
    assert (history.account, history.state) == (first, used.verify(first))


def test_a_row_that_cannot_be_read_is_one_accounts(used: Ledger) -> None:
    with used.database.write() as connection:
        table = schema.account
        connection.execute(sa.update(table).where(table.c.site == NAME.site).values(delta="x"))
    with used.snapshot() as snapshot:
        rows = {row.site: row for row in snapshot.account_rows()}
        assert rows[OTHER.site].read() == snapshot.account(OTHER)
        with pytest.raises(LedgerError, match="its row cannot be read"):
            rows[NAME.site].read()
        with pytest.raises(InputError, match="there is no account"):
            snapshot.account(NAME._replace(unit="none"))


def test_a_history_is_verified(used: Ledger) -> None:
    with used.database.write() as connection:
        connection.execute(sa.update(schema.allotment).values(committed=29))
    reader = Reader(used.database.url.render_as_string(hide_password=False), readonly=True)
    with reader.snapshot() as snapshot, pytest.raises(LedgerError, match="its events say"):
        snapshot.history(NAME)
    reader.database.close()
