"""One web page for several pools: each has its own calls, and what a user does reaches the pool that is chosen."""

from __future__ import annotations

import subprocess
import time
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from tests.engine.conftest import MakePool
from tests.processes.observing.test_dashboard import command, get, post
from tests.support.helpers import PATIENCE, Gate, Mailbox
from tests.support.payloads import echo, hold

__all__ = ["command"]


def test_a_page_shows_several_pools_and_acts_on_the_chosen_one(
    sockets: Path, command: subprocess.Popen[str], make_pool: MakePool, mailbox: Mailbox, gate: Gate
) -> None:
    assert command.stdout is not None
    url = command.stdout.readline().strip()
    pools = {name: make_pool(name, max_concurrency=1) for name in ("first", "second", "third")}
    held = {name: pools[name].submit(hold, mailbox.path, gate.path, name) for name in ("first", "second")}
    for _ in held:
        mailbox.read()
    assert pools["third"].call(echo, 3) == 3
    deadline = time.monotonic() + PATIENCE
    while len((state := get(f"{url}api/state"))["pools"]) < 3:
        assert time.monotonic() < deadline
    keys = {each["pool"]: each["key"] for each in state["pools"]}
    assert len(set(keys.values())) == 3
    for name, key in keys.items():
        while not (shown := get(f"{url}api/state", pool=key))["history"]:
            assert time.monotonic() < deadline
        assert (shown["chosen"], shown["report"]["pool"]) == (key, name)
        assert [call["function"] for call in shown["report"]["calls"]] == ["hold"] * (name in held)
    # The calls of all three have the same number, and the kill reaches one pool.
    (call,) = get(f"{url}api/state", pool=keys["first"])["report"]["calls"]
    assert "error" in post(f"{url}api/kill", pool=keys["third"], call=call["id"])
    assert post(f"{url}api/kill", pool=keys["first"], call=call["id"]) == {"killed": call["id"]}
    with pytest.raises(CancelledError):
        held["first"].result(PATIENCE)
    assert post(f"{url}api/resize", pool=keys["third"], max=4) == {"min": 0, "max": 4}
    assert [pools[name].stats().max for name in keys] == [4 if name == "third" else 1 for name in keys]
    # A pool that ends leaves the page, and the others stay.
    pools["third"].shutdown()
    assert {each["pool"] for each in get(f"{url}api/state")["pools"]} == {"first", "second"}
    assert not held["second"].done()
    gate.open()
    assert held["second"].result(PATIENCE) == "second"
