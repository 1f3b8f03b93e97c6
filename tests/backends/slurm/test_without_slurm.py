"""What needs no Slurm: options, what squeue says, and the looks that boots share. The commands are fakes."""

from __future__ import annotations

import os
import subprocess
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
from dragonfly_executor.backends.slurm import node as slurm_node
from dragonfly_executor.backends.slurm import queue_view
from dragonfly_executor.backends.slurm.accounting import Accounting
from dragonfly_executor.backends.slurm.backend import SlurmBackend
from dragonfly_executor.backends.slurm.commands import SlurmError, is_about_arrays, is_over_limit
from dragonfly_executor.backends.slurm.job import ENDS, NEVER_STARTS, RUNNING, WAITING, Job, parse
from dragonfly_executor.backends.slurm.job_end import parse_end
from dragonfly_executor.backends.slurm.node import SlurmNode
from dragonfly_executor.backends.slurm.options import capacity_of, check_options, command_line, meet, time_limit
from dragonfly_executor.backends.slurm.queue_view import QueueView
from dragonfly_executor.backends.slurm.submission import environment, own_options, script
from dragonfly_executor.core.capacity import Capacity, Requirements
from dragonfly_executor.errors import BootError, BootTimeoutError
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


NONE = frozenset[str]()
GIB = 2**30


@pytest.mark.parametrize(
    ("options", "required", "words"),
    [
        ({}, Requirements(cpus=2), ["--cpus-per-task=2"]),
        ({}, Requirements(cpus=1.5), ["--cpus-per-task=2"]),
        ({"cpus_per_task": 8}, Requirements(cpus=2), ["--cpus-per-task=8"]),
        ({"qos": "a"}, Requirements(gpus=3), ["--qos=a", "--gres=gpu:3"]),
        ({"gres": "gpu:1"}, Requirements(cpus=2), ["--gres=gpu:1", "--cpus-per-task=2"]),
        ({}, Requirements(memory=GIB + 1), ["--mem=1025M"]),
        ({"mem": "4G"}, Requirements(memory=GIB), ["--mem=4096M"]),
        ({"mem": 500}, Requirements(memory=GIB), ["--mem=1024M"]),
        ({"mem": "2048K"}, Requirements(memory=1), ["--mem=2M"]),
        ({}, Requirements(labels=frozenset({"b", "a", "ours"})), ["--constraint=a&b"]),
        ({"constraint": "x|y"}, Requirements(labels=frozenset({"a"})), ["--constraint=(x|y)&a"]),
        ({}, Requirements(labels=frozenset({"ours"})), []),
    ],
)
def test_a_job_asks_for_what_calls_require(options: dict[str, Any], required: Requirements, words: list[str]) -> None:
    assert command_line(meet(options, required, frozenset({"ours"}))) == words


@pytest.mark.parametrize(
    ("options", "required"),
    [
        ({"gres": "gpu:1"}, Requirements(gpus=1)),
        ({"gpus_per_node": 2}, Requirements(gpus=1)),
        ({"mem_per_cpu": "1G"}, Requirements(memory=1)),
    ],
)
def test_options_that_cannot_be_raised_are_told_by_name(options: dict[str, Any], required: Requirements) -> None:
    (name,) = options
    with pytest.raises(BootError, match=f"the calls require .*, and SlurmBackend has the option {name}=") as info:
        meet(options, required, NONE)
    assert info.value.final


@pytest.mark.parametrize(
    ("options", "capacity"),
    [
        ({}, Capacity(1.0)),
        ({"cpus_per_task": 4, "mem": "2G"}, Capacity(4.0, 0, 2 * GIB)),
        ({"gres": "gpu:tesla:2,license:1"}, Capacity(1.0, 2)),
        ({"gres": "gpu"}, Capacity(1.0, 1)),
        ({"gpus_per_node": "a100:3"}, Capacity(1.0, 3)),
        ({"gpus": 4}, Capacity(1.0, 4)),
        ({"gres": "shard:8"}, Capacity(1.0)),
    ],
)
def test_a_job_has_what_it_asked_for(options: dict[str, Any], capacity: Capacity) -> None:
    assert capacity_of(options, NONE) == capacity


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


# -- arrays ------------------------------------------------------------------------------------------------------------


def test_an_element_of_an_array_is_a_job_with_a_name_of_its_own() -> None:
    (element,) = parse(LINE.replace("7|", "7_12|", 1)).values()
    assert (element.job_id, element.name, element.node_name) == ("7_12", "dragonfly-1", "dragonfly-1-12")
    assert job("RUNNING").node_name == "name"
    assert parse(LINE.replace("7|", "7_[0-3]|", 1)) == {}


def test_each_element_keeps_its_own_token_and_starts_without_the_others(tmp_path: Path) -> None:
    """The lines of `setup` do not see the others either. A plain shell runs the script."""
    parents = [Parent.new("test", number, "slurm")._replace(token=f"secret{number}") for number in range(3)]
    text = script(["env"], "env > setup-saw", 3)
    env = {**environment(parents), "SLURM_ARRAY_TASK_ID": "1", "PATH": os.environ["PATH"]}
    done = subprocess.run(["sh"], input=text, env=env, cwd=tmp_path, capture_output=True, text=True, check=True)
    own = f"DRAGONFLY_PARENT={parents[1].encode()}"
    for seen in (done.stdout, (tmp_path / "setup-saw").read_text()):
        assert [line for line in seen.splitlines() if "DRAGONFLY" in line] == [own]
    assert "secret" not in text


