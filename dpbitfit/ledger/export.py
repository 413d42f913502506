"""An account's events as lines of JSON, the way back, and a report for others to read.

Each line is complete: account, sequence, kind, the canonical text that was
hashed, and the hash. A chain shows that nothing was changed in it or left out of
it; it does not show who wrote it, nor that no later event exists.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from dpbitfit.ledger import status
from dpbitfit.ledger.account import AccountName
from dpbitfit.ledger.reader import Reader

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
    "mechanism": "Gaussian noise on the sum of clipped per-unit gradients, at every step",
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
        "the plan: rates, noise, clipping norm, numbers of rounds and steps",
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
    tally = ledger.verify(account)
    standing = status.budget_status(ledger, account)
    runs = ledger.runs(account)
    return {
        "account": name._asdict(),
        "unit": name.unit,
        "epsilon": standing.promised,
        "delta": account.delta,
        "budget": account.budget,
        "guaranteed": standing.guaranteed.describe(),
        "accrued": standing.accrued.describe(),
        "curve": status.describe_bounds(status.stored_curve(ledger, account)),
        "runs": [status.describe_run(run) for run in runs],
        **STATEMENTS,
        "audit_evidence": {
            "ledger": ledger.id,
            "events": tally.sequence,
            "chain_head": tally.head,
            "verified": True,
        },
    }
