"""The coordinator's lines in Flower's log, marked so that they are told from Flower's own."""

from logging import ERROR, INFO, WARNING
from typing import Any

from flwr.common import logger

from dpbitfit import stream

__all__ = ["ERROR", "INFO", "WARNING", "log"]


def log(level: int, text: str, *values: Any) -> None:
    """Log a line of the run, as ``logging`` does."""
    logger.log(level, "%s", stream.marked(text % values if values else text))
