"""How the model does on records that sites keep for that: noised, and charged like training.

A site's policy says whether it measures, which metrics, and with how much
noise; what it says becomes an account of its own in the coordinator's ledger.
"""

import json
import math
from collections.abc import Iterable, Mapping
from logging import WARNING
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.common.logger import log

from dpbitfit.accounting.composition import Counts, Mechanism, merged
from dpbitfit.errors import DpbitfitError, ProtocolError
from dpbitfit.ledger import AccountName
from dpbitfit_server.settlement import Sent, settle
from dpbitfit_server.sites import LARGEST_DECLARED_SIZE, TAKEN_BACK, Site, SiteRegistry


class SiteMetrics:
    """The sites of a run that measure, each with an account beside the one it trains on."""

    def __init__(self, roster: SiteRegistry) -> None:
        self._roster = roster
        self._plan = roster.plan
        self._metrics = [name for name in roster.plan.metrics.split(",") if name]
        self._measuring: dict[str, tuple[Site, Counts]] = {}
        self._sent: Sent = []

    def is_due(self, number: int) -> bool:
        """Whether the plan's evaluations, spread evenly and one at the end, include this round."""
        times, rounds = self._plan.evaluations, self._plan.rounds
        return number * times // rounds > (number - 1) * times // rounds

    def ask(self, number: int, arrays: ArrayRecord, sites: Iterable[Site]) -> list[Message]:
        """Charge every site that measures, durably, and make its message."""
        chosen = []
        for site in sites:
            found = self._known(site)
            if found is not None and not found[0].refused:
                found[0].node = site.node
                chosen.append(found)
        for counts in {counts for _, counts in chosen}:
            alike = [one for one, of in chosen if of == counts]
            self._roster.reserve(number, alike, counts)
        self._sent = [(self._message(number, arrays, one), one) for one, _ in chosen]
        return [message for message, _ in self._sent]

    def read(self, number: int, replies: Iterable[Message]) -> dict[str, float]:
        """Each metric's mean over the sites that answered, weighted by declared sizes."""
        clean = settle(self._roster, number, self._sent, replies, self._read)
        sizes = sum(site.declared_size for _, site, _ in clean)
        return {
            name: sum(site.declared_size * found[name] for _, site, found in clean) / sizes
            for name in self._metrics
            if clean
        }

    def _known(self, site: Site) -> tuple[Site, Counts] | None:
        """The site as one that measures, with what one time costs; None where it does not."""
        if site.name not in self._measuring:
            try:
                self._measuring[site.name] = self._admit(site)
            except DpbitfitError as error:
                site.offer = ""  # it is not asked again in this run
                log(WARNING, "%s does not measure: %s", site.name, error)
        found = self._measuring.get(site.name) if site.offer else None
        if found is not None and self._roster.is_taken_back(found[0]):
            site.offer = ""
            log(WARNING, "%s does not measure: %s", site.name, TAKEN_BACK)
            return None
        return found

    def _admit(self, site: Site) -> tuple[Site, Counts]:
        name, size, delta, epsilon, noise = _offer(site)
        lacking = [metric for metric in self._metrics if metric not in noise]
        if lacking:
            raise ProtocolError(f"its policy does not list {lacking[0]!r}")
        counts = merged((Mechanism(noise[metric], 1.0), 1) for metric in self._metrics)
        whole = merged((one, n * self._plan.evaluations) for one, n in counts)
        ledger, run = self._roster.ledger, self._roster.run
        ledger.open_account(name, delta, epsilon)
        ledger.allot(name, run, self._plan.digest, whole, ledger.id)
        return Site(site.name, site.node, size, ledger.account(name)), counts

    def _message(self, number: int, arrays: ArrayRecord, site: Site) -> Message:
        content = self._roster.request("evaluate", number, arrays, site)
        return Message(content, dst_node_id=site.node, message_type=MessageType.EVALUATE)

    def _read(self, content: RecordDict, _said: ConfigRecord, _site: Site) -> dict[str, float]:
        metrics = content.get("metrics")
        if not isinstance(metrics, MetricRecord) or set(metrics) != set(self._metrics):
            raise ProtocolError("the reply does not carry the metrics that were asked for")
        found = {name: metrics[name] for name in self._metrics}
        if not all(isinstance(one, float) and math.isfinite(one) for one in found.values()):
            raise ProtocolError("a metric is not a finite number")
        return found  # type: ignore[return-value]


def _offer(site: Site) -> tuple[AccountName, int, float, float, Mapping[str, float]]:
    """What a site's policy says of its evaluation: account, size, delta, budget, noise."""
    try:
        said: dict[str, Any] = json.loads(site.offer)
        size, dataset, unit = said["declared_size"], said["dataset"], said["unit"]
        noise = {str(name): float(value) for name, value in said["metrics"].items()}
        delta, epsilon = float(said["delta"]), float(said["epsilon"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ProtocolError("it does not say what it measures") from error
    if type(size) is not int or not 0 < size <= LARGEST_DECLARED_SIZE:
        raise ProtocolError("its declared size is not a number from 1")
    return AccountName(site.name, str(dataset), str(unit)), size, delta, epsilon, noise
