"""Every error of a guard as a refusal: a fixed code for others, and the reason for the site."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dpbitfit.errors import DpbitfitError, LedgerError, PolicyError, RoundFailed, WorkerError
from dpbitfit.protocol.messages import Refusal
from dpbitfit_client.message import Refused

PUBLIC = (PolicyError, LedgerError, WorkerError)  # whose texts hold nothing of a record


@contextmanager
def refusing(refusal: Callable[[str], Refusal]) -> Iterator[None]:
    """Turn every error into a refusal: its text may quote a record, its code cannot.

    The text is for the site's own log.
    """
    try:
        yield
    except Refused:
        raise
    except DpbitfitError as error:
        raise Refused(refusal(error.code).encode(), error.code, str(error)) from error
    except Exception as error:
        raise Refused(refusal("internal").encode(), "internal", type(error).__name__) from error


@contextmanager
def refusing_work(refusal: Callable[[str], Refusal]) -> Iterator[None]:
    """Turn every error of work on records into the same refusal: its kind may follow from them.

    The site's own log has the kind, and the text where that quotes no record.
    """
    try:
        yield
    except DpbitfitError as error:
        reason = f"{error.code}: {error}" if isinstance(error, PUBLIC) else error.code
    except Exception as error:
        reason = type(error).__name__
    else:
        return
    raise Refused(refusal(RoundFailed.code).encode(), RoundFailed.code, reason)
