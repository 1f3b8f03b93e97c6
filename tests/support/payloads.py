"""What tests run on slots. A slot imports this module, so it imports little.

PYTEST_DONT_REWRITE: some of it travels by value, and a rewritten ``assert`` needs pytest there.
"""

from __future__ import annotations

import importlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

# -- speaking with the test --------------------------------------------------------------------------------------------


def tell(mailbox: str, *words: object) -> None:
    """Write a line to a FIFO, in one write."""
    fd = os.open(mailbox, os.O_WRONLY)
    try:
        os.write(fd, (" ".join(map(str, words)) + "\n").encode())
    finally:
        os.close(fd)


def wait_at(gate: str) -> None:
    """Wait until the test opens the gate for this call."""
    fd = os.open(gate, os.O_RDONLY)
    try:
        os.read(fd, 1)
    finally:
        os.close(fd)


def log(path: str, *words: object) -> None:
    """Append a line to a file to which many processes write."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, (" ".join(map(str, words)) + "\n").encode())
    finally:
        os.close(fd)


def nothing(*_: object) -> None:
    """Return the argument: the cheapest call."""


def echo(value: Any) -> Any:
    return value


def pid(*_: object) -> int:
    """Return the process id of the slot that runs this call."""
    return os.getpid()


def agent_pid() -> int:
    return os.getppid()


def hold(mailbox: str, gate: str, value: Any = None) -> Any:
    """Report the slot's process id, and run until the test opens the gate."""
    tell(mailbox, os.getpid())
    wait_at(gate)
    return value


def hold_for_good(mailbox: str, *_: object) -> None:
    """Report the slot's process id, and never return."""
    tell(mailbox, os.getpid())
    while True:
        signal.pause()


def log_backend_and_nap(path: str, seconds: float) -> None:
    """Log the name of the backend that booted this runner, and sleep."""
    from dragonfly_executor.protocol.parent import Parent

    parent = Parent.get()
    assert parent is not None
    log(path, parent.backend)
    time.sleep(seconds)


def log_and_hold(path: str, name: object, mailbox: str, gate: str) -> int:
    log(path, name, os.getpid())
    return hold(mailbox, gate, os.getpid())


def wait_and_log(gate: str, path: str, name: object) -> None:
    wait_at(gate)
    log(path, name, os.getpid())


def log_run(path: str, name: object) -> int:
    log(path, name, os.getpid())
    return os.getpid()


def log_begin_and_end(path: str) -> None:
    """Log the begin and the end of a call that takes some milliseconds."""
    log(path, "begin")
    time.sleep(0.01)
    log(path, "end")


# -- dying -------------------------------------------------------------------------------------------------------------


def die_by(number: int) -> None:
    os.kill(os.getpid(), number)
    signal.pause()


def segfault(*_: object) -> None:
    import ctypes
    import faulthandler

    faulthandler.disable()
    ctypes.string_at(0)


def leave(code: int) -> None:
    """End the process by `os._exit`, without Python's exit handlers."""
    os._exit(code)


def log_and_leave(path: str, name: object, code: int = 9) -> None:
    log(path, name, os.getpid())
    os._exit(code)


def kill_agent() -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    signal.pause()


def limit_memory(extra: int) -> None:
    """Limit this slot's memory to `extra` bytes more than it has now."""
    import resource

    with open("/proc/self/statm", encoding="ascii") as statm:
        has = int(statm.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (has + extra, resource.RLIM_INFINITY))


def leave_no_descriptor() -> None:
    """Set this slot's limit on descriptors so that it can open no more files."""
    import resource

    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, free))


def die_of_large_arguments() -> None:
    """Have this slot killed when it begins to receive an argument, in chunks or in shared memory."""
    from dragonfly_executor.runner import agent_stream, slot_memory

    def die(*_: object) -> None:
        die_by(signal.SIGKILL)

    agent_stream.AgentStream.receive_into = die  # type: ignore[method-assign]
    slot_memory.SlotMemory.arguments = die  # type: ignore[method-assign]


