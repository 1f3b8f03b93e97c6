"""Measure large payloads on the way to runners elsewhere: ``python -m benchmarks.wire``.

Each round echoes 64 MiB over loopback, ours and the limits one after the other, so that load on the machine meets all
of them. The limits of a dial-back are plain sockets, and bare TLS, through as many processes. The limits over SSH are
``ssh host cat``, with the ciphers that `ssh` prefers and with AES-GCM. ``cat`` sends back while it still receives; a
call does not.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from statistics import median

from benchmarks.ssh import Place, a_place
from dragonfly_executor import DragonflyExecutor
from dragonfly_executor.backends.base import Backend
from dragonfly_executor.transport import certificate
from tests.support.dialback import DialingBackend
from tests.support.sshd.host import missing

SIZE = 64 * 1024 * 1024
STEP = 1024 * 1024
"""Bytes of one read or write of a limit."""

Echo = Callable[[bytes], float]
"""Echoes data, and returns the seconds that it took."""


def timed(echo: Callable[[bytes], int], data: bytes) -> float:
    """Return the seconds of an echo that must return all bytes."""
    began = time.perf_counter()
    assert echo(data) == len(data)
    return time.perf_counter() - began


@contextmanager
def ours(backend: Backend) -> Iterator[Echo]:
    """Echo as the argument and the result of a call on a warm runner."""
    with DragonflyExecutor(backend=backend, max_concurrency=1) as executor:
        executor.submit(abs, -1).result()
        yield lambda data: timed(lambda data: len(executor.submit(lambda value: value, data).result()), data)


@contextmanager
def bare_sockets(*, encrypted: bool) -> Iterator[Echo]:
    """Echo over sockets in three processes: this one, one that forwards as an agent does, and one as a slot does."""
    server, client = _contexts() if encrypted else (None, None)
    listener = socket.create_server(("127.0.0.1", 0))
    forwarder = os.fork()
    if not forwarder:
        _forward(listener.getsockname(), client)
    try:
        sock, _ = listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock = sock if server is None else server.wrap_socket(sock, server_side=True)
        with closing(sock):
            yield lambda data: timed(lambda data: _through(sock, data), data)
    finally:
        listener.close()
        os.waitpid(forwarder, 0)


def _contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    _, chain, key = certificate.make_certificate()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    certificate.load(server, chain, key)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    return server, client


def _through(sock: socket.socket, data: bytes) -> int:
    """Send all, then receive all."""
    view = memoryview(data)
    for start in range(0, len(view), STEP):
        sock.sendall(view[start : start + STEP])
    return len(_receive(sock, len(data)))


def _receive(sock: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = sock.recv_into(view[:STEP])
        if not count:
            return bytearray()
        view = view[count:]
    return data


def _forward(address: tuple[str, int], context: ssl.SSLContext | None) -> None:
    """Forward to a process that receives all, then sends it back. Does not return."""
    try:
        sock = socket.create_connection(address)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock = sock if context is None else context.wrap_socket(sock)
        near, far = socket.socketpair()
        if not os.fork():
            near.close()
            sock.detach()
            while data := _receive(far, SIZE):
                far.sendall(data)
            os._exit(0)
        far.close()
        buffer = memoryview(bytearray(STEP))
        while True:
            for source, target in ((sock, near), (near, sock)):
                left = SIZE
                while left:
                    count = source.recv_into(buffer[: min(left, STEP)])
                    if not count:
                        os._exit(0)
                    target.sendall(buffer[:count])
                    left -= count
    finally:
        os._exit(0)


def ssh_cat(place: Place, *options: str) -> Echo:
    """Echo through ``ssh host cat``. The connection is made, and has carried a byte, before the time starts."""
    host, port = place.address
    command = ["ssh", "-F", "none", "-p", str(port), "-i", str(place.key), "-o", "StrictHostKeyChecking=no"]
    command += ["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "BatchMode=yes", *options]

    def echo(data: bytes) -> float:
        with subprocess.Popen([*command, host, "/bin/cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            sender, receiver = process.stdin, process.stdout
            os.write(sender.fileno(), b"x")
            assert os.read(receiver.fileno(), 1) == b"x"
            return timed(lambda data: _through_pipes(sender.fileno(), receiver.fileno(), data), data)

    return echo


def _through_pipes(sender: int, receiver: int, data: bytes) -> int:
    def send() -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(sender, view[:STEP]) :]

    thread = threading.Thread(target=send)
    thread.start()
    received = 0
    while received < len(data):
        received += len(os.read(receiver, STEP))
    thread.join()
    return received


def dialback_ways(stack: ExitStack) -> dict[str, Echo]:
    """Return the echoes over a dial-back and its limits. The forks come first, while this process has no threads."""
    return {
        "plain sockets": stack.enter_context(bare_sockets(encrypted=False)),
        "bare TLS": stack.enter_context(bare_sockets(encrypted=True)),
        "ours": stack.enter_context(ours(DialingBackend())),
    }


def ssh_ways(stack: ExitStack) -> dict[str, Echo]:
    """Return the echoes over SSH and its limits."""
    place = stack.enter_context(a_place(0.0))
    return {
        "ssh host cat": ssh_cat(place),
        "ssh host cat, AES-GCM": ssh_cat(place, "-c", "aes128-gcm@openssh.com"),
        "ours": stack.enter_context(ours(place.backend())),
        "ours, client=openssh": stack.enter_context(ours(place.backend("openssh"))),
    }


WAYS: dict[str, tuple[Callable[[ExitStack], dict[str, Echo]], float]] = {
    "dialback": (dialback_ways, 2.0),
    "ssh": (ssh_ways, 1.1),
}
"""The ways, and the target for our time as a multiple of the first limit's."""


