"""The sites that take part: public facts, node, account in the ledger."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from dpbitfit.accounting.mechanism import Counts, Mechanism
from dpbitfit.errors import ProtocolError
from dpbitfit.ledger import Account, Ledger, budget, exchange, status
from dpbitfit.ledger.fold import Allotment
from dpbitfit.ledger.status import BudgetStatus
from dpbitfit.plan import Plan
from dpbitfit.protocol import flower
from dpbitfit.protocol.envelope import Envelope
from dpbitfit.protocol.messages import (
    EvaluationOffer,
    Head,
    Refusal,
    RoundRequest,
)
from dpbitfit.protocol.signing import untouched, verify
from dpbitfit_server import replies, waiting
from dpbitfit_server.stream import WARNING, log

OFFLINE, LEFT_OUT, TURNED_AWAY = "offline", "left out", "turned away"
TAKEN_BACK = "its budget was lowered, or the run given up: what was left of it is taken back"


@dataclass
class Site:
    """A site; ``refused`` says why it is left out, for the rest of the run.

    ``missing`` says in a few words why there is no reply of its last round, or ""; ``silent`` is
    how many rounds in a row were spent for nothing.
    ``offer`` is the evaluation that its policy allows, None where there is none.
    ``key`` is that of the last round that was requested of it. Bytes are payload
    bytes since this process began.
    """

    name: str
    node: int
    declared_size: int
    account: Account
    key: str = ""
    rounds: int = 0
    refused: str = ""
    missing: str = ""
    silent: int = 0
    offer: EvaluationOffer | None = None
    bytes_down: int = 0
    bytes_up: int = 0


class SiteRegistry:
    """The sites of one run. Each is charged by name, whatever node speaks for it."""

    def __init__(self, plan: Plan, epsilon: float, ledger: Ledger, run: str) -> None:
        self.plan = plan
        self.ledger = ledger
        self.run = run
        self.names: dict[int, str] = {}  # of the nodes
        self.turned_away: dict[int, str] = {}
        self.sites: dict[str, Site] = {}
        self.epsilon = epsilon
        self._refused: dict[str, str] = {}

    def restore(self, run: str, refused: Mapping[str, str]) -> None:
        """Go on with a saved run, without the sites that it left out."""
        self.run = run
        self._refused = dict(refused)

    @property
    def refused(self) -> dict[str, str]:
        """Why each site that is left out is left out."""
        return self._refused | {n: site.refused for n, site in self.sites.items() if site.refused}

    @property
    def missing(self) -> dict[str, str]:
        """Each site that does not take part at present, and in a few words why."""
        names = {self.names[node] for node in self.turned_away}
        away = dict.fromkeys(names.difference(self.sites), TURNED_AWAY)
        missing = {name: site.missing for name, site in self.sites.items() if site.missing}
        return away | missing | dict.fromkeys(self.refused, LEFT_OUT)

    def held(self, site: Site) -> dict[Mechanism, Allotment]:
        """What this run may do to the site's account, and has done, in steps by mechanism."""
        holdings = self.ledger.allotments([site.account.id])[site.account.id]
        return {mechanism: held for (run, mechanism), held in holdings.items() if run == self.run}

    def steps(self, site: Site) -> int:
        """Noisy steps of this run that are spent at a site."""
        return sum(held.spent for held in self.held(site).values())

    def standing(self, site: Site) -> BudgetStatus:
        """The figures of the site's account, over every run that the ledger knows."""
        account = self.ledger.account(site.account.name)
        held = self.ledger.allotments([account.id])[account.id]
        return status.derive_status(account, held, budget.tight)

    def reserve(self, number: int, sites: Iterable[Site], counts: Counts) -> None:
        """Reserve a round for all these sites at once, before anything is sent.

        A round that a killed run had reserved, or whose answers it had lost, keeps
        its keys: the sites answer it with the same bytes, and it costs nothing more.
        """
        before: dict[int, list[tuple[str, str, str]]] = {}
        for past in self.ledger.round_of(self.run, number):
            before.setdefault(past.account_id, []).append((past.key, past.state, past.outcome))
        keys = {}
        for site in sites:
            earlier = before.get(site.account.id, [])
            again = [
                key for key, state, outcome in earlier if state == "reserved" or outcome == "reply"
            ]
            site.key = again[0] if again else self._key(site, number, len(earlier))
            if not again:
                keys[site.account.id] = site.key
        if keys:
            self.ledger.reserve(self.run, number, keys, counts)

    def request(self, purpose: str, number: int, biases: bytes, site: Site) -> RecordDict:
        """The signed request for a site's reserved round, with the head of this ledger."""
        message = RoundRequest(
            plan=self.plan.encode().decode(),
            run=self.run,
            round=number,
            key=site.key,
            head=self.head(site.account, self.ledger.peer(site.account), site.key),
        )
        return flower.pack(Envelope.sign(self.ledger.signer, purpose, message.encode(), biases))

    def ask(self, grid: Grid, messages: Sequence[Message], timeout: float) -> list[Message]:
        """Send messages and wait ``timeout`` seconds at most for their replies."""
        return waiting.ask(grid, messages, self.names, timeout)

    def receive(
        self, site: Site, envelope: Envelope, kind: type[replies.Reply]
    ) -> replies.Reply | Refusal:
        """A site's reply of this kind, or its refusal, after comparing ledgers with it.

        Raises as ``replies.read``, and LedgerDrift where the two ledgers do not agree.
        """
        message, head = replies.read(envelope, kind, site.key)
        exchange.check(self.ledger, site.account, head, self.ledger.id)
        return message

    def release(self, site: Site, refusal: Refusal) -> bool:
        """Give the round's steps back if the site has signed that it touched no data."""
        try:
            peer = self.ledger.peer(site.account)
            verify(peer, "untouched", untouched(site.key), refusal.untouched)
        except ProtocolError:
            return False
        reserved = self.ledger.reservation(site.key)
        if reserved is None or reserved.state != "reserved":
            return False  # it has answered this before, and says now that it did nothing
        self.ledger.release(site.key, refusal.untouched)
        return True

    def online(self, grid: Grid) -> list[Site]:
        """The sites that are online and in good standing."""
        nodes = set(grid.get_node_ids())
        return [site for site in self.sites.values() if site.node in nodes and not site.refused]

    def eligible(self, grid: Grid, number: int) -> dict[int, Site]:
        """By node: the sites that are online, in good standing, and can pay for a round.

        The plan's whole composition was approved before it began; any part of it in
        any order costs at most that, so whole numbers decide here.
        """
        paid = {
            past.account_id
            for past in self.ledger.round_of(self.run, number)
            if past.state == "reserved" or past.outcome == "reply"
        }
        able = {}
        for site in self.online(grid):
            if site.account.id in paid or self._can_pay(site, number):
                able[site.node] = site
            elif self.is_taken_back(site):
                site.refused = TAKEN_BACK
                log(WARNING, "%s is left out from now on: %s", site.name, TAKEN_BACK)
        return able

    def _can_pay(self, site: Site, number: int) -> bool:
        held = self.held(site)
        counts = self.plan.phase(number).round_counts
        return all(held.get(mechanism, Allotment()).left >= steps for mechanism, steps in counts)

    def rounds_spent(self, site: Site) -> int:
        """Rounds of this run that are spent at a site, in the order of the plan's phases."""
        spent = {mechanism: held.spent for mechanism, held in self.held(site).items()}
        rounds = 0
        for phase in self.plan.phases:
            ((mechanism, steps),) = phase.round_counts
            done = min(phase.rounds, spent.get(mechanism, 0) // steps)
            spent[mechanism] = spent.get(mechanism, 0) - done * steps
            rounds += done
        return rounds

    def is_taken_back(self, site: Site) -> bool:
        """Whether what the account was approved for in this run was given up."""
        return any(held.voided for held in self.held(site).values())

    def head(self, account: Account, to: str, key: str) -> Head:
        """This ledger's head of an account, signed for the ledger ``to``."""
        head = exchange.head_for(self.ledger, account, self.ledger.id, to, key)
        return Head.model_validate(head.to_config(self.ledger))

    def _key(self, site: Site, number: int, attempt: int) -> str:
        # Every charge has its own key; the same key never means fresh noise (a replay is free).
        # A ledger that was restored does not know which keys it has used since.
        times = self.ledger.times_rebased(site.account)
        charged = [self.run, self.plan.digest, *site.account.name, number, attempt, times]
        return hashlib.sha256(json.dumps(charged).encode()).hexdigest()
