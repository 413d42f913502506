"""A private round around any Flower strategy.

    choose the sites that may take part -> charge them -> send the plan and the biases
                      -> check each reply -> the wrapped strategy aggregates

The wrapped strategy sees clean replies only: the new biases of each site, and
its declared public size as the weight. It never sees a record count, and a bad
reply never reaches it.
"""

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import cast

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Result, Strategy
from numpy.typing import NDArray

from dpbitfit.accounting import composition
from dpbitfit.engine.linear_head import LinearHead
from dpbitfit.errors import BudgetError, ProtocolError
from dpbitfit.ledger import Ledger
from dpbitfit.phases import SampledPhase
from dpbitfit.plan import Place, Plan
from dpbitfit.protocol import flower
from dpbitfit.protocol.codec import FLOAT32
from dpbitfit.protocol.messages import TRAIN, TrainReply
from dpbitfit.stream import round_line
from dpbitfit_server.admission import Admission
from dpbitfit_server.checkpoint import Checkpoint
from dpbitfit_server.pooling import PooledSteps
from dpbitfit_server.progress import Line, count_bytes, describe_round
from dpbitfit_server.settlement import settle
from dpbitfit_server.site_metrics import SiteMetrics
from dpbitfit_server.sites import Site, SiteRegistry
from dpbitfit_server.stream import INFO, WARNING, log

# What FedAdam, FedYogi and FedAdagrad remember between rounds.
MOMENTS = ("m_t", "v_t")

Vector = NDArray[np.float32]
Clean = list[tuple[Message, Site, Vector]]  # good replies, with what they release
EvaluateFunction = Callable[[int, ArrayRecord], MetricRecord | None]


class _Chosen:
    """The part of a grid that a strategy needs in order to choose among eligible nodes."""

    def __init__(self, nodes: Iterable[int]) -> None:
        self._nodes = list(nodes)

    def get_node_ids(self) -> list[int]:
        """The eligible nodes."""
        return self._nodes


