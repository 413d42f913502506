"""Who may enter, and what stands in the socket's place."""

import grp
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dpbitfit_client.guard import peer_credentials
from dpbitfit_client.guard.peer_credentials import PeerCredentialProxy

from dpbitfit.errors import InputError

GROUP = grp.getgrgid(os.getegid()).gr_name


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("d")
    folder.chmod(0o755)
    return folder


@pytest.fixture
def behind(folder: Path) -> Iterator[socket.socket]:
    """What the proxy leads to."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(folder / "inner"))
    listening.listen(64)
    listening.settimeout(30)
    yield listening
    listening.close()


def opened(folder: Path) -> PeerCredentialProxy:
    return PeerCredentialProxy(folder / "outer", GROUP, folder / "inner")


def enter(folder: Path) -> socket.socket:
    entering = socket.socket(socket.AF_UNIX)
    entering.settimeout(30)
    entering.connect(str(folder / "outer"))
    return entering


def test_bytes_pass_both_ways(folder: Path, behind: socket.socket) -> None:
    made = opened(folder)
    with enter(folder) as outside:
        inside, _ = behind.accept()
        outside.sendall(b"question")
        assert inside.recv(100) == b"question"
        inside.sendall(b"answer")
        assert outside.recv(100) == b"answer"
        inside.close()
        assert outside.recv(100) == b""
    made.close()
    assert not (folder / "outer").exists()


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_proxy_that_is_closed_at_once_ends_quietly(folder: Path, behind: socket.socket) -> None:
    for _ in range(20):
        opened(folder).close()
    assert not (folder / "outer").exists()


def test_only_the_group_may_open_it(folder: Path, behind: socket.socket) -> None:
    made = opened(folder)
    result = (folder / "outer").stat()
    assert (result.st_mode & 0o777, result.st_gid) == (0o660, os.getegid())
    made.close()


def test_no_user_may_open_it_before_it_has_its_group(
    folder: Path, behind: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []
    monkeypatch.setattr(os, "chown", lambda path, *_: modes.append(path.stat().st_mode & 0o777))
    before = os.umask(0)
    try:
        opened(folder).close()
    finally:
        os.umask(before)
    assert modes == [0o600]


def test_the_kernel_is_asked_who_comes(
    folder: Path, behind: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the socket's mode says: a stranger's bytes go nowhere."""
    asked = []
    monkeypatch.setattr(PeerCredentialProxy, "may_enter", lambda self, uid: bool(asked.append(uid)))
    made = opened(folder)
    with enter(folder) as outside:
        assert outside.recv(100) == b""
    assert asked == [os.getuid()]
    behind.settimeout(0.5)
    with pytest.raises(TimeoutError):
        behind.accept()
    made.close()


def test_members_and_this_user_may_enter(folder: Path, behind: socket.socket) -> None:
    made = opened(folder)
    assert made.may_enter(os.geteuid())
    assert not made.may_enter(2**31 - 7)  # no such user
    made.close()


def test_connections_that_are_held_open_end_with_their_holder(
    folder: Path, behind: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past the most, no other is let in; when they go, the next one is."""
    monkeypatch.setattr(peer_credentials, "MOST_CONNECTIONS", 4)
    made = opened(folder)
    held = [enter(folder) for _ in range(4)]
    inside = [behind.accept()[0] for _ in held]
    with enter(folder) as turned_away:
        assert turned_away.recv(1) == b""
    for one in held:
        one.close()
    assert [one.recv(1) for one in inside] == [b""] * 4
    for one in inside:
        one.close()
    last = time.monotonic() + 30
    answered = b""
    while not answered and time.monotonic() < last:
        with enter(folder) as outside:
            behind.settimeout(0.5)
            try:
                late, _ = behind.accept()
            except TimeoutError:
                continue
            with late:
                late.sendall(b"x")
                answered = outside.recv(1)
    assert answered == b"x"
    made.close()


def test_a_reader_that_does_not_read_fills_no_memory(folder: Path, behind: socket.socket) -> None:
    made = opened(folder)
    with enter(folder):
        inside, _ = behind.accept()
        inside.setblocking(False)
        sent = 0
        waited = 0
        while waited < 10:
            try:
                sent += inside.send(bytes(1 << 16))
            except BlockingIOError:
                waited += 1
                time.sleep(0.05)
        assert sent < 8 << 20
        inside.close()
    made.close()


def test_a_guard_that_listens_is_not_put_aside(folder: Path, behind: socket.socket) -> None:
    made = opened(folder)
    with pytest.raises(InputError, match="listens here already"):
        opened(folder)
    with enter(folder):
        behind.accept()[0].close()
    made.close()


def test_the_socket_of_a_killed_guard_is_replaced(folder: Path, behind: socket.socket) -> None:
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(folder / "outer"))
    stale.close()
    opened(folder).close()


@pytest.mark.parametrize("what", ["file", "folder", "link to a file", "link to nothing"])
def test_what_is_no_socket_stays(folder: Path, behind: socket.socket, what: str) -> None:
    place, target = folder / "outer", folder / "target"
    if what == "folder":
        place.mkdir()
    elif what == "file":
        place.write_text("precious")
    else:
        if what == "link to a file":
            target.write_text("precious")
        place.symlink_to(target)
    before = os.lstat(place).st_ino
    with pytest.raises(InputError, match="cannot listen here"):
        opened(folder)
    assert os.lstat(place).st_ino == before
    if what == "link to nothing":
        assert not target.exists()


def test_a_link_to_another_service_is_not_followed(folder: Path, behind: socket.socket) -> None:
    """A living one is told of; of a dead one the link alone goes."""
    (folder / "outer").symlink_to(folder / "inner")
    with pytest.raises(InputError, match="listens here already"):
        opened(folder)
    behind.close()
    opened(folder).close()
    assert (folder / "inner").is_socket()


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o775])
def test_a_folder_in_which_others_may_write_is_refused(
    folder: Path, behind: socket.socket, mode: int
) -> None:
    folder.chmod(mode)
    with pytest.raises(InputError, match="others may write"):
        opened(folder)


def test_no_folder_and_no_group_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="cannot be used"):
        PeerCredentialProxy(folder / "none" / "outer", GROUP, folder / "inner")
    with pytest.raises(InputError, match="no Unix group"):
        PeerCredentialProxy(folder / "outer", "no-such-group-here", folder / "inner")
