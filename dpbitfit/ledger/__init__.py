"""The budget ledger: what every account was allowed, has spent, and may still spend."""

from dpbitfit.ledger.account import Account, AccountName
from dpbitfit.ledger.ledger import Ledger
from dpbitfit.ledger.reader import Reader

__all__ = ["Account", "AccountName", "Ledger", "Reader"]
