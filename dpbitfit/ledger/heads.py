"""A copy of the accounts' heads, in a file that a restored backup does not bring back.

It holds each account's last event and what every run had spent then. It is written
when a round has been reserved, before a record is touched: a crash in between
leaves it behind the ledger, which is as it should be. A ledger that is behind it
was deleted or restored.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from dpbitfit import durable
from dpbitfit.errors import DpbitfitError, LedgerError
from dpbitfit.ledger import peers, queries, schema
from dpbitfit.ledger.account import AccountName
from dpbitfit.ledger.canonical import number_to_text
from dpbitfit.ledger.peers import Runs
from dpbitfit.ledger.reader import Reader


@dataclass(frozen=True)
class AccountHead:
    """Where an account's chain stood, and what its runs had spent; ``runs`` is by coordinator."""

    sequence: int
    head: str
    delta: float
    budget: float
    runs: Mapping[str, Runs]


class Heads:
    """The copy in ``folder``, which is made where it is not there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "heads.json"

    @classmethod
    def beside(cls, ledger: str) -> "Heads | None":
        """The copy of a SQLite ledger for which no other place was chosen; None for another."""
        folder = default_folder(ledger)
        return None if folder is None else cls(folder)

    def read(self) -> tuple[str, dict[AccountName, AccountHead]]:
        """The ledger's id, and each account; "" and none where nothing was written yet.

        Raises LedgerError where the file cannot be read.
        """
        try:
            content = json.loads(self.path.read_bytes())
            return content["ledger"], {
                AccountName(*account["account"]): AccountHead(
                    int(account["sequence"]),
                    str(account["head"]),
                    float(account["delta"]),
                    float(account["budget"]),
                    {
                        coordinator: peers.runs_from_text(json.dumps(runs))
                        for coordinator, runs in account["runs"].items()
                    },
                )
                for account in content["accounts"]
            }
        except FileNotFoundError:
            return "", {}
        except PermissionError as error:
            raise LedgerError(
                f"{self.path}: this user may not read it: give it to the guard's (chown)"
            ) from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError, DpbitfitError) as error:
            raise LedgerError(
                f"{self.path}: cannot be read: restore it, or remove it if you know that the "
                "ledger has lost nothing"
            ) from error

    def check(self, ledger: Reader) -> None:
        """LedgerError, saying what to do, where the ledger is behind this copy."""
        problem, _ = self.lost(ledger)
        if problem:
            raise LedgerError(
                f"{ledger.database}: {problem}. Put the newest backup back, then count as spent "
                f"what {self.path} knows of: dpbitfit ledger settle --rebase --state-directory "
                f"{self.folder}"
            )

    def lost(self, ledger: Reader) -> tuple[str, dict[AccountName, AccountHead]]:
        """How the ledger is behind this copy, "" where it is not; and the accounts that are."""
        known, accounts = self.read()
        if known and known != ledger.id:
            return f"it is not the ledger {known} that was here before: that one was lost", accounts
        table, behind = schema.event, {}
        with ledger.database.read() as connection:
            for name, head in accounts.items():
                account = queries.find_account(connection, name)
                at = table.c.account_id == (account.id if account else None)
                last = sa.select(table.c.hash).where(at, table.c.sequence == head.sequence)
                if connection.scalar(last) != head.head:
                    behind[name] = head
        if not behind:
            return "", {}
        return f"account {min(behind)} has lost events: a backup was restored", behind

    def write(self, ledger: Reader) -> None:
        """Bring this copy to where the ledger stands; on disk when this returns."""
        content = json.dumps({"ledger": ledger.id, "accounts": _heads(ledger)})
        try:
            durable.replace(self.path, content.encode())
        except OSError as error:
            raise LedgerError(
                f"{self.path}: cannot be written ({error.strerror}): nothing is trained without it"
            ) from error


def default_folder(ledger: str) -> Path | None:
    """Where the heads of a SQLite ledger are kept by default; None for another."""
    return None if "://" in ledger else Path(f"{ledger}.state").absolute()


def _heads(ledger: Reader) -> list[dict[str, Any]]:
    with ledger.database.read() as connection:
        accounts = [row.read() for row in queries.account_rows(connection)]
        allotments = queries.allotments_of(connection, [account.id for account in accounts])
        return [
            {
                "account": list(account.name),
                "sequence": account.sequence,
                "head": account.head,
                "delta": number_to_text(account.delta),
                "budget": number_to_text(account.budget),
                "runs": {
                    coordinator: json.loads(
                        peers.runs_to_text(peers.runs_of(connection, account.id, coordinator))
                    )
                    for coordinator in sorted(
                        {allotment.coordinator for allotment in allotments[account.id].values()}
                    )
                },
            }
            for account in accounts
        ]
