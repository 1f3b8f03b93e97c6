"""The Pods of a backend as the API server shows them: one list and one watch for all boots and nodes."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from dragonfly_executor.backends.base import CancelToken
from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.kubernetes.answers import AnswerKind, APIAnswer, KubernetesAPIError, classify, one_line
from dragonfly_executor.backends.kubernetes.client import KubernetesAPI
from dragonfly_executor.backends.kubernetes.pod import Pod

INFINITY = float("inf")
WATCH_SECONDS = 60
"""Seconds after which the server ends a watch, and the next begins where it ended."""
SILENCE = 75.0
"""Seconds without data after which a watch counts as dead: a half-open connection shows nothing for ever."""
LIST_TIMEOUT = 30.0
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 10.0
"""Seconds before the first retry, and at most. The pauses double, and are a random part of that."""
LASTING = 1.0
"""Seconds. If a watch ends earlier and without an event, the next one waits, as after a failure."""
JOIN_TIMEOUT = 5.0


class FollowedPod:
    """A Pod that a boot or a node follows. Any thread.

    Attributes:
        on_change: called by the watch's thread when the attributes below have changed. It must not block.
        pod: the Pod as last seen; None before it was created.
        is_gone: whether it was seen, or created, and is there no more.
        refusal: why the server does not show the Pods; None if it does, or may soon.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: set[threading.Event] = set()
        self.on_change: Callable[[], object] = lambda: None
        self.pod: Pod | None = None
        self.is_gone = False
        self.refusal: KubernetesAPIError | None = None

    def wait(self, ready: Callable[[FollowedPod], object], deadline: Deadline) -> bool:
        """Wait until `ready` returns something true. Return False if the deadline has passed before."""
        woken = threading.Event()
        with self._lock:
            self._waiting.add(woken)
        try:
            with deadline.ending(woken.set):
                while not ready(self):
                    if deadline.is_over:
                        return False
                    woken.wait(min(deadline.left(), threading.TIMEOUT_MAX))
                    woken.clear()
                return True
        finally:
            with self._lock:
                self._waiting.discard(woken)

    def changed(self) -> None:
        """Wake the threads that wait, after the attributes have changed."""
        with self._lock:
            for woken in self._waiting:
                woken.set()
        self.on_change()