def fill_memory(extra: int) -> int:
    """Allocate memory in small pieces until there is none."""
    limit_memory(extra)
    hoard = []
    while True:
        hoard.append(bytearray(65536))


def memory_left(most: int) -> int:
    """Return how many bytes can be allocated in small pieces, at most `most`."""
    hoard = []
    try:
        while len(hoard) * 65536 < most:
            hoard.append(bytearray(65536))
    except MemoryError:
        pass
    return len(hoard) * 65536


def big_result(size: int, limit: int | None = None) -> bytes:
    if limit is not None:
        limit_memory(limit)
    return bytes(size)


class LargePickle:
    """An object that is small in memory and has a large pickle."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __reduce__(self) -> Any:
        return bytes, (bytes(self.size),)


class OutOfBand:
    """An object whose bytes travel in a buffer outside its pickle."""

    def __init__(self, size: int | bytearray) -> None:
        self.data = size if isinstance(size, bytearray) else bytearray(size)

    def __reduce_ex__(self, protocol: int) -> Any:
        return OutOfBand, (pickle.PickleBuffer(self.data),)

    def __len__(self) -> int:
        return len(self.data)


def fail_at_length(size: int) -> None:
    raise ValueError("x" * size)


def swelling_result(size: int, limit: int) -> LargePickle:
    limit_memory(limit)
    return LargePickle(size)


def most_memory() -> int:
    """Return the peak memory of this process in bytes."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))


# -- what a call leaves behind -----------------------------------------------------------------------------------------


def _sleep_for_good() -> None:
    while True:
        signal.pause()


def fork_sleeper(mailbox: str, how: str) -> int:
    """Start a process that holds all descriptors of this slot and stays. Return its process id."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        if how in ("session", "daemon"):
            os.setsid()
        if how == "daemon" and os.fork():
            os._exit(0)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        os.write(writer, str(os.getpid()).encode())
        _sleep_for_good()
    if how == "daemon":
        os.wait()
    sleeper = int(os.read(reader, 32))
    os.close(reader)
    os.close(writer)
    return sleeper


def disowned(process: subprocess.Popen[Any]) -> int:
    """Return the process id of a process that stays. Python would warn that nobody waits for it."""
    process.returncode = 0
    return process.pid


def exec_sleeper(how: str) -> int:
    """Start another program that stays, with an empty environment if asked for. Return its process id."""
    command = [sys.executable, "-S", "-c", "import signal\nprint(flush=True)\nsignal.pause()"]
    environment = {} if "empty" in how else None
    sleeper = subprocess.Popen(command, env=environment, start_new_session="session" in how, stdout=subprocess.PIPE)
    assert sleeper.stdout is not None
    sleeper.stdout.readline()
    sleeper.stdout.close()
    return disowned(sleeper)


def start_sleeper(how: str) -> int:
    return exec_sleeper(how) if how.startswith("exec") else fork_sleeper("", how)


def hold_with_sleeper(mailbox: str, how: str) -> None:
    """Report the process ids of slot and sleeper, and never return."""
    tell(mailbox, os.getpid(), start_sleeper(how))
    _sleep_for_good()


def fork_and_return(mailbox: str) -> int:
    """Fork, and return in both processes."""
    child = os.fork()
    if child == 0:
        tell(mailbox, os.getpid())
        return -1
    return child


def fork_and_raise(mailbox: str) -> int:
    """Fork. Raise in the child, and return in the slot."""
    child = os.fork()
    if child == 0:
        tell(mailbox, os.getpid())
        raise ValueError("raised in the fork")
    return child


def daemonize(mailbox: str) -> None:
    """Daemonize as old programs do: the slot ends, and its grandchild continues."""
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    tell(mailbox, os.getpid())
    _sleep_for_good()


def keep_forking(mailbox: str) -> None:
    """Start a chain of processes, each of which starts the next one and ends."""
    if os.fork() == 0:
        while True:
            os.setsid()
            tell(mailbox, os.getpid())
            if os.fork():
                os._exit(0)
    _sleep_for_good()


# -- spoiling the slot -------------------------------------------------------------------------------------------------


def close_descriptors(first: int, last: int) -> None:
    os.closerange(first, last)


def hold_and_list_descriptors(mailbox: str, gate: str) -> tuple[int, Counter[str]]:
    """Hold this slot until the gate opens. Return its process id, and how many descriptors it has of each file.

    Standard streams are left out. Shared memory without a file counts as "memory", once for each mapping.
    """
    import multiprocessing  # noqa: F401  # gives each slot the descriptor of its parent process

    hold(mailbox, gate)
    found: Counter[str] = Counter()
    for fd in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the listing's own descriptor
            found[str(fd.readlink())] += int(fd.name) > 2
    # The kernel shows such memory like this.
    found["memory"] = Path("/proc/self/maps").read_text().count("/dev/zero (deleted)")
    return os.getpid(), +found


def print_and_close_standard_streams() -> str:
    print("what is still in the buffer")
    os.closerange(0, 3)
    return "closed"


def write_junk(fd: int) -> int:
    return os.write(fd, b"\x80\x04junk that is no frame\xff\x00" * 64)


def change_process_state(folder: str) -> None:
    """Change signal handlers, directory, umask and environment, as a careless library does."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    os.chdir(folder)
    os.umask(0o777)
    os.environ.clear()
    sys.path.clear()


