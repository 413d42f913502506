"""The monitor over gRPC, in the clear to this machine and with certificates."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import sqlalchemy as sa
from dpbitfit_monitor import cursors, service
from dpbitfit_monitor.addresses import Address
from dpbitfit_monitor.client import MonitorClient
from dpbitfit_monitor.generated import monitor_pb2 as pb
from dpbitfit_monitor.monitor import Monitor
from dpbitfit_monitor.reader import LedgerViews
from dpbitfit_monitor.serve import Serving
from dpbitfit_monitor.tls import Tls
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from dpbitfit.accounting import composition
from dpbitfit.errors import InputError
from dpbitfit.ledger import Account, AccountName, Ledger, schema
from tests.support.ledgers import DELTA, NAME, OTHER, STEP, account

from ..support.certificates import Authority
from ..support.monitors import LOCAL, LOOPBACK, code_of, served
from .test_runs import LINE, folder

Code = grpc.StatusCode


@pytest.fixture(autouse=True)
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look is a new one."""
    monkeypatch.setattr("dpbitfit_monitor.reader.FRESH_SECONDS", 0)
    monkeypatch.setattr("dpbitfit_monitor.monitor.RUNS_SECONDS", 0)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return folder(
        tmp_path / "out", LINE, {**LINE, "round": 1, "metrics": {"accuracy": 0.75, "loss": None}}
    )


@pytest.fixture
def client(reader: LedgerViews, out: Path) -> Iterator[MonitorClient]:
    with served(Monitor(reader, [out])) as at, MonitorClient(str(at.grpc)) as connected:
        yield connected


def ask(client: MonitorClient, method: str, **fields: Any) -> Any:
    message = getattr(pb, f"{method}Request")
    return getattr(client._stub, method)(message(**fields), timeout=30)


def refused(client: MonitorClient, method: str, **fields: Any) -> Code:
    with pytest.raises(grpc.RpcError) as raised:
        ask(client, method, **fields)
    assert "Traceback" not in str(raised.value)
    return code_of(raised.value)


def test_accounts_in_pages(
    north: Account, south: Account, client: MonitorClient, ledger: Ledger
) -> None:
    for number in range(5):
        account(ledger, AccountName(f"site-{number}", "letters", "person"))
    named = [view.name.site for view in client.accounts()]
    assert named == ["north", *(f"site-{n}" for n in range(5)), "south"]
    for size in (1, 2, 6, 7, 1000):
        assert [view.name.site for view in client.accounts(page_size=size)] == named
    first = ask(client, "ListAccounts", page_size=2)
    account(
        ledger, AccountName("again", "letters", "person")
    )  # before the page: nothing comes twice
    second = ask(client, "ListAccounts", page_size=2, page_token=first.next_page_token)
    assert [view.name.site for view in second.accounts] == ["site-1", "site-2"]


def test_an_account_is_what_the_views_say(
    north: Account,
    reader: LedgerViews,
    refined: Callable[[LedgerViews], LedgerViews],
    client: MonitorClient,
) -> None:
    client.account(NAME)
    refined(reader)
    response = client.account(NAME)
    detail = reader.account(NAME)
    view = response.account
    assert (view.name.site, view.state, view.budget, view.delta) == ("north", pb.STATE_OK, 8, DELTA)
    bound = composition.epsilon({STEP: 40}, DELTA)
    assert (view.accrued.epsilon, view.accrued.accountant) == (bound.epsilon, bound.accountant)
    assert view.accrued.exact
    assert (view.rounds_left, view.ends["reply"], view.refusals["refused"]) == (6, 2, 1)
    assert view.sentence == detail.view.sentence
    assert view.last_seen.ToDatetime().isoformat() in str(detail.view.last_seen).replace(" ", "T")
    assert [point.rounds for point in response.series] == [1, 2, 3]
    assert [each.epsilon for each in response.curve] == [each.epsilon for each in detail.curve]
    assert [(run.run, run.left[0].steps) for run in response.runs] == [("one", 60)]


