"""What needs no Slurm: options, what squeue says, and the looks that boots share. The commands are fakes."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonfly_executor.backends.base import BootRequest, CancelToken, Signal
from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.slurm import queue_view
from dragonfly_executor.backends.slurm.backend import SlurmBackend
from dragonfly_executor.backends.slurm.commands import SlurmError
from dragonfly_executor.backends.slurm.job import ENDS, NEVER_STARTS, RUNNING, WAITING, Job, parse
from dragonfly_executor.backends.slurm.node import SlurmNode
from dragonfly_executor.backends.slurm.options import check_options, command_line, time_limit
from dragonfly_executor.backends.slurm.queue_view import QueueView
from dragonfly_executor.errors import BootTimeoutError
from dragonfly_executor.protocol.parent import Parent
from tests.support.helpers import PATIENCE

LINE = "7|PENDING|2026-11-29T16:00:00|2026-11-29T18:00:00||1:00:00|dragonfly-1|dragonfly_executor pool=a|Resources"


def job(state: str, reason: str = "None", job_id: str = "7") -> Job:
    return Job(job_id, state, "", "N/A", "n1", "1:00", "name", "", reason)


# -- options -----------------------------------------------------------------------------------------------------------


def test_options_become_the_command_line_of_sbatch() -> None:
    options = check_options(
        {"mem": "8G", "exclusive": True, "contiguous": False, "mem-per-cpu": 3, "--qos": "q", "x1": None}
    )
    assert command_line(options) == ["--mem=8G", "--exclusive", "--mem-per-cpu=3", "--qos=q"]


@pytest.mark.parametrize(
    ("time", "text"),
    [
        (None, None), ("2-12:00:00", "2-12:00:00"), (90, "0-01:30:00"), (timedelta(seconds=61), "0-00:01:01"),
        (timedelta(milliseconds=1), "0-00:00:01"), (timedelta(days=3, hours=5), "3-05:00:00"),
    ],
)  # fmt: skip
def test_a_time_limit_is_minutes_text_or_a_timedelta(time: Any, text: str | None) -> None:
    assert time_limit(time) == text


@pytest.mark.parametrize("time", [True, 1.5, [1]])
def test_a_time_limit_of_another_type(time: Any) -> None:
    with pytest.raises(TypeError, match="time must be minutes"):
        time_limit(time)


@pytest.mark.parametrize("name", ["job_name", "--job-name", "output", "array", "wrap", "signal", "requeue", "export"])
def test_what_the_backend_sets_itself_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="sets the sbatch option"):
        SlurmBackend(options={name: "x"})


def test_settings_of_a_command_line_are_read() -> None:
    backend = SlurmBackend.from_text(cpus_per_task="3", partition="p", constraint="c", queue_timeout="10")
    assert backend.default_slots() == 3
    assert backend.default_placement() == "pack"
    assert repr(backend) == "SlurmBackend(--partition=p --cpus-per-task=3 --constraint=c)"


# -- what squeue says --------------------------------------------------------------------------------------------------


def test_a_line_of_squeue() -> None:
    (found,) = parse(f"noise\n{LINE} (a | b)\n\n").values()
    assert found.job_id == "7"
    assert found.reason == "Resources (a | b)"
    assert found.comment == "dragonfly_executor pool=a"
    assert found.describe() == "job 7 is PENDING (Resources (a | b)), expected to start at 2026-11-29T18:00:00"


@given(st.text(st.characters(exclude_characters="\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"), max_size=60))
def test_any_line_is_a_job_or_is_skipped(line: str) -> None:
    assert set(parse(f"{line}\n{LINE}")) <= {line.strip().partition("|")[0], "7"}
    assert "7" in parse(f"{line}\n{LINE}")


def test_each_state_is_waiting_running_or_ended() -> None:
    assert not WAITING & RUNNING
    for state in WAITING:
        assert job(state).waits
        assert not job(state).has_ended
    for state in RUNNING:
        assert not job(state).waits
        assert not job(state).has_ended
    for state in (*ENDS, "COMPLETED", "FAILED", "COMPLETING"):
        assert job(state).has_ended
        assert not job(state).waits


def test_an_end_is_told_with_what_to_do() -> None:
    assert job("TIMEOUT").describe() == "job 7 reached its time limit: give the jobs more with SlurmBackend(time=...)"
    assert job("FAILED", "NonZeroExitCode").describe() == "job 7 ended as FAILED (NonZeroExitCode)"
    assert "BadConstraints" in NEVER_STARTS


# -- the looks ---------------------------------------------------------------------------------------------------------


class Commands:
    """A queue whose looks wait for the test.

    Attributes:
        looks: the ids that each look asked for.
    """

    def __init__(self, *, blocks: bool = False) -> None:
        self.looks: list[list[str]] = []
        self.began, self.go = threading.Semaphore(0), threading.Event()
        self.fails = False
        if not blocks:
            self.go.set()

    def jobs(self, job_ids: Sequence[str], deadline: Deadline) -> dict[str, Job]:
        self.looks.append(list(job_ids))
        self.began.release()
        with deadline.ending(self.go.set):
            self.go.wait(PATIENCE)
        if self.fails or deadline.is_cancelled:
            raise SlurmError("no controller")
        return {job_id: job("RUNNING", job_id=job_id) for job_id in job_ids}


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_view, "LOOK_EVERY", 0.0)
    monkeypatch.setattr(queue_view, "LOOK_SHARE", 0)


def no_look(_job: Job | None) -> None:
    """What is seen of a job matters to other tests."""


def view_of(commands: Commands, *job_ids: str) -> QueueView:
    view = QueueView(commands)  # type: ignore[arg-type]
    for job_id in job_ids:
        view.follow(job_id, no_look)
    return view


def looking(view: QueueView, job_id: str, found: list[object], given_up: CancelToken | None = None) -> threading.Thread:
    """Look on a thread; the job or the error goes into `found`."""

    def look() -> None:
        try:
            found.append(view.look(job_id, Deadline(PATIENCE, given_up), given_up))
        except (SlurmError, TimeoutError) as error:
            found.append(error)

    thread = threading.Thread(target=look)
    thread.start()
    return thread


def waiters(view: QueueView, count: int) -> None:
    """Wait until so many threads wait for another thread's look."""
    while len(view._waiting) < count:
        threading.Event().wait(0.001)


