"""Who takes part: nodes describe their sites, and fit the plan or are turned away."""

from collections.abc import Iterable, Mapping

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from dpbitfit.errors import BudgetError, GuardUnavailable, InputError, LedgerDrift, ProtocolError
from dpbitfit.ledger import Account, AccountName, budget, exchange
from dpbitfit.ledger.exchange import SignedHead
from dpbitfit.ledger.forecast import Price
from dpbitfit.protocol import flower
from dpbitfit.protocol.envelope import Envelope
from dpbitfit.protocol.messages import DESCRIBE, Description, Facts, Head, Question, Refusal
from dpbitfit_server import replies, waiting
from dpbitfit_server.sites import OFFLINE, Site, SiteRegistry
from dpbitfit_server.stream import INFO, WARNING, log

DESCRIBE_SECONDS = 600.0  # as long as a guard holds a question back while it trains
SILENT_SECONDS = 10.0  # where every node that is asked has been silent before


class Admission:
    """Fills a run's registry with the sites that fit, round by round."""

    def __init__(self, registry: SiteRegistry) -> None:
        self._registry = registry
        self._plan, self._ledger = registry.plan, registry.ledger
        self._silent: set[int] = set()  # nodes that have not described a site in time
        self._unaware: dict[int, tuple[Account, SignedHead]] = {}  # heads to send, by node

    def await_nodes(self, grid: Grid, count: int) -> None:
        """Wait, a minute at most, until ``count`` nodes are online."""
        plan, accounts = self._plan, [account.name for account in self._ledger.accounts()]
        known = {
            name.site
            for name in accounts
            if name.unit == plan.unit and plan.dataset in ("", name.dataset)
        }
        waiting.await_nodes(grid, count, known)

    def admit(self, grid: Grid, timeout: float) -> None:
        """Let the nodes that are new here describe themselves; leave out those that do not fit."""
        registry, online = self._registry, waiting.names(grid)
        names = registry.names = online | registry.names  # what a site calls itself stands
        self._note_presence(online)
        known = {site.node for site in registry.sites.values()} | set(registry.turned_away)
        new = [node for node in online if node not in known]
        if not new:
            return
        questions = [self._question(node) for node in new]
        patience = SILENT_SECONDS if self._silent.issuperset(new) else DESCRIBE_SECONDS
        received = registry.ask(grid, questions, min(timeout, patience))
        nodes = {sent.metadata.message_id: sent.metadata.dst_node_id for sent in questions}
        for message in received:
            node = nodes.pop(message.metadata.reply_to_message_id, None)
            if node is None:
                continue
            try:
                if message.has_error():
                    raise GuardUnavailable(replies.loss(message))
                registered = {known.node_id: known.name for known in grid.get_nodes()}
                self._admit(message.content, node, registered)
            except GuardUnavailable as error:
                log(WARNING, "%s is asked again later: %s", names[node], error)
            except (ProtocolError, InputError, BudgetError, LedgerDrift) as error:
                registry.turned_away[node] = f"{names[node]}: {error}"
                log(WARNING, "%s is turned away: %s", names[node], error)
        self._silent |= set(nodes.values())
        for node in nodes.values():
            log(WARNING, "%s is asked again later: no reply in time", names[node])
        self._notify(grid, timeout)

    def _note_presence(self, online: Iterable[int]) -> None:
        """Say which sites have gone since the last round, and which are back."""
        for site in self._registry.sites.values():
            if site.node not in online and site.missing != OFFLINE and not site.refused:
                site.missing = OFFLINE
                log(WARNING, "%s is offline", site.name)
            elif site.node in online and site.missing == OFFLINE:
                site.missing = ""
                log(INFO, "%s is online again", site.name)

    def _notify(self, grid: Grid, timeout: float) -> None:
        """Send this ledger's head to the sites whose own says that they need it."""
        questions = []
        for node, (account, theirs) in self._unaware.items():
            head = self._registry.head(account, theirs.ledger, theirs.head)
            questions.append(self._question(node, head))
        self._unaware.clear()
        if questions:
            self._registry.ask(grid, questions, min(timeout, SILENT_SECONDS))

    def _question(self, node: int, head: Head | None = None) -> Message:
        run = self._registry.run
        question = Question(plan=self._plan.encode().decode(), run=run, head=head)
        envelope = Envelope.sign(self._ledger.signer, DESCRIBE, question.encode())
        return Message(flower.pack(envelope), dst_node_id=node, message_type=MessageType.QUERY)

    def _compare(self, node: int, account: Account, head: SignedHead) -> None:
        """Compare ledgers with a site that has described itself."""
        if head.rebased and not head.seen_sequence:
            self._unaware[node] = (account, head)  # it waits until this side has followed
        try:
            exchange.check(self._ledger, account, head, self._ledger.id)
        except LedgerDrift:
            self._unaware[node] = (account, head)
            raise

    def _admit(self, content: RecordDict, node: int, online: Mapping[int, str]) -> None:
        """Take a site in, or raise DpbitfitError with the reason why not.

        ``online`` are the nodes by id, each with the name under which it is registered, or "".
        """
        description, head = replies.read(flower.unpack(content), Description, "")
        if isinstance(description, Refusal):
            kind = GuardUnavailable if description.code in replies.TRANSIENT else ProtocolError
            raise kind(replies.explain(description))
        registry, ledger, whole = self._registry, self._ledger, self._plan.counts
        name = self._name(description.facts)
        if online.get(node) not in (None, "", name.site):
            raise ProtocolError(
                f"its guard answers for {name.site!r}, and its node is registered as "
                f"{online[node]!r}: register a node under its site's name"
            )
        account = ledger.open_account(name, self._plan.delta, registry.epsilon)
        self._compare(node, account, head)
        before = registry.sites.get(name.site)
        if before is not None:
            if before.node in online:
                raise ProtocolError(f"two nodes have the name {name.site!r}")
            # The site came back as another node; its account stays.
            before.node, before.missing = node, ""
            registry.names[node] = before.name
            log(INFO, "%s is back, as another node", before.name)
            return
        refused, offer = registry.refused.get(name.site, ""), description.evaluation
        size = description.facts.declared_size
        site = Site(name.site, node, size, account, refused=refused, offer=offer)
        registry.sites[name.site], registry.names[node] = site, site.name
        standing = registry.standing(site)
        try:
            approved = ledger.allot(name, registry.run, self._plan.digest, whole, ledger.id)
            if approved is None:  # approved when the run began, perhaps under a higher budget
                ledger.enforce(name, "the budget does not hold what was approved")
        except BudgetError as error:
            holdings = ledger.allotments([account.id])[account.id]
            site.refused = f"{error}; {budget.what_fits(account, holdings, whole)}"
            log(WARNING, "%s is left out: %s", site.name, site.refused)
            return
        site.account = ledger.account(name)
        site.rounds = registry.rounds_spent(site)
        log(INFO, "%s takes part, with a declared size of %d", site.name, size)
        alone = budget.tight(whole, account.delta)
        log(INFO, "%s: %s", site.name, Price(standing, registry.standing(site), alone))

    def _name(self, facts: Facts) -> AccountName:
        """The account of a site that has the plan's model; ProtocolError for another one."""
        model = self._plan.model
        for field, digest in (("layout_digest", model.layout), ("model_digest", model.digest)):
            if getattr(facts, field) != digest:
                raise ProtocolError(f"{facts.site}: its {field} is not the coordinator's")
        return AccountName(facts.site, facts.dataset, facts.unit)
