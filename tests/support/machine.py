"""A machine of its own that systemd has booted: namespaces, of which nothing stays behind.

Its files are this system's below an overlay in memory, its network is a loopback,
its services are those that a test starts. The interpreter and the packages of the
tests stand at ``/opt/dpbitfit``, where ``deploy/`` expects them.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT

BOOT_SECONDS, SECONDS = 60, 600
POLL_SECONDS = 0.3
INIT, PLACE = "/lib/systemd/systemd", "/opt/dpbitfit-test"
PROGRAMS = (INIT, "unshare", "setpriv", "nsenter", "useradd", "runuser", "ssh-keygen")
# A cgroup is joined first, so that it is all that the namespace will have of cgroups.
_ALONE = ["setpriv", "--pdeathsig=KILL", "unshare", "--fork", "--kill-child", "--pid", "--mount"]
_ALONE += ["--net", "--ipc", "--uts", "bash", "-c", 'echo 0 > "$0"; exec unshare --cgroup -- "$@"']
_ONE_THREAD = "OMP_NUM_THREADS=1"  # as other tests' processes: threads would wait for one another
# $1 is an empty folder; then comes what is mounted where.
_BOOT = f"""
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
cd "$1/root"
shift
while [ $# -gt 0 ]; do
  mkdir -p ".$2"
  mount --bind "$1" ".$2"
  shift 2
done
cp -a .{PLACE}/given/opt/. opt
echo {PLACE}/python/lib > etc/ld.so.conf.d/00-python.conf
ldconfig -r .
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/shm dev/pts
mount -t tmpfs tmpfs dev/shm
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
for device in null zero full random urandom tty; do
  touch dev/$device
  mount --bind /dev/$device dev/$device
done
ln -s /proc/self/fd dev/fd
for folder in run tmp srv; do
  mount -t tmpfs -o mode=755 tmpfs $folder
done
chmod 1777 tmp
rm -rf etc/systemd/system/* usr/lib/systemd/system/*.wants usr/lib/systemd/system/*.requires
rm -rf usr/lib/systemd/system-generators var/lib/dpbitfit* etc/dpbitfit*
for target in sysinit basic multi-user network-online; do
  printf '[Unit]\\nDescription=%s\\n' $target > etc/systemd/system/$target.target
done
echo Wants=systemd-journald.service >> etc/systemd/system/multi-user.target
ln -s multi-user.target etc/systemd/system/default.target
mkdir -p etc/systemd/system.conf.d
printf '[Manager]\\nDefaultEnvironment={_ONE_THREAD}\\n' > etc/systemd/system.conf.d/test.conf
od -An -tx1 -N16 /dev/urandom | tr -d ' \\n' > etc/machine-id
mkdir mnt/before
pivot_root . mnt/before
umount -l mnt/before
mount --make-rshared /
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin {INIT} --show-status=no
"""


class Machine:
    """A booted machine; ``given`` is a folder that both sides see."""

    def __init__(self, init: int, given: Path) -> None:
        self.given = given
        self._init = init

    def run(self, lines: str, check: bool = True) -> str:
        """What lines of bash, run by root in ``given``, print; none of them may fail."""
        enter = ["nsenter", f"--target={self._init}", "--mount", "--pid", "--cgroup", "--net"]
        enter += ["--ipc", "--uts", "--root", "--wd", "bash", "-ec", f"cd {PLACE}/given\n{lines}"]
        known = {"HOME": "/root", "PATH": "/opt/dpbitfit/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        known |= [_ONE_THREAD.split("=")]
        done = subprocess.run(
            enter, env=known, capture_output=True, text=True, cwd="/", timeout=SECONDS
        )
        assert not check or done.returncode == 0, f"{lines}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def until(self, line: str) -> None:
        """Wait for a line of bash to succeed."""
        deadline = time.monotonic() + SECONDS
        while self.run(f"if {line}; then echo; fi", check=False) == "":
            assert time.monotonic() < deadline, f"{line}\n{self.run('journalctl --no-pager')}"
            time.sleep(POLL_SECONDS)


@contextmanager
def machine(scratch: Path) -> Iterator[Machine]:
    """A booted machine; the test skips where none can be made here."""
    given = scratch / "given"
    _lay_out(given / "opt" / "dpbitfit")
    (scratch / "root").mkdir()
    packages, log = sysconfig.get_path("purelib"), scratch / "boot.log"
    mounts = {"python": sys.base_prefix, "packages": packages, "checkout": ROOT, "given": given}
    words = [str(word) for name, what in mounts.items() for word in (what, f"{PLACE}/{name}")]
    with _cgroup() as cgroup, log.open("wb") as file:
        boot = [str(cgroup / "cgroup.procs"), "bash", "-euc", _BOOT, "boot", str(scratch / "root")]
        with subprocess.Popen([*_ALONE, *boot, *words], stdout=file, stderr=file) as outer:
            try:
                yield _booted(outer, given, log)
            finally:
                outer.kill()


@contextmanager
def _cgroup() -> Iterator[Path]:
    """A cgroup of its own, below this process's one."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    top = next((Path(words[1]) for words in mounts if words[2] == "cgroup2"), None)
    missing = [one for one in PROGRAMS if shutil.which(one) is None]
    if missing or top is None or os.geteuid() != 0:
        pytest.skip(f"needs root, cgroup2 and {', '.join(missing) or 'systemd'}")
    made = top / f"dpbitfit-test-{os.getpid()}"
    try:
        made.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error.strerror}")
    try:
        yield made
    finally:
        while "populated 1" in (made / "cgroup.events").read_text():
            time.sleep(POLL_SECONDS)
        for folder in sorted(made.rglob("*/"), reverse=True):
            folder.rmdir()
        made.rmdir()


def _booted(outer: "subprocess.Popen[bytes]", given: Path, log: Path) -> Machine:
    deadline = time.monotonic() + BOOT_SECONDS
    while outer.poll() is None and time.monotonic() < deadline:
        for init in psutil.Process(outer.pid).children():
            made = Machine(init.pid, given)
            with suppress(AssertionError):
                made.run("systemctl is-active multi-user.target")
                return made
        time.sleep(POLL_SECONDS)
    pytest.skip(f"no machine can be booted here: {log.read_text()}")


def _lay_out(prefix: Path) -> None:
    """An environment as ``python -m venv`` makes it, with the packages of this one."""
    scripts, packages = (
        Path(sysconfig.get_path(which, vars={"base": str(prefix)}))
        for which in ("scripts", "purelib")
    )
    scripts.mkdir(parents=True)
    packages.mkdir(parents=True)
    python = Path(os.path.realpath(sys.executable)).relative_to(sys.base_prefix)
    (scripts / "python").symlink_to(f"{PLACE}/python/{python}")
    (prefix / "pyvenv.cfg").write_text(f"home = {PLACE}/python/{python.parent}\n")
    places = ("packages", "checkout", "checkout/client", "checkout/server")
    (packages / "here.pth").write_text("".join(f"{PLACE}/{place}\n" for place in places))
    for script in Path(sysconfig.get_path("scripts")).iterdir():
        first, _, rest = script.read_bytes().partition(b"\n")
        if first.startswith(b"#!") and b"python" in first:
            (scripts / script.name).write_bytes(b"#!/opt/dpbitfit/bin/python\n" + rest)
            (scripts / script.name).chmod(0o755)
