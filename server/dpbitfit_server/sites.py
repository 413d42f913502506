"""Who takes part: each site's public statements, its node, its account in the ledger."""

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from logging import INFO, WARNING

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid

from dpbitfit.accounting.composition import Counts
from dpbitfit.errors import BudgetError, DpbitfitError, GuardUnavailable, LedgerError, ProtocolError
from dpbitfit.ledger import Account, AccountName, Ledger, budget, exchange, status
from dpbitfit.ledger.events import Held
from dpbitfit.ledger.exchange import SignedHead
from dpbitfit.ledger.status import BudgetStatus
from dpbitfit.plan import Plan
from dpbitfit.protocol import payloads
from dpbitfit.protocol.signing import verify
from dpbitfit_server import messages

SECONDS_FOR_NODES = 60.0
POLL_SECONDS = 0.5
LARGEST_DECLARED_SIZE = 10**9
TAKEN_BACK = "its budget was lowered, or the run given up: what was left of it is taken back"


@dataclass
class Site:
    """One site; ``refused`` says why it is left out, for the rest of the run.

    ``offer`` is what its policy says it would measure, as JSON; "" where nothing.
    ``key`` is that of the round that it was asked for last. Bytes are payload
    bytes since this process began.
    """

    name: str
    node: int
    declared_size: int
    account: Account
    key: str = ""
    rounds: int = 0
    refused: str = ""
    offer: str = ""
    bytes_down: int = 0
    bytes_up: int = 0


