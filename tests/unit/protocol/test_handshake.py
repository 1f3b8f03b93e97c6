"""What a runner says of its capacity in HELLO. A parent believes no garbage."""

from __future__ import annotations

from typing import Any

import pytest

from dragonfly_executor.protocol import handshake
from dragonfly_executor.protocol.stdlib_json import json
from dragonfly_executor.protocol.versions import versions


def read(capacity: Any) -> tuple[float, int, int] | None:
    said = json.loads(handshake.hello("1", versions()))
    said["capacity"] = capacity
    return handshake.read_hello(json.dumps(said).encode()).capacity


@pytest.mark.parametrize("capacity", [(2.5, 4, 2**34), (0.1, 0, 0), (1.0, 1024, 2**62)])
def test_a_capacity_arrives_as_it_was_sent(capacity: tuple[float, int, int]) -> None:
    assert handshake.read_hello(handshake.hello("1", versions(), capacity)).capacity == capacity


@pytest.mark.parametrize(
    "capacity",
    [
        None, 7, "abc", [], [1], [1, 2], {}, {"cpus": 1}, [[], 0, 0], ["x", 0, 0], [None, 0, 0],
        [0, 0, 0], [-1.0, 0, 0], [1e9, 0, 0], [float("inf"), 0, 0], [float("nan"), 0, 0],
        [1, -1, 0], [1, 1025, 0], [1, float("inf"), 0], [1, 0, -1], [1, 0, 2**62 + 1], [1, 0, float("nan")],
    ],
)  # fmt: skip
def test_a_capacity_that_cannot_be_is_unknown(capacity: Any) -> None:
    assert read(capacity) is None


def test_a_runner_that_says_nothing_of_it_is_admitted() -> None:
    said = json.loads(handshake.hello("1", versions()))
    del said["capacity"]
    assert handshake.read_hello(json.dumps(said).encode()).capacity is None


@pytest.mark.parametrize(
    ("said", "known"),
    [(["lz4", "zstd"], ("zstd", "lz4")), (["lz4"], ("lz4",)), (["brotli", 1, None, []], ()), ("lz4", ()), (None, ())],
)
def test_codecs_that_are_not_known_are_left_out(said: object, known: tuple[str, ...]) -> None:
    payload = json.dumps(json.loads(handshake.hello("1", versions())) | {"codecs": said}).encode()
    assert handshake.read_hello(payload).codecs == known


def test_a_runner_need_not_name_codecs() -> None:
    said = json.loads(handshake.hello("1", versions()))
    del said["codecs"]
    assert handshake.read_hello(json.dumps(said).encode()).codecs == ()