class PodWatch:
    """A list and a watch of the Pods of one backend. Its thread runs while a Pod is followed.

    Args:
        api: the API server.
        selector: the label selector of the backend's Pods.
    """

    def __init__(self, api: KubernetesAPI, selector: str) -> None:
        self._api = api
        self._selector = selector
        self._lock = threading.Lock()
        self._followed: dict[str, FollowedPod] = {}
        self._unlisted: set[str] = set()
        """Names of Pods that were created after the last list began: it does not show that they are gone."""
        self._thread: threading.Thread | None = None
        self._stop = CancelToken()
        self._connection: Any = None

    def follow(self, name: str) -> FollowedPod:
        """Follow a Pod that is about to be created. Call `leave` in the end."""
        with self._lock:
            followed = self._followed[name] = FollowedPod()
            self._unlisted.add(name)
            if self._thread is None:
                self._stop = CancelToken()
                self._thread = threading.Thread(
                    target=self._run, args=(self._stop,), name="dragonfly-kubernetes-watch", daemon=True
                )
                self._thread.start()
        return followed

    def created(self, name: str, pod: Pod) -> None:
        """Show a Pod that a request has just returned."""
        with self._lock:
            followed = self._followed.get(name)
            if followed is not None and followed.pod is None:
                followed.pod = pod
                followed.changed()

    def leave(self, name: str) -> None:
        """Stop following a Pod. If it was the last one, the thread ends before this returns."""
        with self._lock:
            self._followed.pop(name, None)
            self._unlisted.discard(name)
            if self._followed or self._thread is None:
                return
            thread, self._thread = self._thread, None
            stop = self._stop
        stop.set()
        thread.join(JOIN_TIMEOUT)

    def descriptors(self) -> tuple[int, ...]:
        """Return the descriptors of the watch's connection."""
        connection = self._connection
        return () if connection is None else connection.descriptors()

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _run(self, stop: CancelToken) -> None:
        with self._api:
            pause, version = FIRST_PAUSE, ""
            while not stop.is_set():
                listed = bool(version)
                try:
                    if not version:
                        version = self._list(stop)
                        listed = True
                    version, lasted = self._watch(version, stop)
                except KubernetesAPIError as error:
                    # The version may be too old (410), and a refused watch says nothing about what happened meanwhile.
                    version, lasted = "", False
                    # Credentials that expired during a watch are read again by the next list.
                    may_renew = listed and error.kind is AnswerKind.UNAUTHORIZED
                    self._refused(error if error.final and not may_renew else None)
                except Exception as error:  # a damaged answer must not end the thread
                    version, lasted = "", False
                    text = f"cannot read the list of Pods: {one_line(str(error))}"
                    self._refused(KubernetesAPIError(text, AnswerKind.AMBIGUOUS) if not stop.is_set() else None)
                if lasted:
                    pause = FIRST_PAUSE
                    continue
                stop.wait(random.uniform(pause / 2, pause))  # noqa: S311  # not for secrets
                pause = min(2 * pause, LONGEST_PAUSE)

    def _list(self, stop: CancelToken) -> str:
        with self._lock:
            self._unlisted.difference_update(
                name for name, followed in self._followed.items() if followed.pod is not None
            )
        items, version = self._api.list_pods(self._selector, Deadline(LIST_TIMEOUT, stop))
        found = {pod.name: pod for pod in map(Pod.parse, items)}
        with self._lock:
            for name, followed in self._followed.items():
                if name in found:
                    followed.pod = found[name]
                elif name not in self._unlisted:
                    followed.is_gone = True
                followed.changed()
        return version

    def _watch(self, version: str, stop: CancelToken) -> tuple[str, bool]:
        """Watch until the server ends that. Return the last resource version, and whether the watch has worked."""
        ends: list[Callable[[], object]] = []

        def opened(connection: Any) -> None:
            self._connection = connection
            ends.append(connection.cut)
            stop.call(connection.cut)

        lasted, began = False, time.monotonic()
        try:
            with self._api.watch_pods(
                self._selector, version, Deadline(INFINITY, stop), seconds=WATCH_SECONDS, silence=SILENCE, opened=opened
            ) as lines:
                # Not before: an account may list Pods and not watch them.
                self._refused(None)
                for line in lines:
                    version, lasted = self._take(line) or version, True
                lasted = lasted or time.monotonic() - began > LASTING
        except ConnectionError:
            # What was seen stands. The next watch goes on from there.
            return version, lasted
        finally:
            self._connection = None
            for end in ends:
                stop.forget(end)
        return version, lasted

    def _take(self, line: bytes) -> str:
        """Take one event. Return the resource version that it leads to.

        Raises:
            KubernetesAPIError: the event is an error, such as a resource version that is too old.
            ConnectionError: the line is no event; the connection was cut in its middle.
        """
        try:
            event = json.loads(line)
            kind, said = event["type"], event["object"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ConnectionError("an event of the watch is damaged") from None
        if kind == "ERROR":
            code = said.get("code") if isinstance(said, dict) else None
            answer = APIAnswer(code if isinstance(code, int) else 500, json.dumps(said).encode())
            raise KubernetesAPIError(f"the watch ended: {answer.text()}", classify(answer), answer.status)
        pod = Pod.parse(said)
        if kind != "BOOKMARK":
            with self._lock:
                followed = self._followed.get(pod.name)
                if followed is not None:
                    followed.pod = pod
                    followed.is_gone = kind == "DELETED"
                    followed.changed()
        return pod.version

    def _refused(self, error: KubernetesAPIError | None) -> None:
        with self._lock:
            for followed in self._followed.values():
                followed.refusal = error
                followed.changed()
