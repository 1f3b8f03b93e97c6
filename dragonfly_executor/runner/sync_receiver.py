"""The agent's end of a sync: the parent's files come, and slots start where they lie.

A sync is a number of steps, each in its turn: the parent says what changes (SYNC_BEGIN), the agent which of the
contents it has (SYNC_HAVE), the parent sends the others, if any (SYNC_DATA, SYNC_END), and the agent changes its tree
and says so (SYNC_END). Calls that come after a SYNC_BEGIN wait until then. Where a content did not come out as
announced, since its file was just being changed, they go on waiting: the parent then sends another step. It is known by
what the parent had heard when it sent it: others may have been on their way already.
"""

from __future__ import annotations

import os
from collections import deque
from contextlib import suppress

from dragonfly_executor.errors import ProtocolError
from dragonfly_executor.protocol.file_manifest import Step, pack_bits, read_step
from dragonfly_executor.protocol.frames import Flag, Frame, Kind, encode
from dragonfly_executor.protocol.stdlib_json import json
from dragonfly_executor.runner import requirements, session_directory
from dragonfly_executor.runner.content_cache import Blobs, Receiving, cache_folder, private_folder
from dragonfly_executor.runner.file_tree import Tree
from dragonfly_executor.serialization.working_directory import Place

# A runner imports this, and importing typing would take as long as all the rest. Type checkers take the name for true.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dragonfly_executor.runner.dispatch import Dispatcher
    from dragonfly_executor.transport.loop import Loop

    Helper = Callable[[Callable[[], int], Callable[[int], None]], None]

MAX_STEP = 64 * 1024 * 1024
"""Bytes of a SYNC_BEGIN, all its parts together."""
AT_A_TIME = 0.02
"""Seconds that the tree is worked on before the loop may see to everything else."""


