"""The agent's end of a sync: receives the parent's files, and lets slots start among them.

A sync is a sequence of steps. In each step the parent sends the changes (SYNC_BEGIN), and the agent answers which
contents it has (SYNC_HAVE). The parent sends the other contents, if any (SYNC_DATA, SYNC_END). The agent changes its
tree and confirms (SYNC_END). Calls that arrive after a SYNC_BEGIN wait until then.

If a file was changing, its content may not match its digest. Then these calls wait for a further step. The agent
recognizes that step by the last step number that the parent knew of, because earlier steps may already be in
transit.
"""

from __future__ import annotations

import os
from collections import deque
from contextlib import suppress

from dragonfly_executor.errors import ProtocolError
from dragonfly_executor.protocol.file_manifest import SyncStep, pack_bits, read_step
from dragonfly_executor.protocol.frames import Flag, Frame, Kind, encode
from dragonfly_executor.protocol.stdlib_json import json
from dragonfly_executor.runner import requirements, session_directory
from dragonfly_executor.runner.content_cache import ContentCache, ContentWriter, cache_folder, private_folder
from dragonfly_executor.runner.file_tree import FileTree
from dragonfly_executor.serialization.working_directory import WorkingDirectory
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dragonfly_executor.runner.dispatch import Dispatcher
    from dragonfly_executor.transport.loop import Loop

    Helper = Callable[[Callable[[], int], Callable[[int], None]], None]

MAX_STEP = 64 * 1024 * 1024
"""Maximum bytes of a SYNC_BEGIN, all its parts together."""
AT_A_TIME = 0.02
"""Seconds of work on the tree before the loop may handle other events."""


