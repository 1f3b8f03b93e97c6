"""Measure the SSH backend over loopback, beside plain paramiko: ``python -m benchmarks.ssh``.

It starts an sshd of its own, as the tests do, and needs openssh-server. With ``--delay`` the way there is longer by so
many milliseconds in each direction.
"""

from __future__ import annotations

import argparse
import os
import pwd
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import NamedTuple

import paramiko

from dragonfly_executor import DragonflyExecutor, SSHBackend
from tests.support.fault_proxy import FaultProxy
from tests.support.sshd.host import Host, make_bare_python, make_key, missing, public_half

SIZE = 64 * 1024 * 1024
CALLS = 5_000
SLOTS = 2
BUSY_CALLS, BUSY_SLOTS, BUSY_SECONDS = 800, 8, 0.020
ECHO = (
    f"import os\nsize = {SIZE}\ndata = bytearray()\nwhile len(data) < size: data += os.read(0, 1 << 20)\n"
    "view = memoryview(data)\nwhile view: view = view[os.write(1, view):]"
)

STARTER = """
import sys, time
from dragonfly_executor import DragonflyExecutor, SSHBackend
from project import power

host, key, host_key = sys.argv[1:]
backend = SSHBackend([host], key_filename=key, host_key=host_key, config=None, use_agent=False)
for _ in range(2):
    began = time.perf_counter()
    with DragonflyExecutor(backend=backend, max_concurrency=1) as executor:
        assert executor.submit(power).result() == 1024
        taken = time.perf_counter() - began
print(taken)
"""


class Place(NamedTuple):
    """A host: its address, and the key to log in."""

    address: tuple[str, int]
    key: Path
    host_key: str
    known_hosts: Path

    def backend(self, client: str = "paramiko") -> SSHBackend:
        """Make a backend for this host."""
        host, known = "{}:{}".format(*self.address), self.known_hosts
        known.write_text("[{}]:{} {}\n".format(*self.address, self.host_key))
        return SSHBackend([host], key_filename=self.key, known_hosts=known, config=None, use_agent=False, client=client)

    def bare(self) -> paramiko.Transport:
        """Open a connection as paramiko's own examples do, with our ciphers: the link is compared, not the cipher."""
        sock = socket.create_connection(self.address)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport = paramiko.Transport(sock)
        options = transport.get_security_options()
        fast = [cipher for cipher in options.ciphers if "gcm" in cipher]
        options.ciphers = tuple(dict.fromkeys((*fast, *options.ciphers)))
        transport.start_client()
        transport.auth_publickey(pwd.getpwuid(os.getuid()).pw_name, paramiko.PKey.from_path(self.key))
        return transport


def bare_transfer(place: Place) -> float:
    """Measure the seconds for 64 MiB there and back over a channel."""
    transport = place.bare()
    channel = transport.open_session()
    channel.exec_command(f"python3 -c '{ECHO}'")
    data = memoryview(bytes(SIZE))
    began = time.perf_counter()
    while data:
        data = data[channel.send(bytes(data[:32768])) :]
    received = 0
    while received < SIZE:
        received += len(channel.recv(1 << 18))
    taken = time.perf_counter() - began
    transport.close()
    return taken


def sftp_transfer(place: Place) -> float:
    """Move the same bytes as a file, with paramiko's own SFTP."""
    transport = place.bare()
    channel = transport.open_session()
    channel.exec_command(f"exec {sftp_server()}")
    sftp = paramiko.SFTPClient(channel)
    with tempfile.TemporaryDirectory() as folder:
        remote = f"{folder}/file"
        began = time.perf_counter()
        sftp.putfo(BytesIO(bytes(SIZE)), remote)
        back = BytesIO()
        sftp.getfo(remote, back)
        taken = time.perf_counter() - began
    assert back.tell() == SIZE
    transport.close()
    return taken


def sftp_server() -> str:
    """Return the path of OpenSSH's sftp-server."""
    places = ("/usr/lib/openssh", "/usr/libexec/openssh", "/usr/lib/ssh", "/usr/libexec")
    return next(path for place in places if os.access(path := f"{place}/sftp-server", os.X_OK))


def our_transfer(place: Place, client: str = "paramiko") -> float:
    """Move the same bytes as a call's argument and result."""
    data = bytes(SIZE)
    with DragonflyExecutor(backend=place.backend(client), max_concurrency=1) as executor:
        executor.submit(pow, 2, 10).result()
        began = time.perf_counter()
        assert len(executor.submit(lambda value: value, data).result()) == SIZE
        return time.perf_counter() - began


def bare_start(place: Place) -> float:
    """Measure the seconds to connect and run ``python -c pass``."""
    began = time.perf_counter()
    transport = place.bare()
    channel = transport.open_session()
    channel.exec_command("python3 -c pass")
    channel.recv_exit_status()
    taken = time.perf_counter() - began
    transport.close()
    return taken


def our_start(place: Place) -> float:
    """Measure the seconds to a first result, on a host and from a backend that have been used before.

    In a program of its own, a script and a module, which travel: this one has imported all the tests.
    """
    with tempfile.TemporaryDirectory() as folder:
        program, module = Path(folder, "program.py"), Path(folder, "project.py")
        program.write_text(STARTER)
        module.write_text("def power():\n    return pow(2, 10)\n")
        command = [sys.executable, str(program), "{}:{}".format(*place.address), str(place.key), place.host_key]
        path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path}
        ran = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        return float(ran.stdout)