def test_a_single_job_needs_no_array() -> None:
    parent = Parent.new("test", 1, "slurm")
    assert environment([parent]) == {"DRAGONFLY_PARENT": parent.encode()}
    assert script(["python", "-m", "x y"], "module load a", 1) == "#!/bin/sh\nmodule load a\nexec python -m 'x y'\n"
    single, array = own_options("name", "comment", "/logs", 1), own_options("name", "comment", "/logs", 50)
    assert "array" not in single
    assert (single["output"], array["output"], array["array"]) == ("/logs/%j.log", "/logs/%A_%a.log", "0-49")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("sbatch failed: sbatch: error: Batch job submission failed: Invalid job array specification", "array"),
        ("sbatch failed: sbatch: error: job_submit/site: please submit no arrays here, but single jobs", "array"),
        ("sbatch failed: sbatch: error: AssocMaxSubmitJobLimit Batch job submission failed", "limit"),
        ("sbatch failed: sbatch: error: QOSMaxSubmitJobPerUserLimit", "limit"),
        ("sbatch failed: sbatch: error: invalid partition specified: nowhere", ""),
        ("sbatch failed: Unable to contact slurm controller", ""),
    ],
)
def test_arrays_that_are_refused_are_told_from_other_errors(text: str, why: str) -> None:
    assert is_about_arrays(SlurmError(text)) == (why == "array")
    assert is_over_limit(SlurmError(text)) == (why == "limit")
    lost = SlurmError(text, may_have_happened=True)
    assert not is_about_arrays(lost)
    assert not is_over_limit(lost)


# -- what accounting says ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ("7_3|OUT_OF_MEMORY|0:125|\n7_3.batch|OUT_OF_MEMORY|0:125|8123K\n7_3.extern|COMPLETED|0:0|4K",
         f"job 7_3 {ENDS['OUT_OF_MEMORY']} (signal 125, 8123K at most, as far as it was measured)"),
        ("7_2|FAILED|1:0|\n7_3|TIMEOUT|0:15|", f"job 7_3 {ENDS['TIMEOUT']} (signal 15)"),
        ("7_3|CANCELLED by 1000|0:9|", "job 7_3 was cancelled (by user 1000, signal 9)"),
        ("7_3|NODE_FAIL|0:0|", "job 7_3 lost its node"),
        ("7_3|PREEMPTED|0:0|", "job 7_3 was preempted by a job of higher priority"),
        ("7_3|FAILED|3:0|", "job 7_3 ended as FAILED (exit code 3)"),
        ("7_3|COMPLETED|0:0|", "job 7_3 ended as COMPLETED"),
        ("7_3|RUNNING|0:0|", None), ("7_3|PENDING|0:0|", None), ("7_3||0:0|", None), ("7_3|FAILED", None),
        ("7_30|FAILED|3:0|", None), ("", None), ("7_3|FAILED|many:9999999999999|", "job 7_3 ended as FAILED"),
    ],
)  # fmt: skip
def test_accounting_tells_how_a_job_has_ended(lines: str, text: str | None) -> None:
    end = parse_end(lines, "7_3")
    assert (None if end is None else end.describe()) == text


@given(st.text(max_size=60))
def test_any_answer_of_sacct_is_an_end_or_none(text: str) -> None:
    end = parse_end(f"{text}\n7|FAILED|1:0|", "7")
    assert end is None or end.describe().startswith("job 7 ")


@pytest.mark.parametrize(
    ("error", "asked"),
    [("sacct failed: Slurm accounting storage is disabled", 1), ("there is no program sacct on this", 1),
     ("sacct failed: Connection refused", 2)],
)  # fmt: skip
def test_accounting_that_is_not_there_is_asked_once(error: str, asked: int) -> None:
    class Without:
        times = 0

        def end_of(self, job_id: str, deadline: Deadline) -> None:
            self.times += 1
            raise SlurmError(error)

    commands: Any = Without()
    accounting = Accounting(commands)
    assert [accounting.end_of("7", Deadline(1.0)) for _ in range(2)] == [None, None]
    assert commands.times == asked


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

    def end_of(self, job_id: str, deadline: Deadline) -> None:
        raise SlurmError("sacct failed: Slurm accounting storage is disabled")


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
        shares_disk=True, accounting=Accounting(commands), request=request, **options,  # type: ignore[arg-type]
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


@pytest.mark.parametrize(
    ("shown", "accounted", "text"),
    [
        (job("FAILED", "OutOfMemory"), None, "job 7 ended as FAILED (OutOfMemory)"),
        (job("FAILED"), "7|NODE_FAIL|0:0|", "job 7 lost its node"),
        (job("COMPLETED"), None, ""),
        (job("COMPLETED"), "7|COMPLETED|0:0|", ""),
        (None, "7|PREEMPTED|0:0|", "job 7 was preempted by a job of higher priority"),
        (None, None, ""),
    ],
)
def test_a_lost_runner_is_explained_by_the_end_of_its_job(shown: Job | None, accounted: str | None, text: str) -> None:
    """A job that has completed explains nothing: the runner has ended by itself, perhaps after a SIGTERM."""

    class Ended(Commands):
        def jobs(self, job_ids: Sequence[str], deadline: Deadline) -> dict[str, Job]:
            return {} if shown is None else {"7": shown}

        def end_of(self, job_id: str, deadline: Deadline) -> Any:
            return parse_end(accounted or "", job_id)

    node = node_of(Ended(), [])
    assert node.explain_loss() == text


def test_a_job_that_runs_although_its_runner_was_lost_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_node, "LOSS_WAIT", 0.1)
    assert node_of(Commands(), []).explain_loss().startswith("job 7 is RUNNING on n1: check that node, and the network")