def process_state() -> tuple[str, int]:
    mask = os.umask(0)
    os.umask(mask)
    return str(Path.cwd()), mask


def make_session() -> int:
    """Call `setsid`, which raises: the slot leads its session already."""
    os.setsid()
    return os.getpid()


# -- running long ------------------------------------------------------------------------------------------------------


def hold_the_gil(mailbox: str = "") -> None:
    """Call a C function that never returns, never releases the GIL and handles no signal."""
    import collections
    import itertools

    if mailbox:
        tell(mailbox, os.getpid())
    collections.deque(itertools.repeat(None), maxlen=0)


def hold_the_gil_by_power(mailbox: str) -> int:
    """Call a C function that holds the GIL for longer than any test waits."""
    tell(mailbox, os.getpid())
    return len(bin(7 ** (10**8)))


def ignore_signals_and_run(mailbox: str) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    tell(mailbox, os.getpid())
    _sleep_for_good()


def catch_everything(mailbox: str) -> None:
    """Run forever, and catch every exception."""
    tell(mailbox, os.getpid())
    while True:
        try:
            _sleep_for_good()
        except BaseException:
            continue


def nap(seconds: float, value: Any = None) -> Any:
    time.sleep(seconds)
    return value


class Base(BaseException):
    """An exception that ``except Exception`` does not catch."""


# -- failing -----------------------------------------------------------------------------------------------------------


def fail(error: BaseException) -> None:
    raise error


def fail_until(path: str, name: object, good: int, how: str) -> int:
    """Fail in this way until attempt `good`. Return the number of that attempt."""
    log(path, name, os.getpid())
    with open(path, encoding="utf-8") as lines:
        attempt = sum(line.split()[0] == str(name) for line in lines)
    if attempt < good:
        FAILURES[how]()
    return attempt


def _raise_key_error() -> None:
    raise KeyError("not yet")


def _raise_value_error() -> None:
    raise ValueError("not yet")


FAILURES: dict[str, Callable[[], None]] = {
    "die": lambda: os._exit(3),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "hang": signal.pause,
    "KeyError": _raise_key_error,
    "ValueError": _raise_value_error,
}


class NeedsArguments(Exception):
    def __init__(self, reason: str, number: int) -> None:
        super().__init__(f"{reason}: {number}")