class Synced:
    """The files that came from the parent, and those that are coming.

    Args:
        loop: the agent's.
        send: sends a frame to the parent.
        dispatcher: holds calls back meanwhile, and replaces slots.
        run_helper: runs a function in a child of the agent, and calls back with its exit status.
    """

    def __init__(self, loop: Loop, send: Callable[[bytes], None], dispatcher: Dispatcher, run_helper: Helper) -> None:
        self._loop = loop
        self._send = send
        self._dispatcher = dispatcher
        self._run_helper = run_helper
        self._session: session_directory.Session | None = None
        self._cache = ""
        self._blobs: Blobs
        self._tree: Tree
        self._parts: list[bytes] = []
        self._parts_size = 0
        self._steps: deque[tuple[int, Step]] = deque()
        self._wanted: list[tuple[str, int]] = []
        self._receiving: tuple[int, Receiving] | None = None
        self._all_sent = False
        self._work: Iterator[None] = iter(())
        self._stale: list[str] = []
        self._doubted = 0
        """The last step of which a content did not come out as announced."""
        self._fresh = False
        self._failed = False
        self._is_trimmed = False
        self._import_path: list[str] = []
        self._site = ""
        self._installed: list[str] = []
        self._environments: list[requirements.Environment] = []
        """Those that slots use, or have used: their calls may go on."""

    @property
    def place(self) -> Place:
        """Where slots start now."""
        top = self._tree.top
        path = [os.path.join(top, entry) for entry in self._import_path]
        return Place(top, os.path.join(top, "cwd"), path, self._site)

    def descriptors(self) -> list[int]:
        """What slots must not keep open."""
        fds = [] if self._session is None else [self._session.fd]
        fds += [fd for fd in (environment.fileno() for environment in self._environments) if fd >= 0]
        return fds if self._receiving is None else [*fds, self._receiving[1].fd]

    def remove(self) -> None:
        """Take all of it away; the contents that other runners may use stay."""
        if self._receiving is not None:
            self._receiving[1].drop()
        for environment in self._environments:
            environment.leave()
        if self._session is not None:
            self._session.remove()

    def receive(self, frame: Frame) -> None:
        """Take in what the parent says; `ProtocolError` for what no parent says."""
        if self._failed:
            return
        try:
            if frame.kind == Kind.SYNC_BEGIN:
                self._begin(frame)
            elif frame.kind == Kind.SYNC_DATA:
                self._data(frame)
            else:
                self._end(frame)
        except OSError as error:
            self._cannot(error)

    # -- a step -------------------------------------------------------------------------------------------------------

    def _begin(self, frame: Frame) -> None:
        self._parts.append(bytes(frame.payload))
        self._parts_size += len(frame.payload)
        if self._parts_size > MAX_STEP:
            raise ProtocolError(f"a SYNC_BEGIN of more than {MAX_STEP} bytes")
        if frame.flags & Flag.MORE:
            return
        step = read_step(b"".join(self._parts))
        self._parts, self._parts_size = [], 0
        self._steps.append((frame.detail, step))
        self._dispatcher.hold()
        if len(self._steps) == 1:
            self._ask()

    def _ask(self) -> None:
        """Begin the next step: say which of its contents are here."""
        number, step = self._steps[0]
        self._open_session()
        self._tree.after(step.difference)  # that it can be done at all
        self._wanted = list(step.difference.digests.items())
        self._all_sent = False
        have = [self._blobs.has(digest, size) for digest, size in self._wanted]
        self._send(encode(Kind.SYNC_HAVE, payload=pack_bits(have), detail=number))
        if all(have):
            # A warm runner need not be told that nothing follows: that would be a way there and back more.
            self._apply()

    def _ask_next(self) -> None:
        try:
            self._ask()
        except OSError as error:
            self._cannot(error)

    def _open_session(self) -> None:
        if self._session is not None:
            return
        session_directory.sweep()
        self._session = session_directory.Session()
        top = os.path.join(self._session.path, "tree")
        os.mkdir(top, 0o700)
        cache = cache_folder()
        # Without a home what is kept lasts as long as the session does.
        usable = cache is not None and private_folder(cache) and private_folder(os.path.join(cache, "blobs"))
        self._cache = cache if cache is not None and usable else self._session.path
        blobs = os.path.join(self._cache, "blobs")
        if not usable:
            os.mkdir(blobs, 0o700)
        self._blobs = Blobs(blobs)
        self._tree = Tree(top, self._blobs)

    def _data(self, frame: Frame) -> None:
        place = frame.call_id
        if not self._steps or self._all_sent or not 1 <= place <= len(self._wanted):
            raise ProtocolError("a content that was not asked for")
        if self._receiving is None:
            self._receiving = place, self._blobs.receive(*self._wanted[place - 1])
        if self._receiving[0] != place:
            raise ProtocolError("a content amid another one")
        receiving = self._receiving[1]
        if not receiving.write(frame.payload):
            raise ProtocolError("a content that is larger than it was said to be")
        if not frame.flags & Flag.MORE:
            self._receiving = None
            receiving.finish()  # if it is not what it should be, its files turn out to be stale

    def _end(self, frame: Frame) -> None:
        if not self._steps or self._all_sent or self._receiving is not None or frame.detail != self._steps[0][0]:
            raise ProtocolError("an end of a sync that did not begin")
        self._apply()

    def _apply(self) -> None:
        """Everything is here: change the tree."""
        self._all_sent = True
        self._stale = []
        self._work = self._tree.apply(self._steps[0][1].difference, self._stale)
        self._advance()

    def _advance(self) -> None:
        """Work on the tree, and let the loop see to the rest in between."""
        until = self._loop.time() + AT_A_TIME
        try:
            for _ in self._work:
                if self._loop.time() >= until:
                    self._loop.call_soon(self._advance)
                    return
        except OSError as error:
            self._cannot(error)
            return
        self._install()

    def _install(self) -> None:
        """See to the environment for the requirements, if there are any that it was not made for."""
        lines = self._steps[0][1].requirements
        if lines == self._installed:
            self._finish()
            return
        environment = requirements.Environment(self._cache, lines)
        if environment.take():
            self._installed_in(environment)
            return
        try:
            self._run_helper(environment.build, lambda status: self._install_ended(environment, status))
        except OSError as error:  # as many processes as this user may have
            self._fail("requirements", f"nothing can be started to install them: {error.strerror or error}")

    def _install_ended(self, environment: requirements.Environment, status: int) -> None:
        if environment.take():
            self._installed_in(environment)
        else:
            how = f"it ended with status {os.waitstatus_to_exitcode(status)}"
            self._fail("requirements", environment.last_words() or how)

    def _installed_in(self, environment: requirements.Environment) -> None:
        self._installed = self._steps[0][1].requirements
        self._site = environment.site_packages
        self._environments.append(environment)
        if requirements.has_litter(self._cache):
            with suppress(OSError):  # the next runner may have more luck
                self._run_helper(lambda: requirements.clean_up(self._cache), lambda status: None)
        self._finish()

    def _finish(self) -> None:
        """A step is done: say so, and go on with the next, or let the calls go that waited for it."""
        number, step = self._steps.popleft()
        self._fresh = self._fresh or step.fresh
        self._import_path = step.import_path
        stale = set(self._stale)
        if stale:
            self._doubted = number
        answer = pack_bits([path in stale for path in step.difference.changed])
        self._send(encode(Kind.SYNC_END, payload=answer, detail=number))
        if self._steps:
            # Not from here: any number of steps may wait, and each would stand on the one before.
            self._loop.call_soon(self._ask_next)
        elif step.heard >= self._doubted:
            fresh, self._fresh = self._fresh, False
            if not self._is_trimmed:
                self._is_trimmed = True
                self._blobs.trim()
            self._dispatcher.release(fresh=fresh)

    def _cannot(self, error: OSError) -> None:
        self._fail("sync", f"{error.strerror or error} ({error.filename or self._where()})")

    def _fail(self, phase: str, text: str) -> None:
        """Nothing more can be synced here. Calls that wait for it never start: the parent knows which these are."""
        self._failed = True
        if self._receiving is not None:
            self._receiving[1].drop()
            self._receiving = None
        said = {"phase": phase, "text": text}
        self._send(encode(Kind.SYNC_END, payload=json.dumps(said).encode(), flags=Flag.ERROR))

    def _where(self) -> str:
        return session_directory.temporary_folder() if self._session is None else self._session.path
