"""Each slot sees its share of the GPUs that its runner may use. Names of GPUs stand for GPUs here."""

from __future__ import annotations

import os

import pytest

from dragonfly_executor import DragonflyExecutor, LocalBackend, Parent
from dragonfly_executor.runner.gpus import CUDA, HIP, ROCR
from tests.processes.conftest import Make
from tests.support import payloads
from tests.support.helpers import PATIENCE, Gate, Mailbox, values

FAKE = "3,5,GPU-8932f937,MIG-GPU-8932f937/1/0"


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (CUDA, HIP, ROCR):
        monkeypatch.delenv(name, raising=False)


def seen(mailbox: str, gate: str, name: str = CUDA) -> tuple[int | None, str | None]:
    """The slot's number, and the GPUs that it sees, once the test opens the gate."""
    payloads.hold(mailbox, gate)
    parent = Parent.get()
    assert parent is not None
    return parent.slot, os.environ.get(name)


def seen_by_a_single_slot() -> str | None:
    return os.environ.get(CUDA)


def seen_in_runner_of_its_own() -> str | None:
    with DragonflyExecutor(1) as inner:
        return inner.submit(seen_by_a_single_slot).result()


def all_seen(ex: DragonflyExecutor, slots: int, mailbox: Mailbox, gate: Gate, name: str = CUDA) -> list[str | None]:
    """What each slot sees, by its number."""
    futures = [ex.submit(seen, mailbox.path, gate.path, name) for _ in range(slots)]
    for _ in range(slots):
        mailbox.read()
    gate.open(slots)
    return [devices for _, devices in sorted(values(futures))]


@pytest.mark.parametrize(
    ("slots", "shares"),
    [
        (2, ["3,5", "GPU-8932f937,MIG-GPU-8932f937/1/0"]),
        (4, ["3", "5", "GPU-8932f937", "MIG-GPU-8932f937/1/0"]),
        (6, ["3", "5", "GPU-8932f937", "MIG-GPU-8932f937/1/0", "3", "5"]),
    ],
)
def test_slots_share_the_gpus_that_the_runner_was_given(
    slots: int, shares: list[str], make: Make, mailbox: Mailbox, gate: Gate
) -> None:
    ex = make(slots, backend=LocalBackend(env={CUDA: FAKE}))
    assert all_seen(ex, slots, mailbox, gate) == shares


def test_slots_share_the_gpus_of_this_program(
    make: Make, mailbox: Mailbox, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CUDA, "1,0")
    assert all_seen(make(2), 2, mailbox, gate) == ["1", "0"]


def test_slots_share_gpus_of_rocm(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    ex = make(2, backend=LocalBackend(env={ROCR: "0,GPU-x"}))
    assert all_seen(ex, 2, mailbox, gate, ROCR) == ["0", "GPU-x"]


def test_a_slot_that_replaces_another_has_its_gpu(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    ex = make(2, backend=LocalBackend(env={CUDA: "7,8"}), max_tasks_per_child=1)
    for _ in range(2):
        assert all_seen(ex, 2, mailbox, gate) == ["7", "8"]


def test_a_pool_may_leave_gpus_alone(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    ex = make(2, backend=LocalBackend(env={CUDA: FAKE}), divide_gpus=False)
    assert all_seen(ex, 2, mailbox, gate) == [FAKE, FAKE]


@pytest.mark.parametrize("given", [FAKE, ""])
def test_a_single_slot_has_all_gpus(given: str, make: Make) -> None:
    ex = make(1, backend=LocalBackend(env={CUDA: given}))
    assert ex.submit(seen_by_a_single_slot).result(PATIENCE) == given


def test_gpus_that_were_hidden_stay_hidden(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    ex = make(2, backend=LocalBackend(env={CUDA: ""}))
    assert all_seen(ex, 2, mailbox, gate) == ["", ""]


def test_a_runner_in_a_slot_has_the_gpus_of_that_slot(make: Make) -> None:
    ex = make(2, backend=LocalBackend(env={CUDA: "7,8"}))
    assert ex.submit(seen_in_runner_of_its_own).result(PATIENCE) in ("7", "8")
