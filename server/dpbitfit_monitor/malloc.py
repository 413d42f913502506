"""Memory of a process that runs for months and must not grow."""

import ctypes
from contextlib import suppress

import numpy as np
from scipy.fft import rfft

_PLANS = 16  # Fourier plans that SciPy caches for each type of number
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # of mallopt(3)


def keep_small() -> None:
    """Have glibc, where it is the C library, return memory; before any thread is started.

    The accountants' large arrays are of ever different sizes and fragment a heap, so
    each is mapped and unmapped; and each thread that has read a ledger would keep
    a heap of its own.
    """
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 2**20)
        mallopt(_M_ARENA_MAX, 2)


def forget_transforms() -> None:
    """Displace the PRV accountant's cached Fourier plans, each of another length, by small ones.

    It transforms long doubles; sixteen of its plans took 200 MB that no later bound uses.
    """
    for length in range(1, _PLANS + 2):
        rfft(np.zeros(length, np.longdouble))
