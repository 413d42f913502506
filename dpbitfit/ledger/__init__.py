"""The budget ledger: what every account was allowed, has spent, and may still spend."""

from dpbitfit.ledger.budget import Account
from dpbitfit.ledger.events import AccountName
from dpbitfit.ledger.ledger import Ledger

__all__ = ["Account", "AccountName", "Ledger"]
