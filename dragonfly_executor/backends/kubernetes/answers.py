"""Answers of a Kubernetes API server, and what each means for the request. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Any, NamedTuple

from dragonfly_executor.errors import DragonflyError

MAX_TEXT = 600
"""The maximum number of characters of an answer that an error quotes."""
MAX_RETRY_AFTER = 60.0
"""Seconds. A longer Retry-After is cut to this."""


class AnswerKind(Enum):
    """The class of an answer, which determines the next step."""

    OK = "ok"
    EXISTS = "exists"
    """An object with this name exists. Nothing was done."""
    NOT_FOUND = "not found"
    """The object or its namespace does not exist."""
    EXPIRED = "expired"
    """The resource version is too old: list again."""
    BUSY = "busy"
    """Too many requests, or a conflict with another writer. Nothing was done; a retry may succeed."""
    QUOTA = "quota"
    """The namespace's quota or limit is used up. Nothing was done."""
    AMBIGUOUS = "ambiguous"
    """An answer that leaves open whether the request was carried out."""
    UNSENT = "unsent"
    """The request did not reach the API server."""
    UNAUTHORIZED = "unauthorized"
    """The credentials are missing, wrong or expired."""
    FORBIDDEN = "forbidden"
    """The account lacks a right."""
    FATAL = "fatal"
    """A refusal: the request was not carried out, and a retry fails as well."""


class APIAnswer(NamedTuple):
    """The outcome of one request.

    Attributes:
        status: the HTTP status; 0 if there was no complete answer.
        body: the bytes that were read.
        retry_after: the header Retry-After, "" if it is missing.
        failure: the reason why there is no complete answer, in words.
        sent: whether the request may have reached the API server.
    """

    status: int
    body: bytes = b""
    retry_after: str = ""
    failure: str = ""
    sent: bool = True

    def record(self) -> dict[str, Any]:
        """Return the body if it is a JSON object, otherwise an empty one."""
        try:
            found = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def text(self) -> str:
        """Return the server's words, in one line."""
        if self.failure:
            return self.failure
        said = self.record().get("message")
        words = said if isinstance(said, str) and said.strip() else self.body[: 4 * MAX_TEXT].decode(errors="replace")
        return one_line(words) or f"an empty answer with status {self.status}"


class KubernetesAPIError(DragonflyError):
    """A request to the API server failed.

    Attributes:
        kind: the class of the answer.
        status: its HTTP status; 0 if there was none.
    """

    def __init__(self, message: str, kind: AnswerKind, status: int = 0) -> None:
        super().__init__(message, kind, status)
        self.kind = kind
        self.status = status

    def __str__(self) -> str:
        return str(self.args[0])

    @property
    def may_have_happened(self) -> bool:
        """Return True if the request may have been carried out."""
        return self.kind is AnswerKind.AMBIGUOUS

    @property
    def final(self) -> bool:
        """Return True if every retry fails until a person changes something."""
        return self.kind in (
            AnswerKind.NOT_FOUND, AnswerKind.UNAUTHORIZED, AnswerKind.FORBIDDEN, AnswerKind.FATAL,
        )  # fmt: skip


_BY_REASON: Mapping[str, AnswerKind] = MappingProxyType(
    {
        "AlreadyExists": AnswerKind.EXISTS,
        "Conflict": AnswerKind.BUSY,
        "Expired": AnswerKind.EXPIRED,
        "Gone": AnswerKind.EXPIRED,
        "TooManyRequests": AnswerKind.BUSY,
    }
)
"""By the field ``reason`` of a Status. It is more exact than the HTTP status: 409 has two meanings."""
_BY_STATUS: Mapping[int, AnswerKind] = MappingProxyType(
    {
        401: AnswerKind.UNAUTHORIZED,
        403: AnswerKind.FORBIDDEN,
        404: AnswerKind.NOT_FOUND,
        408: AnswerKind.AMBIGUOUS,
        409: AnswerKind.BUSY,
        410: AnswerKind.EXPIRED,
        429: AnswerKind.BUSY,
    }
)


def classify(answer: APIAnswer) -> AnswerKind:
    """Return the class of an answer."""
    status = answer.status
    if not status:
        return AnswerKind.AMBIGUOUS if answer.sent else AnswerKind.UNSENT
    if 200 <= status < 300:
        return AnswerKind.OK
    if status >= 500 or status < 200:
        return AnswerKind.AMBIGUOUS
    reason = answer.record().get("reason")
    if isinstance(reason, str) and reason in _BY_REASON:
        return _BY_REASON[reason]
    if status == 403 and _is_quota(answer.text()):
        return AnswerKind.QUOTA
    return _BY_STATUS.get(status, AnswerKind.FATAL)


def _is_quota(text: str) -> bool:
    """Return True if the text is that of the ResourceQuota admission. Its answer has no field that says so."""
    return "exceeded quota" in text or "insufficient quota" in text


def retry_after(answer: APIAnswer) -> float | None:
    """Return the seconds that Retry-After demands; None if it is missing. API servers send whole seconds."""
    text = answer.retry_after.strip()
    return min(float(text), MAX_RETRY_AFTER) if text.isascii() and text.isdigit() else None


def one_line(text: str) -> str:
    """Return a text without line breaks and control characters, and not too long."""
    words = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return words if len(words) <= MAX_TEXT else f"{words[:MAX_TEXT]}..."
