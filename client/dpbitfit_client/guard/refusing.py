"""Every error of a guard as a refusal: a fixed code for others, and the reason for the site."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dpbitfit.errors import DpbitfitError, LedgerError, PolicyError, WorkerError
from dpbitfit.protocol.messages import Refusal
from dpbitfit_client.message import Refused

PUBLIC = (PolicyError, LedgerError, WorkerError)  # whose texts hold nothing of a record


@contextmanager
def refusing(refusal: Callable[[str], Refusal], touches_records: bool = False) -> Iterator[None]:
    """Turn every error into a refusal: its text may quote a record, its code cannot.

    The text is for the site's own log, and not for that where records were touched.
    """
    try:
        yield
    except Refused:
        raise
    except DpbitfitError as error:
        public = not touches_records or isinstance(error, PUBLIC)
        reason = str(error) if public else ""
        raise Refused(refusal(error.code).encode(), error.code, reason) from error
    except Exception as error:
        raise Refused(refusal("internal").encode(), "internal", type(error).__name__) from error
