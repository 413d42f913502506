"""Guard, relay and stranger as three users of one machine: who can reach what."""

import dataclasses
import itertools
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dpbitfit_client.message import to_proto

from ...support import plans, users
from ...support.sites import GOOD, Site, made


@pytest.fixture(scope="module")
def site(corpus: Path) -> Iterator[Site]:
    """A guard that runs as its own user, in front of whom the relay's group may stand."""
    group = users.entry(users.RELAY).pw_gid
    users.entry(users.STRANGER)
    with made(corpus, code=users.guard_code(group)) as site:
        data = site.folder / "site" / "letters.csv"
        labels = site.folder / "labels.txt"
        shutil.copy(corpus, data)
        shutil.copy(corpus.with_suffix(".labels.txt"), labels)
        labels.chmod(0o644)
        (site.folder / "scratch").mkdir()
        site.environment["TMPDIR"] = str(site.folder / "scratch")
        letters = ("datasets", "letters")
        site.write(
            ((*letters, "loader"), ...),
            ((*letters, "path"), str(data)),
            ((*letters, "labels"), str(labels)),
            ((*letters, "evaluation"), ...),
            (("site", "group"), users.RELAY),
        )
        for path, mode in (
            (data, 0o600),
            (site.policy, 0o600),
            (site.folder / "site", 0o700),
            (site.folder / "run", 0o755),
            (site.folder / "scratch", 0o755),
        ):
            users.give(path, users.GUARD, mode)
        # Not even root may enter: this process asks by way of the relay's user.
        site.front = site.folder / "front.sock"
        front = users.front_command(users.RELAY, site.front, site.socket)
        with subprocess.Popen(front) as passing:
            try:
                site.start()
                yield site
            finally:
                passing.kill()


# What a bundle of a coordinator does that has its own packages of these names, and no others.
BUNDLE = """
import dpbitfit, dpbitfit_client
found = {"shadowed": [dpbitfit.MARK, dpbitfit_client.MARK]}

def attempt(action):
    try:
        return repr(action())
    except OSError as error:
        return type(error).__name__

def ask(method, name):
    with grpc.insecure_channel("unix:" + SOCKET) as channel:
        try:
            body = open(os.path.join(FOLDER, name), "rb").read()
            answer = channel.unary_unary("/dpbitfit.guard.v1.Guard/" + method)(body, timeout=180)
            return answer.hex()
        except grpc.RpcError as error:
            return error.code().name + " " + error.details()

found["files"] = [attempt(lambda: open(path, "rb").read()) for path in FILES]
found["writes"] = [attempt(lambda: open(path, "ab")) for path in FILES]
found["folders"] = [attempt(lambda: os.listdir(path)) for path in FOLDERS]
found["behind"] = [attempt(lambda: os.listdir(p)) for p in glob.glob(BEHIND + "/*")]
found["replace"] = attempt(lambda: os.unlink(SOCKET))
found["memory"] = attempt(lambda: open(f"/proc/{PID}/mem", "rb"))
found["environment"] = attempt(lambda: open(f"/proc/{PID}/environ", "rb").read())
found["kill"] = attempt(lambda: os.kill(PID, 9))
found["asked"] = {name: ask("Train", name) for name in REQUESTS}
print(json.dumps(found))
"""


