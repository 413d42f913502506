"""The pages: what each address answers, from a look at the ledger that is made for it."""

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
from dpbitfit_monitor.runs import RunView
from dpbitfit_monitor.views import AccountDetail

OVERVIEW_SECONDS, ACCOUNT_SECONDS, RUN_SECONDS = 5, 10, 2  # from one look to the next
_EVENTS = 50  # of one page
_MOST_ALERTS = 50


class Pages:
    """Everything behind the gate."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    def routes(self) -> list[Route]:
        """Where everything is."""
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
        choice = pagination.Choice.of(request.query_params)
        page = pagination.Page.of(choice.chosen(view), request.query_params.get("page", ""))
        told = {
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
        return render(request, "overview.html", told)

    def overview_json(self, _: Request) -> Response:
        """Every account and alert, as JSON."""
        view = self._monitor.reader.overview()
        return export.json_file(describe.overview(view, self._monitor.alerts()), "budgets")

    def overview_csv(self, _: Request) -> Response:
        """Every account, a line each."""
        return export.accounts_csv(self._monitor.reader.overview())

    def account(self, request: Request) -> Response:
        """All about one account; of one that cannot be believed, its events and why."""
        name = _name(request)
        try:
            detail = self._monitor.reader.account(name)
        except DamagedAccount as error:
            return self._damaged(request, name, str(error))
        total = detail.view.sequence
        number = pagination.page_number(request.query_params.get("page", ""), total, _EVENTS)
        # Page 1 holds the newest: it is what changes, and what is looked for.
        high = total - (number - 1) * _EVENTS
        low = max(0, high - _EVENTS)
        found = self._monitor.reader.events(name, low, high - low)
        lines = [formatting.event_line(event) for event in reversed(found)]
        told = {
            **self._told_of(detail),
            "page": pagination.Page(lines, number, total, _EVENTS),
            "refresh": ACCOUNT_SECONDS,
        }
        return render(request, "account.html", told)

    def report(self, request: Request) -> Response:
        """An account on paper."""
        told = self._told_of(self._monitor.reader.account(_name(request)))
        ledger = self._monitor.reader.overview().ledger
        return render(request, "report.html", {**told, "ledger": ledger, "statements": STATEMENTS})

    def account_json(self, request: Request) -> Response:
        """All about one account and every event, as JSON."""
        name = _name(request)
        told = describe.detail(self._monitor.reader.account(name))
        told["event_log"] = [vars(event) for event in self._every_event(name)]
        return export.json_file(told, str(name))

    def account_csv(self, request: Request) -> Response:
        """Every event of an account whose chain was verified, a line each."""
        name = _name(request)
        self._monitor.reader.account(name)
        return export.events_csv(map(formatting.event_line, self._every_event(name)), str(name))

    def runs(self, request: Request) -> Response:
        """Every run that is shown."""
        views = self._monitor.runs()
        page = pagination.Page.of(views, request.query_params.get("page", ""))
        told = {"page": page, **self._words_of(None), "refresh": OVERVIEW_SECONDS}
        return render(request, "runs.html", told)

    def run(self, request: Request) -> Response:
        """One run, round by round."""
        view = self._run(request)
        rounds = pagination.Page.of(view.rounds[::-1], request.query_params.get("page", ""))
        told = {
            "run": view,
            "charts": charts.of_run(view.rounds),
            "page": rounds,
            "at": datetime.now(UTC),
            **self._words_of(view),
            "refresh": RUN_SECONDS if view.state == "running" else 0,
        }
        return render(request, "run.html", told)

    def run_json(self, request: Request) -> Response:
        """One run and its rounds, as JSON."""
        view = self._run(request)
        return export.json_file(describe.run(view), f"run-{urls.run_name(view)}")

    def run_csv(self, request: Request) -> Response:
        """The rounds of one run, a line each."""
        return export.run_csv(self._run(request))

    def _told_of(self, detail: AccountDetail) -> dict[str, object]:
        site, certificates = detail.view.name.site, self._monitor.certificates()
        return {
            "detail": detail,
            "view": detail.view,
            "at": datetime.now(UTC),
            "decisions": [formatting.event_line(event) for event in detail.decisions],
            "charts": (charts.epsilon_over_rounds(detail), charts.epsilon_over_delta(detail)),
            "certificates": [one for one in certificates if site in (one.subject, one.file[:-4])],
            "shown_runs": {one.run for one in self._monitor.runs()},
        }

    def _words_of(self, run: RunView | None) -> dict[str, object]:
        """The sentence on a run's accounts, or why there is none; a run's own files are read."""
        try:
            accounts = self._monitor.reader.overview().accounts
        except LedgerError as error:
            return {"sentence": "", "problem": str(error), "accounts": ()}
        own = [
            one
            for one in accounts
            if run and (str(one.name) in run.traffic or one.run == run.run != "")
        ]
        return {
            "sentence": formatting.general_sentence(own or accounts),
            "problem": "",
            "accounts": own,
        }

    def _damaged(self, request: Request, name: AccountName, problem: str) -> Response:
        events: list[Event] = []
        with suppress(DamagedAccount):  # where it is its own row, no event is found by it
            events = list(self._every_event(name))
        bad = formatting.first_bad(name, events)
        lines = [formatting.event_line(event, bad) for event in events]
        around = str(1 + max(0, (bad or 1) - 1) // _EVENTS)
        page = pagination.Page.of(lines, request.query_params.get("page", around), _EVENTS)
        told = {"name": name, "problem": problem, "bad": bad, "page": page, "refresh": 0}
        return render(request, "damaged.html", {**told, "at": datetime.now(UTC)}, 503)

    def _every_event(self, name: AccountName) -> Iterator[Event]:
        after = 0
        while found := self._monitor.reader.events(name, after, MOST_EVENTS):
            yield from found
            after = found[-1].sequence

    def _run(self, request: Request) -> RunView:
        wanted = urls.from_segment(request.path_params["run"])
        views = self._monitor.runs()
        named = [one for one in views if one.run == wanted != ""]
        found = next(iter([*named, *(one for one in views if one.folder == wanted)]), None)
        if found is None:
            raise HTTPException(404, "No run that is shown here has this name.")
        return found


def _name(request: Request) -> AccountName:
    return AccountName(
        *(urls.from_segment(request.path_params[part]) for part in AccountName._fields)
    )
