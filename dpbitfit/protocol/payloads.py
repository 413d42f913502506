"""What each side signs, so that both make the same statement of the same thing.

The purposes are ``describe``, ``train`` and ``evaluate`` for what a coordinator
asks, ``reply`` for what a site answers, ``untouched`` for its promise that a key
touched no data and never will.
"""

import hashlib
import json
from collections.abc import Mapping

from dpbitfit.plan import Plan
from dpbitfit.protocol.signing import Statement


def question(plan: Plan, run: str) -> Statement:
    """A coordinator's question what a site is, for a plan."""
    return {"plan": plan.digest, "run": run}


def request(plan: Plan, run: str, number: int, key: str, biases: bytes) -> Statement:
    """A coordinator's request for one round from packed biases."""
    return {**question(plan, run), "round": number, "key": key, "biases": digest(biases)}


def reply(stated: Mapping[str, str | int], content: bytes) -> Statement:
    """A site's answer: what it states beside its content."""
    return {**stated, "content": digest(content)}


def untouched(key: str) -> Statement:
    """A site's promise about one key."""
    return {"key": key}


def digest(content: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def metrics(found: Mapping[str, float]) -> bytes:
    """Measured figures as they are signed: canonical JSON."""
    return json.dumps(dict(found), sort_keys=True).encode()
