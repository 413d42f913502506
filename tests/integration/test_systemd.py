"""What ``deploy/README.md`` says, done word for word on a machine that systemd has booted.

One machine is coordinator and site here. Without nginx they do without the proxy.
"""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dpbitfit.data.corpus import write_corpus
from tests.conftest import ROOT

from ..support.machine import PLACE, Machine, machine

DEPLOY = ROOT / "deploy"
RECORDS = {"letters": 160, "test": 40}
PATIENTS = "40"
COORDINATOR, SITE = "/var/lib/dpbitfit-coordinator", "/var/lib/dpbitfit"
LEDGERS = {"dpbitfit-coordinator": COORDINATOR, "dpbitfit-guard": SITE}
GIVEN = f"{PLACE}/given"
HAS_NGINX = shutil.which("nginx") is not None
ADDRESS = "127.0.0.1:8000"
NAME = ("coordinator.example:443", "localhost:443" if HAS_NGINX else ADDRESS)
# A small plan instead of the default one; its noise is what the policy asks for.
PLAN = "--sites 1 --phases biases --rounds 1 --steps-per-round 2 --noise-multiplier 1.0"
MONITOR = "https://127.0.0.1:8443"
# How a process of a unit's user, in that unit's own view of files and network, tries something.
AS_UNIT = """
pid=$(systemctl show --property MainPID --value {0})
user=$(systemctl show --property User --value {0})
nsenter --target $pid --mount --net -- setpriv --reuid $user --regid $user --clear-groups {1}
"""

pytestmark = pytest.mark.timeout(1800)


def commands(heading: str) -> list[str]:
    """The blocks of commands below a heading of deploy/README.md."""
    chapters = re.split(r"^## ", (DEPLOY / "README.md").read_text(), flags=re.M)
    (chapter,) = [one for one in chapters if one.startswith(f"{heading}\n")]
    return re.findall(r"^```\n(.*?)^```$", chapter, re.M | re.S)


