"""A valid policy as nested values, and how to write one as TOML."""

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpbitfit_client.policy.policy import Policy

from dpbitfit.engine.clipping import CLIPPINGS

Key = tuple[str, ...]
PUBLIC = "ab" * 32

POLICY: dict[str, Any] = {
    "site": {
        "name": "hospital-1",
        "ledger": "/var/lib/dpbitfit/ledger.sqlite",
        "state-directory": "/var/lib/dpbitfit-heads",
        "socket": "/run/dpbitfit/guard.sock",
        "group": "dpbitfit-relay",
        "reply-slot-seconds": 60,
        "round-seconds": 1800,
        "device": "auto",
        "precision": "float32",
    },
    "coordinators": {"trial-office": {"public-key": PUBLIC}},
    "models": {"minilm": {"path": "minilm", "digest": "cd" * 32}},
    "tasks": {"triage": "hospital.tasks:Triage"},
    "datasets": {
        "letters": {
            "path": "/srv/letters.csv",
            "task": "text-classification",
            "text-column": "body",
            "label-column": "topic",
            "labels": "/srv/letters.labels.txt",
            "unit-column": "patient",
            "declared-size": 4000,
            "epsilon": 8.0,
            "delta": 1e-5,
            "account": "patients",
            "coordinators": {
                "trial-office": {
                    "epsilon": 6,
                    "min-noise-multiplier": 0.8,
                    "max-sampling-rate": 0.2,
                    "max-steps-per-round": 20,
                    "max-rounds": 50,
                    "models": ["minilm"],
                    "heads": ["labels", "trained"],
                    "phases": ["class-sums", "head", "biases"],
                    "clippings": list(CLIPPINGS),
                    "max-directions": 32,
                    "max-length": 64,
                    "max-bias-distance": 4.0,
                }
            },
            "evaluation": {
                "path": "/srv/held-out.parquet",
                "unit-column": "patient",
                "declared-size": 500,
                "epsilon": 1.0,
                "delta": 1e-6,
                "metrics": {"accuracy": {"noise-multiplier": 20.0}},
            },
        }
    },
}


def changed(key: Key, value: Any, values: Mapping[str, Any] = POLICY) -> dict[str, Any]:
    """The values with one key set, or left out where ``value`` is ``...``."""
    first, rest = key[0], key[1:]
    new = value if not rest else changed(rest, value, values.get(first, {}))
    return {k: v for k, v in {**values, first: new}.items() if v is not ...}


def keys(values: Mapping[str, Any] = POLICY, table: Key = ()) -> list[Key]:
    """Every key, tables too."""
    names = []
    for name, value in values.items():
        names.append((*table, name))
        if isinstance(value, dict):
            names += keys(value, (*table, name))
    return names


def written(values: Mapping[str, Any]) -> tuple[str, dict[Key, int]]:
    """The values as TOML, and the line of each key."""
    lines: list[str] = []
    places: dict[Key, int] = {}

    def write(table: Mapping[str, Any], key: Key) -> None:
        for name, value in table.items():
            if not isinstance(value, dict):
                lines.append(f"{quoted(name)} = {literal(value)}")
                places[*key, name] = len(lines)
        for name, value in table.items():
            if isinstance(value, dict):
                lines.append("[" + ".".join(map(quoted, (*key, name))) + "]")
                places[*key, name] = len(lines)
                write(value, (*key, name))

    write(values, ())
    return "\n".join(lines) + "\n", places


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def literal(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(literal, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(k)} = {literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, bool):
        return json.dumps(value)
    return repr(value)


def read(file: Path, text: str | bytes | Mapping[str, Any] = POLICY) -> Policy:
    """What ``Policy.read`` makes of a text or of values."""
    if isinstance(text, Mapping):
        text = written(text)[0]
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    file.chmod(0o600)
    return Policy.read(file)
