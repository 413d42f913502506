"""What a delta says of a data set, before any epsilon is computed."""

import math


def empty_promise(delta: float, declared_size: int) -> str:
    """A warning where delta is one in the declared size or more; "" where it is less.

    To publish one unit of n, chosen at random, is (0, 1/n)-differentially private (Dwork and
    Roth 2014, section 2.3).
    """
    if delta * declared_size < 1:
        return ""
    return (
        f"delta {delta:g} promises nothing: it is no less than one in the declared size of "
        f"{declared_size:,}, so that one of them could be published whole"
    )


def smallest_size(delta: float) -> int:
    """The declared size from which on a delta promises nothing."""
    return max(1, math.ceil((1 - 1e-12) / delta))
