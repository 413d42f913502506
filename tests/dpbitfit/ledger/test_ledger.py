"""What the ledger promises, on both databases."""

import math
from collections.abc import Callable

import pytest
import sqlalchemy as sa
from dp_accounting import dp_event
from dp_accounting.rdp import RdpAccountant

from dpbitfit.accounting import composition
from dpbitfit.accounting.mechanism import Counts, Mechanism
from dpbitfit.errors import BudgetError, InputError, LedgerError, ProtocolError
from dpbitfit.ledger import Account, AccountName, Ledger, budget, status
from dpbitfit.ledger.budget import what_fits
from dpbitfit.ledger.fold import Allotment
from dpbitfit.ledger.outbox import Reply

DELTA = 1e-5
NAME = AccountName("north", "letters", "patient")
M = Mechanism(1.0, 0.01)
N = Mechanism(2.0, 0.05)

Reopen = Callable[..., Ledger]


def bag(steps: int, mechanism: Mechanism = M) -> Counts:
    return ((mechanism, steps),)


def account_of(ledger: Ledger, name: AccountName = NAME, budget: float = 8.0) -> Account:
    return ledger.open_account(name, DELTA, budget)


def held(ledger: Ledger, account: Account, run: str = "run") -> dict[Mechanism, Allotment]:
    holdings = ledger.allotments([account.id])[account.id]
    return {mechanism: one for (of, mechanism), one in holdings.items() if of == run}


def counts(one: Allotment) -> tuple[int, int, int, int]:
    return one.allotted, one.reserved, one.committed, one.voided


def kinds(ledger: Ledger, name: AccountName = NAME) -> list[str]:
    return [event.kind for event in ledger.events(name)]


def test_an_account_keeps_its_budget_over_reopening(ledger: Ledger, reopen: Reopen) -> None:
    made = account_of(ledger)
    again = reopen(str(ledger.database.url.render_as_string()))
    assert again.id == ledger.id
    result = again.open_account(NAME, DELTA, 99.0)
    assert (result, result.budget) == (made, 8.0)
    assert again.accounts() == [made]
    with pytest.raises(InputError, match="delta 1e-05"):
        again.open_account(NAME, 1e-6, 8.0)


def test_accounts_differ_by_every_part_of_their_name(ledger: Ledger) -> None:
    names = [NAME, NAME._replace(site="south"), NAME._replace(dataset="x"), NAME._replace(unit="x")]
    assert len({account_of(ledger, name).id for name in names}) == 4
    assert [one.name for one in ledger.accounts()] == sorted(names)
    with pytest.raises(InputError, match="there is no account"):
        ledger.account(AccountName("west", "letters", "patient"))


@pytest.mark.parametrize("part", ["", "a/b", "a\nb", "x" * 201])
def test_names_that_cannot_be_shown_are_refused(ledger: Ledger, part: str) -> None:
    for name in (
        AccountName(part, "b", "c"),
        AccountName("a", part, "c"),
        AccountName("a", "b", part),
    ):
        with pytest.raises(InputError, match="printable"):
            account_of(ledger, name)
    assert ledger.accounts() == []


@pytest.mark.parametrize("budget", [0.0, -1.0, float("nan"), float("inf"), 1e5, 1e-100])
def test_budgets_that_cannot_be_are_refused(ledger: Ledger, budget: float) -> None:
    with pytest.raises(InputError):
        ledger.open_account(NAME, DELTA, budget)
    account_of(ledger)
    with pytest.raises(InputError):
        ledger.set_budget(NAME, budget, "why not")
    assert ledger.account(NAME).budget == 8.0
    assert kinds(ledger) == ["open"]


def test_a_budget_is_changed_with_its_reason(ledger: Ledger) -> None:
    account = account_of(ledger)
    assert ledger.set_budget(NAME, 3.5, "the board decided").budget == 3.5
    assert "the board decided" in ledger.events(NAME)[-1].body
    ledger.verify(account)


