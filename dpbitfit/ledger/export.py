"""An account's events as lines of JSON, the way back, and a report for others to read.

Each line is complete: account, sequence, kind, the canonical text that was
hashed, and the hash. A chain shows that nothing was changed in it or left out of
it; it does not show who wrote it, nor that no later event exists.
"""

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from dpbitfit.ledger import status
from dpbitfit.ledger.account import AccountName
from dpbitfit.ledger.events import (
    AccountOpened,
    BudgetSet,
    CountsRaised,
    Entry,
    PlanApproved,
    RoundReserved,
    StepsVoided,
)
from dpbitfit.ledger.reader import Reader
from dpbitfit.ledger.verify import History

_PAGE = 1000


def lines(ledger: Reader, name: AccountName) -> Iterator[str]:
    """An account's events in order, one line of JSON each; InputError where it is not."""
    after = 0
    while page := ledger.events(name, after, _PAGE):
        for event in page:
            yield json.dumps({"account": list(name), **vars(event)})
        after = page[-1].sequence


# What holds for every account of this project, in the words of the two templates.
STATEMENTS: Mapping[str, Any] = {
    "adjacency": "add or remove one unit, that is all records of one unit; the declared size, "
    "rates and norms are public constants",
    "mechanism": "Gaussian noise on the sum of clipped per-unit gradients, at every step; with "
    "adaptive norms the sum counts by group whose were not clipped, under the same noise",
    "trust_model": "each site is trusted with its own records and adds the noise itself, before "
    "anything leaves it; coordinator, other sites and readers of the model are not trusted",
    "sampling": "Poisson: each unit takes part in each step independently, at the public "
    "sampling rate; an empty sample is a noisy step too",
    "randomness": "the operating system's cryptographic generator, without a seed; the sampler "
    "of the noise is named in each run's plan, and one that is called insecure voids the figures",
    "horizon": "every run, project and restart on this account since its first event",
    "refresh_policy": "none: a budget is not renewed for the same records; one that is lowered "
    "takes back what was approved above it and is not spent, and one that is raised again brings "
    "nothing back",
    "public": [
        "the label set, the initial model and every test record",
        "the plan: rates, noise, clipping norms, numbers of rounds and steps",
        "each site's declared size and weight",
        "which site takes part in which round, failures as a fixed code, and timing",
    ],
    "not_covered": [
        "releases of the same records that were not recorded in this account",
        "the same unit's records under another account, site or unit name",
        "a site that does not follow the protocol, and its own logs",
        "what is read off timing or from memory",
    ],
}


def report(ledger: Reader, name: AccountName) -> dict[str, Any]:
    """What others need to judge an account, as JSON can hold it.

    The fields of NIST SP 800-226 (2025) and of the registry of deployments
    (Nanayakkara, Ghazi and Vadhan 2025). Raises InputError where there is no
    such account, LedgerError where its events do not add up.
    """
    account = ledger.account(name)
    with ledger.snapshot() as snapshot:
        history = snapshot.history(name)
    figures = status.budget_status(ledger, account)
    runs = ledger.runs(account)
    return {
        "account": name._asdict(),
        "unit": name.unit,
        "epsilon": figures.promised,
        "delta": account.delta,
        "budget": account.budget,
        "guaranteed": figures.guaranteed.describe(),
        "accrued": figures.accrued.describe(),
        "curve": status.describe_bounds(status.stored_curve(ledger, account)),
        "runs": [{**status.describe_run(run), **_dates(history, run.run)} for run in runs],
        "decisions": [_decision(entry) for entry in history.entries if _is_decision(entry)],
        "first_event": iso_time(history.entries[0].at),
        "last_event": iso_time(history.entries[-1].at),
        **STATEMENTS,
        "audit_evidence": {
            "ledger": ledger.id,
            "events": history.state.sequence,
            "chain_head": history.state.head,
            "verified": True,
        },
    }


def _dates(history: History, run: str) -> dict[str, str | None]:
    """When a run was approved, and when its first and last rounds were reserved."""
    contents = [(entry.at, entry.content) for entry in history.entries]
    approved = [at for at, it in contents if isinstance(it, PlanApproved) and it.run == run]
    rounds = [at for at, it in contents if isinstance(it, RoundReserved) and it.run == run]
    return {
        "approved": iso_time(*approved[:1]),
        "first_round": iso_time(*rounds[:1]),
        "last_round": iso_time(*rounds[-1:]),
    }


def _is_decision(entry: Entry) -> bool:
    """Whether an operator answers for it."""
    return isinstance(entry.content, AccountOpened | BudgetSet | CountsRaised | StepsVoided)


def _decision(entry: Entry) -> dict[str, Any]:
    content = entry.content
    facts = {name: getattr(content, name, None) for name in ("budget", "run", "reason")}
    told = {name: value for name, value in facts.items() if value is not None}
    return {"at": iso_time(entry.at), "kind": content.kind, "sequence": entry.sequence, **told}


def iso_time(at: datetime | None = None) -> str | None:
    """A time in ISO 8601."""
    return None if at is None else at.isoformat(timespec="seconds")
