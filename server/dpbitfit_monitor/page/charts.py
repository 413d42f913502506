"""Small charts as plain numbers: what a template draws as SVG. Colours and type are the page's.

One form only, lines with points over a common x, for a trend; the values are in a
table beside each chart.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from dpbitfit.ledger.status import INFORMATIVE
from dpbitfit_monitor.runs import RoundView, metric_names
from dpbitfit_monitor.views import AccountDetail

WIDTH, HEIGHT = 480, 250
LEFT, RIGHT, TOP, BOTTOM = 58, 466, 18, 206
EDGES = ("WIDTH", "HEIGHT", "LEFT", "RIGHT", "TOP", "BOTTOM")
_MOST_DOTS = 40
_LEAST_SPAN = 1e-9  # relative; values that lie closer count as equal

Value = tuple[float, float | None]


@dataclass(frozen=True)
class Line:
    """A line in pieces, since a value may be missing; dots where they do not overlap."""

    name: str
    pieces: tuple[str, ...]
    dots: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Chart:
    """``limit`` is the height and name of a line that should not be passed."""

    title: str
    text: str
    x_label: str
    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    limit: tuple[float, str] | None = None


def epsilon_over_rounds(detail: AccountDetail) -> Chart:
    """Accrued epsilon after each answered round, against the budget."""
    view = detail.view
    last = detail.series[-1].rounds if detail.series else 0
    values: list[Value] = [(0, 0.0)]
    values += [(point.rounds, point.bound.epsilon) for point in detail.series]
    text = (
        f"Accrued epsilon, {INFORMATIVE}, rises to {values[-1][1] or 0:.3f} after {last} rounds; "
        f"the budget is {view.budget:g}."
    )
    x = _Scale.linear(0, max(1, last), RIGHT - LEFT, whole=True)
    title, limit = "Accrued epsilon over rounds", (view.budget, f"budget {view.budget:g}")
    return _draw(title, text, "rounds that ended", {"accrued": values}, x, limit=limit)


def epsilon_over_delta(detail: AccountDetail) -> Chart:
    """The guaranteed epsilon at a handful of deltas."""
    values: list[Value] = [(math.log10(bound.delta), bound.epsilon) for bound in detail.curve]
    first, last = detail.curve[0], detail.curve[-1]
    text = (
        f"Guaranteed epsilon falls from {first.epsilon:.3f} at delta {first.delta:g} "
        f"to {last.epsilon:.3f} at delta {last.delta:g}."
    )
    low, high = math.floor(values[0][0]), math.ceil(values[-1][0])
    ticks = [(power, f"1e{power}") for power in range(low, high + 1, 2)]
    x = _Scale(low, max(high, low + 1), ticks)
    return _draw("Guaranteed epsilon over delta", text, "delta", {"guaranteed": values}, x)


def of_run(rounds: Sequence[RoundView]) -> tuple[Chart, ...]:
    """A run's metrics, bytes and replies, round by round; none before its first line."""
    if not rounds:
        return ()

    def chart(
        title: str,
        write: Callable[[float], str],
        measures: Mapping[str, Callable[[RoundView], float | None]],
        from_zero: bool = True,
    ) -> Chart:
        lines: dict[str, list[Value]] = {
            name: [(view.round, measure(view)) for view in rounds]
            for name, measure in measures.items()
        }
        latest = [
            f"{name} {write(value)}"
            for name, values in lines.items()
            if (value := values[-1][1]) is not None
        ]
        text = f"After round {rounds[-1].round}: {', '.join(latest) or 'not known yet'}."
        first, last = rounds[0].round, rounds[-1].round
        x = _Scale.linear(first, max(first + 1, last), RIGHT - LEFT, whole=True)
        return _draw(title, text, "round", lines, x, from_zero=from_zero)

    def metric(name: str) -> Chart:
        title, measure = f"{name} on public test records", lambda view: view.metrics.get(name)
        return chart(title, "{:.3f}".format, {name: measure}, from_zero=False)

    payload = {
        "sent": lambda view: view.bytes_up / 1e3,
        "received": lambda view: view.bytes_down / 1e3,
    }
    replies = {"replies": lambda view: view.replies, "refused": lambda view: view.refused}
    return (
        *map(metric, metric_names(rounds)),
        chart("Payload of all sites, kB", "{:,.0f} kB".format, payload),
        chart("Replies of sites", "{:.0f}".format, replies),
    )


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]

    @classmethod
    def linear(cls, low: float, high: float, length: float, whole: bool = False) -> "_Scale":
        """From ``low`` to ``high``, with round ticks about every 45 of ``length``."""
        step = _round_step((high - low) / (length / 45))
        step = max(1.0, step) if whole else step
        first, last = math.floor(low / step), math.ceil(high / step - 1e-9)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        ticks = [
            (number * step, f"{number * step:,.{digits}f}") for number in range(first, last + 1)
        ]
        if whole:
            ticks = [tick for tick in ticks if low <= tick[0] <= high]
            return cls(low, high, ticks)
        return cls(first * step, max(last, first + 1) * step, ticks)

    def at(self, value: float) -> float:
        """Where a value lies, from 0 to 1."""
        return (value - self.low) / (self.high - self.low)


def _round_step(least: float) -> float:
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least * 0.999)


def _draw(
    title: str,
    text: str,
    x_label: str,
    lines: dict[str, list[Value]],
    x: _Scale,
    from_zero: bool = True,
    limit: tuple[float, str] | None = None,
) -> Chart:
    known = [value for values in lines.values() for _, value in values if value is not None]
    known += [limit[0]] if limit else []
    low = min([0.0, *known] if from_zero else known, default=0.0)
    high = max(known, default=1.0)
    least = _LEAST_SPAN * max(1.0, abs(low), abs(high))
    if high - low < least:
        high = low + (abs(low) if abs(low) > least else 1.0)
    are_counts = all(isinstance(value, int) for value in known)
    y = _Scale.linear(low, high, BOTTOM - TOP, whole=are_counts and from_zero)

    def place(at: float, value: float) -> tuple[float, float]:
        across = LEFT + (RIGHT - LEFT) * x.at(at)
        return round(across, 1), round(BOTTOM - (BOTTOM - TOP) * y.at(value), 1)

    def pieces(values: Iterable[Value]) -> Iterable[str]:
        piece: list[str] = []
        for at, value in (*values, (0.0, None)):
            if value is not None:
                piece.append("{},{}".format(*place(at, value)))
            elif piece:
                yield " ".join(piece)
                piece = []

    drawings = []
    for name, values in lines.items():
        points = [place(at, value) for at, value in values if value is not None]
        dots = points if len(points) <= _MOST_DOTS else points[-1:]
        drawings.append(Line(name, tuple(pieces(values)), tuple(dots)))
    return Chart(
        title=title,
        text=text,
        x_label=x_label,
        lines=tuple(drawings),
        x_ticks=tuple((place(at, y.low)[0], label) for at, label in x.ticks),
        y_ticks=tuple((place(x.low, value)[1], label) for value, label in y.ticks),
        limit=(place(x.low, limit[0])[1], limit[1]) if limit else None,
    )
