"""Checks of everything that a run needs at a site, each with what to do where it fails.

One line for each check. None says how many records there are or what they hold, so
that the output can be sent to a helper; only how many persons' names are alike is a
count, and is for the site alone.
"""

import logging
import os
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path

from cryptography import x509

from dpbitfit.accounting.promise import empty_promise
from dpbitfit.data.labels import read_labels
from dpbitfit.data.names import count_look_alikes
from dpbitfit.data.partition import count_units
from dpbitfit.data.tables import Table
from dpbitfit.engine import devices
from dpbitfit.errors import DpbitfitError, InputError, LedgerError
from dpbitfit.ledger import Ledger, exchange
from dpbitfit.ledger.heads import Heads
from dpbitfit.tasks.registry import resolve
from dpbitfit_client.guard.accounts import unused
from dpbitfit_client.guard.records import read_part
from dpbitfit_client.guard_client import SocketGuardClient
from dpbitfit_client.model_check import LoadFor, check_training
from dpbitfit_client.policy.file_ownership import check_folder
from dpbitfit_client.policy.policy import AllowedModel, Dataset, Policy

SECONDS = 10.0
MOST_CLOCK_SECONDS = 5.0  # Flower's SuperLink refuses a node's signature beyond that
CERTIFICATE_DAYS = 30

log = logging.getLogger("dpbitfit.guard")

Check = tuple[str, Callable[[], str]]  # what is checked, and what says in words that it is right

OK, LOOK, WRONG = "ok", "look", "wrong"


class Doubt(InputError):
    """What should be looked at, and stops no guard: whether it starts tells no count."""


@dataclass(frozen=True)
class Finding:
    """The result of one check; ``state`` is ``ok``, ``look`` or ``wrong``."""

    what: str
    state: str
    text: str


def examine(
    policy_file: Path, superlink: str = "", root_certificates: Path | None = None
) -> Iterator[Finding]:
    """Every finding, as it is made; ``superlink`` is HOST:PORT, "" to leave it out."""
    try:
        policy = Policy.read(policy_file)
    except InputError as error:
        yield Finding("policy", WRONG, str(error))
        return
    count = len(policy.datasets)
    yield Finding("policy", OK, f"{count} data sets, as dpbitfit guard check explains it")
    for name, dataset in policy.datasets.items():
        tables: list[Table] = []
        yield _checked(f"data set {name}", partial(_data, dataset, policy.tasks, tables))
        yield from _persons(dataset, tables)
        yield from _look(dataset)
    for what, check in (*needs(policy), *trainings(policy)):
        yield _checked(what, check)
    for drift in drifts(policy):
        yield Finding("ledgers", LOOK, drift)
    yield _checked("guard", partial(_guard, policy))
    if root_certificates is not None:
        yield from _certificates(root_certificates)
    if superlink:
        yield from _connection(superlink, root_certificates)


def needs(policy: Policy) -> Iterator[Check]:
    """What a guard cannot do without beside the records, which it reads itself."""
    yield "device", partial(_device, policy)
    for name, model in policy.models.items():
        yield f"model {name}", partial(_model, model)
    yield "ledger", partial(_ledger, policy)


def trainings(policy: Policy, load: LoadFor | None = None) -> Iterator[Check]:
    """Whether each model can be trained, as ``load`` loads it: seconds, minutes for a large one."""
    for name in policy.models:
        yield f"training of {name}", partial(check_training, policy, name, load)


def refuse_to_start(checks: Iterable[Check]) -> None:
    """Raise, in the doctor's words, where something is wrong that a guard needs."""
    for what, check in checks:
        log.info("checking the %s", what)
        try:
            log.info("%s: %s", what, _run(check))
        except DpbitfitError as error:
            raise type(error)(f"{what}: {error}") from error


def warnings(policy: Policy) -> list[str]:
    """What a guard should say when it starts: what the doctor looks at without the records."""
    deltas = (finding for dataset in policy.datasets.values() for finding in _look(dataset))
    return [*(f"{finding.what}: {finding.text}" for finding in deltas), *drifts(policy)]


def drifts(policy: Policy) -> list[str]:
    """Accounts to look at; a guard answers all the same.

    Each whose ledger and another disagree, and each that holds losses and is no data set's.
    """
    try:
        with Ledger(policy.site.ledger, readonly=True) as ledger:
            return [
                *(
                    f"account {account.name}: {other.drift}: nothing is spent until both sides "
                    "have run dpbitfit ledger settle --rebase"
                    for account in ledger.accounts()
                    for other in exchange.unsettled(ledger, account)
                ),
                *(
                    f"account {account.name} holds losses, and no data set of the policy is "
                    "charged to it: one that reads the same records counts none of them"
                    for account in unused(policy, ledger)
                ),
            ]
    except LedgerError:  # a finding of its own
        return []


