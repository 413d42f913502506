"""Every error that dpbitfit raises on purpose.

    DpbitfitError
    ├── InputError       a file, a column, a label or a setting is not usable
    ├── ModelError       the model cannot be trained privately as it is
    │   └── WorkerError      another process of the same training failed
    ├── AccountingError  a privacy figure cannot be given truthfully
    ├── BudgetError      the work asked for would pass a privacy budget
    ├── LedgerError      the ledger is unreadable, corrupt or cannot be written
    │   ├── LedgerBusy       another process is at work on it: the same may succeed later
    │   └── LedgerDrift      it and the other side's do not agree: operators must settle that
    ├── RunFailed        a run ended without a result, for a reason that is none of these
    └── ProtocolError    the two sides do not agree, or a message is not what it should be
        ├── RoundFailed      a site's work on its records ended with an error
        ├── AnswerLost       a round was trained, or may have been, and its answer is gone
        ├── IdentityError    a signature or a key is not that of a listed party
        ├── PolicyError      the site's policy does not allow what a plan asks for
        └── GuardUnavailable the site's guard does not answer: a later round may find it

Each carries a fixed ``code``; only the code crosses the network, because a
message may quote what a site holds.
"""

from typing import ClassVar


class DpbitfitError(Exception):
    """Base of every error that dpbitfit raises on purpose."""

    code: ClassVar[str] = "error"


def kinds() -> dict[str, type[DpbitfitError]]:
    """Every kind of error, by its code."""
    by_code, left = {}, [DpbitfitError]
    while left:
        kind = left.pop()
        if "code" in vars(kind):
            by_code[kind.code] = kind
        left += kind.__subclasses__()
    return by_code


class InputError(DpbitfitError):
    """A file, a column, a label or a setting is not usable."""

    code = "bad-input"


class ModelError(DpbitfitError):
    """The model cannot be trained privately as it is."""

    code = "bad-model"


class WorkerError(ModelError):
    """Another process of the same training failed. Says which, and quotes no record."""

    code = "worker"


class AccountingError(DpbitfitError):
    """A privacy figure cannot be given truthfully."""

    code = "accounting"


class BudgetError(DpbitfitError):
    """The work asked for would pass a privacy budget."""

    code = "budget"


class LedgerError(DpbitfitError):
    """The ledger is unreadable, corrupt or cannot be written."""

    code = "ledger"


class LedgerBusy(LedgerError):
    """Another process is at work on the ledger: the same may succeed later."""

    code = "busy"


class ProtocolError(DpbitfitError):
    """The two sides do not agree, or a message is not what it should be."""

    code = "protocol"


class RoundFailed(ProtocolError):
    """A site's work on its records ended with an error, and stays spent. Its log says which."""

    code = "round-failed"


class AnswerLost(ProtocolError):
    """A round was trained, or may have been, and its answer is gone: it stays spent."""

    code = "answer-lost"


class IdentityError(ProtocolError):
    """A signature or a key is not that of a listed party."""

    code = "identity"


class PolicyError(ProtocolError):
    """The site's policy does not allow what a plan asks for. Quotes those two, and no record."""

    code = "policy"


class GuardUnavailable(ProtocolError):
    """The site's guard does not answer: a later round may find it."""

    code = "guard-unavailable"


class LedgerDrift(LedgerError):
    """The ledgers of the two sides do not agree: their operators must settle that."""

    code = "drift"


class RunFailed(DpbitfitError):
    """A run ended without a result, for a reason that is none of the others."""

    code = "run-failed"