def test_an_account_without_a_round_leaves_out_what_is_not_known(
    south: Account, client: MonitorClient
) -> None:
    view = client.account(OTHER).account
    assert not view.HasField("rounds_left")
    assert not view.HasField("last_seen")


def test_events_in_pages(north: Account, client: MonitorClient, ledger: Ledger) -> None:
    wanted = [event.hash for event in ledger.events(NAME)]
    for size in (1, 3, len(wanted), 1000):
        events = list(client.events(NAME, page_size=size))
        assert [event.hash for event in events] == wanted
    assert json.loads(events[0].body)["kind"] == events[0].kind == "open"
    assert not list(client.events(NAME, page_size=1000))[len(wanted) :]


@pytest.mark.parametrize("token", ["x", "!", "AAAA", cursors.encode("events of another", "3")])
def test_a_token_of_another_list_is_refused(
    token: str, north: Account, client: MonitorClient
) -> None:
    name = pb.AccountName(**NAME._asdict())
    refusal = refused(client, "ListEvents", name=name, page_token=token)
    assert refusal == refused(client, "ListAccounts", page_token=token) == Code.INVALID_ARGUMENT
    for position in ("-1", "9" * 40, "²", "one"):
        crafted = cursors.encode(f"events {NAME}", position)
        refusal = refused(client, "ListEvents", name=name, page_token=crafted)
        assert refusal == Code.INVALID_ARGUMENT


def test_an_invalid_request_is_refused(north: Account, client: MonitorClient) -> None:
    name = pb.AccountName(**NAME._asdict())
    for size in (-1, 1001):
        assert refused(client, "ListAccounts", page_size=size) == Code.INVALID_ARGUMENT
        assert refused(client, "ListEvents", name=name, page_size=size) == Code.INVALID_ARGUMENT
    for site in ("", "nobody", "../north", "a\0b", "x" * 300, "<script>", "' OR 1=1 --"):
        other = pb.AccountName(site=site, dataset="letters", unit="person")
        for method in ("GetAccount", "ListEvents", "ForecastPlan"):
            fields = {"steps": 1} if method == "ForecastPlan" else {}
            assert refused(client, method, name=other, **fields) == Code.NOT_FOUND
    plan = {"name": name, "sampling_rate": 0.02, "steps": 10, "noise_multiplier": 4.0}
    wrongs = ({"sampling_rate": 2.0}, {"steps": 0}, {"steps": 10**9}, {"noise_multiplier": -1.0})
    for wrong in (*wrongs, {"sampling_rate": float("nan")}):
        code = refused(client, "ForecastPlan", **plan | wrong)
        assert code == Code.FAILED_PRECONDITION


def test_a_deadline_is_required(north: Account, client: MonitorClient) -> None:
    for method in ("ListAccounts", "GetAccount", "ListEvents", "ForecastPlan", "WatchRounds"):
        request = getattr(pb, f"{method}Request")()
        call = getattr(client._stub, method)
        with pytest.raises(grpc.RpcError) as raised:
            next(call(request)) if method == "WatchRounds" else call(request)
        assert code_of(raised.value) == Code.INVALID_ARGUMENT
        assert "deadline" in str(raised.value)


def test_a_forecast_is_the_ledgers(
    north: Account, reader: LedgerViews, client: MonitorClient
) -> None:
    forecast = client.forecast(NAME, 0.02, 10, 4.0)
    wanted = reader.forecast(NAME, 0.02, 10, 4.0)
    assert wanted.approved is not None
    assert (forecast.fits, forecast.approved.epsilon) == (True, wanted.approved.epsilon)
    assert forecast.fitting_noise_multiplier == wanted.fitting_noise_multiplier
    assert not client.forecast(NAME, 0.02, 10).HasField("approved")


