"""DP-BiTFiT on one site's records: from per-record gradients to noised sums."""
