"""Whose text the agent takes it for where a moment decides: a slot that answers just while the agent looks."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from dragonfly_executor.core.slot_records import SlotCall, SlotRecord
from dragonfly_executor.protocol.frames import Decoder, Flag, Frame, Kind, encode
from dragonfly_executor.runner.dispatch import Dispatcher
from dragonfly_executor.runner.output_pipes import OutputPipes
from dragonfly_executor.runner.slot_output_forwarder import LIVE_AFTER, SentOutput
from dragonfly_executor.runner.slot_progress import Progress


class Scene:
    """An agent's loop, link and dispatcher, and a slot, as far as its output has to do with them."""

    def __init__(self) -> None:
        self.now = 0.0
        self.later: list[Callable[[], object]] = []
        self.readers: dict[int, Callable[[], object]] = {}
        self.sent: list[bytes] = []
        self.on_drain: Callable[[], object] = lambda: None
        self.on_hold: Callable[[], object] = lambda: None
        loop: Any = SimpleNamespace(
            time=lambda: self.now,
            add_reader=self.readers.__setitem__,
            remove_reader=lambda fd: self.readers.pop(fd, None),
            call_later=self._call_later,
        )
        link: Any = SimpleNamespace(send=self.sent.append, send_bulk=self.sent.append, queued_bulk=0)
        dispatcher: Any = SimpleNamespace(hold_back=self._hold)
        self.output = SentOutput(loop, link, dispatcher, None)
        # What the slot would make its own.
        self.stdout, self.stderr = map(os.dup, self.output._pipes._writing)
        slot_link = SimpleNamespace(
            is_paused=False, drain_reads=lambda: self.on_drain(), pause=lambda: None, resume=lambda: None
        )
        self.slot: Any = SimpleNamespace(pid=7, record=SlotRecord(7, 0.0), answer=None, link=slot_link)
        self.slot.record.is_ready = True
        self.output.slot_is_forked(self.slot)

    def _call_later(self, delay: float, callback: Callable[[], object]) -> Any:
        self.later.append(callback)
        return SimpleNamespace(cancel=lambda: None)

    def _hold(self, slot: Any) -> None:
        slot.record.is_stuck = True
        self.on_hold()

    def run(self, *call_ids: int) -> None:
        """The slot has these calls; none of them is for itself."""
        self.slot.record.in_flight = deque(SlotCall(call_id, 1, b"") for call_id in call_ids)
        self.slot.record.is_stuck = False

    def look(self) -> None:
        """One pass of the loop, in which the pipes hold something."""
        for fd, reader in list(self.readers.items()):
            if select.select([fd], [], [], 0)[0]:
                reader()

    def texts(self) -> list[tuple[int, bytes]]:
        """What was sent, and as whose."""
        frames: list[Frame] = Decoder().feed(b"".join(self.sent))
        return [(frame.call_id, bytes(frame.payload)) for frame in frames if frame.kind == Kind.OUTPUT]


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.output.close()
    os.close(scene.stdout)
    os.close(scene.stderr)


def test_the_text_of_a_call_that_is_alone_in_its_slot_goes_out_at_once(scene: Scene) -> None:
    scene.run(1)
    os.write(scene.stdout, b"text")
    scene.look()
    assert scene.texts() == [(1, b"text")]
    assert scene.slot.record.is_stuck  # so that no other is queued behind it


def test_a_result_that_is_there_ends_its_call_before_the_text_is_read(scene: Scene) -> None:
    """The slot has read what that call wrote itself: this is from after it."""
    scene.run(1)
    scene.on_drain = lambda: scene.run()
    os.write(scene.stdout, b"text")
    scene.look()
    assert scene.texts() == [(0, b"text")]


def test_text_is_left_to_the_slot_while_it_runs_several_quick_calls(scene: Scene) -> None:
    scene.run(1, 2)
    os.write(scene.stdout, b"text")
    scene.look()
    assert scene.texts() == []
    assert not scene.readers
    # Nobody asks the agent again before it looks itself.
    (look,) = scene.later
    os.read(next(iter(scene.output._pipes.sources)), 100)
    look()
    scene.look()
    assert scene.texts() == []
    assert scene.readers


def test_a_call_that_runs_longer_gets_the_slot_for_itself(scene: Scene) -> None:
    scene.run(1, 2)
    scene.now = LIVE_AFTER * 2
    scene.on_hold = lambda: scene.slot.record.in_flight.pop()
    os.write(scene.stdout, b"text")
    scene.look()
    assert scene.texts() == [(1, b"text")]


def test_a_slot_that_has_begun_the_next_call_meanwhile_is_not_read(scene: Scene) -> None:
    """The packet could not be taken back any more: the result of the first is on its way, or there."""
    scene.run(1, 2)
    scene.now = LIVE_AFTER * 2

    def held() -> None:
        scene.on_drain = lambda: scene.run(2)

    scene.on_hold = held
    os.write(scene.stdout, b"text")
    scene.look()
    assert scene.texts() == []
    (look,) = scene.later
    look()
    scene.look()
    assert scene.texts() == [(2, b"text")]


def test_while_the_slot_reads_its_pipes_the_agent_does_not(scene: Scene) -> None:
    """What the slot has in its hand was written first, and has to be sent first."""
    scene.run(1)
    os.write(scene.stdout, b"second")
    assert scene.output._pipes.wait_for_turn()
    scene.look()
    assert scene.texts() == []
    assert not scene.readers
    (look,) = scene.later
    frame = encode(Kind.OUTPUT, 1, b"first", attempt=1, detail=scene.slot.pid)
    scene.on_drain = lambda: scene.sent or scene.output.forward(scene.slot, Decoder().feed(frame)[0])
    scene.output._pipes.give_turn()
    look()
    scene.look()
    assert scene.texts() == [(1, b"first"), (1, b"second")]
    # Either may have the next turn.
    assert scene.output._pipes.take_turn()
    assert not scene.output._pipes.take_turn()


