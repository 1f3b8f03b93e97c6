"""What a host is sent: once, as a whole, and never more than it needs."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from dragonfly_executor import BootError
from dragonfly_executor.backends.ssh import stage0
from dragonfly_executor.backends.ssh.archive import make_archive
from dragonfly_executor.backends.ssh.bootstrap import MAX_NOISE, Bootstrap, command
from dragonfly_executor.protocol.frames import Decoder
from dragonfly_executor.protocol.handshake import read_hello
from tests.backends.ssh.conftest import Make, MakeBackend
from tests.backends.ssh.test_boot_failures import REQUEST, boot_error
from tests.support.helpers import PATIENCE
from tests.support.sshd.host import Host
from tests.support.sshd.relay import Relay


def runs(make: Make, backend: Any) -> None:
    executor = make(backend)
    assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
    executor.shutdown()


def whole(path: Path) -> bool:
    """Whether an archive is what its name says."""
    return hashlib.sha256(path.read_bytes()).hexdigest() == path.stem


def test_a_runner_says_of_which_versions_are_its_python_and_what_it_pickles_with(
    host: Host, make_backend: MakeBackend
) -> None:
    """Checklist 17: the packages are those of the archive, which nobody has imported yet."""
    node = make_backend(host).boot(REQUEST)
    with closing(node.stream):
        decoder, frames = Decoder(one_by_one=True), []
        while not frames:
            frames = decoder.feed(node.stream.recv(4096))
        said = read_hello(bytes(frames[0].payload)).versions
    node.stop()
    assert said.release == sys.version.split()[0]
    # What another test has loaded in this process may be the next pool's serializer, and travels too.
    dill = {"dill": sys.modules["dill"].__version__} if "dill" in sys.modules else {}
    assert said.packages == {"cloudpickle": cloudpickle.__version__, **dill}


# -- the archive -------------------------------------------------------------------------------------------------------


def test_the_archive_is_the_same_whoever_makes_it() -> None:
    """Else another program's boot would ship it anew."""
    program = "from dragonfly_executor.backends.ssh.archive import make_archive; print(make_archive().digest)"
    more = "import asyncio, hypothesis, multiprocessing.pool, numpy; "
    digests = {make_archive().digest}
    for code, seed, flags in ((program, "1", []), (more + program, "2", []), (program, "3", ["-O"])):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        ran = subprocess.run([sys.executable, *flags, "-c", code], env=env, capture_output=True, text=True, check=True)
        digests.add(ran.stdout.strip())
    assert len(digests) == 1


def test_the_archive_is_all_that_a_runner_and_a_slot_import(tmp_path: Path) -> None:
    """Under a Python that has nothing else, from compiled modules, and with sources for tracebacks."""
    archive = tmp_path / "archive.zip"
    archive.write_bytes(make_archive("dill").data)
    names = zipfile.ZipFile(archive).namelist()
    assert {f"{name}c" for name in names if name.endswith(".py")} == {name for name in names if name.endswith(".pyc")}
    code = (
        "import sys; sys.path = [sys.argv[1], *(entry for entry in sys.path if 'site-packages' not in entry)]\n"
        "import dragonfly_executor.runner.ssh_supervisor, tenacity\n"
        "import dragonfly_executor.serialization.dill_pickler, dragonfly_executor.serialization.cloudpickle_pickler\n"
        "from dragonfly_executor.runner import agent\n"
        "assert agent.__file__.endswith('agent.pyc'), agent.__file__\n"
        "assert 'def exit' in agent.__loader__.get_source(agent.__name__)\n"
        "print(agent.run.__code__.co_filename)"
    )
    ran = subprocess.run([sys.executable, "-I", "-S", "-c", code, archive], capture_output=True, text=True, check=False)
    assert ran.stdout.strip() == "dragonfly_executor/runner/agent.py", ran.stderr


# -- once --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def relay(host: Host) -> Iterator[Relay]:
    with closing(Relay(host)) as relay:
        yield relay


def test_the_second_boot_ships_nothing(
    relay: Relay, host: Host, make_backend: MakeBackend, make: Make, tmp_path: Path
) -> None:
    """Not for another program either: each backend here is as new as one."""
    known = tmp_path / "known"
    known.write_text(relay.known_as)
    runs(make, make_backend(relay.spec, known_hosts=known))
    first = relay.sent
    runs(make, make_backend(relay.spec, known_hosts=known))
    size = len(make_archive().data)
    assert first > size
    assert relay.sent - first < size / 20
    assert len(host.archives) == 1


