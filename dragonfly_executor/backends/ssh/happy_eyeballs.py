"""A TCP connection to a host name: looks up its addresses, and dials them in parallel (RFC 8305, Happy Eyeballs)."""

from __future__ import annotations

import errno
import os
import selectors
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from dragonfly_executor.backends.child_processes import answer_of
from dragonfly_executor.backends.deadline import Deadline

STAGGER = 0.25
"""Seconds without an answer after which the next address is dialed as well."""
LOOKUP = (
    "import socket, sys\n"
    "try: found = socket.getaddrinfo(sys.argv[1], None, type=socket.SOCK_STREAM)\n"
    "except OSError as error: sys.exit(str(error))\n"
    "for each in found: print(each[4][0], 'STREAM')"
)
Address = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]]


def addresses(name: str, port: int, deadline: Deadline, limit: float) -> list[Address]:
    """Return the addresses of a host, the best one first.

    Args:
        name: a host name or an address.
        port: the port of the server.
        deadline: of the boot.
        limit: seconds for the lookup.

    Raises:
        OSError: the name has no address, or the lookup took too long.
        UnicodeError: the text is no valid name.
    """
    with suppress(socket.gaierror):
        return _numeric(name, port)
    ascii_name = name.encode("idna").decode("ascii")
    command = _lookup_command(ascii_name)
    if command is None:
        # Only in a frozen program without getent. This lookup cannot be aborted; it ends with the resolver's own
        # timeout.
        found = socket.getaddrinfo(ascii_name, port, type=socket.SOCK_STREAM)
        return [(family, address) for family, _, _, _, address in found]
    answer = answer_of(command, deadline, limit)
    words = [line.split() for line in answer.output.splitlines()]
    hosts = [line[0] for line in words if line[1:2] == ["STREAM"]]
    if not hosts:
        raise socket.gaierror(socket.EAI_NONAME, answer.errors.strip() or "the name is not known")
    return [address for host in dict.fromkeys(hosts) for address in _numeric(host, port)]


def _numeric(host: str, port: int) -> list[Address]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    return [(family, address) for family, _, _, _, address in found]


def _lookup_command(name: str) -> list[str] | None:
    """Return the command that looks a name up. A process can be killed, but a thread in `getaddrinfo` cannot."""
    if name.startswith("-"):
        raise UnicodeError("a name begins with no hyphen")
    if (getent := shutil.which("getent")) is not None:
        return [getent, "ahosts", name]
    if getattr(sys, "frozen", False) or not sys.executable:
        return None
    return [sys.executable, "-I", "-S", "-c", LOOKUP, name]


def connect_first(found: Sequence[Address], deadline: Deadline, limit: float) -> socket.socket:
    """Connect to the address that answers first.

    Args:
        found: the addresses, the best one first. Each gets `STAGGER` seconds before the next one is dialed as well.
        deadline: of the boot.
        limit: seconds for all addresses together.

    Raises:
        OSError: no address answered. It is the error of the first address, and its text lists the errors of all.
    """
    until = time.monotonic() + deadline.step_timeout(limit)
    waiting = list(_interleaved(found))
    errors: list[tuple[Address, OSError]] = []
    dialing: dict[socket.socket, Address] = {}
    next_at = time.monotonic()
    with selectors.DefaultSelector() as selector, _woken(selector, deadline):
        try:
            while (waiting or dialing) and not deadline.is_cancelled and (now := time.monotonic()) < until:
                if waiting and (now >= next_at or not dialing):
                    next_at = now + STAGGER
                    _dial(waiting.pop(0), selector, dialing, errors)
                    continue
                for key, _ in selector.select((min(next_at, until) if waiting else until) - now):
                    sock = key.fileobj
                    if not isinstance(sock, socket.socket) or sock not in dialing:
                        continue  # the boot was cancelled
                    selector.unregister(sock)
                    address = dialing.pop(sock)
                    if not (number := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
                        sock.setblocking(True)
                        return sock
                    sock.close()
                    errors.append((address, OSError(number, os.strerror(number))))
            silent = [(address, TimeoutError("timed out")) for address in dialing.values()]
            raise _all_of([*errors, *silent])
        finally:
            for sock in dialing:
                sock.close()


def _dial(
    address: Address,
    selector: selectors.BaseSelector,
    dialing: dict[socket.socket, Address],
    errors: list[tuple[Address, OSError]],
) -> None:
    family, where = address
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
    except OSError as error:
        errors.append((address, error))
        return
    number = sock.connect_ex(where)
    if number not in (0, errno.EINPROGRESS, errno.EWOULDBLOCK):
        sock.close()
        errors.append((address, OSError(number, os.strerror(number))))
        return
    dialing[sock] = address
    selector.register(sock, selectors.EVENT_WRITE)


def _interleaved(found: Sequence[Address]) -> Iterator[Address]:
    """Yield the addresses with alternating families: if one family has no route, all its addresses fail alike."""
    first = [address for address in found if address[0] == found[0][0]]
    others = [address for address in found if address[0] != found[0][0]]
    while first or others:
        if first:
            yield first.pop(0)
        if others:
            yield others.pop(0)


def _all_of(errors: Sequence[tuple[Address, OSError]]) -> OSError:
    if not errors:
        return TimeoutError("timed out")
    (_, first), *others = errors
    if others:
        first.args = (first.errno, "; ".join(f"{where[0]}: {error.strerror or error}" for (_, where), error in errors))
        first.strerror = first.args[1]
    return first


@contextmanager
def _woken(selector: selectors.BaseSelector, deadline: Deadline) -> Iterator[None]:
    """Wake the selector when the boot is cancelled, while in the block."""
    reading, writing = socket.socketpair()
    with reading, writing:
        selector.register(reading, selectors.EVENT_READ)
        with deadline.ending(lambda: writing.shutdown(socket.SHUT_WR)):
            yield
