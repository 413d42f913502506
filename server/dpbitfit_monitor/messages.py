"""Views as the messages of ``monitor.proto``."""

from collections.abc import Iterable
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from dpbitfit.accounting import composition
from dpbitfit.accounting.mechanism import Counts
from dpbitfit.ledger import AccountName
from dpbitfit.ledger.forecast import Forecast
from dpbitfit.ledger.runs import RunStatus
from dpbitfit_monitor.generated import monitor_pb2 as pb
from dpbitfit_monitor.runs import RoundView, RunView
from dpbitfit_monitor.views import (
    AccountDetail,
    AccountView,
    UnreadableAccount,
    is_exact,
)


def account(view: AccountView | UnreadableAccount) -> pb.Account:
    """One account, or why it cannot be shown."""
    name, state = pb.AccountName(**view.name._asdict()), f"STATE_{view.state.name}"
    if isinstance(view, UnreadableAccount):
        return pb.Account(name=name, state=state, problem=view.problem)
    return pb.Account(
        name=name,
        state=state,
        budget=view.budget,
        delta=view.delta,
        guaranteed=figure(view.guaranteed.bound),
        accrued=figure(view.accrued.bound, view.accrued_is_exact),
        left=view.left,
        run=view.run,
        rounds_left=view.rounds_left,
        last_seen=time(view.last_seen),
        asked_since=time(view.asked_since),
        ends=view.ends,
        refusals=view.refusals,
        open_rounds=view.open_rounds,
        drift=view.drift,
        events=view.sequence,
        chain_head=view.head,
        sentence=view.sentence,
    )


def detail(view: AccountDetail) -> pb.GetAccountResponse:
    """One account in full."""
    points = (
        pb.Point(rounds=point.rounds, at=time(point.at), accrued=figure(point.bound))
        for point in view.series
    )
    return pb.GetAccountResponse(
        account=account(view.view),
        series=points,
        curve=map(figure, view.curve),
        runs=map(run, view.runs),
    )


def figure(bound: composition.Bound, exact: bool = True) -> pb.EpsilonBound:
    """An epsilon; a quick bound is never exact."""
    return pb.EpsilonBound(**vars(bound), exact=exact and is_exact(bound))


def run(status: RunStatus) -> pb.Run:
    """What a run may still spend of an account."""
    return pb.Run(
        run=status.run,
        plan=status.plan,
        coordinator=status.coordinator,
        adaptive=status.adaptive,
        allotted=_steps(status.allotted),
        spent=_steps(status.spent),
        left=_steps(status.left),
        rounds_left=status.rounds_left,
    )


def round_of(run: RunView, line: RoundView) -> pb.WatchRoundsResponse:
    """One round of a run."""
    return pb.WatchRoundsResponse(
        folder=run.folder,
        run=run.run,
        state=run.state,
        round=line.round,
        rounds=line.rounds,
        metrics={name: value for name, value in line.metrics.items() if value is not None},
        guaranteed=line.guaranteed,
        accrued=line.accrued,
        bytes_up=line.bytes_up,
        bytes_down=line.bytes_down,
        replies=line.replies,
        refused=line.refused,
        seconds=line.seconds,
        missing=line.missing,
        phase=line.phase,
    )


def forecast(forecast: Forecast) -> pb.ForecastPlanResponse:
    """A forecast."""
    return pb.ForecastPlanResponse(
        fits=forecast.fits,
        fitting_noise_multiplier=forecast.fitting_noise_multiplier,
        approved=figure(forecast.approved) if forecast.approved else None,
    )


def name_of(message: pb.AccountName) -> AccountName:
    """An account's name."""
    return AccountName(message.site, message.dataset, message.unit)


def time(at: datetime | None) -> Timestamp | None:
    """A time; None stays unset."""
    if at is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(at)
    return stamp


def _steps(counts: Counts) -> Iterable[pb.Steps]:
    return (pb.Steps(**vars(mechanism), steps=steps) for mechanism, steps in counts)
