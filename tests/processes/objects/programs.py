"""What slots do with objects of multiprocessing."""

from __future__ import annotations

import ctypes
import io
import logging
import logging.handlers
import os
import pickle
import signal
from pathlib import Path
from typing import Any

from tests.support.payloads import tell, wait_at

KEPT: dict[str, Any] = {}


def keep(*objects: Any) -> None:
    """Keep what an initializer gets."""
    KEPT["objects"] = objects


def with_kept(lock_number: int) -> int:
    """Use a lock that the initializer kept."""
    with KEPT["objects"][lock_number]:
        return os.getpid()


def add_in_file(lock: Any, path: str, times: int) -> None:
    """Add to a number in a file, which loses additions unless the lock excludes others."""
    for _ in range(times):
        with lock:
            file = Path(path)
            file.write_text(str(int(file.read_text()) + 1))


def error_name(method: Any, *args: Any) -> str:
    """Return the type and the text of what a method raises."""
    try:
        return repr(method(*args))
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def misuse(lock: Any, recursive: Any, bounded: Any) -> list[str]:
    """Use locks in ways that multiprocessing refuses."""
    return [error_name(each.release) for each in (lock, recursive, bounded)]


def attempts(lock: Any) -> list[bool]:
    """Try to acquire a lock that another process holds."""
    return [lock.acquire(False), lock.acquire(block=False), lock.acquire(True, 0.02), lock.acquire(timeout=-1)]


def enter_again(lock: Any) -> list[bool]:
    """Acquire a recursive lock twice."""
    with lock:
        return [lock.acquire(), lock.release() is None]


def hold(lock: Any, mailbox: str, gate: str) -> None:
    """Acquire a lock, and never release it."""
    lock.acquire()
    tell(mailbox, os.getpid())
    wait_at(gate)


def invoke(found: Any, method: str, *args: Any) -> Any:
    """Call a method. Those of a lock cannot be pickled themselves."""
    return getattr(found, method)(*args)


def announce(mailbox: str, found: Any, method: str, *args: Any) -> Any:
    """Say who calls the method, and call it."""
    tell(mailbox, os.getpid())
    return invoke(found, method, *args)


def wait_in(condition: Any, mailbox: str, timeout: float | None = None) -> Any:
    """Wait for a notification."""
    with condition:
        tell(mailbox, os.getpid())
        return condition.wait(timeout)


def wait_for_event(condition: Any, event: Any, mailbox: str) -> bool:
    """Wait until an event is set, at each notification."""
    with condition:
        tell(mailbox, os.getpid())
        return bool(condition.wait_for(event.is_set, 30))


def notify(condition: Any, count: int) -> None:
    with condition:
        condition.notify(count)


def queue_calls(items: Any) -> list[str]:
    """Use a queue with room for one item."""
    found = [error_name(items.get_nowait), error_name(items.get, True, 0.02), error_name(items.put, "first")]
    found += [error_name(items.put_nowait, "second"), error_name(items.put, "second", True, 0.02), repr(items.full())]
    found += [repr(items.qsize()), repr(items.get(timeout=30)), repr(items.empty())]
    items.close()
    items.join_thread()
    return [*found, error_name(items.get).partition(":")[0], error_name(items.put, 1).partition(":")[0]]


def move(source: Any, target: Any, count: int) -> None:
    """Pass items on."""
    for _ in range(count):
        target.put(source.get())


def work_on(tasks: Any, count: int) -> str:
    """Do tasks, and one more."""
    for _ in range(count):
        tasks.get()
        tasks.task_done()
    return error_name(tasks.task_done)


def put_all(items: Any, count: int) -> None:
    for number in range(count):
        items.put(number)


def log_to(items: Any, text: str) -> None:
    """Log through a queue."""
    logger = logging.getLogger("of a slot")
    logger.addHandler(logging.handlers.QueueHandler(items))
    logger.warning(text)


def kinds(lock: Any, event: Any, items: Any) -> list[Any]:
    """Look at stand-ins."""
    import multiprocessing
    import multiprocessing.queues
    from multiprocessing import synchronize

    return [
        isinstance(lock, synchronize.Lock),
        isinstance(event, synchronize.Event),
        isinstance(items, multiprocessing.queues.Queue),
        error_name(pickle.dumps, lock).partition(":")[0],
    ]


