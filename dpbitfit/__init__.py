"""DP-BiTFiT: private training of a model's bias terms, and its true price."""

__version__ = "0.1.0"