def measure(name: str, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each round, for each echo."""
    with ExitStack() as stack:
        echoes = WAYS[name][0](stack)
        times: dict[str, list[float]] = {title: [] for title in echoes}
        tail = os.urandom(SIZE - 8)
        for number in range(-1, rounds):  # the first round warms up
            # Different data each time: a slot caches the pieces that calls have in common.
            data = os.urandom(8) + tail
            titles = list(echoes)
            shift = number % len(titles)
            for title in titles[shift:] + titles[:shift]:
                taken = echoes[title](data)
                if number >= 0:
                    times[title].append(taken)
        return times


def report(name: str, times: Mapping[str, list[float]]) -> dict[str, object]:
    """Print the medians of one way, and return them."""
    limit = next(iter(times))
    print(f"\n{f'{name}, 64 MiB there and back':<40}{'median, ms':>12}{f'to {limit}':>24}")
    figures: dict[str, object] = {}
    for title, values in times.items():
        ratio = median(value / least for value, least in zip(values, times[limit], strict=True))
        print(f"  {title:<38}{median(values) * 1e3:>12.1f}{ratio:>24.2f}")
        figures[title] = {"seconds": values, "median": median(values), "ratio": ratio}
    return figures


def main() -> int:
    """Print the figures, and write them as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wire", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--json", default="build/wire.json", help="file for the figures")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a target is missed")
    options = parser.parse_args()
    if "ssh" in options.ways and (reason := missing()):
        print(reason, file=sys.stderr)
        return 2
    measured = {name: report(name, measure(name, options.rounds)) for name in options.ways}
    machine = {"python": platform.python_version(), "openssl": ssl.OPENSSL_VERSION, "cpus": os.cpu_count()}
    path = Path(options.json)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**machine, "load": os.getloadavg()[0], "ways": measured}, indent=2) + "\n")
    missed = [name for name in measured if measured[name]["ours"]["ratio"] > WAYS[name][1]]  # type: ignore[index]
    return 1 if missed and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
