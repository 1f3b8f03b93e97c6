"""The API server's objects that the backend uses, with retries. Any thread."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.kubernetes.access import ClusterAccess
from dragonfly_executor.backends.kubernetes.answers import (
    AnswerKind,
    APIAnswer,
    KubernetesAPIError,
    classify,
    retry_after,
)
from dragonfly_executor.backends.kubernetes.http import APIConnections, APIRequest

ANSWER_TIMEOUT = 15.0
"""Seconds for one answer."""
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 10.0
"""Seconds before the first retry, and at most. The pauses double, and are a random part of that."""
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
RETRIED = (AnswerKind.BUSY, AnswerKind.AMBIGUOUS, AnswerKind.UNSENT)
ADVICE = {
    AnswerKind.UNAUTHORIZED: "The credentials are missing, wrong or expired: kubectl auth whoami shows whose they are",
    AnswerKind.FORBIDDEN: "The account lacks this right: docs/kubernetes.md has a Role with all that is needed",
    AnswerKind.QUOTA: "The namespace's quota has no room for another Pod now",
}


class KubernetesAPI:
    """A cluster's API server.

    A context manager: connections stay open while at least one `with` block is active.

    Args:
        find_access: finds server and credentials. It is called again if the server refuses them, as a login may have
            renewed them on disk.
    """

    def __init__(self, find_access: Callable[[], ClusterAccess]) -> None:
        self._find_access = find_access
        self.access = find_access()
        self._lock = threading.Lock()
        self._users = 0
        self._made: tuple[int, APIConnections] | None = None
        """This process's connections: those of another process may not be used after a fork."""

    def __enter__(self) -> Self:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._connections().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                self._connections().__exit__(kind, error, traceback)

    def _connections(self) -> APIConnections:
        """Return this process's connections. Call with the lock."""
        if self._made is None or self._made[0] != os.getpid():
            self._made = os.getpid(), APIConnections(self.access)
        return self._made[1]

    # -- objects ------------------------------------------------------------------------------------------------------

    def path(self, resource: str, name: str = "") -> str:
        """Return the path of a kind of objects in the namespace, or of one object."""
        whole = f"/api/v1/namespaces/{self.access.namespace}/{resource}"
        return f"{whole}/{name}" if name else whole

    def create(self, resource: str, manifest: Mapping[str, Any], deadline: Deadline) -> dict[str, Any] | None:
        """Create an object. Its name must be new: then a retry after a lost answer creates no second one.

        Args:
            resource: "pods" or "secrets".
            manifest: the object.
            deadline: the time for all attempts.

        Returns:
            The object as the server stored it. None if an earlier attempt, whose answer was lost, created it.

        Raises:
            KubernetesAPIError: it was not created, or that is unknown.
        """
        # Strict: the server refuses fields that it does not know, and does not ignore them silently.
        request = APIRequest("POST", self.path(resource), (("fieldValidation", "Strict"),), manifest)
        what = f"create {resource[:-1]} {manifest['metadata']['name']}"
        answer = self._ask(request, what, deadline, but=(AnswerKind.EXISTS,))
        return None if classify(answer) is AnswerKind.EXISTS else answer.record()

    def get_pod(self, name: str, deadline: Deadline) -> dict[str, Any] | None:
        """Return a Pod; None if there is no such Pod.

        Raises:
            KubernetesAPIError: the server does not say.
        """
        answer = self._ask(APIRequest("GET", self.path("pods", name)), f"get pod {name}", deadline, but=_MISSING)
        return answer.record() if classify(answer) is AnswerKind.OK else None

    def delete_pod(self, name: str, uid: str | None, grace: int, deadline: Deadline) -> bool:
        """Have a Pod deleted. Its owned objects go with it. Does not wait until its processes have ended.

        Args:
            name: the Pod's name.
            uid: the Pod's uid; None if it is unknown.
            grace: seconds between SIGTERM and SIGKILL.
            deadline: the time for all attempts.

        Returns:
            False if there is no such Pod.

        Raises:
            KubernetesAPIError: the deletion was not accepted, or that is unknown.
        """
        options: dict[str, Any] = {
            "apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": grace,
            "propagationPolicy": "Background",
        }  # fmt: skip
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        request = APIRequest("DELETE", self.path("pods", name), (), options)
        # A conflict means that another Pod has the name now.
        answer = self._ask(request, f"delete pod {name}", deadline, but=(AnswerKind.NOT_FOUND,))
        return classify(answer) is AnswerKind.OK

    def list_pods(self, selector: str, deadline: Deadline) -> tuple[list[Any], str]:
        """Return the Pods with these labels, and the resource version of the list.

        Raises:
            KubernetesAPIError: the server does not list them.
        """
        request = APIRequest("GET", self.path("pods"), (("labelSelector", selector),))
        said = self._ask(request, "list pods", deadline).record()
        items, metadata = said.get("items"), said.get("metadata")
        version = metadata.get("resourceVersion") if isinstance(metadata, dict) else None
        return (items if isinstance(items, list) else []), (version if isinstance(version, str) else "")

    @contextmanager
    def watch_pods(
        self,
        selector: str,
        version: str,
        deadline: Deadline,
        *,
        seconds: int,
        silence: float,
        opened: Callable[[Any], object],
    ) -> Iterator[Iterator[bytes]]:
        """Yield the lines of a watch of the Pods with these labels.

        Args:
            selector: of the labels.
            version: the resource version after which events are wanted.
            deadline: its cancellation ends a wait for credentials.
            seconds: how long the server watches.
            silence: seconds without data after which the connection counts as dead.
            opened: see `APIConnections.stream`.

        Raises:
            ConnectionError: the stream cannot be read, or not any more.
            KubernetesAPIError: the server refuses.
        """
        params = (
            ("watch", "1"), ("labelSelector", selector), ("resourceVersion", version),
            ("allowWatchBookmarks", "true"), ("timeoutSeconds", str(seconds)),
        )  # fmt: skip
        with self._lock:
            connections = self._connections()
        request = APIRequest("GET", self.path("pods"), params)
        with connections.stream(request, deadline, silence=silence, opened=opened) as (answer, lines):
            if answer.status != 200:
                raise self.error("watch pods", answer)
            yield lines

    def may(self, verb: str, resource: str, deadline: Deadline) -> tuple[bool, str]:
        """Return whether this account may do something in the namespace, and the server's reason.

        Raises:
            KubernetesAPIError: the server does not say.
        """
        attributes = {"namespace": self.access.namespace, "verb": verb, "resource": resource}
        body = {
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }  # fmt: skip
        said = self._ask(APIRequest("POST", REVIEWS, (), body), "review access", deadline).record()
        status = said.get("status")
        found = status if isinstance(status, dict) else {}
        return found.get("allowed") is True, str(found.get("reason") or "")

    # -- requests -----------------------------------------------------------------------------------------------------

    def _ask(
        self, request: APIRequest, what: str, deadline: Deadline, *, but: tuple[AnswerKind, ...] = ()
    ) -> APIAnswer:
        """Send a request, again and again while that may help, and return the answer.

        Args:
            request: safe to send twice.
            what: the request in words.
            deadline: the time for all attempts.
            but: the kinds of answers that are no errors.
        """
        pause, renewed, doubt = FIRST_PAUSE, False, None
        while True:
            with self._lock:
                connections = self._connections()
            answer = connections.send(request, deadline, timeout=ANSWER_TIMEOUT)
            kind = classify(answer)
            if kind is AnswerKind.OK or kind in but:
                return answer
            if kind is AnswerKind.AMBIGUOUS:
                doubt = answer
            if kind is AnswerKind.UNAUTHORIZED and not renewed:
                renewed = True
                if self._renew(connections):
                    continue
            if kind not in RETRIED or deadline.is_over:
                raise self.error(what, answer, doubt)
            wanted = retry_after(answer)
            seconds = random.uniform(pause / 2, pause) if wanted is None else wanted  # noqa: S311  # not for secrets
            if seconds > deadline.left():
                raise self.error(what, answer, doubt)
            deadline.pause(seconds)
            if deadline.is_cancelled:
                raise self.error(what, answer, doubt)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _renew(self, refused: APIConnections) -> bool:
        """Read the credentials again. Return False if there are none."""
        try:
            access = self._find_access()
        except (ValueError, OSError):
            return False
        with self._lock:
            if self._connections() is not refused:
                return True  # another thread has renewed them
            in_use = self._users > 0
            self.access, self._made = access, (os.getpid(), APIConnections(access))
            if in_use:
                self._made[1].__enter__()
        if in_use:
            refused.__exit__(None, None, None)
        return True

    def error(self, what: str, answer: APIAnswer, doubt: APIAnswer | None = None) -> KubernetesAPIError:
        """Return the error of a request.

        Args:
            what: the request in words.
            answer: the last answer.
            doubt: an earlier answer that left open whether the request was carried out.
        """
        kind = classify(answer)
        text = f"the API server at {self.access.server} refused to {what}: {answer.text()}"
        if not answer.status:
            text = f"no answer from the API server at {self.access.server} to {what}: {answer.text()}"
        advice = ADVICE.get(kind)
        text = f"{text.rstrip('. ')}. {advice}" if advice else text
        open_question = doubt is not None and kind in (*RETRIED, AnswerKind.UNAUTHORIZED)
        return KubernetesAPIError(text, AnswerKind.AMBIGUOUS if open_question else kind, answer.status)


_MISSING = (AnswerKind.NOT_FOUND,)
