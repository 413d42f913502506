"""DP-BiTFiT on one site's records: from per-record gradients to noised sums."""

import os

# MKL reads it once, at its first product: products whose rows are the same to the bit whatever
# the number of rows and threads, where a CPU has them ("strict CNR mode"). Where it has not, or
# the mode is OFF, micro-batches are of canonical sizes (``batches``).
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
