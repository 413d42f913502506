"""A process that works for months and stays as small as it was on its first day."""

import ctypes
from contextlib import suppress

import numpy as np
from scipy.fft import rfft

_PLANS = 16  # that SciPy keeps of Fourier transforms, for each type of number
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


def forget_transforms() -> None:
    """Put small plans in the place of the PRV accountant's, which are of ever other lengths.

    It transforms long doubles; sixteen of its plans were 200 MB that no bound uses again.
    """
    for length in range(1, _PLANS + 2):
        rfft(np.zeros(length, np.longdouble))
