"""Time of the ledger's work for many accounts, against one transaction for each account.

    python -m tests.benchmarks.ledger --accounts 1000 100000 --json ledger.json

Reserve and commit a round for all accounts at once, as the server does, and
answer what every account has spent after 100 rounds: with one plan that all
share, and with a plan of its own for each account. The peer does the same work
in the same process, interleaved: one transaction for each account (on a sample
of them), or one composition by dp-accounting for each account. Times are wall
times, medians over the rounds, because waiting for the disk is the work.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import sqlalchemy as sa
from dp_accounting import dp_event
from dp_accounting.rdp import RdpAccountant

from dpbitfit.accounting.composition import epsilon
from dpbitfit.accounting.mechanism import Counts, Mechanism
from dpbitfit.accounting.renyi import RDP_ORDERS, divergences, quick_epsilons
from dpbitfit.ledger import Account, AccountName, Ledger, budget, schema
from dpbitfit.ledger.canonical import number_to_text
from dpbitfit.ledger.encoding import read, write
from dpbitfit.ledger.events import GENESIS

DELTA = 1e-5
ROUNDS = 100
STEPS: Counts = ((Mechanism(4.0, 0.01), 5),)
SAMPLE = 20  # accounts of the slow peers


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def opened(folder: Path, accounts: int) -> Ledger:
    """A ledger whose accounts all have the run's plan; the first ones made one by one.

    The others are copies of the first, in bulk: opening 100,000 accounts is not measured.
    """
    ledger = Ledger(str(folder / f"{accounts}.sqlite"), create=True)
    plan = tuple((mechanism, steps * 4 * ROUNDS) for mechanism, steps in STEPS)
    first = AccountName("site-0", "letters", "patient")
    ledger.open_account(first, DELTA, 8.0)
    ledger.allot(first, "run", "plan", plan)
    entries = [read(event) for event in ledger.events(first)]
    with ledger.database.write() as connection:
        row = connection.execute(sa.select(schema.account)).one()._asdict()
        held = connection.execute(sa.select(schema.allotment)).one()._asdict()
        made: dict[str, list[dict[str, object]]] = {"account": [], "allotment": [], "event": []}
        for number in range(2, accounts + 1):
            name = first._replace(site=f"site-{number - 1}")
            head = GENESIS
            for entry in entries:
                event = write(replace(entry, account=name, previous=head))
                head = event.hash
                made["event"].append({"account_id": number, **vars(event)})
            made["account"].append({**row, "id": number, "site": name.site, "head": head})
            made["allotment"].append({**held, "id": number, "account_id": number})
        for table, values in made.items():
            if values:
                connection.execute(sa.insert(schema.metadata.tables[table]), values)
    for account in ledger.accounts()[:: max(1, accounts // 10)]:
        ledger.verify(account)
    return ledger


def rounds(ledger: Ledger, accounts: list[Account], repeats: int) -> dict[str, float]:
    """Seconds of a round for all, and of the same for each of a sample."""
    times: dict[str, list[float]] = {}
    sample = accounts[:SAMPLE]

    def timed(name: str, work: Callable[[], object]) -> None:
        times.setdefault(name, []).append(seconds(work))

    for number in range(repeats):
        keys = {one.id: f"all-{number}-{one.id}" for one in accounts}
        timed("reserve", lambda: ledger.reserve("run", number, keys, STEPS))  # noqa: B023
        singly = {one.id: f"one-{number}-{one.id}" for one in sample}

        def each() -> None:
            for of, key in singly.items():  # noqa: B023
                ledger.reserve("run", number, {of: key}, STEPS)  # noqa: B023

        timed("reserve singly", each)
        last = keys.popitem()[1]
        timed("commit one", lambda: ledger.commit({last: "replied"}))  # noqa: B023
        outcomes = dict.fromkeys(keys.values(), "replied")
        timed("commit", lambda: ledger.commit(outcomes))  # noqa: B023

        def settle_each() -> None:
            for key in singly.values():  # noqa: B023
                ledger.commit({key: "replied"})

        timed("commit singly", settle_each)
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name in ("reserve singly", "commit singly"):
        medians[name] *= len(accounts) / len(sample)
    return medians


def own_mechanisms(ledger: Ledger, accounts: list[Account]) -> None:
    """Give every account a second run, with noise of its own, of which 100 rounds are spent."""
    table = schema.allotment
    with ledger.database.write() as connection:
        connection.execute(
            sa.insert(table),
            [
                {
                    "account_id": one.id,
                    "run": "own",
                    "plan": "own",
                    "coordinator": "",
                    "noise_multiplier": number_to_text(4 + one.id * 1e-5),
                    "sampling_rate": "0.01",
                    "adaptive": 0,
                    "allotted": 5 * ROUNDS,
                    "committed": 5 * ROUNDS,
                }
                for one in accounts
            ],
        )


def spent(ledger: Ledger, ids: list[int]) -> list[Counts]:
    return [budget.spent(holdings) for holdings in ledger.allotments(ids).values()]


def queries(ledger: Ledger, accounts: list[Account]) -> dict[str, float]:
    """Seconds until every account's epsilon is known, and dp-accounting's for the same."""
    ids = [one.id for one in accounts]
    result: dict[str, float] = {}
    for name in ("shared plan", "distinct plans"):
        if name == "distinct plans":
            own_mechanisms(ledger, accounts)
        divergences.cache_clear()
        result[f"read, {name}"] = seconds(lambda: spent(ledger, ids))
        bags = spent(ledger, ids)
        result[f"epsilon, {name}"] = seconds(lambda: quick_epsilons(bags, DELTA))  # noqa: B023
        result[f"epsilon again, {name}"] = seconds(lambda: quick_epsilons(bags, DELTA))  # noqa: B023

        def peer() -> None:
            for bag in bags[:SAMPLE]:  # noqa: B023
                peers_epsilon(bag)

        result[f"dp-accounting, {name}"] = seconds(peer) * len(ids) / min(SAMPLE, len(ids))
    return result


def peers_epsilon(bag: Counts) -> float:
    """By dp-accounting's own accountant."""
    accountant = RdpAccountant(orders=RDP_ORDERS)
    for mechanism, steps in bag:
        noise = dp_event.GaussianDpEvent(mechanism.noise_multiplier)
        step = dp_event.PoissonSampledDpEvent(mechanism.sampling_rate, noise)
        accountant.compose(step, steps)
    return float(accountant.get_epsilon(DELTA))