class SyncedFiles:
    """The files that have come from the parent, and those that are coming.

    Args:
        loop: the agent's event loop.
        send: sends a frame to the parent.
        dispatcher: holds calls back during a sync, and replaces slots.
        run_helper: runs a function in a child of the agent, and calls back with its wait status.
    """

    def __init__(self, loop: Loop, send: Callable[[bytes], None], dispatcher: Dispatcher, run_helper: Helper) -> None:
        self._loop = loop
        self._send = send
        self._dispatcher = dispatcher
        self._run_helper = run_helper
        self._session: session_directory.SessionDirectory | None = None
        self._cache = ""
        self._blobs: ContentCache
        self._tree: FileTree
        self._parts: list[bytes] = []
        self._parts_size = 0
        self._steps: deque[tuple[int, SyncStep]] = deque()
        self._wanted: list[tuple[str, int]] = []
        self._receiving: tuple[int, ContentWriter] | None = None
        self._all_sent = False
        self._work: Iterator[None] = iter(())
        self._stale: list[str] = []
        self._doubted = 0
        """The last step in which a content did not match its digest."""
        self._fresh = False
        self._failed = False
        self._is_trimmed = False
        self._import_path: list[str] = []
        self._site = ""
        self._installed: list[str] = []
        self._environments: list[requirements.VirtualEnvironment] = []
        """Environments that slots use or have used. Their calls may still run."""

    @property
    def place(self) -> WorkingDirectory:
        """Return the locations with which new slots start."""
        top = self._tree.top
        path = [os.path.join(top, entry) for entry in self._import_path]
        return WorkingDirectory(top, os.path.join(top, "cwd"), path, self._site)

    def descriptors(self) -> list[int]:
        """Return the descriptors that slots must not keep open."""
        fds = [] if self._session is None else [self._session.fd]
        fds += [fd for fd in (environment.fileno() for environment in self._environments) if fd >= 0]
        return fds if self._receiving is None else [*fds, self._receiving[1].fd]

    def remove(self) -> None:
        """Remove all files of this session. Contents in the shared cache stay."""
        if self._receiving is not None:
            self._receiving[1].drop()
        for environment in self._environments:
            environment.leave()
        if self._session is not None:
            self._session.remove()

    def receive(self, frame: Frame) -> None:
        """Handle a frame of a sync.

        Raises:
            ProtocolError: the frame is invalid at this point.
        """
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
        """Begin the next step: answer which of its contents are in the cache."""
        number, step = self._steps[0]
        self._open_session()
        self._tree.after(step.difference)  # raises if the change is invalid
        self._wanted = list(step.difference.digests.items())
        self._all_sent = False
        have = [self._blobs.has(digest, size) for digest, size in self._wanted]
        self._send(encode(Kind.SYNC_HAVE, payload=pack_bits(have), detail=number))
        if all(have):
            # The parent sends nothing if all contents are here, so do not wait for it: this saves a round trip.
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
        self._session = session_directory.SessionDirectory()
        top = os.path.join(self._session.path, "tree")
        os.mkdir(top, 0o700)
        cache = cache_folder()
        # Without a home directory the cache lasts as long as the session.
        usable = cache is not None and private_folder(cache) and private_folder(os.path.join(cache, "blobs"))
        self._cache = cache if cache is not None and usable else self._session.path
        blobs = os.path.join(self._cache, "blobs")
        if not usable:
            os.mkdir(blobs, 0o700)
        self._blobs = ContentCache(blobs)
        self._tree = FileTree(top, self._blobs)

    def _data(self, frame: Frame) -> None:
        place = frame.call_id
        if not self._steps or self._all_sent or not 1 <= place <= len(self._wanted):
            raise ProtocolError("a content that was not asked for")
        if self._receiving is None:
            self._receiving = place, self._blobs.receive(*self._wanted[place - 1])
        if self._receiving[0] != place:
            raise ProtocolError("a content before the last one was complete")
        receiving = self._receiving[1]
        if not receiving.write(frame.payload):
            raise ProtocolError("a content that is larger than announced")
        if not frame.flags & Flag.MORE:
            self._receiving = None
            receiving.finish()  # if the digest does not match, the content's files turn out to be stale

    def _end(self, frame: Frame) -> None:
        if not self._steps or self._all_sent or self._receiving is not None or frame.detail != self._steps[0][0]:
            raise ProtocolError("an end of a sync that did not begin")
        self._apply()

    def _apply(self) -> None:
        """Start changing the tree: all contents have arrived."""
        self._all_sent = True
        self._stale = []
        self._work = self._tree.apply(self._steps[0][1].difference, self._stale)
        self._advance()

    def _advance(self) -> None:
        """Work on the tree for up to `AT_A_TIME` seconds, then let the loop handle other events."""
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
        """Build the environment for the requirements if they have changed and it does not exist yet."""
        lines = self._steps[0][1].requirements
        if lines == self._installed:
            self._finish()
            return
        environment = requirements.VirtualEnvironment(self._cache, lines)
        if environment.take():
            self._installed_in(environment)
            return
        try:
            self._run_helper(environment.build, lambda status: self._install_ended(environment, status))
        except OSError as error:  # the user's limit on processes is reached
            self._fail("requirements", f"the installer cannot be started: {error.strerror or error}")

    def _install_ended(self, environment: requirements.VirtualEnvironment, status: int) -> None:
        if environment.take():
            self._installed_in(environment)
        else:
            how = f"it ended with status {os.waitstatus_to_exitcode(status)}"
            self._fail("requirements", environment.last_output() or how)

    def _installed_in(self, environment: requirements.VirtualEnvironment) -> None:
        self._installed = self._steps[0][1].requirements
        self._site = environment.site_packages
        self._environments.append(environment)
        if requirements.has_leftovers(self._cache):
            with suppress(OSError):  # the next runner tries again
                self._run_helper(lambda: requirements.clean_up(self._cache), lambda status: None)
        self._finish()

    def _finish(self) -> None:
        """Confirm a finished step. Then begin the next one, or release the calls that waited."""
        number, step = self._steps.popleft()
        self._fresh = self._fresh or step.fresh
        self._import_path = step.import_path
        stale = set(self._stale)
        if stale:
            self._doubted = number
        answer = pack_bits([path in stale for path in step.difference.changed])
        self._send(encode(Kind.SYNC_END, payload=answer, detail=number))
        if self._steps:
            # Not a direct call: any number of steps may wait, and the recursion is as deep as their number.
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
        """Report that no further sync is possible.

        The calls that wait for a sync never start, and the parent knows these calls.
        """
        self._failed = True
        if self._receiving is not None:
            self._receiving[1].drop()
            self._receiving = None
        said = {"phase": phase, "text": text}
        self._send(encode(Kind.SYNC_END, payload=json.dumps(said).encode(), flags=Flag.ERROR))

    def _where(self) -> str:
        return session_directory.temporary_folder() if self._session is None else self._session.path