def test_threads_share_a_look() -> None:
    commands = Commands(blocks=True)
    view = view_of(commands, "1", "2", "3")
    found: list[object] = []
    threads = [looking(view, "1", found)]
    assert commands.began.acquire(timeout=PATIENCE)
    threads += [looking(view, job_id, found) for job_id in ("2", "3")]
    waiters(view, 2)
    commands.go.set()
    for thread in threads:
        thread.join()
    assert commands.looks == [["1", "2", "3"]]
    assert {found.job_id for found in found if isinstance(found, Job)} == {"1", "2", "3"}


def test_a_job_that_is_submitted_during_a_look_is_not_taken_for_gone() -> None:
    """That look did not ask for it."""
    commands = Commands(blocks=True)
    view = view_of(commands, "1")
    found: list[object] = []
    first = looking(view, "1", [])
    assert commands.began.acquire(timeout=PATIENCE)
    view.follow("2", no_look)
    second = looking(view, "2", found)
    waiters(view, 1)
    commands.go.set()
    first.join()
    second.join()
    assert found == [job("RUNNING", job_id="2")]
    assert commands.looks == [["1"], ["1", "2"]]


class Started:
    """A boot clock that notes that the node has started."""

    def __init__(self, started: list[str]) -> None:
        self._noted = started

    def started(self) -> None:
        self._noted.append("started")

    def queued(self) -> None:
        """Do nothing."""

    def ending(self, seconds: float, ended_by: str) -> None:
        """Do nothing."""


def node_of(commands: Commands, started: list[str], dialed_in: Signal | None = None, **options: Any) -> SlurmNode:
    request = BootRequest(1, Parent.new("test", 1, "slurm"), 1.0, None, Started(started), dialed_in)
    return SlurmNode(
        "7", "dragonfly-7", commands, QueueView(commands), Path("/nowhere/7.log"), lambda: None, str,  # type: ignore[arg-type]
        shares_disk=True, request=request, **options,
    )  # fmt: skip


