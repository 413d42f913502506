"""A process that serves for months and stays as small as it was on its first day."""

import ctypes
from contextlib import suppress

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # of mallopt(3)


def keep_small() -> None:
    """Have the C library give memory back, where it is glibc; before any thread is started.

    The accountants' big arrays are of ever other sizes and leave holes in a heap, so
    each is mapped and unmapped; and each thread that once read a ledger would keep
    a heap of its own.
    """
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 2**20)
        mallopt(_M_ARENA_MAX, 2)
