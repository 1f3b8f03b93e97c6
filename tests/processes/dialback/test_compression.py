"""Large payloads of runners that dial back, compressed where that is faster."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dragonfly_executor import LocalBackend, Parent
from dragonfly_executor.backends.base import BootRequest
from dragonfly_executor.transport.tcp import split_address
from tests.engine.conftest import MakeExecutor
from tests.support.dialback import DialingBackend
from tests.support.fault_proxy import FaultProxy
from tests.support.helpers import PATIENCE
from tests.support.payloads import echo

SIZE = 8 * 1024 * 1024
RATE = 20e6
OVERHEAD = 0.03
"""Bytes of frames, of TLS and of the boot, as a share of the payload."""


class ProxiedBackend(DialingBackend):
    """A backend whose runners dial through a proxy.

    Attributes:
        proxies: one for each runner.
    """

    def __init__(self) -> None:
        super().__init__()
        self.proxies: list[FaultProxy] = []

    def parent_of(self, request: BootRequest) -> Parent:
        assert request.parent.address is not None
        proxy = FaultProxy(split_address(request.parent.address)).__enter__()
        proxy.slow(rate=RATE)
        self.proxies.append(proxy)
        return request.parent._replace(address=f"127.0.0.1:{proxy.port}")

    def passed(self) -> tuple[int, int]:
        """Return the bytes to the parent and to the runner so far."""
        (proxy,) = self.proxies
        return proxy.up.passed, proxy.down.passed


@pytest.fixture
def backend() -> Iterator[ProxiedBackend]:
    backend = ProxiedBackend()
    yield backend
    for proxy in backend.proxies:
        proxy.__exit__(None, None, None)


def numbers(size: int) -> bytes:
    """Return small integers of eight bytes each, as an array has them."""
    generator = random.Random(1)
    return b"".join(struct.pack("<q", generator.randrange(100_000)) for _ in range(size // 8))


def shares(make: MakeExecutor, backend: ProxiedBackend, payload: bytes, **options: object) -> tuple[float, float]:
    """Return the bytes on the wire for each byte of a payload that is sent there and back: back, there."""
    executor = make(1, backend=backend, **options)
    executor.submit(echo, 0).result(PATIENCE)
    before = backend.passed()
    assert executor.submit(echo, payload).result(PATIENCE) == payload
    up, down = (after - start for after, start in zip(backend.passed(), before, strict=True))
    return up / len(payload), down / len(payload)


def test_numbers_take_less_on_the_wire_both_ways(make: MakeExecutor, backend: ProxiedBackend) -> None:
    assert max(shares(make, backend, numbers(SIZE), compression="auto")) < 0.6


@pytest.mark.parametrize("way", ["carried", "shared"])
def test_what_a_runner_gets_once_takes_less_on_the_wire(make: MakeExecutor, backend: ProxiedBackend, way: str) -> None:
    """What a function carries, and shared objects."""
    executor, data = make(1, backend=backend, compression="auto"), numbers(SIZE)
    executor.submit(echo, 0).result(PATIENCE)
    before = backend.passed()[1]
    if way == "carried":
        found = executor.submit(lambda: (len(data), data[-100:])).result(PATIENCE)
    else:
        found = executor.submit(lambda held=executor.share(data): (len(held), held[-100:])).result(PATIENCE)
    assert found == (SIZE, data[-100:])
    assert backend.passed()[1] - before < 0.6 * SIZE


def test_random_bytes_take_no_more_than_without_compression(make: MakeExecutor, backend: ProxiedBackend) -> None:
    for share in shares(make, backend, os.urandom(SIZE), compression="auto"):
        assert 1 <= share < 1 + OVERHEAD


def test_it_is_off_by_default(make: MakeExecutor, backend: ProxiedBackend) -> None:
    for share in shares(make, backend, bytes(SIZE)):
        assert 1 <= share < 1 + OVERHEAD


def test_a_payload_whose_parts_differ(make: MakeExecutor, backend: ProxiedBackend) -> None:
    """Of which only the first half shrinks, and which has a part that the slot caches."""
    shares(make, backend, numbers(SIZE) + os.urandom(SIZE), compression="auto")


def test_a_runner_without_codecs_gets_plain_chunks(
    make: MakeExecutor, backend: ProxiedBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["import sys", *(f"sys.modules['{name}'] = None" for name in ("lz4", "zstandard", "_zstd"))]
    (tmp_path / "sitecustomize.py").write_text("\n".join(lines))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for share in shares(make, backend, bytes(SIZE), compression="auto"):
        assert 1 <= share < 1 + OVERHEAD


def codecs_in(_payload: bytes) -> int:
    """Return the number of codecs that this slot may use."""
    import gc

    from dragonfly_executor.transport.codecs import Codecs

    gc.unfreeze()  # else the objects that the agent has made before the fork are left out
    return sum(len(found.names) for found in gc.get_objects() if isinstance(found, Codecs))


def test_no_runner_on_this_machine_compresses(make: MakeExecutor) -> None:
    assert make(1, backend=LocalBackend(), compression="auto").submit(codecs_in, bytes(SIZE)).result(PATIENCE) == 0


def test_a_runner_elsewhere_may(make: MakeExecutor) -> None:
    """So that the test before says something."""
    found = make(1, backend=DialingBackend(), compression="auto").submit(codecs_in, b"").result(PATIENCE)
    assert found > 0


def test_looking_for_codecs_imports_none() -> None:
    """A runner looks at each start."""
    code = (
        "import sys; from dragonfly_executor.transport.codecs import installed; installed(); "
        "print([name for name in ('lz4', 'zstandard', 'compression.zstd') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
