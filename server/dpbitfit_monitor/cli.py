"""``dpbitfit monitor``: every account's budget for people and programs, over the network."""

import asyncio
import logging
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from dpbitfit.errors import InputError
from dpbitfit.ledger.cli.options import Url
from dpbitfit_monitor.addresses import Address
from dpbitfit_monitor.bearer import read_secret
from dpbitfit_monitor.certificates import read_certificates
from dpbitfit_monitor.monitor import Monitor
from dpbitfit_monitor.page.access import Tokens, make_token
from dpbitfit_monitor.reader import ORPHAN_AFTER, SILENT_AFTER, LedgerViews
from dpbitfit_monitor.serve import Serving, serve_until_signalled
from dpbitfit_monitor.tls import Tls
from dpbitfit_monitor.webhook import Webhook

_HOUR = timedelta(hours=1)

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _root() -> None:
    """Show budgets, runs and alerts to people and programs; reads, and never writes."""


@app.command()
def serve(
    ledger: Url,
    grpc: Annotated[str, typer.Option(help="HOST:PORT of gRPC.")] = "127.0.0.1:8442",
    http: Annotated[str, typer.Option(help="HOST:PORT of page and /metrics.")] = "127.0.0.1:8443",
    runs: Annotated[
        list[Path] | None, typer.Option(help="A run's --out folder, or one that holds several.")
    ] = None,
    certificate: Annotated[Path | None, typer.Option(help="The server's certificate, PEM.")] = None,
    key: Annotated[Path | None, typer.Option(help="The certificate's key, PEM.")] = None,
    client_ca: Annotated[
        Path | None, typer.Option(help="Authority of client certificates, PEM.")
    ] = None,
    watch_certificates: Annotated[
        list[Path] | None,
        typer.Option(help="Files or folders of certificates to watch for expiry."),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="The token that gRPC requires where there is no TLS.")
    ] = None,
    metrics_token_file: Annotated[
        Path | None, typer.Option(help="The token that /metrics requires.")
    ] = None,
    page_token_file: Annotated[
        Path | None,
        typer.Option(help="Lines of `dpbitfit monitor token`: those who may see the page."),
    ] = None,
    webhook: Annotated[str, typer.Option(help="URL that alerts are posted to.")] = "",
    webhook_secret_file: Annotated[
        Path | None, typer.Option(help="The secret that signs the alerts.")
    ] = None,
    silent_after: Annotated[
        float, typer.Option(min=0, help="Hours without a reply until a site is silent.")
    ] = SILENT_AFTER / _HOUR,
    orphan_after: Annotated[
        float, typer.Option(min=0, help="Hours without an end until a round is an orphan.")
    ] = ORPHAN_AFTER / _HOUR,
    reflection: Annotated[
        bool, typer.Option("--reflection", help="Serve gRPC reflection.")
    ] = False,
) -> None:
    """Serve gRPC and HTTP until SIGTERM.

    Without a certificate only this machine is served. With a certificate, gRPC requires a
    client certificate signed by --client-ca; the page and /metrics accept that, or a token.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    files = (certificate, key, client_ca)
    if any(files) and not (certificate and key and client_ca):
        raise InputError("--certificate, --key and --client-ca belong together")
    if webhook and not webhook_secret_file:
        raise InputError("--webhook needs --webhook-secret-file")
    tls = Tls(certificate, key, client_ca) if certificate and key and client_ca else None
    own = [certificate, client_ca] if certificate and client_ca else []
    watched = [*own, *(watch_certificates or [])]
    if unreadable := read_certificates(watched)[1]:
        raise InputError(f"{unreadable[0]}: no certificate can be read from this file")
    reader = LedgerViews(ledger, silent_after * _HOUR, orphan_after * _HOUR)
    serving = Serving(
        grpc=Address.parse(grpc),
        http=Address.parse(http),
        tls=tls,
        token=read_secret(token_file) if token_file else None,
        metrics_token=read_secret(metrics_token_file) if metrics_token_file else None,
        page_tokens=Tokens(page_token_file) if page_token_file else None,
        reflection=reflection,
        webhook=Webhook(webhook, webhook_secret_file) if webhook_secret_file and webhook else None,
    )
    asyncio.run(serve_until_signalled(Monitor(reader, runs or (), watched), serving))


@app.command()
def token(
    name: Annotated[
        str, typer.Argument(help="Its holder's name, shown on the page and in the file.")
    ],
) -> None:
    """Make a token for the page, and print its line for --page-token-file.

    The token itself, with which its holder signs in, goes to standard error.
    """
    secret, line = make_token(name)
    typer.echo(f"The token, for {name} alone: {secret}", err=True)
    typer.echo(line)
