"""Who takes part: each site's public statements, its node, what it has spent."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from logging import INFO, WARNING

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid

from dpbitfit.errors import ProtocolError
from dpbitfit.plan import Plan
from dpbitfit.site_accountant import SiteAccountant

SECONDS_FOR_NODES = 60.0
POLL_SECONDS = 0.5
LARGEST_DECLARED_SIZE = 10**9


@dataclass
class Site:
    """One site; ``refused`` says why it is left out, for the rest of the run."""

    name: str
    node: int
    declared_size: int
    accountant: SiteAccountant
    rounds: int = 0
    refused: str = ""


class Roster:
    """The sites of one run. Each is charged by name, whatever node speaks for it."""

    def __init__(self, plan: Plan, budget: float) -> None:
        self._plan = plan
        self._budget = budget
        self.turned_away: dict[int, str] = {}
        self._spent: dict[str, int] = {}
        self._refused: dict[str, str] = {}
        self.sites: dict[str, Site] = {}

    def restore(self, spent: Mapping[str, int], refused: Mapping[str, str]) -> None:
        """Take over the steps and refusals that a saved run recorded."""
        self._spent = dict(spent)
        self._refused = dict(refused)

    @property
    def spent(self) -> dict[str, int]:
        """Noisy steps of each site, in this run and in the runs it resumes."""
        return self._spent | {n: site.accountant.num_releases for n, site in self.sites.items()}

    @property
    def refused(self) -> dict[str, str]:
        """Why each site that is left out is left out."""
        return self._refused | {n: site.refused for n, site in self.sites.items() if site.refused}

    def charge(self, site: Site) -> None:
        """Count one round as spent: before it is sent, never after."""
        site.accountant.charge(self._plan.mechanism, self._plan.steps_per_round)

    def eligible(self, grid: Grid) -> dict[int, Site]:
        """By node: the sites that are online, in good standing, and can pay for a round.

        The plan's whole bag of steps was bounded before it began; any part of it
        in any order costs at most that, so whole numbers decide here.
        """
        online = set(grid.get_node_ids())
        most = self._plan.steps - self._plan.steps_per_round
        return {
            site.node: site
            for site in self.sites.values()
            if site.node in online and not site.refused and site.accountant.num_releases <= most
        }

    def admit(self, grid: Grid, timeout: float) -> None:
        """Ask the nodes that are new here what they are; leave out those that do not fit."""
        known = {site.node for site in self.sites.values()} | set(self.turned_away)
        questions = [
            Message(RecordDict(), dst_node_id=node, message_type=MessageType.QUERY)
            for node in grid.get_node_ids()
            if node not in known
        ]
        if not questions:
            return
        answers = list(grid.send_and_receive(questions, timeout=timeout))
        node_of = {asked.metadata.message_id: asked.metadata.dst_node_id for asked in questions}
        for answer in answers:
            node = node_of.get(answer.metadata.reply_to_message_id)
            if node is None or not answer.has_content():
                continue
            try:
                self._welcome(self._read(answer.content, node), set(grid.get_node_ids()))
            except ProtocolError as error:
                self.turned_away[node] = str(error)
                log(WARNING, "a node is turned away: %s", error)

    def _welcome(self, site: Site, online: Iterable[int]) -> None:
        before = self.sites.get(site.name)
        if before is not None:
            if before.node in online:
                raise ProtocolError(f"two nodes say that they are {site.name!r}")
            before.node = site.node  # the site came back as another node; its account stays
            return
        if self._spent.get(site.name):
            site.accountant.charge(self._plan.mechanism, self._spent[site.name])
            site.rounds = self._spent[site.name] // self._plan.steps_per_round
        site.refused = self._refused.get(site.name, "")
        self.sites[site.name] = site
        log(INFO, "site %s takes part", site.name)

    def _read(self, content: RecordDict, node: int) -> Site:
        statements = statements_of(content)
        name, size = statements.get("site"), statements.get("declared_size")
        if not isinstance(name, str) or not 0 < len(name) <= 200 or not name.isprintable():
            raise ProtocolError("it gave no usable name")
        if type(size) is not int or not 0 < size <= LARGEST_DECLARED_SIZE:
            raise ProtocolError(f"{name}: its declared size is not a number from 1")
        for key, wanted in (
            ("layout_digest", self._plan.layout_digest),
            ("model_digest", self._plan.model_digest),
        ):
            if statements.get(key) != wanted:
                raise ProtocolError(f"{name}: its {key} is not the coordinator's")
        return Site(name, node, size, SiteAccountant.of(self._plan.delta, size, self._budget))


def statements_of(content: RecordDict) -> ConfigRecord:
    """A reply's statements; ProtocolError where there are none, or they are a refusal."""
    statements = content.get("statements")
    if not isinstance(statements, ConfigRecord):
        raise ProtocolError("a reply carries no statements")
    if statements.get("refused"):
        raise ProtocolError(f"it refused with the code {str(statements['refused'])[:40]!r}")
    return statements


def await_nodes(grid: Grid, count: int) -> None:
    """Wait, a minute at most, until ``count`` nodes are online."""
    deadline = time.monotonic() + SECONDS_FOR_NODES
    while len(list(grid.get_node_ids())) < count and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
