"""What a run's folder says of it, round by round, while it is being written.

Only names and numbers that are known here are taken over; what is not one, or
not yet whole, is passed over.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PROGRESS, REPORT, ERROR, TRAFFIC = "progress.jsonl", "report.json", "error.json", "traffic.json"
_LARGEST = 64 * 2**20  # bytes of a file that are read
_LARGEST_NUMBER = 1e15


@dataclass(frozen=True)
class RoundView:
    """One round of a run; bytes are payload bytes of all sites, seconds wall time.

    Accuracy and loss are those on the public test records. ``guaranteed`` is the
    largest of the sites' bounds on epsilon, ``accrued``, informative, the most that one
    had spent; an older run's file has neither. ``number`` 0 is the start.
    """

    number: int
    rounds: int
    accuracy: float | None
    loss: float | None
    guaranteed: float | None
    accrued: float | None
    bytes_up: int
    bytes_down: int
    replies: int
    refused: int
    seconds: float


@dataclass(frozen=True)
class RunView:
    """A run: ``folder`` names its folder, ``run`` is its name in the ledger, "" where unknown.

    ``state`` is "running", "done", "stopped" (early, with its model in hand) or
    "failed"; ``note`` says why it stopped, or the failure's code. ``changed`` is
    when its files last did. ``traffic`` holds, by account, the bytes that it was
    sent and that it sent.
    """

    folder: str
    run: str
    state: str
    note: str
    changed: datetime
    rounds: tuple[RoundView, ...]
    model: str
    traffic: Mapping[str, tuple[int, int]]


class Runs:
    """The runs in these folders: each is a run's own, or holds such folders.

    A folder is read again only when one of its files has changed.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        self._folders = list(folders)
        self._kept: dict[Path, tuple[object, RunView]] = {}

    def all(self) -> tuple[RunView, ...]:
        """Every run, the one that changed last first."""
        kept = {}
        for folder in self._found():
            stamp = [_stamp(folder / name) for name in (PROGRESS, REPORT, ERROR, TRAFFIC)]
            known = self._kept.get(folder)
            if known is None or known[0] != stamp:
                known = (stamp, _read(folder))
            kept[folder] = known
        self._kept = kept
        views = [view for _, view in kept.values()]
        return tuple(sorted(views, key=lambda view: view.changed, reverse=True))

    def _found(self) -> Iterator[Path]:
        for folder in self._folders:
            if (folder / PROGRESS).is_file():
                yield folder
            elif folder.is_dir():
                yield from sorted(one for one in folder.iterdir() if (one / PROGRESS).is_file())


def _read(folder: Path) -> RunView:
    lines = list(_lines(folder / PROGRESS))
    report, error = _json(folder / REPORT), _json(folder / ERROR)
    note, state = _text(report.get("final"), "stopped"), "running"
    if report:
        state = "stopped" if note else "done"
    elif error:
        state, note = "failed", _text(error, "code")  # a message may quote what is private
    times = [stamp[0] for name in (PROGRESS, REPORT, ERROR) if (stamp := _stamp(folder / name))]
    rounds = {one.number: one for line in lines if (one := _round(line)) is not None}
    return RunView(
        folder=folder.resolve().name,
        run=next((text for line in reversed(lines) if (text := _text(line, "run"))), ""),
        state=state,
        note=note,
        changed=datetime.fromtimestamp(max(times, default=0) / 1e9, UTC),
        rounds=tuple(rounds[number] for number in sorted(rounds)),
        model=_text(report.get("model"), "name"),
        traffic=dict(_traffic(_json(folder / TRAFFIC))),
    )


def _round(line: Mapping[str, Any]) -> RoundView | None:
    values: dict[str, Any] = {}
    for field in fields(RoundView):
        value = line.get("round" if field.name == "number" else field.name)
        optional = field.name in ("accuracy", "loss", "guaranteed", "accrued")
        usable = isinstance(value, int | float) and abs(value) < _LARGEST_NUMBER
        if isinstance(value, bool) or not (usable or (optional and value is None)):
            return None
        values[field.name] = int(value) if field.type is int and value is not None else value
    return RoundView(**values)


def _traffic(told: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, int]]]:
    for name, both in told.items():
        if isinstance(both, list) and len(both) == 2 and all(type(one) is int for one in both):
            yield name, (both[0], both[1])


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in _content(path).splitlines():
        told = _parsed(line)
        if told:
            yield told


def _json(path: Path) -> dict[str, Any]:
    return _parsed(_content(path))


def _parsed(text: str) -> dict[str, Any]:
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _content(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(_LARGEST)
    except OSError:
        return ""


def _text(told: Any, key: str) -> str:
    value = told.get(key) if isinstance(told, dict) else None
    return value if isinstance(value, str) else ""


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