def test_dill_is_sent_where_it_is_the_serializer(host: Host, make_backend: MakeBackend, make: Make) -> None:
    executor = make(make_backend(host), serializer="dill")
    assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
    assert "dill/__init__.py" in zipfile.ZipFile(host.archives[-1]).namelist()


def test_the_cache_is_the_users_alone(host: Host, make_backend: MakeBackend, make: Make) -> None:
    folder = host.cache / "dragonfly_executor"
    folder.mkdir()
    folder.chmod(0o777)
    runs(make, make_backend(host))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in host.archives] == [0o600]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:1000] + bytes([data[1000] ^ 1]) + data[1001:],
        lambda data: data[: len(data) // 2],
        lambda data: b"",
    ],
    ids=["a bit flipped", "half of it", "empty"],
)
def test_an_archive_that_is_not_what_it_was_is_shipped_anew(
    host: Host, make_backend: MakeBackend, make: Make, spoil: Callable[[bytes], bytes]
) -> None:
    runs(make, make_backend(host))
    (archive,) = host.archives
    archive.write_bytes(spoil(archive.read_bytes()))
    assert not whole(archive)
    runs(make, make_backend(host))
    assert whole(archive)


def test_a_link_in_an_archives_place_is_not_followed(
    host: Host, make_backend: MakeBackend, make: Make, tmp_path: Path
) -> None:
    """Somebody else's file would be read, and might change after it was."""
    runs(make, make_backend(host))
    (archive,) = host.archives
    elsewhere = tmp_path / "elsewhere"
    archive.rename(elsewhere)
    archive.symlink_to(elsewhere)
    runs(make, make_backend(host))
    assert not archive.is_symlink()


# -- where there is no room --------------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_made_is_named(host: Host, make_backend: MakeBackend) -> None:
    """Checklist 56: also for a home that is not there."""
    (host.home / "file").write_text("")
    error = boot_error(make_backend(host, cache="~/file/cache"))
    assert error.phase == "bootstrap"
    assert f"{host.home}/file" in str(error)
    assert "cache=" in str(error)


def test_a_cache_may_be_anywhere(host: Host, make_backend: MakeBackend, make: Make) -> None:
    runs(make, make_backend(host, cache="~/my cache"))
    assert len(list((host.home / "my cache" / "dragonfly_executor").glob("*.zip"))) == 1
    assert (host.home / "my cache" / "dragonfly_executor" / "blobs").is_dir()
    assert not (host.home / ".cache").exists()
    assert host.archives == []


