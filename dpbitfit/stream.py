"""What the coordinator says of a run while it goes: lines that Flower's log carries.

Flower's own lines and tracebacks stand between them; a mark tells them apart.
"""

from collections.abc import Mapping
from typing import Any

from dpbitfit.errors import DpbitfitError, RunFailed, kinds

MARK = "dpbitfit: "
_FAILED = "failed: "


def marked(text: str) -> str:
    """A line for the stream."""
    return MARK + " ".join(part.strip() for part in text.splitlines())


def failure(error: Exception) -> str:
    """The line with which a run ends that failed; ``read_failure`` reads it."""
    return f"{_FAILED}{code_of(error)}: {cause(error)}"


def read(line: str) -> str | None:
    """What the coordinator says in a line of the log; None in another's."""
    _, mark, text = line.rstrip("\n").partition(MARK)
    return text if mark else None


def read_failure(text: str) -> DpbitfitError | None:
    """The error with which a run ended; None where this line says something else."""
    if not text.startswith(_FAILED):
        return None
    code, _, message = text.removeprefix(_FAILED).partition(": ")
    return kinds().get(code, RunFailed)(message)


def code_of(error: Exception) -> str:
    """The fixed code of an error, of one that was not raised on purpose too."""
    return error.code if isinstance(error, DpbitfitError) else RunFailed.code


def cause(error: Exception) -> str:
    """An error in words, with its kind where it was not raised on purpose."""
    text = str(error)
    if isinstance(error, DpbitfitError):
        return text
    return ": ".join(filter(None, (type(error).__name__, text)))


def round_line(line: Mapping[str, Any]) -> str:
    """A round's figures, from its line of ``progress.jsonl``."""
    metrics = "  ".join(f"{name} {figure(value)}" for name, value in line["metrics"].items())
    missing = ", ".join(f"{site} ({why})" for site, why in line.get("missing", {}).items())
    parts = [
        metrics,
        # Before the first round it is not known which accounts take part.
        f"epsilon: guaranteed {line['guaranteed']:.2f}, accrued {line['accrued']:.2f}"
        if line["round"]
        else "",
        f"up {line['bytes_up'] / 1e3:.0f} kB",
        f"down {line['bytes_down'] / 1e3:.0f} kB",
        f"without {missing}" if missing else "",
    ]
    return "  ".join(filter(None, parts))


def figure(value: float | None) -> str:
    """A metric's value; None where it is not finite."""
    return "–" if value is None else f"{value:.3f}"
