"""The guard's ledger: an account for the records of every data set, as the policy says."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from dpbitfit.accounting.mechanism import Counts
from dpbitfit.errors import InputError, PolicyError, ProtocolError
from dpbitfit.ledger import Account, AccountName, Ledger, exchange
from dpbitfit.ledger.exchange import SignedHead
from dpbitfit.ledger.heads import Heads
from dpbitfit.ledger.reader import Reader
from dpbitfit.protocol.messages import EVALUATE, TRAIN, Head
from dpbitfit_client.guard import audit
from dpbitfit_client.guard.request import Request
from dpbitfit_client.policy.policy import Dataset, Evaluation, Policy

OPEN_SECONDS = 10.0  # to wait for another guard's round
REASON = "the policy file says so"


def spent_accounts(ledger: Reader) -> list[Account]:
    """The accounts of which something was approved."""
    held = ledger.allotments([account.id for account in ledger.accounts()])
    return [account for account in ledger.accounts() if held[account.id]]


def unused(policy: Policy, ledger: Reader) -> list[Account]:
    """The accounts that hold losses, and that no data set of a policy is charged to."""
    used = {
        AccountName(policy.site.name, name, part.unit)
        for dataset in policy.datasets.values()
        for name, part in dataset.charged.items()
    }
    return [account for account in spent_accounts(ledger) if account.name not in used]


class Accounts:
    """A site's accounts, by what is done with the records and by data set."""

    def __init__(self, policy: Policy) -> None:
        """Open every account; InputError or LedgerError where the ledger does not fit."""
        self.ledger = Ledger(policy.site.ledger)
        self._policy = policy
        self._heads = Heads(policy.site.state_directory)
        self._accounts: dict[tuple[str, str], Account] = {}
        with self.ledger.claim(OPEN_SECONDS):  # another guard's rounds have their own policy
            self._heads.check(self.ledger)
            for name, dataset in policy.datasets.items():
                self._refuse_forgetting(dataset)
                shares = self._shares(dataset.account)
                self._accounts[TRAIN, name] = self._open(dataset.account, dataset, shares)
                if dataset.evaluation is not None:
                    account = self._open(dataset.evaluation_name, dataset.evaluation, shares)
                    self._accounts[EVALUATE, name] = account
            self._heads.write(self.ledger)

    def find(self, purpose: str, dataset: Dataset) -> Account:
        """The account that a purpose is charged to."""
        return self._accounts[purpose, dataset.name]

    @contextmanager
    def claimed(self, wait_seconds: float) -> Iterator[None]:
        """No other process writes; what a killed process left reserved is settled as spent."""
        with self.ledger.claim(wait_seconds):
            self.require_newest()
            self.ledger.settle("crashed")
            yield

    def require_newest(self) -> None:
        """LedgerError where the ledger is behind what is kept of it: a backup was restored."""
        self._heads.check(self.ledger)

    def approve(
        self, request: Request, account: Account, once: Counts, whole: Counts, share: float
    ) -> None:
        """Make sure that a round of the plan may be spent, or refuse it; no record is touched.

        ``once`` is what the round costs, ``whole`` what the plan does.
        """
        coordinator = request.coordinator
        if self.ledger.account(account.name).budget > account.budget:
            raise PolicyError(
                f"account {account.name}: its budget was raised beside the policy: start the guard "
                "anew, with the policy that says so"
            )
        runs = self.ledger.runs(account)
        if any(run.run == request.run and run.coordinator != coordinator for run in runs):
            raise ProtocolError("the run is another coordinator's, and so is its share")
        exchange.check(self.ledger, account, request.head, coordinator, once, share)
        self.ledger.allot(account.name, request.run, request.plan.digest, whole, coordinator, share)

    def reserve(self, request: Request, account: Account, once: Counts) -> None:
        """Reserve an approved round durably, before any record is touched."""
        self._heads.write(self.ledger)  # where that fails, nothing is reserved
        self.ledger.reserve(request.run, request.round, {account.id: request.key}, once)
        self._heads.write(self.ledger)

    def rounds_left(self, account: Account, run: str, coordinator: str) -> int:
        """How many rounds of a run are left; -1 before its plan was approved."""
        runs = self.ledger.runs(account)
        left = {(known.run, known.coordinator): known.rounds_left for known in runs}
        rounds = left.get((run, coordinator))
        return -1 if rounds is None else rounds

    def head(self, account: Account, coordinator: str, key: str) -> Head:
        """This ledger's signed head, for a coordinator and a round."""
        head = exchange.head_for(self.ledger, account, coordinator, coordinator, key)
        return Head.model_validate(head.to_config(self.ledger))

    def compare(self, account: Account, coordinator: str, theirs: SignedHead, share: float) -> None:
        """Compare heads with a coordinator that has noticed that the two do not agree."""
        exchange.check(self.ledger, account, theirs, coordinator, share=share)

    def _refuse_forgetting(self, dataset: Dataset) -> None:
        """InputError where losses of a data set lie in another account than it has now."""
        for account in spent_accounts(self.ledger):
            site, name, unit = account.name
            if site != self._policy.site.name:
                continue
            if dataset.account != dataset.name == name.removesuffix(":evaluation"):
                raise InputError(
                    f"datasets.{dataset.name}.account: the ledger's {account.name} holds losses "
                    f"that {dataset.account!r} would not: let the others name {dataset.name!r}"
                )
            now = dataset.charged.get(name)
            if now is not None and unit != now.unit:
                raise InputError(
                    f"datasets.{dataset.name}: the ledger's {account.name} holds losses that an "
                    f"account by {now.unit} would not: keep the unit of privacy; a data set of "
                    "another name begins with a budget of its own, which counts none of them"
                )

    def _shares(self, account: str) -> dict[str, float]:
        """By public key, each coordinator's share of an account: the largest that is named."""
        shares: dict[str, float] = {}
        for dataset in self._policy.datasets.values():
            if dataset.account == account:
                for coordinator, limits in dataset.limits.items():
                    key = self._policy.coordinators[coordinator].public_key
                    shares[key] = max(limits.epsilon, shares.get(key, 0.0))
        return shares

    def _open(self, name: str, part: Dataset | Evaluation, shares: Mapping[str, float]) -> Account:
        """The account of some records, with the budget that the policy says.

        What an earlier policy approved and this one's budget or a share of it does not
        hold is taken back.
        """
        account_name = AccountName(self._policy.site.name, name, part.unit)
        account = self.ledger.open_account(account_name, part.delta, part.epsilon)
        if account.budget != part.epsilon:
            before = account.budget
            account = self.ledger.set_budget(account_name, part.epsilon, REASON)
            audit.budget(str(account_name), before, part.epsilon, part.delta, REASON)
        self.ledger.enforce(account_name, REASON)
        for coordinator, share in shares.items():
            self.ledger.enforce(account_name, REASON, coordinator, share)
        return account
