"""Runs from their folders, round by round, while they are being written.

Only the fields that are named here are read; a line that is damaged, or not yet
whole, is left out.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from dpbitfit_monitor.files import Stamp, stamp

PROGRESS, REPORT, ERROR, TRAFFIC = "progress.jsonl", "report.json", "error.json", "traffic.json"
_MOST_BYTES = 64 * 2**20  # of a file that is read
_LIMIT = 10**15

_Int = Annotated[int, Field(ge=-_LIMIT, le=_LIMIT)]
_Float = Annotated[float, Field(ge=-_LIMIT, le=_LIMIT, allow_inf_nan=False)]
_Name = Annotated[str, Field(min_length=1, max_length=200)]


@checked_dataclass(frozen=True, config=ConfigDict(strict=True))
class RoundView:
    """One round of a run; bytes are payload bytes of all sites, seconds wall time.

    ``metrics`` are those on the public test records, None where one was not computed.
    ``missing`` says for each site that did not take part, in a few words, why.
    ``guaranteed`` is the largest of the sites' bounds on epsilon, ``accrued``,
    informative, the most that any site has spent; a run may report neither.
    ``round`` 0 is the start, and ``phase`` the kind of the round's. ``run`` is the run's name in
    the ledger, "" where unknown.
    """

    round: _Int
    rounds: _Int
    bytes_up: _Int
    bytes_down: _Int
    replies: _Int
    refused: _Int
    seconds: _Float
    metrics: Mapping[_Name, _Float | None] = field(default_factory=dict)
    missing: Mapping[_Name, _Name] = field(default_factory=dict)
    guaranteed: _Float | None = None
    accrued: _Float | None = None
    run: str = ""
    phase: str = ""


_ROUND = TypeAdapter(RoundView)


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
        self._cache: dict[Path, tuple[object, RunView]] = {}

    def all(self) -> tuple[RunView, ...]:
        """Every run, the one that changed last first."""
        cache = {}
        for folder in self._run_folders():
            stamps = [stamp(folder / name) for name in (PROGRESS, REPORT, ERROR, TRAFFIC)]
            entry = self._cache.get(folder)
            if entry is None or entry[0] != stamps:
                entry = (stamps, _read(folder))
            cache[folder] = entry
        self._cache = cache
        views = [view for _, view in cache.values()]
        return tuple(sorted(views, key=lambda view: view.changed, reverse=True))

    def _run_folders(self) -> Iterator[Path]:
        for folder in self._folders:
            if (folder / PROGRESS).is_file():
                yield folder
            elif folder.is_dir():
                yield from sorted(path for path in folder.iterdir() if (path / PROGRESS).is_file())


def metric_names(rounds: Iterable[RoundView]) -> tuple[str, ...]:
    """Every metric of these rounds, in the order in which they first appear."""
    return tuple(dict.fromkeys(name for view in rounds for name in view.metrics))


def _read(folder: Path) -> RunView:
    lines = list(_rounds(folder / PROGRESS))
    report, error = _json(folder / REPORT), _json(folder / ERROR)
    note, state = _text(report.get("final"), "stopped"), "running"
    if report:
        state = "stopped" if note else "done"
    elif error:
        state, note = "failed", _text(error, "code")  # a message may quote what is private
    stamps: list[Stamp | None] = [stamp(folder / name) for name in (PROGRESS, REPORT, ERROR)]
    changed = max((each.modified_ns for each in stamps if each), default=0)
    rounds = {line.round: line for line in lines}
    return RunView(
        folder=folder.resolve().name,
        run=next((line.run for line in reversed(lines) if line.run), ""),
        state=state,
        note=note,
        changed=datetime.fromtimestamp(changed / 1e9, UTC),
        rounds=tuple(rounds[number] for number in sorted(rounds)),
        model=_text(report.get("model"), "name"),
        traffic=dict(_traffic(_json(folder / TRAFFIC))),
    )


def _rounds(path: Path) -> Iterator[RoundView]:
    for line in _content(path).splitlines():
        try:
            yield _ROUND.validate_json(line)
        except ValidationError:
            continue


def _traffic(content: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, int]]]:
    for name, sizes in content.items():
        if isinstance(sizes, list) and [type(size) for size in sizes] == [int, int]:
            yield name, (sizes[0], sizes[1])


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_content(path))
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _content(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(_MOST_BYTES)
    except OSError:
        return ""


def _text(content: Any, key: str) -> str:
    value = content.get(key) if isinstance(content, dict) else None
    return value if isinstance(value, str) else ""
