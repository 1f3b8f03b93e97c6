"""What a slot has open: its own ends, and nothing of its agent's or of other slots'."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections import Counter

import pytest

from dragonfly_executor import DragonflyExecutor
from dragonfly_executor.core.slot_state import FORKS_AT_ONCE, REVIEW_AFTER
from tests.processes.conftest import Make
from tests.support import payloads
from tests.support.helpers import PATIENCE, Gate, Mailbox, values

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
SLOTS = 2 * FORKS_AT_ONCE + 3
OWN = 2, 2
"""A slot's sockets (its queue, and its stream) and its pipes (for its last stack, and for the claims of its calls)."""
OWN_MEMORY = 2
"""A slot's progress, and its ring of results."""
TAGGED = OWN[0] + 2, OWN[1] + 3
"""If output is forwarded: also a pair for log records; also stdout, stderr, and whose turn it is to read them."""


def all_slots(ex: DragonflyExecutor, mailbox: Mailbox, gate: Gate) -> dict[int, Counter[str]]:
    futures = [ex.submit(payloads.hold_and_list_descriptors, mailbox.path, gate.path) for _ in range(SLOTS)]
    for _ in range(SLOTS):
        mailbox.read()
    gate.open(SLOTS)
    return dict(values(futures))


def check(found: dict[int, Counter[str]], own: tuple[int, int]) -> None:
    """No two slots have a file in common, but for what the agent lets all of them keep."""
    assert len(found) == SLOTS
    holders = Counter(name for each in found.values() for name in each)
    common = {name for name, count in holders.items() if count > 1}
    assert all(holders[name] == SLOTS for name in common), "a slot has a file of another one"
    for each in found.values():
        assert each.pop("memory") == OWN_MEMORY
        kinds = Counter(re.sub(r"\d+", "", name) for name in each.elements())
        # All slots have the socket at which they connect to the parent.
        assert kinds["socket:[]"] == own[0] + 1
        private = Counter(name.partition(":")[0] for name in each if name not in common)
        assert (private["socket"], private["pipe"]) == own
        # The doorbell of its ring, and the descriptor of `multiprocessing.parent_process()`.
        others = {kind: count for kind, count in kinds.items() if "anon_inode" in kind}
        assert others == {"anon_inode:[eventfd]": 1, "anon_inode:[pidfd]": 1}


@pytest.mark.parametrize(("output", "own"), [("inherit", OWN), ("drop", OWN), ("tag", TAGGED)])
def test_slots_that_were_forked_in_a_row_share_no_descriptor(
    make: Make, mailbox: Mailbox, gate: Gate, output: str, own: tuple[int, int]
) -> None:
    ex = make(SLOTS, output=output)
    # Calls that take longer than a fork have several slots forked at once.
    ex.submit(time.sleep, 2 * REVIEW_AFTER).result()
    found = all_slots(ex, mailbox, gate)
    check(found, own)
    for pid in list(found)[::3]:
        os.kill(pid, signal.SIGKILL)
    again = all_slots(ex, mailbox, gate)
    check(again, own)
    assert len(found.keys() & again.keys()) == SLOTS - len(list(found)[::3])


def test_slots_that_end_otherwise_leave_no_number_in_the_table(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    """Slots that retire, and slots that close their own stream: their numbers soon belong to other files."""
    ex = make(SLOTS, max_tasks_per_child=2)
    ex.submit(time.sleep, 2 * REVIEW_AFTER).result()
    for _ in range(3):
        for each in [ex.submit(payloads.close_descriptors, 3, 256) for _ in range(3)]:
            each.exception(PATIENCE)
        check(all_slots(ex, mailbox, gate), OWN)