def same(one: Any, pair: list[Any]) -> bool:
    return all(each is one for each in pair)


def in_forked_child(lock: Any) -> str:
    """Use a lock in a child of the slot."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, error_name(lock.acquire).partition(":")[0].encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with open(reader, "rb") as stream:
        return stream.read().decode()


class Interrupt(Exception):
    """What the signal handler raises."""


def interrupted(found: Any, method: str) -> str:
    """Call a method, and end the wait by the handler of an alarm, which raises.

    A signal from outside may come in the moment before the wait begins. Python then runs its handler after the wait.
    """

    def stop(number: int, frame: Any) -> None:
        raise Interrupt

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        invoke(found, method)
    except Interrupt:
        return "interrupted"
    finally:
        signal.signal(signal.SIGALRM, before)
    return "returned"


def squared(number: int) -> int:
    return number * number


def draws_bar(number: int) -> int:
    """Draw a bar of tqdm, which takes the lock that the initializer got."""
    from tqdm.auto import tqdm

    for _ in tqdm(range(3), desc=str(number), file=io.StringIO(), mininterval=0):
        tqdm.write("line", file=io.StringIO())
    assert "stand_ins" in type(tqdm.get_lock()).__module__
    return number * number


class Point(ctypes.Structure):
    """A structure in shared memory."""

    _fields_ = (("x", ctypes.c_double), ("y", ctypes.c_int))


def count_up(counter: Any, times: int) -> None:
    for _ in range(times):
        with counter.get_lock():
            counter.value += 1


def use_values(counter: Any, numbers: Any, text: Any, point: Any) -> list[Any]:
    """Read and write values of each kind."""
    found = [counter.value, numbers[:], numbers[1], len(numbers), text.value, text.raw, point.x, point.y]
    counter.value = 7
    numbers[0] = 5
    numbers[2:4] = [8, 9]
    text.value = b"other"
    with point.get_lock():
        point.x, point.y = 1.5, point.y + 1
    return [*found, error_name(lambda: numbers[10]), error_name(lambda: counter.raw).partition(":")[0]]


def through_memory(numbers: Any) -> int:
    """Write to the memory of an array, without its lock."""
    found = numbers.get_obj()
    for index in range(len(found)):
        found[index] *= 2
    return len(found)


def memory_type(numbers: Any) -> str:
    return type(numbers.get_obj()).__name__


def serve_pipe(connection: Any) -> str:
    """Answer messages until the other end is closed."""
    with connection:
        while True:
            try:
                message = connection.recv()
            except EOFError:
                return "end"
            connection.send(("answer to", message))


def use_pipe(connection: Any) -> list[Any]:
    """Use the methods of a connection."""
    connection.send_bytes(b"one two three", 4, 3)
    buffer = bytearray(5)
    found = [connection.readable, connection.writable, connection.poll(30), connection.recv_bytes()]
    found += [connection.recv_bytes_into(buffer, 1), bytes(buffer), connection.poll(), connection.closed]
    connection.close()
    return [*found, connection.closed, error_name(connection.recv), error_name(connection.send, 1)]


def fill_block(block: Any) -> list[Any]:
    """Write to a block of shared memory."""
    block.buf[0] = 1
    block.buf[1:4] = b"abc"
    found = [bytes(block.buf[:4]), block.buf[0], block.size, block.name]
    block.close()
    return found


def error_name_of(found: Any, method: str, *args: Any) -> str:
    """Return the type and the text of what a method raises."""
    return error_name(getattr(found, method), *args)


def use_proxies(table: Any, lock: Any, names: Any, counter: Any, items: Any) -> list[Any]:
    """Use proxies of several kinds."""
    found = [table["number"]]
    with lock, lock:
        table["number"] += 1
    found += [table.copy(), names.text, counter.value, error_name(lambda: table["absent"])]
    names.text = "other"
    counter.value += 1
    items.put("item")
    return [*found, items.get()]


def interrupted_in(condition: Any) -> str:
    """Wait for a notification, and end the wait by a signal handler that raises. The lock is held then."""
    with condition:
        return interrupted(condition, "wait")