class PrivateStrategy(Strategy):
    """Wraps ``inner``, any Flower strategy of the FedAvg family.

    ``parameters`` is P, the length of the packed biases; ``budget`` the epsilon,
    at the plan's delta, of an account that is new to the ``ledger``; ``folder``
    where the checkpoint lies;
    ``min_replies`` the good replies that make a round count; ``expected_sites``
    how many nodes to wait for, a minute at most; ``on_round`` gets a line of
    public figures after each round; ``head`` where the task's linear head lies in
    the vector, for phases that train it alone: their sums are pooled here, and
    ``inner`` aggregates in the others. Raises BudgetError when the whole plan costs
    more than the budget, InputError for such a phase without a head.
    """

    def __init__(
        self,
        inner: FedAvg,
        plan: Plan,
        parameters: int,
        budget: float,
        folder: Path,
        ledger: Ledger,
        min_replies: int = 1,
        expected_sites: int = 1,
        on_round: Callable[[Line], None] = lambda line: None,
        head: LinearHead | None = None,
    ) -> None:
        self.cost = composition.epsilon(dict(plan.counts), plan.delta)
        if self.cost.epsilon > budget:
            raise BudgetError(
                f"the plan costs epsilon {self.cost.epsilon:.3f}, above the budget of "
                f"{budget:g}: more noise, fewer steps or a smaller sampling rate"
            )
        self.inner = inner
        self._head = head
        self._pooled = PooledSteps(plan, head)
        # The sites are chosen here; at its defaults a strategy would wait for more for ever.
        inner.min_train_nodes = inner.min_available_nodes = 1
        self.plan = plan
        self.registry = SiteRegistry(plan, budget, ledger, os.urandom(16).hex())
        self.metrics = SiteMetrics(self.registry)
        self._admission = Admission(self.registry)
        self.history: list[Line] = []
        self.stopped = ""
        self._parameters = parameters
        self._folder = folder
        self._min_replies = min_replies
        self._expected_sites = expected_sites
        self._on_round = on_round
        self._timeout = 3600.0
        self._completed = 0
        self._biases = np.zeros(parameters, dtype=np.float32)
        self._sent: list[tuple[Message, Site]] = []

    def resume(self) -> bool:
        """Go on from the checkpoint in the folder; False where there is none.

        A round that was reserved but not completed is requested again under the
        same keys: a site that has answered it sends the same bytes, free.
        """
        saved = Checkpoint.load(self._folder, self.plan.digest)
        if saved is None:
            return False
        self._biases, self._completed, self.history = saved.biases, saved.round, saved.history
        self.registry.restore(saved.run, saved.refused)
        for name, array in saved.moments.items():
            setattr(self.inner, name, {flower.BIASES: array})
        self._pooled.restore(saved.pooled)
        for line in self.history:
            self._on_round(line)
        return True

    @property
    def is_complete(self) -> bool:
        """Whether no round of the plan is left."""
        return self._completed == self.plan.rounds

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 0,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: EvaluateFunction | None = None,
    ) -> Result:
        """Run the plan's rounds, or those left; returns the last biases.

        At most ``num_rounds`` of them, 0 being all; ``timeout`` is in seconds
        for each. Ends early, with the biases in hand and the reason in
        ``stopped``, when too few sites may go on. ``evaluate_config`` has no
        effect: what sites measure is in the plan. Raises ProtocolError when
        no site takes part at all, BudgetError when none of them may spend what the
        plan costs: then no round was requested.
        """
        self.summary()
        self._timeout = timeout
        result = Result(arrays=flower.to_arrays(self._biases))
        if not self.history:
            result.arrays = initial_arrays
            self._finish(0, Line(bytes_up=0, bytes_down=0, replies=0), result, evaluate_fn)
        if self.is_complete:
            self._admit(grid)  # a run that goes on has them yet to tell what it cost
        last = min(num_rounds or self.plan.rounds, self.plan.rounds)
        for number in range(self._completed + 1, last + 1):
            began = time.monotonic()
            config = ConfigRecord(dict(train_config or {}))
            messages = list(self.configure_train(number, result.arrays, config, grid))
            if not messages and not self.registry.sites:
                reasons = sorted(set(self.registry.turned_away.values())) or ["no node is online"]
                raise ProtocolError(f"no site takes part: {'; '.join(reasons)}")
            if not messages and number == 1:
                raise BudgetError(self._reasons())
            if not messages:
                break
            replies = self.registry.ask(grid, messages, timeout)
            line = count_bytes(self._sent, replies)
            arrays, metrics = self.aggregate_train(number, replies)
            result.arrays = arrays or result.arrays
            line["replies"] = int(cast(int, metrics["replies"])) if metrics else 0
            line["site_metrics"] = self._measure(number, result, grid)
            line["seconds"] = time.monotonic() - began
            self._finish(number, line, result, evaluate_fn)
        return result

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Charge every site that takes part, durably, and make its message."""
        self._admit(grid)
        eligible = self.registry.eligible(grid, server_round)
        if len(eligible) < self._min_replies:
            self.stopped = (
                f"before round {server_round}: {len(eligible)} sites may go on, "
                f"{self._min_replies} are needed"
            )
            log(WARNING, "stopping %s", self.stopped)
            return []
        self._biases = flower.from_arrays(arrays, self._parameters)
        chosen = cast(Grid, _Chosen(eligible))
        messages = self.inner.configure_train(server_round, arrays, config, chosen)
        self._sent = [(message, eligible[message.metadata.dst_node_id]) for message in messages]
        counts = self.plan.phase(server_round).round_counts
        try:
            self.registry.reserve(server_round, [site for _, site in self._sent], counts)
        except BudgetError:
            # A budget was lowered this moment: nothing is reserved; go on with the others.
            if self.registry.eligible(grid, server_round).keys() == eligible.keys():
                raise
            return self.configure_train(server_round, arrays, config, grid)
        biases = FLOAT32.encode(self._biases)
        for message, site in self._sent:
            message.content = self.registry.request(TRAIN, server_round, biases, site)
        return [message for message, _ in self._sent]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Hand clean replies to the wrapped strategy; None with fewer than k of them.

        A bad reply leaves its site out for the rest of the run. It is spent, and
        so is a missing one: only the site knows whether data was touched.
        """
        clean = settle(
            self.registry, server_round, self._sent, replies, TrainReply, self._read_released
        )
        for _, site, _ in clean:
            site.rounds += 1
        if len(clean) < self._min_replies:
            log(WARNING, "round %d: %d good replies are too few", server_round, len(clean))
            return None, None
        place = self.plan.locate(server_round)
        if place.phase.pools:
            sums = [released for *_, released in clean]
            sizes = [site.declared_size for _, site, _ in clean]
            biases = self._pooled.step(place, self._biases, sums, sizes)
        else:
            aggregated, _ = self.inner.aggregate_train(server_round, self._changed(place, clean))
            if aggregated is None:
                return None, None
            biases = aggregated[flower.BIASES].numpy().astype(np.float32)
        return flower.to_arrays(biases), MetricRecord({"replies": len(clean)})

    def _changed(self, place: Place, clean: Clean) -> list[Message]:
        """Clean replies as the wrapped strategy reads them: new vectors and weights."""
        assert isinstance(place.phase, SampledPhase)
        places = place.phase.places(self._parameters, self._head)
        for reply, site, released in clean:
            directions = self.plan.directions(self.registry.run, site.name, place.position)
            vector = self._biases.copy()
            vector[places] += place.phase.change(released, place.step, directions, len(places))
            weight = MetricRecord({self.inner.weighted_by_key: site.declared_size})
            arrays = flower.to_arrays(vector)
            reply.content = RecordDict({self.inner.arrayrecord_key: arrays, "weight": weight})
        return [reply for reply, *_ in clean]

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Charge the sites that measure, where the plan has them measure now."""
        if not self.metrics.is_due(server_round):
            return []
        biases = FLOAT32.encode(flower.from_arrays(arrays, self._parameters))
        return self.metrics.request(server_round, biases, self.registry.online(grid))

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """The sites' noised metrics; None where no site measured."""
        metrics = self.metrics.read(server_round, replies)
        return MetricRecord(dict(metrics)) if metrics else None

    def summary(self) -> None:
        """Log what is about to happen."""
        name, bound = type(self.inner).__name__, self.cost
        text = "%s over %d values; the whole plan costs epsilon %.3f at delta %g (%s)"
        log(INFO, text, name, self._parameters, bound.epsilon, bound.delta, bound.accountant)

    def _admit(self, grid: Grid) -> None:
        """Learn which sites take part, and where their accounts stand."""
        if not self.registry.sites:
            self._admission.await_nodes(grid, self._expected_sites)
        self._admission.admit(grid, self._timeout)

    def _read_released(self, reply: TrainReply, content: bytes, site: Site) -> Vector:
        """What a site sends of the phase's places.

        Raises ProtocolError where it cannot be an honest one.
        """
        phase = self.plan.phase(reply.round)
        size = len(phase.places(self._parameters, self._head))
        most = phase.largest_update(size, site.declared_size)
        return self.plan.updates.decode(content, phase.released_size(size), max_norm=most)

    def _measure(self, number: int, result: Result, grid: Grid) -> dict[str, float]:
        """The sites' own metrics of a round; empty where none are due."""
        requests = list(self.configure_evaluate(number, result.arrays, ConfigRecord(), grid))
        if not requests:
            return {}
        replies = self.registry.ask(grid, requests, self._timeout)
        metrics = self.aggregate_evaluate(number, replies)
        if metrics is not None:
            result.evaluate_metrics_clientapp[number] = metrics
        return dict(metrics or {})  # type: ignore[arg-type]

    def _reasons(self) -> str:
        """Why no round can begin at all."""
        reasons = [site.refused for site in self.registry.sites.values() if site.refused]
        return "; ".join(reasons) or self.stopped

    def _finish(
        self, number: int, line: Line, result: Result, evaluate_fn: EvaluateFunction | None
    ) -> None:
        """Evaluate, save and report: the end of a round, or of the start as round 0."""
        metrics = evaluate_fn(number, result.arrays) if evaluate_fn else None
        if metrics is not None:
            result.evaluate_metrics_serverapp[number] = metrics
        line = describe_round(self.registry, self.plan, number, metrics or {}) | line
        self._biases = flower.from_arrays(result.arrays, self._parameters)
        self._completed = number
        self.history.append(line)
        self._save()
        log(INFO, "round %d/%d  %s", number, self.plan.rounds, round_line(line))
        self._on_round(line)

    def _save(self) -> None:
        moments = {name: getattr(self.inner, name, None) for name in MOMENTS}
        Checkpoint(
            run=self.registry.run,
            plan_digest=self.plan.digest,
            biases=self._biases,
            round=self._completed,
            refused=self.registry.refused,
            history=self.history,
            moments={name: arrays[flower.BIASES] for name, arrays in moments.items() if arrays},
            pooled=self._pooled.saved(),
        ).save(self._folder)