def _checked(what: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(what, OK, _run(check))
    except Doubt as doubt:
        return Finding(what, LOOK, str(doubt))
    except DpbitfitError as error:
        return Finding(what, WRONG, str(error))


def _run(check: Callable[[], str]) -> str:
    try:
        return check()
    except DpbitfitError:
        raise
    except Exception as error:  # of a loader, say: its text may quote a record
        raise InputError(f"{type(error).__name__} was raised: see what raises it") from error


def _look(dataset: Dataset) -> Iterator[Finding]:
    """Deltas that promise nothing."""
    for part in dataset.parts:
        if warning := empty_promise(part.delta, part.declared_size):
            yield Finding(f"delta of {dataset.name}", LOOK, f"{part.source}: {warning}")


def _model(model: AllowedModel) -> str:
    return f"{model.folder()}: its digest is the policy's"


def _data(dataset: Dataset, site_tasks: Mapping[str, str], tables: list[Table]) -> str:
    """Read every part of a data set into ``tables``."""
    labels = read_labels(dataset.labels)
    columns = resolve(dataset.task, site_tasks).columns
    for part in dataset.parts:
        read = read_part(dataset, part, labels, columns)
        tables.append(read)
        count = count_units(read)
        if not part.declared_size / 2 <= count <= part.declared_size * 2:
            raise Doubt(
                f"{part.source}: declared-size is off by more than twice (a unit of privacy is "
                f"{part.unit!r}): the model learns too fast or too slowly; the budget holds"
            )
    return "every record can be read, and every label is in the label set"


def _persons(dataset: Dataset, tables: Sequence[Table]) -> Iterator[Finding]:
    """Whether a person may be there under several names, and so be protected as each alone."""
    for part, table in zip(dataset.parts, tables, strict=False):
        if count := count_look_alikes(table.units or ()):
            yield Finding(
                f"persons of {part.source}",
                LOOK,
                f"{count} values of {part.unit!r} differ from another in case, leading zeros or "
                "'.0' only: where that is one person, write one name (keep this line here)",
            )


def _device(policy: Policy) -> str:
    chosen = [devices.choose_each(names) for names in policy.site.devices]
    words = "; ".join(" + ".join(map(devices.describe, places)) for places in chosen)
    if any(devices.kinds_of(places) != devices.kinds_of(chosen[0]) for places in chosen):
        raise InputError(f"{words}: these round differently: name devices of one kind")
    return words


def _ledger(policy: Policy) -> str:
    # Who could write to both could put a fresh ledger there, and the guard would not notice.
    folders = [Path(policy.site.state_directory)]
    if "://" not in policy.site.ledger:
        folders.append(Path(policy.site.ledger).parent)
    for folder in filter(Path.is_dir, folders):
        check_folder(folder, of_any_owner=os.geteuid() == 0)  # which may ask for the guard's
    with Ledger(policy.site.ledger, readonly=True) as ledger:
        Heads(policy.site.state_directory).check(ledger)
        for account in ledger.accounts():
            ledger.verify(account)
        return f"{ledger.database}: every event adds up; its public key is {ledger.id}"


def _guard(policy: Policy) -> str:
    if not policy.site.socket.is_socket():
        raise InputError(f"{policy.site.socket}: no guard listens: start dpbitfit guard serve")
    status = SocketGuardClient(str(policy.site.socket), SECONDS).status()
    return f"version {status.version} answers for {status.site}"


def _certificates(path: Path) -> Iterator[Finding]:
    try:
        certificates = x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError):
        yield Finding("certificates", WRONG, f"{path}: no certificate: ask for the CA's")
        return
    for certificate in certificates:
        name = certificate.subject.rfc4514_string()
        left = certificate.not_valid_after_utc - datetime.now(UTC)
        ends = f"{name} is valid until {certificate.not_valid_after_utc:%Y-%m-%d}"
        if left.days < 0:
            yield Finding("certificates", WRONG, f"{ends}: get the new one from the coordinator")
        elif left.days < CERTIFICATE_DAYS:
            yield Finding("certificates", LOOK, f"{ends}: ask the coordinator for the next one")
        else:
            yield Finding("certificates", OK, ends)


def _connection(superlink: str, root_certificates: Path | None) -> Iterator[Finding]:
    host, _, port = superlink.rpartition(":")
    if not host or not port.isdigit():
        yield Finding("connection", WRONG, f"a SuperLink is HOST:PORT, not {superlink!r}")
        return
    try:
        context = ssl.create_default_context(cafile=root_certificates)
        with (
            closing(socket.create_connection((host, int(port)), SECONDS)) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            version = secure.version()
    except ssl.SSLError as error:
        reason = getattr(error, "verify_message", "") or error.reason
        advice = "check the root certificates and the name in the address"
        yield Finding("connection", WRONG, f"{superlink}: not trusted ({reason}): {advice}")
        return
    except OSError as error:
        advice = "check the address, and that the firewall lets this one port out"
        yield Finding("connection", WRONG, f"{superlink}: {error.strerror or error}: {advice}")
        return
    yield Finding("connection", OK, f"{superlink} answers with {version}")
    yield _clock(f"https://{superlink}/health", context)


def _clock(url: str, context: ssl.SSLContext) -> Finding:
    try:
        with urllib.request.urlopen(url, timeout=SECONDS, context=context) as reply:
            date = reply.headers["Date"]
    except urllib.error.HTTPError as error:
        date = error.headers["Date"]
    except OSError:
        date = None
    if date is None:
        return Finding("clock", LOOK, "the SuperLink does not say what time it is: check NTP here")
    seconds = (datetime.now(UTC) - parsedate_to_datetime(date)).total_seconds()
    if abs(seconds) > MOST_CLOCK_SECONDS:
        return Finding(
            "clock", WRONG, f"{seconds:+.0f} s from the SuperLink's, which refuses that: start NTP"
        )
    return Finding("clock", OK, "within 5 s of the SuperLink's")
