"""A runner's frames of one read, and the events and errors that they become in the parent."""

from __future__ import annotations

from collections.abc import Iterator

from dragonfly_executor import errors
from dragonfly_executor.core import events
from dragonfly_executor.engine.outcome import Outcome
from dragonfly_executor.errors.exit_status import describe_exit
from dragonfly_executor.protocol import handshake
from dragonfly_executor.protocol.frames import Kind
from dragonfly_executor.protocol.handshake import UNREADABLE
from dragonfly_executor.protocol.stdlib_json import json
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from dragonfly_executor.backends.base import Node
    from dragonfly_executor.protocol.frames import Frame
    from dragonfly_executor.protocol.handshake import Hello
    from dragonfly_executor.serialization import CallCodec

MAX_WORDS = 64 * 1024
"""Maximum number of characters of a slot's output and stack in an error. The agent sends fewer."""
Ref = tuple[int, int]
"""A call's id, and the number of the attempt."""
Result = tuple[int, int, float, Outcome, bool]
"""A call's id and attempt, its run time in seconds, its outcome, and whether it is an error that may be retried."""


class RunnerMessages:
    """The messages of one runner in one read, by kind.

    Attributes:
        latest: by type, the last event of the types that may follow all others, and of which only the last one counts.
    """

    def __init__(self, results: list[Result]) -> None:
        self.results = results
        self.started: list[Ref] = []
        self.started_in: list[int] = []
        """The number of the slot of each of these."""
        self.waits: list[tuple[int, int, bool]] = []
        """Calls that wait for their child calls from then on, or go on; see `events.CallsWait`."""
        self.returned: list[Ref] = []
        self.lost: list[tuple[Ref, dict[str, Any]]] = []
        self.timed_out: list[tuple[Ref, float]] = []
        self.gone: list[Ref] = []
        self.warning = ""
        self.setup_failure: tuple[bytes, bool] | None = None
        self.latest: dict[type[events.Event], events.Event] = {}
        self.synced: list[Frame] = []
        self.leaving = False
        self.bye = False

    def ended(self) -> Iterator[Ref]:
        """Yield the calls that have left the runner, for any reason."""
        yield from (result[:2] for result in self.results)
        yield from self.returned
        yield from (ref for ref, _ in self.lost)
        yield from (ref for ref, _ in self.timed_out)
        yield from self.gone


def events_of(runner_id: int, said: RunnerMessages, node: Node) -> Iterator[events.Event]:
    """Yield the events of one read, in the order in which the core must handle them."""
    if said.leaving:
        # First, so that the core does not send returned calls to this runner again.
        yield events.RunnerLeaving(runner_id)
    if said.started:
        yield events.CallsStarted(runner_id, said.started, said.started_in)
    if said.waits:
        yield events.CallsWait(runner_id, said.waits)
    if said.returned:
        # Ahead of the results, so that free slots take these calls before later ones.
        yield events.CallsReturned(runner_id, said.returned)
    if said.results:
        yield events.ResultsArrived(runner_id, said.results)
    for (call_id, attempt), how in said.lost:
        error = slot_lost(runner_id, how, node)
        yield events.CallLost(runner_id, call_id, attempt, error, error.may_have_started)
    for (call_id, attempt), unopened in said.timed_out:
        yield events.CallTimedOut(runner_id, call_id, attempt, unopened)
    for call_id, attempt in said.gone:
        yield events.CallGone(runner_id, call_id, attempt)
    yield from said.latest.values()


def read_hello(frame: Frame, name: str) -> Hello:
    """Read the first frame of the runner called `name`.

    Raises:
        BootError: the runner says that it cannot be one.
        ProtocolError: the frame is not a HELLO, or cannot be read.
    """
    if frame.kind == Kind.BYE:
        text = bytes(frame.payload).decode(errors="replace")
        raise errors.BootError(f"{name} cannot be a runner: {text}", "handshake")
    if frame.kind != Kind.HELLO:
        raise errors.ProtocolError(f"the runner's first frame must be a HELLO, but is of kind {frame.kind}")
    return handshake.read_hello(bytes(frame.payload))


def read_end(frame: Frame) -> dict[str, Any]:
    """Read the end of a slot from a LOST frame.

    Raises:
        ProtocolError: the frame cannot be read.
    """
    try:
        said = json.loads(bytes(frame.payload))
        numbers = {name: None if said[name] is None else int(said[name]) for name in ("code", "signal", "pid")}
        limit, required = said.get("memory_limit"), said.get("required_memory")
        return {
            **numbers,
            "started": bool(said["started"]),
            "output": str(said.get("output", ""))[-MAX_WORDS:],
            "stack": str(said.get("stack", ""))[:MAX_WORDS],
            "out_of_memory": bool(said.get("out_of_memory")),
            "memory_limit": None if limit is None else int(limit),
            "required_memory": None if required is None else int(required),
            "stopped_after": None if (grace := said.get("stopped_after")) is None else float(grace),
        }
    except UNREADABLE as error:
        raise errors.ProtocolError(f"a LOST that cannot be read: {error!r}") from None


def slot_lost(runner_id: int, how: dict[str, Any], node: Node) -> errors.RunnerLostError:
    """Return the error of a call whose slot died."""
    end = describe_exit(how["code"], how["signal"])
    text = f"the slot that ran this call (process {how['pid']} of runner {runner_id}) was lost: it {end}"
    required = how["required_memory"]
    if required is not None:
        text += (
            f" by the kernel's OOM killer: the call used more than the {required} bytes ({required / 2**20:.0f} MiB) of"
            ' memory that it requires. Require more with options(requires={"memory": ...})'
        )
    elif how["out_of_memory"]:
        limit = how["memory_limit"]
        whose = "of the machine" if limit is None else f"of its cgroup, {limit} bytes ({limit / 2**20:.0f} MiB),"
        text += (
            f" by the kernel's OOM killer: the memory {whose} ran out. Give it more memory, or run fewer calls at once"
        )
    if how["stopped_after"] is not None:
        text += f". {node.stopper} had stopped its runner, which gives calls {how['stopped_after']:g} s to finish"
        text += f": {node.stop_advice}" if node.stop_advice else ""
    return errors.RunnerLostError(
        text,
        exit_code=how["code"],
        signal=how["signal"],
        runner_id=runner_id,
        may_have_started=how["started"],
        output=how["output"],
        stack=how["stack"],
        out_of_memory=how["out_of_memory"],
        slot_pid=how["pid"],
    )


def initializer_error(codec: CallCodec, payload: bytes, is_error: bool) -> Exception:
    """Return the `InitializerError` for the report of a slot. Decoding it may run the user's code."""
    if is_error:
        cause = codec.decode_error(payload)
        error = errors.InitializerError(f"the initializer raised {type(cause).__name__}: {cause}")
        error.__cause__ = cause
        return error
    return errors.InitializerError(payload.decode(errors="replace"))
