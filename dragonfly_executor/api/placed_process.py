"""`PlacedProcess`: the handle of an operating system's process in a slot."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import PurePath

from dragonfly_executor.api.placed_handle import PlacedHandle
from dragonfly_executor.api.placed_worker import ENDLESS, restarts_of
from dragonfly_executor.engine.placed.channel_reference import ChannelReference
from dragonfly_executor.engine.placed.worker_driver import WorkerDriver
from dragonfly_executor.serialization.placed_run import run_process
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING
from dragonfly_executor.util.validation import duration, whole

if TYPE_CHECKING:
    from collections.abc import Generator
    from os import PathLike
    from typing import Any

    from dragonfly_executor.engine.engine import Engine
    from dragonfly_executor.engine.future import Future
    from dragonfly_executor.engine.options import CallOptions
    from dragonfly_executor.serialization.process_result import ProcessResult

    Text = str | PathLike[str]

OUTPUTS = ("capture", "inherit")
MAX_SIGNAL = 64
"""The largest number of a signal on Linux."""


class PlacedProcess(PlacedHandle):
    """A process on a runner, in a slot of its own. Its result is a `ProcessResult`.

    As a context manager it is stopped at the end of the block, or killed if the block raises. It is stopped when its
    pool is shut down. Without a reference to this handle it goes on.

    Made by `DragonflyExecutor.place_process`.

    Attributes:
        future: the future of its result. If the slot or the runner is lost, or the process cannot be started, it raises
            `WorkerLostError`.
        started: a future of its process id on its runner, done once it is started the first time.
    """

    def __init__(self, owner: object, driver: WorkerDriver) -> None:
        self._owner = owner
        """The pool, which lives while the process does."""
        self._driver = driver
        self.started: Future[int] = driver.ready
        self.future: Future[ProcessResult] = driver.ended

    def result(self, timeout: float | None = None) -> ProcessResult:
        """Wait for the end of the process, and return its result.

        Raises:
            TimeoutError: it has not ended within `timeout` seconds.
            WorkerLostError: its slot or runner was lost, or it was killed, or it could not be started.
        """
        return self.future.result(timeout)

    def __await__(self) -> Generator[Any, None, ProcessResult]:
        return self.future.__await__()

    def send_signal(self, number: int) -> None:
        """Send a signal to the process, if it runs. Returns at once.

        Args:
            number: the number of the signal, such as `signal.SIGINT`.

        Raises:
            ValueError: there is no such signal.
        """
        if whole(number, "number", 1) > MAX_SIGNAL:
            raise ValueError(f"there is no signal {number}")
        self._driver.signal(int(number))

    def stop(self, wait: bool = True, timeout: float | None = None) -> None:
        """End the process: it gets SIGTERM, and after `stop_timeout` SIGKILL, with its children. No restart follows.

        Args:
            wait: return only after that.
            timeout: seconds to wait; None for no limit.

        Raises:
            TimeoutError: it has not ended in time.
        """
        super().stop(wait, timeout)

    def kill(self) -> None:
        """Kill the process and its children at once. Its result is a `WorkerLostError`. Returns at once."""
        super().kill()

    def __reduce__(self) -> Any:
        raise TypeError("a placed process cannot travel to a runner: only the program that has placed it may use it")


def place_process(
    owner: object, engine: Engine, options: CallOptions, argv: Sequence[Text], settings: Mapping[str, Any]
) -> PlacedProcess:
    """Place a process; see `Submitter.place_process`."""
    if isinstance(argv, (str, bytes)) or not argv:
        raise TypeError(f"place_process() needs the command as a list of its parts, not {argv!r}")
    command = [os.fspath(part) for part in argv]
    if any(not isinstance(part, str) for part in command):
        raise TypeError(f"each part of a command is a text or a path: {command!r}")
    if settings["output"] not in OUTPUTS:
        raise ValueError(f"output must be one of {', '.join(map(repr, OUTPUTS))}, not {settings['output']!r}")
    given = {**settings, "stop_timeout": duration(settings["stop_timeout"], "stop_timeout")}
    if given["cwd"] is not None:
        given["cwd"] = os.fspath(given["cwd"])
    name = PurePath(command[0]).name
    driver = WorkerDriver(engine, name, 1, restarts_of(options), options.change(ENDLESS).limits())
    driver.returns_value = True
    parts = engine.codec.encode_call(run_process, (ChannelReference(driver.entry.number), command, given), {}, ())
    process = PlacedProcess(owner, driver)
    driver.begin((engine.payloads.snapshot(parts), None))
    return process