class NeedsKeywords(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


class ChangesItsArguments(Exception):
    """An exception that unpickles to another one or fails to unpickle: its constructor changes the argument."""

    def __init__(self, text: str) -> None:
        super().__init__(len(text), text.upper())


class LockError(Exception):
    def __init__(self) -> None:
        super().__init__("holds a lock")
        self.lock = threading.Lock()


class ExitsError(Exception):
    def __reduce__(self) -> Any:
        raise SystemExit(5)


class RecursiveError(Exception):
    def __reduce__(self) -> Any:
        return RecursiveError, (RecursiveError(),)


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class FrozenError(Exception):
    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("frozen")


class CrashesError(Exception):
    def __reduce__(self) -> Any:
        return segfault, ()


class ExitsInParentError(Exception):
    def __reduce__(self) -> Any:
        return _exits_in_parent, ()


def _exits_in_parent() -> Exception:
    if "DRAGONFLY_PARENT" not in os.environ:
        raise SystemExit(6)
    return ExitsInParentError()


def raise_one(name: str) -> None:
    """Raise one of the exceptions above."""
    if name == "xmlrpc":
        import xmlrpc.client

        raise xmlrpc.client.ProtocolError("https://example.org/", 404, "Not Found", {})
    made: dict[str, Callable[[], Exception]] = {
        "NeedsArguments": lambda: NeedsArguments("code", 7),
        "NeedsKeywords": lambda: NeedsKeywords(code=7),
        "ChangesItsArguments": lambda: ChangesItsArguments("what"),
        "Lock": LockError,
        "Exits": ExitsError,
        "Recursive": RecursiveError,
        "Unprintable": UnprintableError,
        "Frozen": FrozenError,
        "Crashes": CrashesError,
        "ExitsInParent": ExitsInParentError,
    }
    raise made[name]()


def make_from_module(folder: str, module: str, name: str) -> Any:
    """Return an instance of a class that only the runner can import."""
    sys.path.insert(0, folder)
    try:
        return getattr(importlib.import_module(module), name)()
    finally:
        sys.path.remove(folder)


def raise_from_module(folder: str, module: str, name: str) -> None:
    sys.path.insert(0, folder)
    try:
        kind = getattr(importlib.import_module(module), name)
    finally:
        sys.path.remove(folder)
    raise kind("from there")


def _recursion() -> None:
    _recursion()


def _interrupt() -> None:
    raise KeyboardInterrupt


HARMS: dict[str, Callable[[], object]] = {
    "raise": _raise_value_error,
    "exit": lambda: sys.exit(4),
    "interrupt": _interrupt,
    "recursion": _recursion,
    "lock": lambda: (threading.Lock, (threading.Lock(),)),
    "segfault": segfault,
    "leave": lambda: os._exit(7),
    "kill": lambda: die_by(signal.SIGKILL),
}


def open_harm(where: str, how: str) -> Any:
    """Do the harm of a payload, if this is the process that it targets."""
    on_slot = "DRAGONFLY_PARENT" in os.environ
    if on_slot == (where == "open on slot"):
        HARMS[how]()
    return Harm(where, how)


class Harm:
    """An object that does harm when it is pickled, unpickled in a slot, or unpickled in the parent."""

    def __init__(self, where: str, how: str) -> None:
        self.where = where
        self.how = how

    def __reduce__(self) -> Any:
        if self.where == "pickle":
            return HARMS[self.how]() or (Harm, (self.where, self.how))
        return open_harm, (self.where, self.how)


class DeadlySerializer:
    """An object that kills each slot that unpickles it before the slot is ready."""

    def dumps(self, value: Any) -> bytes:
        return pickle.dumps(value)

    def loads(self, data: bytes) -> Any:
        return pickle.loads(data)

    def __reduce__(self) -> Any:
        return open_harm, ("open on slot", "kill")


def make_harm(where: str, how: str) -> Harm:
    return Harm(where, how)


def write_junk_everywhere() -> int:
    """Write to every open descriptor, as a faulty C library may."""
    written = 0
    for fd in range(3, 64):
        try:
            os.set_blocking(fd, False)
            written += os.write(fd, b"\xff" * 4096)
        except OSError:
            continue
    return written


def digest(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


# -- meeting -----------------------------------------------------------------------------------------------------------


def meet(here: str, there: str, value: Any = None) -> Any:
    """Return once another call, with the two places swapped, runs at the same time."""
    # Each opens its own side first in the same order of paths: open() of a FIFO waits for the other side.
    first, second = sorted((here, there))
    modes = (os.O_WRONLY, os.O_RDONLY) if here == first else (os.O_RDONLY, os.O_WRONLY)
    for path, mode in zip((first, second), modes, strict=True):
        os.close(os.open(path, mode))
    return value


# -- initializers ------------------------------------------------------------------------------------------------------

READY: list[int] = []


def remember_ready(value: int) -> None:
    READY.append(value)


def is_ready() -> list[int]:
    return READY


def init_fails() -> None:
    raise RuntimeError("no model to load")


def init_holds(mailbox: str, gate: str) -> None:
    tell(mailbox, os.getpid())
    wait_at(gate)


# -- runners in runners ------------------------------------------------------------------------------------------------


def in_runner_of_its_own(fn: Callable[..., Any], *args: Any) -> Any:
    """Run a call on a runner that this call boots."""
    from dragonfly_executor import DragonflyExecutor

    with DragonflyExecutor(1) as executor:
        return executor.submit(fn, *args).result()


def nested_stats(minimum: int) -> tuple[int, int]:
    """`min` of a pool that is made in this call, and the boots that it begins by itself."""
    from dragonfly_executor import Pool

    with Pool("nested", min=minimum, max=3) as pool:
        stats = pool.stats()
        return stats.min, stats.boots_attempted


# -- telling where one runs --------------------------------------------------------------------------------------------


def hold_and_say_where(mailbox: str, gate: str) -> None:
    """Report the process ids of slot and agent, and run until the test opens the gate."""
    tell(mailbox, os.getpid(), os.getppid())
    wait_at(gate)


def hold_and_say_when_done(mailbox: str, gate: str) -> None:
    tell(mailbox, os.getpid())
    wait_at(gate)
    tell(mailbox, "done")


def say_where_and_agree(mailbox: str) -> bool:
    tell(mailbox, os.getpid(), os.getppid())
    return True


def say_where_and_fail(mailbox: str) -> bool:
    tell(mailbox, os.getpid(), os.getppid())
    raise LookupError("the check itself fails")


def hold_the_gil_for(seconds: float) -> str:
    """Call one C function after another, none of which releases the GIL."""
    import collections
    import itertools

    end = time.monotonic() + seconds
    sys.setswitchinterval(1000)
    while time.monotonic() < end:
        collections.deque(itertools.repeat(None, 10_000_000), maxlen=0)
    return "done"


def log_and_nap(path: str, name: object, seconds: float, _filler: bytes = b"") -> object:
    log(path, name, os.getpid())
    time.sleep(seconds)
    return name


def log_and_divide(path: str, divisor: int) -> float:
    log(path, divisor)
    return 1 / divisor


def leave_if(condition: bool) -> None:
    if condition:
        os._exit(1)


def hold_unless(mailbox: str, held: bool) -> str:
    if held:
        hold_for_good(mailbox)
    return "not held"


def init_holds_the_gil(mailbox: str, _gate: str) -> None:
    hold_the_gil(mailbox)


def close_descriptors_and_hold(mailbox: str) -> None:
    os.closerange(3, 256)
    hold_for_good(mailbox)


def log_filled(path: str, name: object, _filler: bytes) -> None:
    log(path, name)
