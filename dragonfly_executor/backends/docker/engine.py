"""Requests to a Docker Engine over its Unix socket."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx

from dragonfly_executor.backends.base import Signal
from dragonfly_executor.backends.request_abort import cut_by
from dragonfly_executor.errors import DragonflyError

API = "http://docker/v1.44"
"""The version that Docker 25 introduced, and the oldest that Docker 29 accepts."""
REQUEST_TIMEOUT = 60.0


class DockerError(DragonflyError):
    """A request to a Docker Engine failed.

    Attributes:
        status: the HTTP status of the answer; None if there was none.
        is_away: True if the Engine could not be reached, so that nothing has happened.
        is_timeout: True if the Engine has not answered in time.
    """

    def __init__(
        self, message: str, status: int | None = None, *, is_away: bool = False, is_timeout: bool = False
    ) -> None:
        super().__init__(message)
        self.status = status
        self.is_away = is_away
        self.is_timeout = is_timeout

    @property
    def is_final(self) -> bool:
        """Return True if the same request fails again: no such image, or an argument that Docker refuses."""
        return self.status in (400, 404)


class DockerEngine:
    """A Docker Engine. Each request has a connection of its own, so none stays open between requests. Any thread.

    Args:
        socket: the path of the Engine's socket.
    """

    def __init__(self, socket: str) -> None:
        self.socket = socket

    def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        fine: tuple[int, ...] = (),
        timeout: float = REQUEST_TIMEOUT,
        given_up: Signal | None = None,
    ) -> httpx.Response:
        """Make a request, and return the answer.

        Args:
            method, path, query, body: the request.
            fine: statuses of errors that are returned too.
            timeout: seconds that the Engine may be silent.
            given_up: aborts the request when it is set.

        Raises:
            DockerError: the Engine refused the request, or has not answered.
        """
        transport = httpx.HTTPTransport(uds=self.socket)
        try:
            with httpx.Client(transport=transport, base_url=API, timeout=timeout) as client:
                extensions = {"trace": cut_by(given_up)}
                answer = client.request(method, path, params=query, json=body, extensions=extensions)
        except httpx.HTTPError as error:
            text = f"the Docker Engine at {self.socket} has not answered {method} {path}: {error}"
            is_away, is_timeout = isinstance(error, httpx.ConnectError), isinstance(error, httpx.TimeoutException)
            raise DockerError(text, is_away=is_away, is_timeout=is_timeout) from error
        if answer.is_error and answer.status_code not in fine:
            raise DockerError(f"Docker refused {method} {path}: {_message(answer)}", answer.status_code)
        return answer

    def remove(self, name: str) -> None:
        """Kill and remove a container, and wait until it is gone. Succeeds if there is none.

        Raises:
            DockerError: the container may still be there.
        """
        # 409: another request is removing it. Wait for the end.
        self.ask("DELETE", f"/containers/{name}", query={"force": True, "v": True}, fine=(404, 409))
        self.ask("POST", f"/containers/{name}/wait", query={"condition": "removed"}, fine=(404,))


def _message(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["message"])[:1000]
    except (ValueError, KeyError, TypeError):
        return f"status {answer.status_code}: {answer.text.strip()[:1000]}"


def label_filter(label: str) -> dict[str, Any]:
    """Return the query that lists all containers with a label, running or not."""
    return {"all": True, "filters": json.dumps({"label": [label]})}