def test_a_node_says_once_that_its_job_has_started() -> None:
    commands, started = Commands(), list[str]()
    node = node_of(commands, started)
    assert node.is_queued
    assert node.progress() == "job 7 was submitted"
    node._seen(job("PENDING", "Resources"))
    assert (node.is_queued, node.progress(), started) == (True, "job 7 is PENDING (Resources)", [])
    node._seen(job("RUNNING"))
    node._seen(job("RUNNING"))
    assert (node.is_queued, started) == (False, ["started"])


def test_a_node_whose_runner_has_dialed_back_has_started() -> None:
    """No look has shown that yet."""
    started, dialed_in = list[str](), Signal()
    node = node_of(Commands(), started, dialed_in)
    dialed_in.set()
    assert (node.is_queued, started) == (False, ["started"])


def test_each_look_tells_all_nodes() -> None:
    """So one thread's look is enough for hundreds of jobs."""
    commands = Commands()
    view = QueueView(commands)  # type: ignore[arg-type]
    seen: dict[str, Job | None] = {}
    view.follow("1", lambda job: seen.update({"1": job}))
    view.follow("2", lambda job: seen.update({"2": job}))
    view.look("1", Deadline(PATIENCE))
    assert seen == {"1": job("RUNNING", job_id="1"), "2": job("RUNNING", job_id="2")}


def test_a_job_that_has_waited_for_too_long_fails_its_boot() -> None:
    commands = Commands()
    commands.fails = True
    error = node_of(commands, [], queue_timeout=0.0).ended(1.0)
    assert isinstance(error, BootTimeoutError)
    assert str(error.args[0]) == "job 7 was submitted, and did not start within 0 s (queue_timeout)"


def test_a_boot_that_is_cancelled_does_not_wait_for_anothers_look() -> None:
    commands = Commands(blocks=True)
    view = view_of(commands, "1", "2")
    found: list[object] = []
    given_up = CancelToken()
    first = looking(view, "1", [])
    assert commands.began.acquire(timeout=PATIENCE)
    second = looking(view, "2", found, given_up)
    waiters(view, 1)
    given_up.set()
    second.join(PATIENCE)
    assert isinstance(found[0], TimeoutError)
    commands.go.set()
    first.join()


def test_when_a_look_is_cancelled_another_thread_makes_the_next() -> None:
    commands = Commands(blocks=True)
    view = view_of(commands, "1", "2")
    first_found: list[object] = []
    second_found: list[object] = []
    given_up = CancelToken()
    first = looking(view, "1", first_found, given_up)
    assert commands.began.acquire(timeout=PATIENCE)
    second = looking(view, "2", second_found)
    waiters(view, 1)
    given_up.set()
    first.join()
    second.join()
    assert isinstance(first_found[0], SlurmError)
    assert second_found == [job("RUNNING", job_id="2")]
    assert len(commands.looks) == 2


def test_a_job_that_is_left_is_not_asked_for() -> None:
    commands = Commands()
    view = view_of(commands, "1", "2")
    view.leave("1")
    assert view.look("2", Deadline(PATIENCE)) == job("RUNNING", job_id="2")
    assert commands.looks == [["2"]]
    with pytest.raises(TimeoutError):
        view.look("2", Deadline(0.0))


# -- the time limit ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5", 5), ("1:00", 60), ("2:03:04", 7384), ("1-00:00:01", 86401), ("0:00", 0),
        ("UNLIMITED", None), ("INVALID", None), ("NOT_SET", None), ("", None), ("-1:00", 60), ("1:2:3:4", None),
    ],
)  # fmt: skip
def test_what_is_left_of_the_time_limit(text: str, seconds: float | None) -> None:
    assert job("RUNNING")._replace(time_left=text).seconds_left == seconds
    assert job("PENDING")._replace(time_left=text).seconds_left is None


def test_a_node_tells_its_end_once_and_again_if_the_limit_changes() -> None:
    told: list[float] = []
    node = node_of(Commands(), [])
    node._request.clock.ending = lambda seconds, ended_by: told.append(seconds)  # type: ignore[union-attr, method-assign]
    running = job("RUNNING")
    node._seen(running._replace(time_left="10:00"))
    node._seen(running._replace(time_left="9:59"))
    node._seen(running._replace(time_left="UNLIMITED"))
    node._seen(running._replace(time_left="1:00:00"))
    assert told == [595, 3595]
