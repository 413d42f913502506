"""Asking a monitor from Python.

with MonitorClient("coordinator:8442", ca="ca.crt", certificate="me.crt", key="me.key") as it:
    for account in it.accounts():
        print(account.name.site, account.guaranteed.epsilon, account.sentence)
"""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from dpbitfit.ledger import AccountName
from dpbitfit_monitor.generated import monitor_pb2 as pb
from dpbitfit_monitor.generated.monitor_pb2_grpc import MonitorStub


class MonitorClient:
    """A connection to a monitor: with certificates, or in the clear to this machine.

    ``timeout`` is the deadline of each call, in seconds. Errors are grpc.RpcError.
    """

    def __init__(
        self,
        address: str,
        ca: str | Path = "",
        certificate: str | Path = "",
        key: str | Path = "",
        token: str = "",
        timeout: float = 30.0,
    ) -> None:
        if ca:
            files = [Path(one).read_bytes() if one else None for one in (ca, key, certificate)]
            self._channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(*files))
        else:
            self._channel = grpc.insecure_channel(address)
        self._stub: Any = MonitorStub(self._channel)  # type: ignore[no-untyped-call]
        self._metadata = [("authorization", f"Bearer {token}")] if token else []
        self._timeout = timeout

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def accounts(self, page_size: int = 0) -> Iterator[pb.Account]:
        """Every account, by name."""
        request = pb.ListAccountsRequest(page_size=page_size)
        for page in self._pages("ListAccounts", request):
            yield from page.accounts

    def account(self, name: AccountName) -> pb.GetAccountResponse:
        """All about one account."""
        found: pb.GetAccountResponse = self._call(
            "GetAccount", pb.GetAccountRequest(name=_of(name))
        )
        return found

    def events(self, name: AccountName, page_size: int = 0) -> Iterator[pb.Event]:
        """The events of one account, in order."""
        request = pb.ListEventsRequest(name=_of(name), page_size=page_size)
        for page in self._pages("ListEvents", request):
            yield from page.events

    def forecast(
        self, name: AccountName, sampling_rate: float, steps: int, noise_multiplier: float = 0.0
    ) -> pb.ForecastPlanResponse:
        """What a plan would cost an account; a noise multiplier of 0 asks only what fits."""
        request = pb.ForecastPlanRequest(
            name=_of(name),
            sampling_rate=sampling_rate,
            steps=steps,
            noise_multiplier=noise_multiplier,
        )
        made: pb.ForecastPlanResponse = self._call("ForecastPlan", request)
        return made

    def rounds(self, run: str = "", timeout: float = 3600.0) -> Iterator[pb.WatchRoundsResponse]:
        """Rounds as they come: of one run until it ends, or of every run until the timeout."""
        request = pb.WatchRoundsRequest(run=run)
        yield from self._stub.WatchRounds(request, timeout=timeout, metadata=self._metadata)

    def _pages(self, method: str, request: Any) -> Iterator[Any]:
        while True:
            page = self._call(method, request)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def _call(self, method: str, request: Any) -> Any:
        return getattr(self._stub, method)(request, timeout=self._timeout, metadata=self._metadata)


def _of(name: AccountName) -> pb.AccountName:
    return pb.AccountName(**name._asdict())
