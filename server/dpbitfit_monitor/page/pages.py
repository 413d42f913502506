"""The pages: what each address answers, from the ledger as it is at that moment."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dpbitfit.errors import LedgerError
from dpbitfit.ledger import AccountName
from dpbitfit.ledger.events import Event
from dpbitfit.ledger.export import STATEMENTS
from dpbitfit_monitor import describe
from dpbitfit_monitor.monitor import Monitor
from dpbitfit_monitor.page import charts, export, formatting, pagination, urls
from dpbitfit_monitor.page.render import render
from dpbitfit_monitor.reader import MOST_EVENTS, DamagedAccount
from dpbitfit_monitor.runs import RunView, metric_names
from dpbitfit_monitor.views import AccountDetail

OVERVIEW_SECONDS, ACCOUNT_SECONDS, RUN_SECONDS = 5, 10, 2  # between two refreshes
_EVENTS = 50  # of one page
_MOST_ALERTS = 50


class Pages:
    """Every page for which a viewer has to sign in."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    def routes(self) -> list[Route]:
        """The address of each page."""
        account, run = "/accounts/{site}/{dataset}/{unit}", "/runs/{run}"
        return [
            Route("/", self.overview),
            Route("/export.json", self.overview_json),
            Route("/export.csv", self.overview_csv),
            Route(account, self.account),
            Route(f"{account}/report", self.report),
            Route(f"{account}/export.json", self.account_json),
            Route(f"{account}/export.csv", self.account_csv),
            Route("/runs", self.runs),
            Route(run, self.run),
            Route(f"{run}/export.json", self.run_json),
            Route(f"{run}/export.csv", self.run_csv),
        ]

    def overview(self, request: Request) -> Response:
        """Every account's budget, the alerts on top."""
        view = self._monitor.reader.overview()
        choice = pagination.Choice.from_query(request.query_params)
        page = pagination.Page.select(choice.rows(view), request.query_params.get("page", ""))
        context = {
            "overview": view,
            "alerts": self._monitor.alerts(),
            "certificates": self._monitor.certificates(),
            "choice": choice,
            "page": page,
            "counts": pagination.counts(view),
            "sentence": formatting.general_sentence(view.accounts),
            "most_alerts": _MOST_ALERTS,
            "refresh": OVERVIEW_SECONDS,
        }
        return render(request, "overview.html", context)

    def overview_json(self, _: Request) -> Response:
        """Every account and alert, as JSON."""
        view = self._monitor.reader.overview()
        return export.json_file(describe.overview(view, self._monitor.alerts()), "budgets")

    def overview_csv(self, _: Request) -> Response:
        """Every account, a line each."""
        return export.accounts_csv(self._monitor.reader.overview())

    def account(self, request: Request) -> Response:
        """One account in full; a corrupt one: its events, and what is wrong."""
        name = _name(request)
        try:
            detail = self._monitor.reader.account(name)
        except DamagedAccount as error:
            return self._damaged(request, name, str(error))
        total = detail.view.sequence
        number = pagination.page_number(request.query_params.get("page", ""), total, _EVENTS)
        # Page 1 holds the newest: they are what changes, and what a reader looks for.
        high = total - (number - 1) * _EVENTS
        low = max(0, high - _EVENTS)
        events = self._monitor.reader.events(name, low, high - low)
        lines = [formatting.event_line(event) for event in reversed(events)]
        context = {
            **self._account_context(detail),
            "page": pagination.Page(lines, number, total, _EVENTS),
            "refresh": ACCOUNT_SECONDS,
        }
        return render(request, "account.html", context)

    def report(self, request: Request) -> Response:
        """An account on paper."""
        context = self._account_context(self._monitor.reader.account(_name(request)))
        ledger = self._monitor.reader.overview().ledger
        return render(
            request, "report.html", {**context, "ledger": ledger, "statements": STATEMENTS}
        )

    def account_json(self, request: Request) -> Response:
        """All about one account and every event, as JSON."""
        name = _name(request)
        content = describe.detail(self._monitor.reader.account(name))
        content["event_log"] = [vars(event) for event in self._every_event(name)]
        return export.json_file(content, str(name))

    def account_csv(self, request: Request) -> Response:
        """Every event of an account whose chain was verified, a line each."""
        name = _name(request)
        self._monitor.reader.account(name)
        return export.events_csv(map(formatting.event_line, self._every_event(name)), str(name))

    def runs(self, request: Request) -> Response:
        """Every run that is shown."""
        views = self._monitor.runs()
        page = pagination.Page.select(views, request.query_params.get("page", ""))
        context = {"page": page, **self._accounts_context(None), "refresh": OVERVIEW_SECONDS}
        return render(request, "runs.html", context)

    def run(self, request: Request) -> Response:
        """One run, round by round."""
        view = self._run(request)
        rounds = pagination.Page.select(view.rounds[::-1], request.query_params.get("page", ""))
        context = {
            "run": view,
            "metric_names": metric_names(view.rounds),
            "charts": charts.of_run(view.rounds),
            "page": rounds,
            "at": datetime.now(UTC),
            **self._accounts_context(view),
            "refresh": RUN_SECONDS if view.state == "running" else 0,
        }
        return render(request, "run.html", context)

    def run_json(self, request: Request) -> Response:
        """One run and its rounds, as JSON."""
        view = self._run(request)
        return export.json_file(describe.run(view), f"run-{urls.run_name(view)}")

    def run_csv(self, request: Request) -> Response:
        """The rounds of one run, a line each."""
        return export.run_csv(self._run(request))

    def _account_context(self, detail: AccountDetail) -> dict[str, object]:
        site, certificates = detail.view.name.site, self._monitor.certificates()
        return {
            "detail": detail,
            "view": detail.view,
            "at": datetime.now(UTC),
            "decisions": [formatting.event_line(event) for event in detail.decisions],
            "charts": (charts.epsilon_over_rounds(detail), charts.epsilon_over_delta(detail)),
            "certificates": [
                each for each in certificates if site in (each.subject, each.file[:-4])
            ],
            "shown_runs": {run.run for run in self._monitor.runs()},
        }

    def _accounts_context(self, run: RunView | None) -> dict[str, object]:
        """A run's accounts, and the sentence on them or why there is none."""
        try:
            accounts = self._monitor.reader.overview().accounts
        except LedgerError as error:
            return {"sentence": "", "problem": str(error), "accounts": ()}
        own = [
            view
            for view in accounts
            if run and (str(view.name) in run.traffic or view.run == run.run != "")
        ]
        return {
            "sentence": formatting.general_sentence(own or accounts),
            "problem": "",
            "accounts": own,
        }

    def _damaged(self, request: Request, name: AccountName, problem: str) -> Response:
        events: list[Event] = []
        with suppress(DamagedAccount):  # a corrupt row of the account itself leads to no event
            events = list(self._every_event(name))
        bad = formatting.first_bad(name, events)
        lines = [formatting.event_line(event, bad) for event in events]
        around = str(1 + max(0, (bad or 1) - 1) // _EVENTS)
        page = pagination.Page.select(lines, request.query_params.get("page", around), _EVENTS)
        context = {"name": name, "problem": problem, "bad": bad, "page": page, "refresh": 0}
        return render(request, "damaged.html", {**context, "at": datetime.now(UTC)}, 503)

    def _every_event(self, name: AccountName) -> Iterator[Event]:
        after = 0
        while events := self._monitor.reader.events(name, after, MOST_EVENTS):
            yield from events
            after = events[-1].sequence

    def _run(self, request: Request) -> RunView:
        wanted = urls.from_segment(request.path_params["run"])
        views = self._monitor.runs()
        by_name = [view for view in views if view.run == wanted != ""]
        by_folder = [view for view in views if view.folder == wanted]
        if not by_name and not by_folder:
            raise HTTPException(404, "No run that is shown here has this name.")
        return (by_name or by_folder)[0]


def _name(request: Request) -> AccountName:
    return AccountName(
        *(urls.from_segment(request.path_params[part]) for part in AccountName._fields)
    )
