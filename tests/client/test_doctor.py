"""What the doctor finds, each thing once well and once not."""

import ipaddress
import itertools
import json
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from dpbitfit_client import doctor
from dpbitfit_client.cli import app
from dpbitfit_client.doctor import examine, warnings
from dpbitfit_client.guard import records as guard_records
from dpbitfit_client.guard.service import serving
from dpbitfit_client.policy.policy import Policy
from dpbitfit_client.policy.prose import explain
from typer.testing import CliRunner

from dpbitfit.engine import devices
from dpbitfit.errors import DpbitfitError, InputError
from dpbitfit.ledger import AccountName, Ledger
from dpbitfit.tasks.models import model_digest, resolve_model

from ..support.shallow import narrow_minilm

POLICY = """\
[site]
name = "north"
ledger = "{folder}/site.sqlite"
socket = "{folder}/guard.sock"
group = "nogroup"
[coordinators.office]
public-key = "{key}"
[models.minilm]
path = "{model}"
digest = "{digest}"
[datasets.messages]
path = "{data}"
labels = "{labels}"
declared-size = {size}
epsilon = 8.0
delta = 1e-5
"""


@pytest.fixture(autouse=True)
def training(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model is loaded: ``test_model_check.py`` does."""
    monkeypatch.setattr(doctor, "check_training", lambda _policy, name, _load: f"{name} trains")


@pytest.fixture
def policy(corpus: Path, tmp_path: Path) -> Path:
    return written(tmp_path, corpus)


def written(
    folder: Path, corpus: Path, size: int = 100, digest: str = "", model: str = "minilm"
) -> Path:
    digest = digest or model_digest(Path(resolve_model(model)))
    labels = corpus.with_suffix(".labels.txt")
    values = {"folder": folder, "key": "ab" * 32, "model": model, "digest": digest, "data": corpus}
    file = folder / "policy.toml"
    file.write_text(POLICY.format(**values, labels=labels, size=size))
    file.chmod(0o600)
    return file


Findings = dict[str, tuple[str, str]]  # by the check's name: its state, and its text


def findings_of(policy: Path, superlink: str = "", roots: Path | None = None) -> Findings:
    return {each.what: (each.state, each.text) for each in examine(policy, superlink, roots)}


def test_a_site_that_is_ready_but_for_its_guard(policy: Path, tmp_path: Path) -> None:
    state, text = findings_of(policy)["ledger"]
    assert (state, "ledger init" in text) == ("wrong", True)
    assert not (tmp_path / "site.sqlite").exists()  # looking makes nothing
    Ledger(str(tmp_path / "site.sqlite"), create=True).database.close()
    findings = findings_of(policy)
    states = {what: state for what, (state, _) in findings.items()}
    assert states == {
        "policy": "ok",
        "data set messages": "ok",
        "model minilm": "ok",
        "training of minilm": "ok",
        "device": "ok",
        "ledger": "ok",
        "guard": "wrong",
    }
    assert "start dpbitfit guard serve" in findings["guard"][1]


def test_what_is_wrong_is_named_with_what_to_do(corpus: Path, tmp_path: Path) -> None:
    findings = findings_of(written(tmp_path, corpus, size=4000, digest="0" * 64))
    assert findings["data set messages"][0] == "look"
    assert findings["model minilm"][0] == "wrong"
    assert "declared-size is off" in findings["data set messages"][1]
    assert "120" not in findings["data set messages"][1]  # the count stays here
    assert "the policy says 0000" in findings["model minilm"][1]
    (tmp_path / "policy.toml").write_text("[site]\nname = 4\n")
    assert list(findings_of(tmp_path / "policy.toml")) == ["policy"]


@pytest.mark.parametrize(
    ("people", "alike"),
    [(("P1", "P2", "P10"), 0), (("P1", "p1", "P2"), 2), (("7", "007", "7.0"), 3)],
)
def test_the_site_is_told_how_many_persons_may_be_there_twice(
    corpus: Path, tmp_path: Path, people: tuple[str, ...], alike: int
) -> None:
    data = tmp_path / "data.csv"
    data.write_text("text,label,who\n" + "".join(f"a,card_lost,{name}\n" for name in people))
    policy = written(tmp_path, corpus, size=3)
    text = policy.read_text().replace(f'"{corpus}"', f'"{data}"\nunit-column = "who"')
    policy.write_text(text)
    findings = findings_of(policy)
    assert findings["data set messages"][0] == "ok"
    state, words = findings.get(f"persons of {data}", ("look", "0 values"))
    assert state == "look"
    assert words.startswith(f"{alike} values")
    assert not any(name in words for name in people if len(name) > 1)


def test_a_file_without_a_header_is_not_quoted(corpus: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.csv"
    data.write_text("Ms Meyer has influenza,card_lost\nMr Bauer has none,card_lost\n")
    policy = written(tmp_path, corpus, size=2)
    policy.write_text(policy.read_text().replace(f'"{corpus}"', f'"{data}"'))
    state, words = findings_of(policy)["data set messages"]
    assert (state, "no column 'text'" in words) == ("wrong", True)
    assert "Meyer" not in words


def test_a_ledger_that_does_not_add_up_is_wrong(policy: Path, tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path / "site.sqlite"), create=True)
    ledger.open_account(AccountName("north", "messages", "record"), 1e-5, 8.0)
    assert findings_of(policy)["ledger"][0] == "ok"
    with ledger.database.write() as connection:
        connection.exec_driver_sql("UPDATE account SET budget = '80'")
    assert findings_of(policy)["ledger"][0] == "wrong"


FAULTS = ["model", "no ledger", "no ledger's file", "ledger", "records", "label set"]


@pytest.mark.parametrize("where", ["ledger", "state"])
def test_a_place_where_others_could_put_a_fresh_ledger_is_wrong(
    where: str, policy: Path, tmp_path: Path
) -> None:
    folders = {name: tmp_path / name for name in ("ledger", "state")}
    for folder in folders.values():
        folder.mkdir(mode=0o700)
    ledger = f'ledger = "{folders["ledger"]}/site.sqlite"'
    own = f'ledger = "{tmp_path}/site.sqlite"'
    state = f'state-directory = "{folders["state"]}"'
    policy.write_text(policy.read_text().replace(own, f"{ledger}\n{state}"))
    Ledger(f"{folders['ledger']}/site.sqlite", create=True).database.close()
    assert findings_of(policy)["ledger"][0] == "ok"
    folders[where].chmod(0o770)
    found, text = findings_of(policy)["ledger"]
    assert (found, "others may write here" in text) == ("wrong", True)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_guard_does_not_start_where_the_doctor_says_wrong_and_says_the_same(
    corpus: Path, tmp_path: Path, fault: str
) -> None:
    policy = written(tmp_path, corpus, digest="0" * 64 if fault == "model" else "")
    path, text = tmp_path / "site.sqlite", policy.read_text()
    if fault == "no ledger's file":
        path.write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    elif fault != "no ledger":
        ledger = Ledger(str(path), create=True)
        ledger.open_account(AccountName("north", "of another policy", "record"), 1e-5, 8.0)
        if fault == "ledger":
            with ledger.database.write() as connection:
                connection.exec_driver_sql("UPDATE account SET budget = '80'")
        ledger.database.close()
    if fault in ("records", "label set"):
        name = corpus if fault == "records" else corpus.with_suffix(".labels.txt")
        policy.write_text(text.replace(f'"{name}"', f'"{tmp_path}/gone{name.suffix}"'))
    wrong = [text for state, text in findings_of(policy).values() if state == "wrong"]
    printed, guard = wrong
    assert "no guard listens" in guard
    with pytest.raises(DpbitfitError) as refused, serving(Policy.read(policy)):
        pass
    assert printed in str(refused.value)


@pytest.mark.parametrize(("delta", "size", "promises"), [(9e-3, 100, True), (1e-2, 100, False)])
def test_a_delta_that_promises_nothing_is_looked_at(
    corpus: Path, tmp_path: Path, delta: float, size: int, promises: bool
) -> None:
    policy = written(tmp_path, corpus, size)
    policy.write_text(policy.read_text().replace("1e-5", str(delta)))
    assert ("delta of messages" not in findings_of(policy)) == promises
    assert any("promises nothing" in text for text in warnings(Policy.read(policy))) != promises
    assert ("promises nothing" not in " ".join(explain(Policy.read(policy)).split())) == promises


def certificate(folder: Path, days: int) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a CA of a test")])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=400))
        .not_valid_after(now + timedelta(days=days, hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    pem, secret = folder / "ca.crt", folder / "ca.key"
    pem.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return pem, secret


@contextmanager
def superlink(pem: Path, secret: Path, ahead: float = 0) -> Iterator[str]:
    """A TLS server whose clock is ``ahead`` seconds ahead."""

    class Handler(BaseHTTPRequestHandler):
        def date_time_string(self, timestamp: float | None = None) -> str:
            return format_datetime(datetime.now(UTC) + timedelta(seconds=ahead), usegmt=True)

        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, secret)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(("days", "state"), [(365, "ok"), (20, "look"), (-1, "wrong")])
def test_a_certificate_is_good_for_a_month_or_an_operator_should_look(
    policy: Path, tmp_path: Path, days: int, state: str
) -> None:
    pem, _ = certificate(tmp_path, days)
    assert findings_of(policy, roots=pem)["certificates"][0] == state


@pytest.mark.parametrize(("ahead", "state"), [(0, "ok"), (-3600, "wrong"), (3600, "wrong")])
def test_the_connection_and_the_clock(
    policy: Path, tmp_path: Path, ahead: float, state: str
) -> None:
    pem, secret = certificate(tmp_path, 365)
    with superlink(pem, secret, ahead) as address:
        findings = findings_of(policy, address, pem)
        assert findings["connection"][0] == "ok"
        assert findings["clock"][0] == state
        other = tmp_path / "other"
        other.mkdir()
        assert (
            "not trusted"
            in findings_of(policy, address, certificate(other, 365)[0])["connection"][1]
        )
    assert findings_of(policy, address, pem)["connection"][0] == "wrong"
    assert findings_of(policy, "nowhere", pem)["connection"][0] == "wrong"


def test_the_command_says_the_same_and_fails_where_something_is_wrong(
    corpus: Path, tmp_path: Path
) -> None:
    policy = written(tmp_path, corpus, model=narrow_minilm())
    code = "from dpbitfit.cli import main; main()"
    words = ["doctor", "--policy", str(policy), "--json"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 2
    findings = {each["what"]: each["state"] for each in json.loads(done.stdout)}
    assert findings["policy"] == "ok"
    assert findings["guard"] == "wrong"


def test_each_of_several_devices_is_there_and_they_are_of_one_kind(
    policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = policy.read_text().replace("[site]\n", '[site]\ndevice = ["cpu", "cpu"]\n')
    policy.write_text(text)
    check = dict(doctor.needs(Policy.read(policy)))["device"]
    assert check().count("CPU") == 2
    kinds = itertools.cycle([["an H100"], ["an A100"]])
    monkeypatch.setattr(devices, "kinds_of", lambda _: next(kinds))
    with pytest.raises(InputError, match="name devices of one kind"):
        check()


def test_a_device_that_is_not_there_is_wrong_before_a_record_is_read(
    policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    text = policy.read_text().replace("[site]\n", '[site]\ndevice = "cuda:1"\n')
    policy.write_text(text)
    state, words = findings_of(policy)["device"]
    assert state == "wrong"
    assert "finds no GPU" in words
    monkeypatch.setattr(guard_records, "read_table", lambda *_: pytest.fail("a record was read"))
    with (
        pytest.raises(InputError, match=r"device: .*or choose 'cpu'"),
        serving(Policy.read(policy)),
    ):
        pass
    # What a policy permits can be read on another machine.
    result = CliRunner().invoke(app, ["check", "--policy", str(policy)])
    assert result.exit_code == 0
    assert "cuda:1" in result.output
