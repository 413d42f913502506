"""Arguments and options that several commands share, and the accounts that they choose."""

import getpass
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import track

from dpbitfit.errors import InputError
from dpbitfit.ledger.account import Account, AccountName
from dpbitfit.ledger.cli import terminal
from dpbitfit.ledger.reader import Reader

Url = Annotated[
    str,
    typer.Option("--ledger", envvar="DPBITFIT_LEDGER", help="SQLite file, or PostgreSQL URL."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
OneAccount = Annotated[str, typer.Argument(metavar="ACCOUNT", help="SITE/DATASET/UNIT")]
EachAccount = Annotated[
    str, typer.Argument(metavar="[ACCOUNT]", help="SITE/DATASET/UNIT; else all.")
]
Reason = Annotated[str, typer.Option(help="Why; it is recorded.")]
Out = Annotated[Path | None, typer.Option(help="File to write; else standard output.")]


def parse_name(text: str) -> AccountName:
    """The account's name that an operator has typed; InputError where it is none."""
    parts = text.split("/")
    if len(parts) != 3 or not all(parts):
        raise InputError(f"an account is named SITE/DATASET/UNIT, not {text!r}")
    return AccountName(*parts)


def with_user(reason: str) -> str:
    """The reason, and the user of this machine who gives it."""
    try:
        return f"{reason} (by {getpass.getuser()})"
    except (KeyError, OSError):  # a container's user may have no name
        return f"{reason} (by user {os.getuid()})"


def chosen_accounts(ledger: Reader, account: str) -> list[Account]:
    """The account of that name; every account where none is named."""
    return [ledger.account(parse_name(account))] if account else ledger.accounts()


def progress(accounts: Sequence[Account], action: str) -> Iterable[Account]:
    """The accounts, with a bar on standard error where they are many."""
    disable = len(accounts) < 2
    return track(accounts, action, console=terminal.errors, disable=disable, transient=True)


def write_lines(lines: Iterable[str], out: Path | None) -> None:
    """Write lines to a file, whole or not at all, or to standard output."""
    if out is None:
        for line in lines:
            typer.echo(line)
        return
    if out.is_dir():
        raise InputError(f"{out}: is a folder: name a file")
    draft = out.with_name(f"{out.name}.new")
    try:
        with open(draft, "w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
        os.replace(draft, out)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror})") from error