def test_a_link_in_the_folders_place_is_refused(host: Host, make_backend: MakeBackend, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (host.cache / "dragonfly_executor").symlink_to(tmp_path / "elsewhere")
    assert "no folder of this user's" in str(boot_error(make_backend(host)))


@contextmanager
def small_disk(folder: Path, *options: str) -> Iterator[None]:
    """A file system of 256 KiB."""
    if os.getuid() != 0:
        pytest.skip("only root can mount a file system")
    mount = ["mount", "-t", "tmpfs", "-o", ",".join(("size=256k", *options)), "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize(("options", "said"), [((), "No space left"), (("ro",), "Read-only file system")])
def test_a_disk_that_takes_nothing(
    host: Host, make_backend: MakeBackend, make: Make, options: tuple[str, ...], said: str
) -> None:
    """Checklist 56: the error names it, nothing half written stays, and with room elsewhere it works."""
    with small_disk(host.cache, *options):
        error = boot_error(make_backend(host))
        assert error.phase == "bootstrap"
        assert said in str(error)
        assert host.archives == []
        runs(make, make_backend(host, cache=str(host.home)))


# -- cleaning up -------------------------------------------------------------------------------------------------------


def test_old_archives_go_and_those_in_use_stay(host: Host, make_backend: MakeBackend, make: Make) -> None:
    executor = make(make_backend(host, runners_per_host=2))
    # When its slot runs a call, a runner has loaded from the archive what it needs.
    assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
    (used,) = host.archives
    content = used.read_bytes()
    now = time.time()
    # The one that a runner uses is the oldest, and no longer what the next boot wants.
    running = used.with_name(f"{'0' * 64}.zip")
    used.rename(running)
    os.utime(running, (now - 9000, now - 9000))
    for number in range(1, 7):
        old = used.with_name(f"{str(number) * 64}.zip")
        old.write_bytes(b"old")
        os.utime(old, (now - 1000 * number, now - 1000 * number))
    stale, fresh = used.with_name("a.part"), used.with_name("b.part")
    for part, age in ((stale, stage0.STALE + 60), (fresh, 0)):
        part.write_bytes(b"half")
        os.utime(part, (now - age, now - age))
    foreign = used.with_name("readme")
    foreign.write_text("not ours")
    runs(make, make_backend(host))
    left = {path.name[:4] for path in host.archives if path.suffix == ".zip"} - {used.name[:4]}
    assert left == {"0000", "1111", "2222", "3333"}
    assert (stale.exists(), fresh.exists(), foreign.exists()) == (False, True, True)
    assert used.read_bytes() == content
    executor.shutdown()


# -- the talk ----------------------------------------------------------------------------------------------------------


class Talk:
    """A host that says what the test wants."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = list(pieces)
        self.heard = b""
        self.rest = b""

    def recv(self, size: int, /) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""

    def sendall(self, data: bytes, /) -> None:
        self.heard += data

    def unread(self, data: bytes) -> None:
        self.rest = data


def test_what_the_agent_says_at_once_is_not_lost() -> None:
    archive = make_archive()
    said = b"hello " + stage0.MAGIC + b'{"cached": true}\n' + b'{"ready": true}\nHELLO'
    for size in (1, 7, len(said)):
        talk = Talk(*(said[start : start + size] for start in range(0, len(said), size)))
        bootstrap = Bootstrap("gpu1", talk, None)
        bootstrap.hear()
        bootstrap.run(archive, {"A": "b"})
        assert bootstrap.noise == b"hello "
        assert bootstrap.shipped == 0
        assert b'"A": "b"' in talk.heard
        assert talk.rest + b"".join(talk._pieces) == b"HELLO"


@pytest.mark.parametrize(
    "said",
    [
        b"",
        stage0.MAGIC,
        stage0.MAGIC + b"[]\n",
        stage0.MAGIC + b"{\n",
        stage0.MAGIC + b"[" * 10_000 + b"\n",
        stage0.MAGIC + b'{"cached": true}\n{}\n',
        stage0.MAGIC + b'{"cached": true}\n{"ready": 1}\n',
        stage0.MAGIC + b'{"error": "no room"}\n',
        stage0.MAGIC + b"x" * 100_000,
        b"x" * (MAX_NOISE + 1),
        stage0.MAGIC + b"none\n",
        stage0.MAGIC + b"none \xff\xfe broken\n",
    ],
    ids=lambda said: repr(said[:30]),
)
def test_a_host_that_does_not_keep_to_the_rules_is_a_boot_error(said: bytes) -> None:
    with pytest.raises(BootError, match="gpu1"):
        talked = Bootstrap("gpu1", Talk(said), None)
        talked.hear()
        talked.run(make_archive(), {})


def test_nothing_of_the_users_is_said_before_the_host_has_spoken() -> None:
    """Whatever runs there may print what it is sent: to an error, in the end."""
    talk = Talk(b"welcome to the login menu\n")
    with pytest.raises(BootError):
        Bootstrap("gpu1", talk, None).hear()
    assert talk.heard == b""


@pytest.mark.parametrize("shell", ["sh", "bash", "dash", "zsh", "fish", "csh", "tcsh", "ksh"])
def test_the_command_is_the_same_for_any_login_shell(shell: str, tmp_path: Path) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"no {shell} here")
    text = command(sys.executable, "0" * 64, str(tmp_path / "it's a cache"), 60.0)
    assert text.isprintable()
    assert "!" not in text
    ran = subprocess.run([program, "-c", text], input=b"", capture_output=True, timeout=PATIENCE)
    assert ran.stdout.startswith(stage0.MAGIC + b'{"cached": false'), ran.stderr
    assert (tmp_path / "it's a cache" / "dragonfly_executor").is_dir()


def test_without_a_home_there_is_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as where the user is in no list of users
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(OSError, match="not an absolute path"):
        stage0._cache_folder("")