def process_calls(_place: Place) -> float:
    """Measure the seconds for one of many no-op calls, with `ProcessPoolExecutor`."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(SLOTS, mp_context=get_context("forkserver")) as pool:
        return _seconds_a_call(pool.submit)


def our_calls(place: Place) -> float:
    """Run the same calls over SSH."""
    with DragonflyExecutor(backend=place.backend(), max_concurrency=SLOTS) as executor:
        return _seconds_a_call(executor.submit)


def no_gaps(_place: Place) -> float:
    """Return the seconds that the slots need for the calls of `our_gaps` if they never wait for a call."""
    return BUSY_CALLS * BUSY_SECONDS / BUSY_SLOTS


def our_gaps(place: Place) -> float:
    """Measure the seconds for calls of 20 ms on eight slots, once the pool knows their duration."""
    with DragonflyExecutor(backend=place.backend(), max_concurrency=BUSY_SLOTS) as executor:
        for future in [executor.submit(time.sleep, BUSY_SECONDS) for _ in range(20 * BUSY_SLOTS)]:
            future.result()
        began = time.perf_counter()
        for future in [executor.submit(time.sleep, BUSY_SECONDS) for _ in range(BUSY_CALLS)]:
            future.result()
        return time.perf_counter() - began


def second_boot(place: Place, client: str) -> float:
    """Measure the seconds to a first result, on a host and from a backend that have been used before."""
    backend, taken = place.backend(client), 0.0
    for _ in range(2):
        began = time.perf_counter()
        with DragonflyExecutor(backend=backend, max_concurrency=1) as executor:
            assert executor.submit(pow, 2, 10).result() == 1024
            taken = time.perf_counter() - began
    return taken


def round_trip(place: Place, client: str) -> float:
    """Measure the seconds for a call that another one waits for."""
    with DragonflyExecutor(backend=place.backend(client), max_concurrency=1) as executor:
        for _ in range(50):
            executor.submit(abs, -1).result()
        began = time.perf_counter()
        for _ in range(500):
            executor.submit(abs, -1).result()
        return (time.perf_counter() - began) / 500


def _seconds_a_call(submit: Callable[..., object]) -> float:
    taken = 0.0
    for count in (500, CALLS):
        began = time.perf_counter()
        futures = [submit(abs, -1) for _ in range(count)]
        for future in futures:
            future.result()  # type: ignore[attr-defined]
        taken = (time.perf_counter() - began) / count
    return taken


def both(measure: Callable[[Place, str], float]) -> tuple[Callable[[Place], float], Callable[[Place], float]]:
    """Run the same measurements with both clients."""
    return lambda place: measure(place, "paramiko"), lambda place: measure(place, "openssh")


MEASURES: dict[str, tuple[str, Callable[[Place], float], Callable[[Place], float], float]] = {
    "transfer": ("64 MiB there and back, against a bare channel", bare_transfer, our_transfer, 1 / 0.8),
    "sftp": ("64 MiB there and back, against paramiko's own SFTP", sftp_transfer, our_transfer, 1 / 0.8),
    "start": ("second boot, against connect and python -c pass", bare_start, our_start, 2.0),
    "gaps": ("20 ms calls on 8 slots, against slots that never wait", no_gaps, our_gaps, 1 / 0.9),
    "calls": (f"no-op call, {SLOTS} slots, against ProcessPoolExecutor", process_calls, our_calls, 1.0),
    "clients-boot": ("second boot, openssh against paramiko", *both(second_boot), 1.5),
    "clients-trip": ("one call at a time, openssh against paramiko", *both(round_trip), 1.5),
    "clients-transfer": ("64 MiB there and back, openssh against paramiko", *both(our_transfer), 1.0),
}


@contextmanager
def a_place(delay: float) -> Iterator[Place]:
    """Start a host of our own, this many seconds away."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        key = make_key(home / "key")
        host = Host(home / "host", key, [make_bare_python(home / "python")])
        host.start()
        near = (host.address, host.port)
        try:
            with FaultProxy(near) if delay else nullcontext() as proxy:
                if proxy is not None:
                    proxy.slow(delay=delay)
                yield Place(near if proxy is None else proxy.address, key, public_half(host.key), home / "known_hosts")
        finally:
            host.stop()


def main() -> int:
    """Print the medians of some rounds."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ssh", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--measures", nargs="+", choices=list(MEASURES), default=list(MEASURES))
    parser.add_argument("--delay", type=float, default=0.0, help="milliseconds more, each way")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a target is missed")
    options = parser.parse_args()
    if reason := missing():
        print(reason, file=sys.stderr)
        return 2
    missed = False
    print(f"{'':<54}{'theirs, ms':>12}{'ours, ms':>12}{'ratio':>8}{'target':>10}")
    with a_place(options.delay / 1000) as place:
        for name in options.measures:
            title, theirs, ours, bound = MEASURES[name]
            rounds = [(theirs(place), ours(place)) for _ in range(options.rounds)]
            ratio = median(mine / bare for bare, mine in rounds)
            columns = [median(column) * 1e3 for column in zip(*rounds, strict=True)]
            print(f"{title:<54}{columns[0]:>12.3f}{columns[1]:>12.3f}{ratio:>8.2f}{f'<= {bound:.2f}':>10}")
            missed |= ratio > bound
    return 1 if missed and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