class SiteRegistry:
    """The sites of one run. Each is charged by name, whatever node speaks for it."""

    def __init__(self, plan: Plan, epsilon: float, ledger: Ledger, run: str) -> None:
        self.plan = plan
        self.ledger = ledger
        self.run = run
        self.turned_away: dict[int, str] = {}
        self.sites: dict[str, Site] = {}
        self._epsilon = epsilon
        self._refused: dict[str, str] = {}
        self._unaware: dict[int, tuple[Account, SignedHead]] = {}  # nodes to be told, and of what

    def restore(self, run: str, refused: Mapping[str, str]) -> None:
        """Go on with a saved run, without the sites that it left out."""
        self.run = run
        self._refused = dict(refused)

    @property
    def refused(self) -> dict[str, str]:
        """Why each site that is left out is left out."""
        return self._refused | {n: site.refused for n, site in self.sites.items() if site.refused}

    def held(self, site: Site) -> Held:
        """What this run may do to the site's account, and has done, in steps."""
        held = self.ledger.holdings([site.account.id])[site.account.id]
        return held.get((self.run, self.plan.mechanism), Held())

    def standing(self, site: Site) -> BudgetStatus:
        """The figures of the site's account, over every run that the ledger knows."""
        account = self.ledger.account(site.account.name)
        held = self.ledger.holdings([account.id])[account.id]
        return status.derive(account, held, budget.tight)

    def reserve(self, number: int, sites: Iterable[Site], counts: Counts) -> None:
        """Reserve a round for all these sites at once, before anything is sent.

        A round that a killed run had reserved, or whose answers it had lost, keeps
        its keys: the sites answer it with the same bytes, and it costs nothing more.
        """
        before: dict[int, list[tuple[str, str, str]]] = {}
        for one in self.ledger.round_of(self.run, number):
            before.setdefault(one.account_id, []).append((one.key, one.state, one.outcome))
        keys = {}
        for site in sites:
            earlier = before.get(site.account.id, [])
            again = [k for k, state, said in earlier if state == "reserved" or said == "reply"]
            site.key = again[0] if again else self._key(site, number, len(earlier))
            if not again:
                keys[site.account.id] = site.key
        if keys:
            self.ledger.reserve(self.run, number, keys, counts)

    def request(self, purpose: str, number: int, arrays: ArrayRecord, site: Site) -> RecordDict:
        """The signed message for a site's reserved round, with where this ledger stands."""
        peer = self.ledger.peer(site.account)
        stands = exchange.position(self.ledger, site.account, self.ledger.id, peer, site.key)
        said = stands.to_config(self.ledger)
        plan, run, ledger = self.plan, self.run, self.ledger
        return messages.request(purpose, plan, run, number, site.key, arrays, ledger, said)

    def hear(self, site: Site, content: RecordDict) -> ConfigRecord:
        """The statements of a site's reply, after comparing ledgers with it.

        Raises LedgerError where the two ledgers do not agree, GuardUnavailable where
        nobody at the site answered, ProtocolError for a reply that is not what it
        should be or that the site did not sign.
        """
        said = messages.stated(content)
        stands = messages.position(content, site.key)
        exchange.check(self.ledger, site.account, stands, self.ledger.id)
        if not said.get("refused"):
            messages.check_signature(content, stands.ledger)
        return said

    def release(self, site: Site, said: ConfigRecord) -> bool:
        """Give the round's steps back if the site has signed that it touched no data."""
        signature = str(said.get("untouched", ""))
        try:
            peer = self.ledger.peer(site.account)
            verify(peer, "untouched", payloads.untouched(site.key), signature)
        except ProtocolError:
            return False
        self.ledger.release(site.key, signature)
        return True

    def online(self, grid: Grid) -> list[Site]:
        """The sites that are online and in good standing."""
        nodes = set(grid.get_node_ids())
        return [one for one in self.sites.values() if one.node in nodes and not one.refused]

    def eligible(self, grid: Grid, number: int) -> dict[int, Site]:
        """By node: the sites that are online, in good standing, and can pay for a round.

        The plan's whole bag of steps was approved before it began; any part of it
        in any order costs at most that, so whole numbers decide here.
        """
        paid = {
            one.account_id
            for one in self.ledger.round_of(self.run, number)
            if one.state == "reserved" or one.outcome == "reply"
        }
        able = {}
        for site in self.online(grid):
            if site.account.id in paid or self.held(site).left >= self.plan.steps_per_round:
                able[site.node] = site
            elif self.is_taken_back(site):
                site.refused = TAKEN_BACK
                log(WARNING, "%s is left out from now on: %s", site.name, TAKEN_BACK)
        return able

    def is_taken_back(self, site: Site) -> bool:
        """Whether what the account was approved for in this run was given up."""
        held = self.ledger.holdings([site.account.id])[site.account.id]
        return any(one.voided for (run, _), one in held.items() if run == self.run)

    def admit(self, grid: Grid, timeout: float) -> None:
        """Ask the nodes that are new here what they are; leave out those that do not fit."""
        known = {site.node for site in self.sites.values()} | set(self.turned_away)
        questions = [self._question(node) for node in grid.get_node_ids() if node not in known]
        if not questions:
            return
        answers = list(grid.send_and_receive(questions, timeout=timeout))
        node_of = {asked.metadata.message_id: asked.metadata.dst_node_id for asked in questions}
        for answer in answers:
            node = node_of.get(answer.metadata.reply_to_message_id)
            if node is None or not answer.has_content():
                continue
            try:
                self._welcome(answer.content, node, set(grid.get_node_ids()))
            except GuardUnavailable as error:
                log(WARNING, "a node is asked again later: %s", error)
            except DpbitfitError as error:
                self.turned_away[node] = str(error)
                log(WARNING, "a node is turned away: %s", error)
        self._tell(grid, timeout)

    def _tell(self, grid: Grid, timeout: float) -> None:
        """Let sites hear where this ledger stands, whose own says that they have to."""
        told = []
        for node, (account, theirs) in self._unaware.items():
            stands = exchange.position(
                self.ledger, account, self.ledger.id, theirs.ledger, theirs.head
            )
            told.append(self._question(node, stands.to_config(self.ledger)))
        self._unaware.clear()
        if told:
            list(grid.send_and_receive(told, timeout=timeout))

    def _question(self, node: int, position: messages.Scalars | None = None) -> Message:
        content = messages.question(self.plan, self.run, self.ledger, position)
        return Message(content, dst_node_id=node, message_type=MessageType.QUERY)

    def _compare(self, node: int, account: Account, stands: SignedHead) -> None:
        """Compare ledgers with a site that has stated what it is."""
        if stands.rebased and not stands.seen_sequence:
            self._unaware[node] = (account, stands)  # it waits to hear that this side has followed
        try:
            exchange.check(self.ledger, account, stands, self.ledger.id)
        except LedgerError:
            self._unaware[node] = (account, stands)
            raise

    def _welcome(self, content: RecordDict, node: int, online: Iterable[int]) -> None:
        said = messages.accepted(content)
        name, size = self._read(said)
        account = self.ledger.open_account(name, self.plan.delta, self._epsilon)
        stands = messages.position(content, "")
        messages.check_signature(content, stands.ledger)
        self._compare(node, account, stands)
        before = self.sites.get(name.site)
        if before is not None:
            if before.node in online:
                raise ProtocolError(f"two nodes say that they are {name.site!r}")
            before.node = node  # the site came back as another node; its account stays
            return
        refused, offer = self._refused.get(name.site, ""), str(said.get("evaluation", ""))
        site = Site(name.site, node, size, account, refused=refused, offer=offer)
        self.sites[name.site] = site
        bag = self.plan.counts(self.plan.steps)
        try:
            made = self.ledger.allot(name, self.run, self.plan.digest, bag, self.ledger.id)
            if made is None:  # approved when the run began, perhaps under a higher budget
                self.ledger.enforce(name, "the budget does not hold what was approved")
        except BudgetError as error:
            holdings = self.ledger.holdings([account.id])[account.id]
            site.refused = f"{error}; {budget.what_fits(account, holdings, bag)}"
            log(WARNING, "%s is left out: %s", site.name, site.refused)
            return
        site.account = self.ledger.account(name)
        site.rounds = self.held(site).spent // self.plan.steps_per_round
        log(INFO, "site %s takes part", site.name)

    def _read(self, said: ConfigRecord) -> tuple[AccountName, int]:
        parts = [said.get(key) for key in ("site", "dataset", "unit")]
        size = said.get("declared_size")
        if not all(isinstance(part, str) for part in parts):
            raise ProtocolError("it gave no usable name")
        name = AccountName(*map(str, parts))
        if type(size) is not int or not 0 < size <= LARGEST_DECLARED_SIZE:
            raise ProtocolError(f"{name.site}: its declared size is not a number from 1")
        for key, wanted in (
            ("layout_digest", self.plan.layout_digest),
            ("model_digest", self.plan.model_digest),
        ):
            if said.get(key) != wanted:
                raise ProtocolError(f"{name.site}: its {key} is not the coordinator's")
        return name, size

    def _key(self, site: Site, number: int, attempt: int) -> str:
        # Every charge has its own key; the same key never means fresh noise (a replay is free).
        charged = [self.run, self.plan.digest, *site.account.name, number, attempt]
        return hashlib.sha256(json.dumps(charged).encode()).hexdigest()


def await_nodes(grid: Grid, count: int) -> None:
    """Wait, a minute at most, until ``count`` nodes are online."""
    deadline = time.monotonic() + SECONDS_FOR_NODES
    while len(list(grid.get_node_ids())) < count and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