def test_a_slot_whose_call_has_closed_everything_waits_for_no_turn(scene: Scene) -> None:
    """And harms nobody by it."""
    pipes = OutputPipes(logs=False)
    for fd in pipes._turn:
        os.close(fd)
    assert not pipes.wait_for_turn()
    pipes.give_turn()
    pipes._turn = (-1, -1)
    pipes.close()


def test_what_a_slot_writes_before_it_is_ready_is_no_calls(scene: Scene) -> None:
    scene.run(1)
    scene.slot.record.is_ready = False
    os.write(scene.stdout, b"text")
    scene.look()
    assert scene.texts() == [(0, b"text")]
    assert scene.slot.answer is None


def test_the_end_of_a_calls_text_is_said_once_and_before_its_result(scene: Scene) -> None:
    scene.run(1)
    os.write(scene.stdout, b"text")
    scene.look()
    result = b"\x0e\0\0\1" + bytes(4) + (1).to_bytes(8, "big") + bytes(8)
    scene.slot.answer(result)
    frames = Decoder().feed(b"".join(scene.sent))
    assert [(frame.kind, frame.flags & Flag.END) for frame in frames] == [
        (Kind.OUTPUT, 0), (Kind.OUTPUT, Flag.END), (Kind.RESULT, 0),
    ]  # fmt: skip
    assert scene.slot.answer is None


def test_how_a_slot_ended_is_said_behind_what_its_call_wrote(scene: Scene) -> None:
    """Also where that takes the link's second lane."""
    said: list[bytes] = []
    loop: Any = SimpleNamespace(time=lambda: 0.0, call_at=lambda when, callback: SimpleNamespace(when=when))
    dispatcher = Dispatcher(loop, said.append, lambda numbers, gpus: ([scene.slot], None))
    scene.slot.output = scene.output
    scene.slot.stack = SimpleNamespace(read=lambda number: "")
    scene.slot.progress = Progress()
    scene.slot.hand = len
    scene.slot.take_back = set
    dispatcher.call_arrived(Decoder().feed(encode(Kind.CALL, 1, attempt=1))[0])
    dispatcher.dispatch()
    os.write(scene.stdout, b"text")
    scene.look()
    dispatcher.slot_ended(scene.slot, 9, tell=False)
    frames = Decoder().feed(b"".join(scene.sent))
    assert [frame.kind for frame in frames] == [Kind.OUTPUT, Kind.OUTPUT, Kind.LOST]
    assert said == []


SLOT = """
import os, select, socket
from types import SimpleNamespace
from dragonfly_executor.protocol.frames import SETUP_HEAD, Kind, encode, HEADER_SIZE
from dragonfly_executor.serialization import CallCodec
from dragonfly_executor.runner import slot_process
from dragonfly_executor.runner.slot_calls import SlotQueue
from dragonfly_executor.runner.slot_output_forwarder import SentOutput
from dragonfly_executor.runner.slot_progress import Progress
from dragonfly_executor.runner.slot_template import SlotTemplate

codec = CallCodec()
setup = codec.setup()
setup = SETUP_HEAD.pack(1 << 20, len(setup), 0, 0) + setup
queue = SlotQueue()
calls, taken = queue.sender, queue.receiver
agent, results = socket.socketpair()
output = SentOutput(None, None, None, None)
calls.send(encode(Kind.CALL, 1, b"".join(codec.encode_call(abs, (-1,), {})), attempt=1))
parent = os.getpid()
if os.fork() == 0:
    agent.close()
    slot_process.main(
        queue,
        results,
        None,
        template=SlotTemplate(setup, None),
        rendezvous=None,
        agent_pid=parent,
        take_over_output=output.take_over,
        progress=Progress(),
    )
results.close()
assert agent.recv(HEADER_SIZE)[0] == Kind.READY
# For as long as anything may take: this is about what does not come.
assert not select.select([agent], [], [], 0.3)[0], "a call began before the agent had heard that the slot is ready"
assert taken.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
agent.sendall(encode(Kind.READY))
assert agent.recv(HEADER_SIZE)[0] == Kind.RESULT
calls.close()
taken.close()
os.wait()
"""


def test_a_slot_begins_no_call_before_the_agent_has_heard_that_it_is_ready() -> None:
    """Till then what it writes is the initializer's, in the agent's eyes."""
    ran = subprocess.run([sys.executable, "-c", SLOT], capture_output=True, text=True, timeout=30)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_descriptors_that_are_free_are_taken_before_any_slot_is_made() -> None:
    """A parent that was started without standard streams: nothing that a slot needs may lie where its pipes go."""
    script = (
        "import os, sys; from dragonfly_executor.runner.output_pipes import occupy_standard_descriptors as occupy; "
        "report = os.dup(2); os.closerange(0, 3); occupy(); "
        "sys.exit([os.path.exists(f'/proc/self/fd/{fd}') for fd in range(3)] != [True] * 3 or os.open('/', 0) <= 2)"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_nothing_of_it_is_made_where_slots_write_as_their_agent_does() -> None:
    """The default on this machine costs a runner not even the import."""
    script = (
        "import sys; import dragonfly_executor.runner.__main__; "
        "names = {'slot_output_forwarder', 'output_pipes', 'slot_output', 'slot_logging'}; "
        "sys.exit(any(name.startswith('dragonfly_executor.runner.') and name.rpartition('.')[2] in names "
        "for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