def left(ledger: Ledger, account: Account) -> dict[str, int]:
    """Steps that may still be reserved, by run."""
    held = ledger.allotments([account.id])[account.id]
    return {run: one.left for (run, _), one in sorted(held.items())}


def test_a_budget_below_what_was_approved_takes_back_what_is_left(ledger: Ledger) -> None:
    account = account_of(ledger)
    ledger.allot(NAME, "a", "plan-a", bag(300))
    ledger.allot(NAME, "b", "plan-b", bag(50, N))
    ledger.reserve("a", 1, {account.id: "k"}, bag(10))
    ledger.set_budget(NAME, 0.1, "the board decided")
    assert kinds(ledger)[-3:] == ["budget", "void", "void"]
    assert all("the board decided" in event.body for event in ledger.events(NAME)[-3:])
    assert left(ledger, account) == {"a": 0, "b": 0}
    with pytest.raises(BudgetError):
        ledger.reserve("a", 2, {account.id: "k2"}, bag(1))
    ledger.commit({"k": "replied"})  # what was under way is spent
    assert counts(held(ledger, account, "a")[M]) == (300, 0, 10, 290)
    ledger.set_budget(NAME, 9.0, "it thought better of it")
    assert left(ledger, account) == {"a": 0, "b": 0}
    assert ledger.allot(NAME, "a", "plan-a", bag(300)) is None
    with pytest.raises(BudgetError):
        ledger.reserve("a", 2, {account.id: "k2"}, bag(1))
    approval = ledger.allot(NAME, "c", "plan-c", bag(300))
    assert approval is not None
    assert approval.adaptive
    ledger.verify(account)


@pytest.mark.parametrize("after_results", [False, True])
def test_a_budget_of_exactly_what_is_approved_takes_nothing_back(
    ledger: Ledger, after_results: bool
) -> None:
    account = account_of(ledger)
    ledger.allot(NAME, "a", "plan-a", bag(300))
    if after_results:
        ledger.reserve("a", 1, {account.id: "k"}, bag(10))
        ledger.allot(NAME, "b", "plan-b", bag(50, N))
    exact = status.budget_status(ledger, ledger.account(NAME)).approved.epsilon
    before = left(ledger, account)
    ledger.set_budget(NAME, exact, "no more than that")
    assert left(ledger, account) == before
    assert kinds(ledger)[-1] == "budget"
    ledger.set_budget(NAME, math.nextafter(exact, 0), "a little less")
    assert not any(left(ledger, account).values())


def test_a_lowered_budget_that_nothing_was_spent_of_can_be_used(ledger: Ledger) -> None:
    account = account_of(ledger)
    ledger.allot(NAME, "a", "plan-a", bag(3000))
    ledger.set_budget(NAME, 1.0, "the board decided")
    approval = ledger.allot(NAME, "b", "plan-b", bag(5, N))
    assert approval is not None
    assert approval.adaptive  # what was given up may have been given up for what was seen
    assert approval.bound.epsilon <= 1.0
    ledger.reserve("b", 1, {account.id: "k"}, bag(5, N))
    ledger.verify(account)


def test_a_share_that_is_lowered_takes_back_that_coordinators_approvals(ledger: Ledger) -> None:
    account = account_of(ledger)
    share = composition.epsilon({M: 300}, DELTA).epsilon
    ledger.allot(NAME, "a", "plan-a", bag(300), "office", share)
    ledger.reserve("a", 1, {account.id: "k"}, bag(10))
    ledger.allot(NAME, "b", "plan-b", bag(300), "other", share)  # after results, by the filter
    for who in ("office", "other"):  # as it was approved: the policy was not changed
        assert ledger.enforce(NAME, "the policy", who, share) == ()
    assert left(ledger, account) == {"a": 290, "b": 300}
    assert ledger.enforce(NAME, "the policy", "other", share - 0.01) == bag(300)
    assert left(ledger, account) == {"a": 290, "b": 0}
    assert kinds(ledger)[-1] == "void"
    assert ledger.enforce(NAME, "the policy", "other", share - 0.01) == ()
    assert ledger.allot(NAME, "c", "plan-c", bag(300), "office", 8.0) is not None
    both = budget.filtered(bag(600), DELTA, ledger.account(NAME).filter_order).epsilon
    assert ledger.enforce(NAME, "the policy", "office", both) == ()
    tight = composition.epsilon({M: 600}, DELTA).epsilon
    # Its second plan was chosen after results, so that only the filter says what both take.
    assert ledger.enforce(NAME, "the policy", "office", (both + tight) / 2) == bag(590)
    ledger.verify(account)


