"""Views as the messages of ``monitor.proto``."""

from collections.abc import Iterable
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from dpbitfit.accounting import composition
from dpbitfit.accounting.composition import Counts
from dpbitfit.ledger import AccountName
from dpbitfit.ledger.forecast import Forecast
from dpbitfit.ledger.status import RunStatus
from dpbitfit_monitor.generated import monitor_pb2 as pb
from dpbitfit_monitor.runs import RoundView, RunView
from dpbitfit_monitor.views import (
    AccountDetail,
    AccountView,
    UnreadableAccount,
    is_exact,
    plain_sentence,
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
        promised=view.promised,
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
        sentence=plain_sentence(view),
    )


def detail(one: AccountDetail) -> pb.GetAccountResponse:
    """All about one account."""
    points = (
        pb.Point(rounds=point.rounds, at=time(point.at), accrued=figure(point.bound))
        for point in one.series
    )
    return pb.GetAccountResponse(
        account=account(one.view),
        series=points,
        curve=map(figure, one.curve),
        runs=map(run, one.runs),
    )


def figure(one: composition.Bound, exact: bool = True) -> pb.EpsilonBound:
    """A figure; a quick one is never exact."""
    return pb.EpsilonBound(**vars(one), exact=exact and is_exact(one))


def run(standing: RunStatus) -> pb.Run:
    """What one run may still do to an account."""
    return pb.Run(
        run=standing.run,
        plan=standing.plan,
        coordinator=standing.coordinator,
        adaptive=standing.adaptive,
        allotted=_steps(standing.allotted),
        spent=_steps(standing.spent),
        left=_steps(standing.left),
        rounds_left=standing.rounds_left,
    )


def round_of(view: RunView, one: RoundView) -> pb.WatchRoundsResponse:
    """One round of a run."""
    return pb.WatchRoundsResponse(
        folder=view.folder,
        run=view.run,
        state=view.state,
        round=one.number,
        rounds=one.rounds,
        accuracy=one.accuracy,
        loss=one.loss,
        guaranteed=one.guaranteed,
        accrued=one.accrued,
        bytes_up=one.bytes_up,
        bytes_down=one.bytes_down,
        replies=one.replies,
        refused=one.refused,
        seconds=one.seconds,
    )


def forecast(made: Forecast) -> pb.ForecastPlanResponse:
    """A forecast."""
    return pb.ForecastPlanResponse(
        fits=made.fits,
        fitting_noise_multiplier=made.fitting_noise_multiplier,
        approved=figure(made.approved) if made.approved else None,
    )


def name_of(message: pb.AccountName) -> AccountName:
    """An account's name."""
    return AccountName(message.site, message.dataset, message.unit)


def time(at: datetime | None) -> Timestamp | None:
    """A moment."""
    if at is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(at)
    return stamp


def _steps(counts: Counts) -> Iterable[pb.Steps]:
    return (pb.Steps(**vars(mechanism), steps=steps) for mechanism, steps in counts)