def changed(text: str, *changes: tuple[str, str]) -> str:
    """A text with other words, each of which stands there once."""
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def write_records(folder: Path) -> None:
    """A site's records with their labels, and a public test file."""
    for name, count in RECORDS.items():
        path = folder / f"{name}.csv"
        write_corpus(path, records=count, seed=len(name))
        path.write_text(path.read_text().replace("customer", "patient", 1))


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A coordinator, a site and the monitor, each by its chapter."""
    with machine(tmp_path_factory.mktemp("machine")) as made:
        shutil.copytree(DEPLOY, made.given, dirs_exist_ok=True)
        write_records(made.given)
        certificates, _ = commands("Certificates")
        made.run(certificates)
        start, init, proxy, profile = commands("The coordinator, once")
        made.run(start)
        made.until(f"test -d {COORDINATOR}")
        if HAS_NGINX:
            made.run(f"sed -i s/coordinator.example/localhost/ nginx/dpbitfit.conf; {proxy}")
        made.run(profile)
        (key,) = re.findall(r"\b[0-9a-f]{64}\b", made.run(init))
        example = made.given / "policy.example.toml"
        here = [("0123456789abcdef" * 4, key), ("-slot-seconds = 600", "-slot-seconds = 1")]
        here += [("-size = 4000", f"-size = {PATIENTS}")]
        example.write_text(changed(example.read_text(), *here))
        install, register, _ = commands("A site, once")
        made.run(changed(install, NAME))
        made.until(f"curl -sf --cacert ca.crt https://{ADDRESS}/health")
        made.run(f"cp /etc/dpbitfit/node.key.pub .; {register}")
        made.until("test -S /run/dpbitfit/guard.sock")  # a run waits a minute for one that loads
        watch, _ = commands("Watching the coordinator")
        made.run(f"exec 2> told.txt; {watch}")
        yield made


@pytest.fixture(scope="module")
def report(deployed: Machine) -> dict[str, Any]:
    """The report of a run by its chapter."""
    assert "Traceback" not in run(deployed)
    return dict(json.loads(deployed.run(f"cat {COORDINATOR}/first/report.json")))


def run(deployed: Machine, more: str = "") -> str:
    """What the command of its chapter prints, with more options; it must end well."""
    words, *_ = commands("A run")
    here = [("--sites 2", f"{PLAN} {more}"), ("-size 4000", f"-size {PATIENTS}")]
    return deployed.run(changed(words, *here))


@pytest.mark.usefixtures("report")
def test_a_run_is_told_line_by_line_and_resumed(deployed: Machine) -> None:
    spent = deployed.run(f"dpbitfit ledger accounts --json --ledger {COORDINATOR}/ledger.sqlite")
    started, *lines, last = run(deployed, "--resume").splitlines()
    assert started.startswith("run ")
    assert not any("Traceback" in line for line in lines)
    assert last.startswith(f"the model is in {COORDINATOR}/first/model, ")
    assert spent == deployed.run(
        f"dpbitfit ledger accounts --json --ledger {COORDINATOR}/ledger.sqlite"
    )


@pytest.mark.usefixtures("report")
def test_a_run_that_fails_ends_so(deployed: Machine) -> None:
    words, *_ = commands("A run")
    too_much = changed(words, ("--sites 2", PLAN.replace("1.0", "0.1")), ("4000", PATIENTS))
    output = deployed.run(f"({too_much}) 2>&1 && echo no failure || true")
    assert output.splitlines()[-1].startswith("error: the plan costs epsilon ")


@pytest.mark.usefixtures("report")
def test_the_model_is_handed_on_to_those_who_may_read_it(deployed: Machine) -> None:
    _, hand_on, *_ = commands("A run")
    deployed.run(hand_on)
    model = "/srv/trial-models/first/config.json"
    deployed.run("useradd -G trial-readers reader; useradd other")
    read = "if runuser -u {} -- cat {} > /dev/null 2>&1; then echo read; fi"
    assert deployed.run(read.format("reader", model)) == "read\n"
    assert deployed.run(read.format("other", model)) == ""
    assert deployed.run(read.format("reader", f"{COORDINATOR}/first/model/config.json")) == ""


def test_a_run_goes_through_every_unit(deployed: Machine, report: dict[str, Any]) -> None:
    assert [line["replies"] for line in report["rounds"]] == [1]
    (site,) = report["sites"]
    for user, folder in LEDGERS.items():
        ask = f"dpbitfit ledger accounts --tight --json --ledger {folder}/ledger.sqlite"
        output = json.loads(deployed.run(f"runuser -u {user} -- {ask}"))
        (spent,) = [one["accrued"]["epsilon"] for one in output if one["accrued"]["epsilon"]]
        assert spent == site["accrued"] > 0


def test_the_monitor_tells_it_to_whom_it_should(deployed: Machine, report: dict[str, Any]) -> None:
    ask = f"curl -s --cacert ca.crt {MONITOR}"
    token = "$(cat /etc/dpbitfit-monitor/metrics.token)"
    output = deployed.run(f'{ask}/metrics -H "Authorization: Bearer {token}"')
    name = 'dpbitfit_client_epsilon_accrued{client="hospital-1/letters/patient",delta="1e-05"}'
    assert f"{name} {report['sites'][0]['accrued']}\n" in output
    status = "-o /dev/null -w '%{http_code}'"
    assert deployed.run(f"{ask}/metrics {status}") == "401"
    (hers,) = re.findall(r"for Dr. Jensen alone: (\S+)", (deployed.given / "told.txt").read_text())
    sign_in = f"{ask}/sign-in {status} -H 'Sec-Fetch-Site: same-origin' --data-urlencode token="
    assert deployed.run(f"{sign_in}{hers}") == "303"
    assert deployed.run(f"{sign_in}{hers}x") == "403"


@pytest.mark.usefixtures("report")
@pytest.mark.parametrize(
    ("unit", "words", "may"),
    [
        ("guard", "cat /srv/letters.csv", True),
        ("guard", f"curl -s --cacert {GIVEN}/ca.crt https://{ADDRESS}/health", False),
        ("guard", "cat /run/credentials/dpbitfit-supernode.service/node.key", False),
        ("supernode", f"curl -s --cacert {GIVEN}/ca.crt https://{ADDRESS}/health", True),
        ("supernode", "cat /srv/letters.csv", False),
        ("supernode", "ls /srv", False),
        ("supernode", f"ls {SITE}", False),
        ("supernode", f"ls {COORDINATOR}", False),
        ("supernode", "cat /run/credentials/dpbitfit-guard.service/policy.toml", False),
        ("superlink", f"ls {COORDINATOR}", False),
        ("monitor", "cat /etc/dpbitfit-monitor/page.tokens", True),
        ("monitor", "cat /etc/dpbitfit/superexec.secret", False),
        ("monitor", f"ls {SITE}", False),
    ],
)
def test_each_process_reaches_what_it_needs(
    deployed: Machine, unit: str, words: str, may: bool
) -> None:
    tried = AS_UNIT.format(f"dpbitfit-{unit}", words)
    assert (deployed.run(f"({tried}) && echo reached || true").endswith("reached\n")) == may


@pytest.mark.skipif(not HAS_NGINX, reason="no nginx: it is in Debian's package nginx-light")
def test_sites_reach_nothing_but_the_fleet(deployed: Machine) -> None:
    def status(url: str) -> str:
        ask = "curl -s -o /dev/null -w '%{http_code}' --cacert ca.crt --path-as-is -X POST"
        return deployed.run(f"{ask} https://{url}")

    outside = NAME[1]
    assert status(f"{ADDRESS}/v1/control/list-runs") not in ("404", "000")
    assert status(f"{outside}/v1/fleet/activate-node") == status(
        f"{ADDRESS}/v1/fleet/activate-node"
    )
    for path in ("v1/control/list-runs", "v1/runtime/pull-task-input", "docs", ""):
        assert status(f"{outside}/{path}") == "404"
    for up in ("..", "%2e%2e", "%2e%2e%2f%2e%2e/v1", "x/..//.."):
        assert status(f"{outside}/v1/fleet/{up}/control/list-runs") in ("400", "404")


def test_the_doctor_finds_nothing_wrong(deployed: Machine) -> None:
    *_, doctor = commands("A site, once")
    deployed.until("test -S /run/dpbitfit/guard.sock")
    output = deployed.run(changed(doctor, NAME))
    assert {line.split()[0] for line in output.splitlines()} == {"ok"}


@pytest.mark.usefixtures("report")
def test_each_process_that_is_killed_comes_back(deployed: Machine) -> None:
    for unit in ("superlink", "superexec", "guard", "supernode", "monitor"):
        ask = f"systemctl show --property MainPID --value dpbitfit-{unit}"
        before = deployed.run(ask).strip()
        deployed.run(f"systemctl kill --signal KILL dpbitfit-{unit}")
        deployed.until(f'systemctl -q is-active dpbitfit-{unit} && test "$({ask})" != {before}')
    deployed.until(f"curl -s --cacert ca.crt {MONITOR}/healthz")
    deployed.until("test -S /run/dpbitfit/guard.sock")


@pytest.mark.usefixtures("report")
def test_a_renewed_certificate_is_served(deployed: Machine) -> None:
    certificates, renew = commands("Certificates")
    authority, issue = certificates.split("issue() {", 1)
    assert authority.startswith("openssl req -x509 ")
    deployed.run(f"issue() {{{issue}")
    deployed.run(renew if HAS_NGINX else changed(renew, (" && systemctl reload nginx", "")))
    ask = "openssl s_client -CAfile ca.crt -connect {} < /dev/null 2> /dev/null"
    serial = "openssl x509 -noout -serial"
    expected = deployed.run(f"{serial} -in server.crt")
    for address in {ADDRESS, MONITOR.partition("//")[2], NAME[1]}:
        deployed.until(f'test "$({ask.format(address)} | {serial})" = {expected.strip()}')
    for unit in ("superexec", "supernode"):
        deployed.until(f"systemctl -q is-active dpbitfit-{unit}")


@pytest.mark.usefixtures("report")
def test_everything_is_stopped(deployed: Machine) -> None:
    """The last test: nothing runs any more, and the ledgers are there."""
    *_, coordinator, site = commands("A run")
    deployed.run(coordinator)
    deployed.run(site)
    assert deployed.run("systemctl list-units --state=active --no-legend 'dpbitfit-*'") == ""
    for folder in LEDGERS.values():
        deployed.run(f"test -s {folder}/ledger.sqlite")