def one_account() -> dict[str, float]:
    """Seconds for one account after 100 rounds, each of a plan with noise of its own."""
    bag = tuple((Mechanism(5 + number * 1e-3, 0.01), 5) for number in range(ROUNDS))
    return {
        "one account of 100 plans, quick": seconds(lambda: quick_epsilons([bag], DELTA)),
        "one account of 100 plans, tight": seconds(lambda: epsilon(dict(bag), DELTA)),
        "one account of 100 plans, dp-accounting": seconds(lambda: peers_epsilon(bag)),
    }


def measure(accounts: int, repeats: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        ledger = opened(Path(folder), accounts)
        everyone = ledger.accounts()
        result = rounds(ledger, everyone, repeats)
        table = schema.allotment
        with ledger.database.write() as connection:  # the rounds that were not played
            connection.execute(sa.update(table).values(committed=5 * ROUNDS, reserved=0))
        result |= queries(ledger, everyone) | one_account()
        ledger.database.close()
    result["reserve, times faster"] = result["reserve singly"] / result["reserve"]
    result["commit, times faster"] = result["commit singly"] / result["commit"]
    for name in ("shared plan", "distinct plans"):
        ratio = result[f"dp-accounting, {name}"] / result[f"epsilon, {name}"]
        result[f"epsilon, {name}, times faster"] = ratio
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--accounts", type=int, nargs="+", default=[1000, 100_000])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = {str(n): measure(n, options.repeats if n < 10_000 else 1) for n in options.accounts}
    columns = "".join(f"{name:>12}" for name in results)
    print(f"{'seconds, or times':40}{columns}")
    for name in next(iter(results.values())):
        figures = "".join(f"{result[name]:12.4g}" for result in results.values())
        print(f"{name:40}{figures}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
