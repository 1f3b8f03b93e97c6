"""One request, from its arrival to its answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Reply:
    """What is answered. A body of str goes out as text, of bytes as it is, None as nothing, all else as JSON."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)

    def encoded(self) -> tuple[bytes, str]:
        """The body's bytes, and their media type."""
        if self.body is None:
            return b"", ""
        if isinstance(self.body, bytes):
            return self.body, "application/json"
        if isinstance(self.body, str):
            return self.body.encode(), "text/html" if self.body.startswith("<") else "text/plain"
        return json.dumps(self.body).encode(), "application/json"


@dataclass(slots=True)
class Call:
    """A request.

    Attributes:
        number: counts all requests, from 1.
        action: create, get, list, wait, start, stop, signal, destroy, events, metadata, lease, app, org_list, regions,
            placements; "" if there is no such endpoint.
        template: the path as the OpenAPI document has it.
        app, machine: from the path, else "".
        query: in order, with repetitions.
        headers: lower-case names. `authorization` is not kept.
        body: the JSON of the body, None without one.
        malformed: the body is no JSON.
        at: when it came.
        committed: it was carried out, whatever its sender was told.
        reply: what its sender was told; None if the connection was cut, or it is still waiting.
    """

    number: int
    action: str
    method: str
    path: str
    template: str
    app: str
    machine: str
    parameters: Mapping[str, str]
    query: list[tuple[str, str]]
    headers: dict[str, str]
    raw: bytes
    at: float
    authorization: str = field(repr=False, default="")
    body: Any = None
    malformed: bool = False
    committed: bool = False
    reply: Reply | None = None

    def first(self, name: str, default: str | None = None) -> str | None:
        """The value of a query parameter."""
        return next((value for key, value in self.query if key == name), default)

    def is_true(self, *names: str) -> bool:
        """Whether one of these query parameters says true."""
        return any(self.first(name) in {"true", "1"} for name in names)
