"""How the model does on records that sites hold out: noised, and charged like training.

A site's policy says whether it measures, which metrics, and with how much
noise; what it says becomes an account of its own in the coordinator's ledger.
"""

from collections.abc import Iterable

from flwr.app import Message, MessageType

from dpbitfit.accounting.mechanism import Counts, Mechanism, merged
from dpbitfit.errors import AccountingError, BudgetError, InputError, ProtocolError
from dpbitfit.ledger import AccountName
from dpbitfit.protocol.messages import EVALUATE, EvaluateReply
from dpbitfit_server.settlement import Sent, settle
from dpbitfit_server.sites import TAKEN_BACK, Site, SiteRegistry
from dpbitfit_server.stream import WARNING, log


class SiteMetrics:
    """The sites of a run that measure, each with an account beside the one it trains on."""

    def __init__(self, registry: SiteRegistry) -> None:
        self._registry = registry
        self._plan = registry.plan
        self._metrics = registry.plan.site_metrics.names
        self._measuring: dict[str, tuple[Site, Counts]] = {}
        self._sent: Sent = []

    def is_due(self, number: int) -> bool:
        """Whether the plan's evaluations, spread evenly and one at the end, include this round."""
        times, rounds = self._plan.site_metrics.evaluations, self._plan.rounds
        return number * times // rounds > (number - 1) * times // rounds

    def request(self, number: int, biases: bytes, sites: Iterable[Site]) -> list[Message]:
        """Charge every site that measures, durably, and make its message."""
        chosen = []
        for site in sites:
            measuring = self._known(site)
            if measuring is not None and not measuring[0].refused:
                measuring[0].node = site.node
                chosen.append(measuring)
        for once in {counts for _, counts in chosen}:
            alike = [site for site, counts in chosen if counts == once]
            self._registry.reserve(number, alike, once)
        self._sent = [(self._message(number, biases, site), site) for site, _ in chosen]
        return [message for message, _ in self._sent]

    def read(self, number: int, received: Iterable[Message]) -> dict[str, float]:
        """Each metric's mean over the sites that answered, weighted by declared sizes."""
        clean = settle(self._registry, number, self._sent, received, EvaluateReply, self._read)
        sizes = sum(site.declared_size for _, site, _ in clean)
        return {
            name: sum(site.declared_size * metrics[name] for _, site, metrics in clean) / sizes
            for name in self._metrics
            if clean
        }

    def _known(self, site: Site) -> tuple[Site, Counts] | None:
        """The site as one that measures, with what an evaluation costs; None where it does not."""
        if site.name not in self._measuring:
            try:
                self._measuring[site.name] = self._admit(site)
            except (ProtocolError, InputError, BudgetError, AccountingError) as error:
                site.offer = None  # not again in this run
                log(WARNING, "%s does not measure: %s", site.name, error)
        measuring = self._measuring.get(site.name) if site.offer else None
        if measuring is not None and self._registry.is_taken_back(measuring[0]):
            site.offer = None
            log(WARNING, "%s does not measure: %s", site.name, TAKEN_BACK)
            return None
        return measuring

    def _admit(self, site: Site) -> tuple[Site, Counts]:
        offer = site.offer
        if offer is None:
            raise ProtocolError("its policy allows no evaluation")
        lacking = [metric for metric in self._metrics if metric not in offer.metrics]
        if lacking:
            raise ProtocolError(f"its policy does not list {lacking[0]!r}")
        once = merged((Mechanism(offer.metrics[metric], 1.0), 1) for metric in self._metrics)
        times = self._plan.site_metrics.evaluations
        whole = merged((mechanism, n * times) for mechanism, n in once)
        ledger, run = self._registry.ledger, self._registry.run
        name = AccountName(site.name, offer.dataset, offer.unit)
        ledger.open_account(name, offer.delta, offer.epsilon)
        ledger.allot(name, run, self._plan.digest, whole, ledger.id)
        return Site(site.name, site.node, offer.declared_size, ledger.account(name)), once

    def _message(self, number: int, biases: bytes, site: Site) -> Message:
        content = self._registry.request(EVALUATE, number, biases, site)
        return Message(content, dst_node_id=site.node, message_type=MessageType.EVALUATE)

    def _read(self, reply: EvaluateReply, _content: bytes, _site: Site) -> dict[str, float]:
        if set(reply.metrics) != set(self._metrics):
            raise ProtocolError("the reply does not carry the metrics of the plan")
        return reply.metrics