def test_rounds_are_streamed_until_the_run_ends(
    north: Account, client: MonitorClient, out: Path
) -> None:
    stream = client.rounds("r1")
    first, second = next(stream), next(stream)
    assert [(line.run, line.round) for line in (first, second)] == [("r1", 0), ("r1", 1)]
    assert dict(second.metrics) == {"accuracy": 0.75}  # no loss was computed
    lines = [{**LINE, "round": number} for number in range(3)]
    folder(out, *lines, report={"final": {"stopped": ""}})
    assert [(line.round, line.state) for line in stream] == [(2, "done")]
    with pytest.raises(grpc.RpcError) as raised:
        list(client.rounds("another"))
    assert code_of(raised.value) == Code.NOT_FOUND


def test_a_run_that_begins_anew_in_the_same_folder_is_streamed_from_its_start(
    north: Account, client: MonitorClient, out: Path
) -> None:
    stream = client.rounds()
    assert [next(stream).round for _ in range(2)] == [0, 1]
    folder(out, {**LINE, "run": "r2"}, {**LINE, "run": "r2", "round": 1})
    assert [(line.run, line.round) for line in (next(stream), next(stream))] == [
        ("r2", 0),
        ("r2", 1),
    ]


def test_many_clients_may_watch_and_call_at_once(
    north: Account, client: MonitorClient, out: Path
) -> None:
    streams = [client.rounds() for _ in range(50)]
    assert [next(stream).round for stream in streams] == [0] * 50
    counts: list[int] = []
    threads = [
        threading.Thread(target=lambda: counts.append(len(list(client.accounts()))))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [1] * 8


def test_a_corrupt_account_is_listed_without_figures(
    north: Account, south: Account, client: MonitorClient, ledger: Ledger
) -> None:
    with ledger.database.write() as connection:
        rows = schema.event.c.account_id == north.id
        connection.execute(sa.update(schema.event).where(rows).values(body="{"))
    name = pb.AccountName(**NAME._asdict())
    assert refused(client, "GetAccount", name=name) == Code.DATA_LOSS
    first, second = client.accounts()
    assert (first.state, second.state) == (pb.STATE_UNREADABLE, pb.STATE_OK)
    assert first.problem
    assert not first.HasField("accrued")


def test_a_ledger_that_cannot_be_read_is_unavailable_and_comes_back(
    north: Account,
    reader: LedgerViews,
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dpbitfit_monitor.serve.READ_SECONDS", 0.05)
    name = pb.AccountName(**NAME._asdict())
    with served(Monitor(reader)) as at, MonitorClient(str(at.grpc)) as client:
        health = health_pb2_grpc.HealthStub(client._channel)

        def become(wanted: int, service_name: str) -> None:
            request = health_pb2.HealthCheckRequest(service=service_name)
            for answer in health.Watch(request, timeout=60):
                if answer.status == wanted:
                    return

        become(health_pb2.HealthCheckResponse.SERVING, service.NAME)
        with ledger.database.write() as connection:
            change = f"UPDATE {schema.VERSION_TABLE} SET version_num = "
            connection.exec_driver_sql(f"{change}'9999'")
        for whole in ("", service.NAME):
            become(health_pb2.HealthCheckResponse.NOT_SERVING, whole)
        for method in ("ListAccounts", "GetAccount", "ListEvents"):
            fields = {} if method == "ListAccounts" else {"name": name}
            assert refused(client, method, **fields) == Code.UNAVAILABLE
        with ledger.database.write() as connection:
            connection.exec_driver_sql(f"{change}'{schema.REVISION}'")
        become(health_pb2.HealthCheckResponse.SERVING, "")
        assert len(list(client.accounts())) == 1


@pytest.fixture
def tls(tmp_path: Path) -> Tls:
    ours = tmp_path / "ours"
    ours.mkdir()
    authority = Authority(ours, "authority")
    authority.issue("client")
    return Tls(*authority.issue("server"), authority.certificate)


def secured(at: Serving, ca: Path, certificate: Path | None = None) -> MonitorClient:
    files = {} if certificate is None else {"certificate": certificate, "key": _key(certificate)}
    return MonitorClient(f"localhost:{at.grpc.port}", ca=ca, timeout=10, **files)


def _key(certificate: Path) -> Path:
    return certificate.with_suffix(".key")


def test_only_a_client_of_our_authority_is_served(
    north: Account, reader: LedgerViews, tls: Tls, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "stranger")
    theirs, _ = stranger.issue("client")
    with served(Monitor(reader), replace(LOCAL, tls=tls)) as at:
        mine = tls.client_ca.with_name("client.crt")
        with secured(at, tls.client_ca, mine) as client:
            assert len(list(client.accounts())) == 1
        for ca, certificate in (
            (tls.client_ca, None),
            (tls.client_ca, theirs),
            (stranger.certificate, mine),
        ):
            with secured(at, ca, certificate) as client:
                assert refused(client, "ListAccounts") == Code.UNAVAILABLE
        with MonitorClient(str(at.grpc)) as client:
            assert refused(client, "ListAccounts") == Code.UNAVAILABLE


def test_without_certificates_the_token_is_required(north: Account, reader: LedgerViews) -> None:
    with served(Monitor(reader), replace(LOCAL, token=b"our token of 20 chars")) as at:
        with MonitorClient(str(at.grpc), token="our token of 20 chars") as client:
            assert len(list(client.accounts())) == 1
        for token in ("", "another token", "our token of 20 char"):
            with MonitorClient(str(at.grpc), token=token) as client:
                with pytest.raises(grpc.RpcError) as raised:
                    list(client.accounts())
                assert code_of(raised.value) == Code.UNAUTHENTICATED
                with pytest.raises(grpc.RpcError) as raised:
                    list(client.rounds(timeout=5))
                assert code_of(raised.value) == Code.UNAUTHENTICATED
        with grpc.insecure_channel(str(at.grpc)) as channel:
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)


@pytest.mark.parametrize("enabled", [False, True])
def test_the_service_describes_itself_only_with_reflection(
    enabled: bool, reader: LedgerViews
) -> None:
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    with (
        served(Monitor(reader), replace(LOCAL, reflection=enabled)) as at,
        grpc.insecure_channel(str(at.grpc)) as channel,
    ):
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        calls = stub.ServerReflectionInfo(iter([request]), timeout=10)
        if enabled:
            listed = next(calls).list_services_response.service
            assert service.NAME in [each.name for each in listed]
        else:
            with pytest.raises(grpc.RpcError) as raised:
                next(calls)
            assert code_of(raised.value) == Code.UNIMPLEMENTED


def test_no_other_machine_is_served_unencrypted(tls: Tls, tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", "coordinator.example.org"):
        for at in (Serving(Address(host, 1), LOOPBACK), Serving(LOOPBACK, Address(host, 1))):
            with pytest.raises(InputError, match="--certificate"):
                at.check()
            replace(at, tls=tls).check()
    for local in ("127.0.0.1", "::1", "localhost"):
        Serving(Address(local, 1), Address(local, 1)).check()
    with pytest.raises(InputError):
        replace(LOCAL, tls=replace(tls, key=tls.client_ca)).check()
    with pytest.raises(InputError):
        replace(LOCAL, tls=replace(tls, client_ca=tmp_path / "absent")).check()


@pytest.mark.parametrize("text", ["", "host", ":1", "host:", "host:x", "host:70000", "host:-1"])
def test_an_address_is_a_host_and_a_port(text: str) -> None:
    with pytest.raises(InputError, match="HOST:PORT"):
        Address.parse(text)
    assert Address.parse("[::1]:80") == Address("::1", 80)
    assert str(Address.parse("[::1]:80")) == "[::1]:80"
