"""A client of the monitor for Python.

with MonitorClient("coordinator:8442", ca="ca.crt", certificate="me.crt", key="me.key") as monitor:
    for account in monitor.accounts():
        print(account.name.site, account.guaranteed.epsilon, account.sentence)
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import grpc

from dpbitfit.ledger import AccountName
from dpbitfit_monitor.generated import monitor_pb2 as pb
from dpbitfit_monitor.generated.monitor_pb2_grpc import MonitorStub


class MonitorClient:
    """A connection to a monitor: with certificates, or unencrypted to this machine.

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
            files = [Path(file).read_bytes() if file else None for file in (ca, key, certificate)]
            self._channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(*files))
        else:
            self._channel = grpc.insecure_channel(address)
        self._stub: Any = MonitorStub(self._channel)  # type: ignore[no-untyped-call]
        self._metadata = [("authorization", f"Bearer {token}")] if token else []
        self._timeout = timeout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
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
        """One account in full."""
        request = pb.GetAccountRequest(name=_message(name))
        response: pb.GetAccountResponse = self._call("GetAccount", request)
        return response

    def events(self, name: AccountName, page_size: int = 0) -> Iterator[pb.Event]:
        """The events of one account, in order."""
        request = pb.ListEventsRequest(name=_message(name), page_size=page_size)
        for page in self._pages("ListEvents", request):
            yield from page.events

    def forecast(
        self, name: AccountName, sampling_rate: float, steps: int, noise_multiplier: float = 0.0
    ) -> pb.ForecastPlanResponse:
        """The privacy cost of a plan; a noise multiplier of 0 asks only for the least that fits."""
        request = pb.ForecastPlanRequest(
            name=_message(name),
            sampling_rate=sampling_rate,
            steps=steps,
            noise_multiplier=noise_multiplier,
        )
        response: pb.ForecastPlanResponse = self._call("ForecastPlan", request)
        return response

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


def _message(name: AccountName) -> pb.AccountName:
    return pb.AccountName(**name._asdict())
