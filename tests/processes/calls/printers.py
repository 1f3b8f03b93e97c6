"""Calls that write. A slot imports this module, so it imports little."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import subprocess
import sys
import threading
import time

from tests.support.payloads import disowned, tell, wait_at


def say(text: str, stream: str = "stdout") -> str:
    """One line."""
    print(text, file=getattr(sys, stream))
    return text


def write(data: bytes, fd: int = 1) -> None:
    """Past Python's streams."""
    os.write(fd, data)


def sleep_and_say(text: str) -> None:
    """Runs long enough for the agent to read what it writes."""
    time.sleep(0.01)
    print(text)
    time.sleep(0.01)


def say_and_agree() -> bool:
    """An idle check."""
    print("may go")
    return True


def enable_faulthandler() -> None:
    """Let a crash write where it was."""
    faulthandler.enable()


def crash() -> None:
    """Read what is nowhere."""
    ctypes.string_at(0)


def say_everywhere(text: str) -> None:
    """Through all that leads to the two descriptors."""
    print(text, "print")
    os.write(1, f"{text} write\n".encode())
    subprocess.run(["/bin/sh", "-c", f"echo {text} child; echo {text} child error >&2"], check=True)
    ctypes.CDLL(None).printf(b"%s printf\n", text.encode())
    print(text, "stderr", file=sys.stderr)


def say_in_turn(mailbox: str, gate: str, name: str, count: int) -> None:
    """A line at each opening of the gate; the test is told when it is written."""
    for number in range(count):
        wait_at(gate)
        print(name, number)
        tell(mailbox, name, number)


def say_and_hold(mailbox: str, gate: str, *texts: str) -> str:
    """Write, say so, and wait."""
    for number, text in enumerate(texts):
        (sys.stderr if number % 2 else sys.stdout).write(text)
    sys.stdout.flush()
    tell(mailbox, os.getpid())
    wait_at(gate)
    return "through"


def write_in_pieces(gate: str, pieces: list[bytes]) -> None:
    """One piece at each opening of the gate."""
    for piece in pieces:
        wait_at(gate)
        os.write(1, piece)


def flood(mailbox: str, size: int | None = None, say_at: int | None = None) -> int:
    """Write as fast as it goes, for good or so many bytes; the test is told at the start, and after so many."""
    tell(mailbox, os.getpid())
    line = b"x" * 1023 + b"\n"
    written = 0
    while size is None or written < size:
        written += os.write(1, line * 64)
        if say_at is not None and written >= say_at:
            tell(mailbox, "written", written)
            say_at = None
    return written


class TellsWhenFlushed:
    """A slot flushes its standard streams when it has sent a result."""

    def __init__(self, mailbox: str) -> None:
        self.mailbox = mailbox

    def flush(self) -> None:
        sys.stdout = sys.__stdout__
        tell(self.mailbox, "answered")


def tell_when_answered(mailbox: str) -> None:
    """The test hears of it when the agent has the result."""
    sys.stdout = TellsWhenFlushed(mailbox)  # type: ignore[assignment]


def say_and_die(text: str) -> None:
    """The last words of a process."""
    print(text)
    print(text, "error", file=sys.stderr)
    os.kill(os.getpid(), signal.SIGKILL)


def write_and_hold(mailbox: str, size: int) -> None:
    """So many bytes, and a last line; then nothing any more."""
    os.write(1, b"x" * size + b"the end\n")
    tell(mailbox, os.getpid())
    signal.pause()


def die_once(path: str) -> str:
    """Dies on its first attempt only."""
    if os.path.exists(path):  # noqa: PTH110
        print("second attempt")
        return "done"
    print("first attempt")
    sys.stdout.flush()
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    os.kill(os.getpid(), signal.SIGKILL)
    return "dead"


def leave_a_child(gate: str, text: str) -> None:
    """Start a process that writes when the gate opens, long after this call."""
    disowned(subprocess.Popen(["/bin/sh", "-c", f"head -c 1 < {gate} > /dev/null; echo {text}"]))


def leave_a_silent_child(mailbox: str, gate: str) -> None:
    """Start a process that holds the pipes and outlives the call, which ends when the gate is open."""
    tell(mailbox, str(disowned(subprocess.Popen(["/bin/sleep", "600"], start_new_session=True))))
    wait_at(gate)


def from_threads(count: int) -> None:
    """Several threads at once, a line each."""
    threads = [threading.Thread(target=print, args=(f"thread {number}",)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def has_module(name: str) -> bool:
    """Whether the slot has loaded it."""
    return name in sys.modules


def log(level: str, message: str, *args: object) -> int:
    """Through logging, which is imported here for the first time."""
    import logging

    getattr(logging.getLogger("tests.printers"), level)(message, *args)
    return len(logging.root.handlers)


def set_level(level: int) -> None:
    """Of the root logger."""
    import logging

    logging.root.setLevel(level)


def log_an_error() -> None:
    """With a traceback."""
    import logging

    try:
        raise ValueError("what went wrong")
    except ValueError:
        logging.getLogger("tests.printers").exception("it failed")


def log_much(size: int) -> None:
    """One record that is far too long."""
    import logging

    logging.getLogger("tests.printers").error("é" * size)


def configure_logging() -> None:
    """As a program does for itself."""
    import logging

    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")


def log_two() -> None:
    """What is shown only where somebody wants it, and what always is."""
    import logging

    logging.getLogger("tests.printers").info("by the way")
    logging.getLogger("tests.printers").warning("careful")


def log_numbers(count: int, after: float) -> None:
    """Records with the numbers from 0 on, when so many seconds of work are done."""
    import logging
    import time

    until = time.perf_counter() + after
    while time.perf_counter() < until:
        continue
    for number in range(count):
        logging.getLogger("tests.printers").warning("%d", number)


def log_and_fork() -> None:
    """From this process and from a forked child of it."""
    import logging

    logging.getLogger("tests.printers").warning("parent")
    child = os.fork()
    if child == 0:
        logging.getLogger("tests.printers").warning("child")
        os._exit(0)
    os.waitpid(child, 0)


def close_standard_streams() -> None:
    """All three."""
    os.closerange(0, 3)


def close_everything() -> None:
    """Also what is the slot's own."""
    print("last words", file=sys.stderr)
    os.closerange(0, 256)


def replace_stdout(path: str) -> None:
    """A call's own affair."""
    fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
    os.dup2(fd, 1)
    os.close(fd)
    print("into the file")


def stdout_is() -> tuple[int, int]:
    """Which file descriptor 1 is."""
    stat = os.fstat(1)
    return stat.st_dev, stat.st_ino


def descriptors_of(pid: int) -> int:
    """How many a process has."""
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208
