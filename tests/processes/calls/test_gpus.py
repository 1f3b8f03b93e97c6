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


# -- calls that require GPUs -------------------------------------------------------------------------------------------


def seen_with_pid(mailbox: str, gate: str) -> tuple[str | None, int]:
    payloads.hold(mailbox, gate)
    return os.environ.get(CUDA), os.getpid()


def seen_now() -> tuple[str | None, int]:
    return os.environ.get(CUDA), os.getpid()


def test_a_call_sees_as_many_gpus_as_it_requires_and_no_other_call_sees_them(
    make: Make, mailbox: Mailbox, gate: Gate
) -> None:
    ex = make(4, backend=LocalBackend(env={CUDA: FAKE}))
    two = ex.options(requires={"gpus": 2})
    futures = [two.submit(seen_with_pid, mailbox.path, gate.path) for _ in range(2)]
    futures += [ex.submit(seen_with_pid, mailbox.path, gate.path) for _ in range(2)]
    for _ in range(4):
        mailbox.read()
    gate.open(4)
    (first, _), (second, _), *others = values(futures)
    assert {first, second} == {"3,5", "GPU-8932f937,MIG-GPU-8932f937/1/0"}
    assert [devices for devices, _ in others] == ["", ""], "calls that require none see none"


def test_calls_that_wait_for_gpus_get_those_of_calls_that_have_ended(make: Make) -> None:
    ex = make(4, backend=LocalBackend(env={CUDA: FAKE}))
    three = ex.options(requires={"gpus": 3})
    found = values(three.submit(seen_now) for _ in range(6))
    assert {devices for devices, _ in found} == {"3,5,GPU-8932f937"}
    assert len({pid for _, pid in found}) == 1, "a slot that has them stays warm"
    all_of_them = ex.options(requires={"gpus": 4})
    assert all_of_them.submit(seen_now).result(PATIENCE)[0] == FAKE
    assert sorted({devices for devices, _ in values(three.submit(seen_now) for _ in range(3))}, key=str) == [
        "3,5,GPU-8932f937"
    ]


def test_a_slot_whose_gpus_change_is_replaced(make: Make) -> None:
    """A library that was initialized in it would keep the old ones."""
    ex = make(2, backend=LocalBackend(env={CUDA: "7,8"}))
    usual = {devices for devices, _ in values(ex.submit(seen_now) for _ in range(2))}
    assert usual <= {"7", "8"}
    before = ex.submit(seen_now).result(PATIENCE)
    both, pid = ex.options(requires={"gpus": 2}).submit(seen_now).result(PATIENCE)
    assert both == "7,8"
    assert pid != before[1]
    assert ex.submit(seen_now).result(PATIENCE)[0] == ""


def test_a_call_that_began_before_keeps_its_share_and_others_get_the_rest(
    make: Make, mailbox: Mailbox, gate: Gate
) -> None:
    ex = make(2, backend=LocalBackend(env={CUDA: "7,8"}))
    early = ex.submit(seen_with_pid, mailbox.path, gate.path)
    mailbox.read()
    one = ex.options(requires={"gpus": 1})
    assert one.submit(seen_now).result(PATIENCE)[0] == "8", "the one that no call sees"
    gate.open()
    assert early.result(PATIENCE)[0] == "7"


def test_a_runner_with_one_slot_shows_all_gpus_to_its_calls(make: Make) -> None:
    ex = make(1, backend=LocalBackend(env={CUDA: FAKE}))
    assert ex.options(requires={"gpus": 2}).submit(seen_now).result(PATIENCE)[0] == FAKE


def test_slots_that_see_all_gpus_do_so_whatever_calls_require(make: Make) -> None:
    ex = make(2, backend=LocalBackend(env={CUDA: FAKE}), divide_gpus=False)
    assert ex.options(requires={"gpus": 2}).submit(seen_now).result(PATIENCE)[0] == FAKE