def test_reserving_asks_no_accountant(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    account = account_of(ledger)
    ledger.allot(NAME, "a", "plan-a", bag(300))

    def refuse(*_: object) -> None:
        raise AssertionError("an accountant was asked")

    for module, name in ((composition, "epsilon"), (budget, "filter_epsilon")):
        monkeypatch.setattr(module, name, refuse)
    ledger.reserve("a", 1, {account.id: "k"}, bag(10))


def test_a_round_is_reserved_and_committed(ledger: Ledger) -> None:
    account = account_of(ledger)
    approval = ledger.allot(NAME, "run", "plan", bag(100), "coordinator")
    assert approval is not None
    assert approval.bound == composition.epsilon({M: 100}, DELTA)
    assert not approval.adaptive
    ledger.reserve("run", 1, {account.id: "k1"}, bag(10))
    assert counts(held(ledger, account)[M]) == (100, 10, 0, 0)
    assert [one.key for one in ledger.reservations("run")] == ["k1"]
    ledger.commit({"k1": "replied"})
    assert counts(held(ledger, account)[M]) == (100, 0, 10, 0)
    assert ledger.reservations("run") == []
    (done,) = ledger.round_of("run", 1)
    assert (done.state, done.outcome, done.counts) == ("committed", "replied", bag(10))
    assert kinds(ledger) == ["open", "allot", "reserve", "commit"]
    assert ledger.verify(account).rounds["k1"] == ("committed", "run", 1, bag(10), "replied")


def test_approving_the_same_plan_again_changes_nothing(ledger: Ledger) -> None:
    account = account_of(ledger)
    ledger.allot(NAME, "run", "plan", bag(100))
    assert ledger.allot(NAME, "run", "plan", bag(100)) is None
    assert counts(held(ledger, account)[M]) == (100, 0, 0, 0)
    with pytest.raises(ProtocolError, match="another plan"):
        ledger.allot(NAME, "run", "other", bag(1))
    assert kinds(ledger) == ["open", "allot"]


def test_a_round_past_the_allotment_is_refused_and_leaves_no_trace(ledger: Ledger) -> None:
    account = account_of(ledger)
    ledger.allot(NAME, "run", "plan", bag(15))
    ledger.reserve("run", 1, {account.id: "k1"}, bag(10))
    with pytest.raises(BudgetError, match=r"north/letters/patient.*fewer than 6 steps"):
        ledger.reserve("run", 2, {account.id: "k2"}, bag(6))
    with pytest.raises(BudgetError, match="north/letters/patient"):
        ledger.reserve("run", 2, {account.id: "k2"}, bag(1, N))
    with pytest.raises(BudgetError, match="north/letters/patient"):
        ledger.reserve("another", 2, {account.id: "k2"}, bag(1))
    assert counts(held(ledger, account)[M]) == (15, 10, 0, 0)
    assert kinds(ledger) == ["open", "allot", "reserve"]
    ledger.reserve("run", 2, {account.id: "k2"}, bag(5))
    ledger.verify(account)


def test_a_plan_past_the_budget_is_refused_with_what_would_fit(ledger: Ledger) -> None:
    account = account_of(ledger, budget=1.0)
    figure = composition.epsilon({M: 1000}, DELTA).epsilon
    with pytest.raises(BudgetError) as refused:
        ledger.allot(NAME, "run", "plan", bag(1000))
    message = str(refused.value)
    assert "north/letters/patient" in message
    assert f"{figure:.3f}" in message
    assert "budget of 1" in message
    assert held(ledger, account) == {}
    fitting = what_fits(account, ledger.allotments([account.id])[account.id], bag(1000))
    sigma = float(fitting.rpartition("noise multiplier ")[2])
    assert ledger.allot(NAME, "run", "plan", bag(1000, Mechanism(sigma, 0.01))) is not None
    ledger.verify(account)


def test_plans_approved_before_any_result_compose_exactly(ledger: Ledger) -> None:
    account = account_of(ledger)
    ledger.allot(NAME, "a", "plan-a", bag(300))
    ledger.set_budget(NAME, composition.epsilon({M: 300, N: 50}, DELTA).epsilon, "just enough")
    approval = ledger.allot(NAME, "b", "plan-b", bag(50, N))
    assert approval is not None
    assert approval.bound == composition.epsilon({M: 300, N: 50}, DELTA)
    assert not approval.adaptive
    with pytest.raises(BudgetError):
        ledger.allot(NAME, "c", "plan-c", bag(1, N))
    # Steps of the same mechanism in two runs are one mechanism with their sum.
    ledger.set_budget(NAME, 9.0, "more")
    third = ledger.allot(NAME, "c", "plan-c", bag(100))
    assert third is not None
    assert third.bound == composition.epsilon({M: 400, N: 50}, DELTA)
    ledger.verify(account)


@pytest.mark.parametrize("ending", ["reserved", "committed"])
def test_a_plan_chosen_after_a_result_is_bounded_by_the_filter(ledger: Ledger, ending: str) -> None:
    account = account_of(ledger)
    ledger.allot(NAME, "a", "plan-a", bag(300))
    order = ledger.account(NAME).filter_order
    ledger.reserve("a", 1, {account.id: "k"}, bag(1))
    if ending == "committed":
        ledger.commit({"k": "replied"})
    approval = ledger.allot(NAME, "b", "plan-b", bag(50, N))
    assert approval is not None
    assert approval.adaptive
    assert approval.order == order == ledger.account(NAME).filter_order
    independent = RdpAccountant(orders=[order])
    for mechanism, steps in ((M, 300), (N, 50)):
        event = dp_event.PoissonSampledDpEvent(
            mechanism.sampling_rate, dp_event.GaussianDpEvent(mechanism.noise_multiplier)
        )
        independent.compose(event, steps)
    assert approval.bound.epsilon == pytest.approx(independent.get_epsilon(DELTA), abs=1e-9)
    assert approval.bound.epsilon > composition.epsilon({M: 300, N: 50}, DELTA).epsilon
    ledger.set_budget(NAME, approval.bound.epsilon, "no more than that")
    with pytest.raises(BudgetError, match="RDP filter"):
        ledger.allot(NAME, "c", "plan-c", bag(1, N))
    ledger.verify(account)


def test_what_fits_after_a_result_passes_the_filter(ledger: Ledger) -> None:
    account = account_of(ledger, budget=3.0)
    ledger.allot(NAME, "a", "plan-a", bag(100))
    ledger.reserve("a", 1, {account.id: "k"}, bag(100))
    with pytest.raises(BudgetError, match="RDP filter"):
        ledger.allot(NAME, "b", "plan-b", bag(5000))
    account = ledger.account(NAME)
    fitting = what_fits(account, ledger.allotments([account.id])[account.id], bag(5000))
    sigma = float(fitting.rpartition("noise multiplier ")[2])
    assert ledger.allot(NAME, "b", "plan-b", bag(5000, Mechanism(sigma, 0.01))) is not None


def test_a_released_round_does_not_make_the_next_plan_adaptive(ledger: Ledger) -> None:
    account = account_of(ledger)
    ledger.allot(NAME, "a", "plan-a", bag(300))
    ledger.reserve("a", 1, {account.id: "k"}, bag(1))
    ledger.release("k", "signature")
    approval = ledger.allot(NAME, "b", "plan-b", bag(50, N))
    assert approval is not None
    assert not approval.adaptive


def test_a_round_is_reserved_for_all_its_accounts_or_for_none(ledger: Ledger) -> None:
    names = [NAME._replace(site=f"site-{number}") for number in range(5)]
    accounts = [account_of(ledger, name) for name in names]
    for name in names:
        ledger.allot(name, "run", "plan", bag(4 if name.site == "site-3" else 20))
    keys = {one.id: f"r1-{one.name.site}" for one in accounts}
    with pytest.raises(BudgetError, match="site-3/letters/patient"):
        ledger.reserve("run", 1, keys, bag(5))
    for one in accounts:
        assert held(ledger, one)[M].reserved == 0
        assert kinds(ledger, one.name) == ["open", "allot"]
    assert ledger.reservations() == []
    keys.pop(accounts[3].id)
    ledger.reserve("run", 1, keys, bag(5))
    assert {one.key for one in ledger.reservations()} == set(keys.values())
    for one in accounts:
        ledger.verify(one)


def test_a_round_of_several_mechanisms_needs_all_of_them(ledger: Ledger) -> None:
    account = account_of(ledger)
    ledger.allot(NAME, "run", "plan", ((M, 10), (N, 2)))
    with pytest.raises(BudgetError):
        ledger.reserve("run", 1, {account.id: "k"}, ((M, 5), (N, 3)))
    assert counts(held(ledger, account)[M]) == (10, 0, 0, 0)
    ledger.reserve("run", 1, {account.id: "k"}, ((M, 5), (N, 2)))
    ledger.commit({"k": "replied"})
    assert counts(held(ledger, account)[M]) == (10, 0, 5, 0)
    assert counts(held(ledger, account)[N]) == (2, 0, 2, 0)
    ledger.verify(account)


def test_a_key_is_reserved_once(ledger: Ledger) -> None:
    account = account_of(ledger)
    ledger.allot(NAME, "run", "plan", bag(20))
    ledger.reserve("run", 1, {account.id: "k"}, bag(5))
    with pytest.raises(LedgerError, match="nothing was recorded"):
        ledger.reserve("run", 1, {account.id: "k"}, bag(5))
    assert counts(held(ledger, account)[M]) == (20, 5, 0, 0)
    ledger.verify(account)


def test_committing_again_changes_nothing(ledger: Ledger) -> None:
    account = account_of(ledger)
    ledger.allot(NAME, "run", "plan", bag(20))
    ledger.reserve("run", 1, {account.id: "k1"}, bag(5))
    ledger.reserve("run", 2, {account.id: "k2"}, bag(5))
    ledger.commit({"k1": "replied"})
    ledger.commit({"k1": "timeout"})
    assert counts(held(ledger, account)[M]) == (20, 5, 5, 0)
    assert ledger.round_of("run", 1)[0].outcome == "replied"
    ledger.commit({"k1": "timeout", "k2": "timeout"})
    assert counts(held(ledger, account)[M]) == (20, 0, 10, 0)
    assert kinds(ledger).count("commit") == 2
    ledger.verify(account)


def test_two_rounds_of_one_account_are_committed_together(ledger: Ledger) -> None:
    account, other = account_of(ledger), account_of(ledger, NAME._replace(site="south"))
    for one in (account, other):
        ledger.allot(one.name, "run", "plan", bag(20))
    ledger.reserve("run", 1, {account.id: "a1", other.id: "b1"}, bag(5))
    ledger.reserve("run", 2, {account.id: "a2"}, bag(3))
    ledger.commit({"a1": "replied", "b1": "timeout", "a2": "replied"})
    assert held(ledger, account)[M].committed == 8
    assert held(ledger, other)[M].committed == 5
    for one in (account, other):
        ledger.verify(one)


def test_a_released_round_gives_its_steps_back_once(ledger: Ledger) -> None:
    account = account_of(ledger)
    ledger.allot(NAME, "run", "plan", bag(5))
    ledger.reserve("run", 1, {account.id: "k1"}, bag(5))
    ledger.release("k1", "the site's signature")
    assert counts(held(ledger, account)[M]) == (5, 0, 0, 0)
    assert "the site's signature" in ledger.events(NAME)[-1].body
    with pytest.raises(LedgerError, match="not reserved"):
        ledger.release("k1", "the site's signature")
    with pytest.raises(LedgerError, match="k1 was not reserved"):
        ledger.commit({"k1": "replied"})
    ledger.reserve("run", 1, {account.id: "k2"}, bag(5))
    ledger.commit({"k2": "replied"})
    with pytest.raises(LedgerError, match="not reserved"):
        ledger.release("k2", "the site's signature")
    with pytest.raises(LedgerError, match="not reserved"):
        ledger.release("unknown", "the site's signature")
    assert counts(held(ledger, account)[M]) == (5, 0, 5, 0)
    ledger.verify(account)


def test_an_unknown_key_stops_the_whole_commit(ledger: Ledger) -> None:
    account = account_of(ledger)
    ledger.allot(NAME, "run", "plan", bag(5))
    ledger.reserve("run", 1, {account.id: "k1"}, bag(5))
    with pytest.raises(LedgerError, match="k9 was not reserved"):
        ledger.commit({"k1": "replied", "k9": "replied"})
    assert counts(held(ledger, account)[M]) == (5, 5, 0, 0)


def test_a_void_key_is_never_trained(ledger: Ledger) -> None:
    account = account_of(ledger)
    ledger.allot(NAME, "run", "plan", bag(20))
    assert ledger.void_key(NAME, "run", 1, "k1")
    assert ledger.void_key(NAME, "run", 1, "k1")
    with pytest.raises(LedgerError):
        ledger.reserve("run", 1, {account.id: "k1"}, bag(5))
    with pytest.raises(LedgerError, match="was not reserved"):
        ledger.commit({"k1": "replied"})
    ledger.reserve("run", 1, {account.id: "k2"}, bag(5))
    assert not ledger.void_key(NAME, "run", 1, "k2")
    other = account_of(ledger, NAME._replace(site="south"))
    assert not ledger.void_key(other.name, "run", 1, "k1")
    assert counts(held(ledger, account)[M]) == (20, 5, 0, 0)
    assert kinds(ledger).count("void") == 1
    ledger.verify(account)


def test_what_a_run_did_not_use_is_given_up(ledger: Ledger) -> None:
    account = account_of(ledger)
    ledger.allot(NAME, "run", "plan", bag(20))
    ledger.reserve("run", 1, {account.id: "k1"}, bag(5))
    ledger.reserve("run", 2, {account.id: "k2"}, bag(3))
    ledger.commit({"k1": "replied"})
    assert ledger.void_rest(NAME, "run") == bag(12)
    assert ledger.void_rest(NAME, "run") == ()
    assert counts(held(ledger, account)[M]) == (20, 3, 5, 12)
    with pytest.raises(BudgetError):
        ledger.reserve("run", 3, {account.id: "k3"}, bag(1))
    ledger.commit({"k2": "timeout"})
    ledger.verify(account)
    # The filter has what was given up to spend again.
    approval = ledger.allot(NAME, "next", "plan-next", bag(12))
    assert approval is not None
    independent = RdpAccountant(orders=[approval.order])
    independent.compose(
        dp_event.PoissonSampledDpEvent(0.01, dp_event.GaussianDpEvent(1.0)), 5 + 3 + 12
    )
    assert approval.bound.epsilon == pytest.approx(independent.get_epsilon(DELTA), abs=1e-9)


def test_rebasing_adds_spent_steps_even_past_the_budget(ledger: Ledger) -> None:
    account = account_of(ledger, budget=1.0)
    ledger.rebase(NAME, {"old": bag(5000)}, "c" * 64, "restored from a backup")
    ledger.rebase(NAME, {"old": bag(10)}, "c" * 64, "again")
    ledger.rebase(NAME, {}, "c" * 64, "looked at it")
    assert counts(held(ledger, account, "old")[M]) == (5010, 0, 5010, 0)
    assert kinds(ledger) == ["open", "rebase", "rebase", "rebase"]
    ledger.verify(account)
    with pytest.raises(BudgetError, match="RDP filter"):
        ledger.allot(NAME, "run", "plan", bag(1))


def test_rebasing_a_run_takes_what_was_left_of_its_plan_first(ledger: Ledger) -> None:
    account = account_of(ledger)
    ledger.allot(NAME, "run", "plan", bag(20), "c" * 64)
    ledger.reserve("run", 1, {account.id: "key"}, bag(5))
    ledger.rebase(NAME, {"run": bag(10)}, "c" * 64, "restored from a backup")
    assert counts(held(ledger, account, "run")[M]) == (20, 5, 10, 0)
    ledger.rebase(NAME, {"run": bag(10)}, "c" * 64, "again")
    assert counts(held(ledger, account, "run")[M]) == (25, 5, 20, 0)
    with pytest.raises(BudgetError):
        ledger.reserve("run", 2, {account.id: "next"}, bag(1))
    ledger.verify(account)
    with pytest.raises(LedgerError, match="another coordinator's"):
        ledger.rebase(NAME, {"run": bag(1)}, "d" * 64, "a run that is not theirs")


def test_settling_spends_what_has_no_known_end(ledger: Ledger) -> None:
    account, other = account_of(ledger), account_of(ledger, NAME._replace(site="south"))
    for one in (account, other):
        ledger.allot(one.name, "run", "plan", bag(20))
    ledger.reserve("run", 1, {account.id: "a1", other.id: "b1"}, bag(5))
    ledger.reserve("run", 2, {account.id: "a2"}, bag(5))
    assert {one.key for one in ledger.settle("lost", account.id)} == {"a1", "a2"}
    assert counts(held(ledger, account)[M]) == (20, 0, 10, 0)
    assert counts(held(ledger, other)[M]) == (20, 5, 0, 0)
    assert [one.key for one in ledger.settle("lost")] == ["b1"]
    assert ledger.settle("lost") == []
    assert ledger.round_of("run", 1)[0].outcome == "lost"
    for one in (account, other):
        ledger.verify(one)


def test_the_outbox_gives_the_same_bytes_and_keeps_only_the_newest(
    ledger: Ledger, reopen: Reopen
) -> None:
    account = account_of(ledger)
    ledger.allot(NAME, "run", "plan", bag(20))
    ledger.allot(NAME, "other", "plan", bag(20))
    replies = [Reply(f"k{number}", f"asked-{number}", bytes([number] * 9)) for number in range(3)]
    elsewhere = Reply("o0", "asked-elsewhere", b"elsewhere")
    ledger.reserve("other", 1, {account.id: "o0"}, bag(1))
    ledger.commit({"o0": "replied"}, elsewhere)
    assert ledger.last_reply(account, "run") is None
    for number, reply in enumerate(replies):
        ledger.reserve("run", number, {account.id: reply.key}, bag(1))
        assert ledger.reply(reply.key) is None
        ledger.commit({reply.key: "replied"}, reply)
        assert ledger.reply(reply.key) == reply
        assert ledger.last_reply(account, "run") == reply
    again = reopen(ledger.database.url.render_as_string())
    assert again.reply("k2") == replies[2]
    assert again.reply("k1") == Reply("k1", "asked-1", None)
    assert again.reply("o0") == elsewhere
    assert again.last_reply(account, "other") == elsewhere


def test_a_reply_is_kept_only_with_the_commit_of_its_own_round(ledger: Ledger) -> None:
    account = account_of(ledger)
    ledger.allot(NAME, "run", "plan", bag(20))
    for key in ("replied", "lost", "open"):
        ledger.reserve("run", 1, {account.id: key}, bag(1))
    first = Reply("replied", "asked", b"first")
    ledger.commit({"replied": "replied"}, first)
    ledger.commit({"lost": "timeout"})
    for settled in ("replied", "lost"):
        for outcomes in ({settled: "replied"}, {settled: "replied", "open": "replied"}):
            with pytest.raises(LedgerError, match="settled before its reply"):
                ledger.commit(outcomes, Reply(settled, "asked", b"second"))
    assert ledger.reply("replied") == first
    assert ledger.reply("lost") is None
    assert [one.key for one in ledger.reservations()] == ["open"]


@pytest.mark.parametrize(
    "change",
    ["committed = allotted + 1", "reserved = -1", "voided = allotted + 1 - reserved"],
)
def test_the_database_itself_refuses_to_pass_an_allotment(ledger: Ledger, change: str) -> None:
    account = account_of(ledger)
    ledger.allot(NAME, "run", "plan", bag(20))
    with (
        pytest.raises(LedgerError, match="may have changed the same rows"),
        ledger.database.write() as connection,
    ):
        connection.execute(sa.text(f"UPDATE allotment SET {change}"))
    assert counts(held(ledger, account)[M]) == (20, 0, 0, 0)


def test_a_readonly_ledger_shows_all_and_changes_nothing(ledger: Ledger, reopen: Reopen) -> None:
    account = account_of(ledger)
    ledger.allot(NAME, "run", "plan", bag(20))
    only = reopen(ledger.database.url.render_as_string(), readonly=True)
    assert only.accounts() == ledger.accounts()
    only.verify(account)
    with pytest.raises(LedgerError, match=r"may only be read.*nothing was recorded"):
        only.reserve("run", 1, {account.id: "k"}, bag(1))
    assert kinds(ledger) == ["open", "allot"]


def test_a_share_counts_plans_that_have_spent_nothing_yet(ledger: Ledger) -> None:
    """They are approved: whatever is left of them may be spent at any time."""
    account = account_of(ledger)
    share = composition.epsilon({M: 1000}, DELTA).epsilon + 0.1
    ledger.allot(NAME, "a", "plan-a", bag(1000), "office", share)
    with pytest.raises(BudgetError, match=f"above its budget of {share:g}"):
        ledger.allot(NAME, "b", "plan-b", bag(1000), "office", share)
    assert ledger.allot(NAME, "c", "plan-c", bag(1000), "another", share) is not None
    ledger.verify(account)


def test_a_coordinator_gets_no_more_than_its_share(ledger: Ledger) -> None:
    """The share counts that coordinator's plans alone; the budget counts everybody's."""
    account = account_of(ledger)
    figure = composition.epsilon({M: 1000}, DELTA).epsilon
    share = figure + 0.1
    ledger.allot(NAME, "a", "plan-a", bag(1000), "office", share)
    ledger.reserve("a", 1, {account.id: "k1"}, bag(10))
    with pytest.raises(BudgetError, match=f"above its budget of {share:g}"):
        ledger.allot(NAME, "b", "plan-b", bag(1000), "office", share)
    assert ledger.allot(NAME, "c", "plan-c", bag(1000), "another", share) is not None
    everything = budget.filtered(bag(2000), DELTA, ledger.account(NAME).filter_order).epsilon
    ledger.set_budget(NAME, everything + 0.01, "no more than both")
    with pytest.raises(BudgetError, match=f"above its budget of {everything + 0.01:g}"):
        ledger.allot(NAME, "d", "plan-d", bag(1000), "a third", share)
    ledger.verify(account)


def test_a_rebase_past_the_budget_leaves_no_approval_open(ledger: Ledger) -> None:
    account = account_of(ledger)
    ledger.allot(NAME, "run", "plan", bag(300), "c" * 64)
    ledger.rebase(NAME, {"run": bag(100)}, "c" * 64, "restored from a backup")
    assert left(ledger, account) == {"run": 200}  # part of what was approved: it still fits
    ledger.rebase(NAME, {"old": bag(10**6)}, "c" * 64, "more was lost")
    assert left(ledger, account) == {"run": 0, "old": 0}
    with pytest.raises(BudgetError):
        ledger.reserve("run", 1, {account.id: "k"}, bag(10))
    ledger.verify(account)
