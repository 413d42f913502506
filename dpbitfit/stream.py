"""What the coordinator says of a run while it goes: lines that Flower's log carries.

Flower's own lines and tracebacks stand between them; a mark tells them apart.
"""

import re
from collections.abc import Mapping
from typing import Any

from dpbitfit.errors import DpbitfitError, RunFailed, kinds

# A failure has a mark of its own: other lines may begin with a name that a site chose.
_LINE = re.compile(r"dpbitfit(?: failed \((?P<code>[a-z-]+)\))?: (?P<text>.*)")


def marked(text: str) -> str:
    """A line for the stream."""
    return f"dpbitfit: {_joined(text)}"


def failure(error: Exception) -> str:
    """The line with which a run ends that failed."""
    return f"dpbitfit failed ({code_of(error)}): {_joined(cause(error))}"


def read(line: str) -> str | DpbitfitError | None:
    """What the coordinator says in a line of the log, or fails with; None in another's line."""
    found = _LINE.search(line)  # the first mark is the coordinator's own
    if found is None or found["code"] is None:
        return found and found["text"]
    return kinds().get(found["code"], RunFailed)(found["text"])


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


def _joined(text: str) -> str:
    return " ".join(part.strip() for part in text.splitlines())
