"""`place_process`: an operating system's process in a slot of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import DragonflyExecutor, ProcessResult, WorkerLostError
from tests.engine.conftest import MakePool
from tests.processes.conftest import Make
from tests.support.helpers import PATIENCE, Mailbox, all_ended, error_of, watching
from tests.support.payloads import pid


def python(code: str, *args: object) -> list[str]:
    return [sys.executable, "-c", code, *map(str, args)]


def test_its_output_and_its_exit_status_are_a_future(make: Make, tmp_path: Path) -> None:
    executor = make()
    process = executor.place_process(
        python("import os, sys; print(os.getcwd(), os.environ['KEY'], sys.stdin.read()); sys.exit('bad')"),
        cwd=tmp_path,
        env={"KEY": "value"},
        input=b"given",
    )
    result = process.result(PATIENCE)
    assert type(result) is ProcessResult
    assert (result.returncode, result.stdout, result.stderr) == (1, f"{tmp_path} value given\n".encode(), b"bad\n")
    with pytest.raises(subprocess.CalledProcessError, match="status 1"):
        result.check_returncode()
    assert executor.submit(pid).result(PATIENCE) > 0


def test_tasks_await_it_and_pools_and_views_place_it(make: Make, make_pool: MakePool) -> None:
    async def main(executor: DragonflyExecutor) -> Any:
        async with executor.options(requires={"cpus": 1}).place_process(["echo", "a"]) as process:
            return await process

    assert asyncio.run(main(make())).stdout == b"a\n"
    assert make_pool().place_process(["echo", "b"]).result(PATIENCE).stdout == b"b\n"


def test_the_end_of_much_output_is_kept(make: Make) -> None:
    code = "import sys; [print(i) for i in range(200_000)]"
    result = make().place_process(python(code), max_output=100).result(PATIENCE)
    assert len(result.stdout) == 100
    assert result.stdout.endswith(b"199999\n")
    assert len(make().place_process(python(code), max_output=None).result(PATIENCE).stdout) == 1_288_890


def test_its_output_may_go_where_that_of_calls_goes(make: Make) -> None:
    lines: list[str] = []
    with DragonflyExecutor(1, output=lambda line: lines.append(line.text)) as executor:
        result = executor.place_process(["echo", "shown"], output="inherit").result(PATIENCE)
    assert (result.stdout, lines) == (b"", ["shown"])


STUBBORN = "import os, signal; signal.signal(15, signal.SIG_IGN); os.system('echo ready > {}; sleep 1000')"


def test_stop_ends_it_and_its_children(make: Make, mailbox: Mailbox) -> None:
    executor = make(1)
    gentle = executor.place_process(["sleep", "1000"])
    assert gentle.started.result(PATIENCE) > 0
    gentle.stop(timeout=PATIENCE)
    assert gentle.result(0).returncode == -signal.SIGTERM
    stubborn = executor.place_process(python(STUBBORN.format(mailbox.path)), stop_timeout=0.2)
    assert mailbox.read() == "ready"
    with watching(stubborn.started.result(PATIENCE), *children_of(stubborn.started.result())) as watches:
        stubborn.stop(timeout=PATIENCE)
        assert all_ended(watches)
    assert stubborn.result(0).returncode == -signal.SIGKILL
    assert executor.submit(pid).result(PATIENCE) > 0


def children_of(number: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{number}/task/{number}/children").read_text().split()]


def test_what_it_leaves_running_is_killed(make: Make) -> None:
    process = make().place_process(["sh", "-c", "sleep 1000 > /dev/null 2>&1 & echo $!"])
    left = int(process.result(PATIENCE).stdout)
    with watching(left, may_be_gone=True) as watches:
        assert all_ended(watches)


SLEEPER = """
import signal, sys
signal.signal(signal.SIGUSR1, lambda *_: sys.exit(7))
with open(sys.argv[1], "w") as box:
    box.write("ready\\n")
signal.pause()
"""


def test_signals_reach_it(make: Make, mailbox: Mailbox) -> None:
    process = make().place_process(python(SLEEPER, mailbox.path))
    assert mailbox.read() == "ready"
    with pytest.raises(ValueError, match="signal"):
        process.send_signal(1000)
    process.send_signal(signal.SIGUSR1)
    assert process.result(PATIENCE).returncode == 7


def test_kill_and_the_death_of_the_slot_are_told(make: Make) -> None:
    executor = make()
    for kill in (lambda process, number: process.kill(), lambda process, number: os.kill(parent(number), 9)):
        process = executor.place_process(["sleep", "1000"])
        number = process.started.result(PATIENCE)
        with watching(number) as watches:
            kill(process, number)
            assert type(error_of(process.future)) is WorkerLostError
            assert all_ended(watches)


def parent(number: int) -> int:
    return int(Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[1])


def test_it_begins_again_as_asked(make: Make, tmp_path: Path) -> None:
    executor = make()
    code = "import sys; open(sys.argv[1], 'a').write('x'); sys.exit(len(open(sys.argv[1]).read()) < 3)"
    path = tmp_path / "log"
    process = executor.options(restart="on_failure").place_process(python(code, path))
    assert process.result(PATIENCE).returncode == 0
    assert path.read_text() == "xxx"
    again = executor.options(restart="always", max_restarts=2).place_process(python(code, path))
    assert again.result(PATIENCE).returncode == 0
    assert path.read_text() == "xxxxxx"


def test_what_cannot_be_run_is_told(make: Make) -> None:
    executor = make()
    error = error_of(executor.place_process(["/no/such/program"]).future)
    assert isinstance(error.__cause__, FileNotFoundError)
    for bad in ("ls -l", [], [3]):
        with pytest.raises(TypeError):
            executor.place_process(bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="output"):
        executor.place_process(["ls"], output="tee")  # type: ignore[arg-type]


def test_it_ends_with_its_pool(make: Make) -> None:
    executor = make()
    process = executor.place_process(["sleep", "1000"])
    process.started.result(PATIENCE)
    executor.shutdown()
    assert process.result(0).returncode == -signal.SIGTERM