def test_a_bundle_with_its_own_packages_gets_what_the_policy_allows(site: Site) -> None:
    """It may ask; what it is refused, and what the files refuse it, no import can change."""
    bundle = site.folder / "bundle"
    for package in ("dpbitfit", "dpbitfit_client"):
        (bundle / package).mkdir(parents=True)
        (bundle / package / "__init__.py").write_text("MARK = 'of the bundle'\n")
    plan, stranger = site.plan(), b"s" * 32
    good = site.request(plan)
    unsigned = dataclasses.replace(site.request(plan), signature=stranger.hex() * 2)
    requests = {
        "good": good,
        "again": good,
        "unsigned": unsigned,
        "little-noise": site.request(plans.plan(plan, noise_multiplier=0.5)),
        "other-model": site.request(plans.plan(plan, model_digest="2" * 64)),
    }
    for name, request in requests.items():
        (bundle / name).write_bytes(to_proto(request).SerializeToString())
    assert site.process is not None
    given = {
        "SOCKET": str(site.socket),
        "FOLDER": str(bundle),
        "FILES": [str(site.folder / "site" / "letters.csv"), str(site.policy)],
        "FOLDERS": [str(site.folder / "site")],
        "BEHIND": site.environment["TMPDIR"],
        "PID": site.process.pid,
        "REQUESTS": list(requests),
    }
    given["FILES"] += [f"{site.ledger_file}{end}" for end in ("", "-wal", "-shm", ".lock")]
    code = f"sys.path.insert(0, {str(bundle)!r})\n"
    code += "".join(f"{name} = {value!r}\n" for name, value in given.items())
    result: dict[str, Any] = json.loads(users.run(users.RELAY, code + BUNDLE))
    assert result["shadowed"] == ["of the bundle"] * 2
    refused = {
        *result["files"],
        *result["writes"],
        *result["folders"],
        *result["behind"],
        *(result[name] for name in ("replace", "memory", "environment", "kill")),
    }
    assert refused == {"PermissionError"}
    assert result["behind"]
    asked = result["asked"]
    assert asked.pop("good") == asked.pop("again")
    assert asked == {
        "unsigned": "UNAUTHENTICATED identity",
        "little-noise": "FAILED_PRECONDITION policy",
        "other-model": "FAILED_PRECONDITION protocol",
    }
    assert site.spent() == {"committed": GOOD.phases[0].steps_per_round}


READ = """
for path in PATHS:
    try:
        print(Policy.read(Path(path)).site.name)
    except InputError as error:
        print(str(error).split(": ")[1])
"""


def test_a_policy_is_roots_or_the_guards_own(site: Site) -> None:
    """Another user's is refused, and so is one in another user's folder, whatever the modes say."""
    files = {}
    owners = ("root", users.GUARD, users.RELAY)
    for folder, owner in itertools.product(("root", users.RELAY), owners):
        file = site.folder / f"policies-of-{folder}" / owner
        file.parent.mkdir(exist_ok=True)
        shutil.copy(site.policy, file)
        users.give(file, owner, 0o444)
        users.give(file.parent, folder, 0o755)
        files[folder, owner] = str(file)
    needed = "from pathlib import Path\nfrom dpbitfit.errors import InputError\n"
    needed += f"from dpbitfit_client.policy.policy import Policy\nPATHS = {list(files.values())}\n"
    result = users.run(users.GUARD, READ, needed=needed).splitlines()
    assert dict(zip(files, result, strict=True)) == {
        ("root", "root"): "hospital-1",
        ("root", users.GUARD): "hospital-1",
        ("root", users.RELAY): "another user owns it",
        (users.RELAY, "root"): "others may write here",
        (users.RELAY, users.GUARD): "others may write here",
        (users.RELAY, users.RELAY): "another user owns it",
    }


ENTER = """
entering = socket.socket(socket.AF_UNIX)
entering.settimeout(60)
try:
    entering.connect(SOCKET)
    entering.sendall(b"PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n" + bytes(3) + b"\\x04" + bytes(5))
    print("answered" if entering.recv(100) else "turned away")
except OSError as error:
    # The proxy may close before the first byte is sent.
    print("turned away" if isinstance(error, ConnectionError) else type(error).__name__)
"""


def test_a_user_outside_the_group_is_turned_away_whatever_the_mode(site: Site) -> None:
    code = f"SOCKET = {str(site.socket)!r}\n{ENTER}"
    assert users.run(users.RELAY, code).strip() == "answered"
    assert users.run(users.STRANGER, code).strip() == "PermissionError"
    mode = site.socket.stat().st_mode & 0o777
    site.socket.chmod(0o666)
    try:
        assert users.run(users.STRANGER, code).strip() == "turned away"
        assert users.run(users.RELAY, code).strip() == "answered"
    finally:
        site.socket.chmod(mode)
    assert (mode, site.socket.stat().st_gid) == (0o660, users.entry(users.RELAY).pw_gid)
