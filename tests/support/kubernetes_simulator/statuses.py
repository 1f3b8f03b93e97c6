"""Answers of an API server that are no success, as a Status."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]


class StatusError(Exception):
    """An answer that is no success.

    Args:
        code: of HTTP.
        reason: the Status's machine-readable reason.
        message: the Status's text.
        retry_after: seconds for the header Retry-After; None for no header.
    """

    def __init__(self, code: int, reason: str, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(code, reason, message)
        self.code = code
        self.reason = reason
        self.message = message
        self.retry_after = retry_after

    def body(self) -> Json:
        """Its Status."""
        details: Json = {} if self.retry_after is None else {"details": {"retryAfterSeconds": self.retry_after}}
        return {
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": self.message,
            "reason": self.reason, "code": self.code, **details,
        }  # fmt: skip


def not_found(resource: str, name: str) -> StatusError:
    return StatusError(404, "NotFound", f'{resource} "{name}" not found')


def exists(resource: str, name: str) -> StatusError:
    return StatusError(409, "AlreadyExists", f'{resource} "{name}" already exists')


def conflict(resource: str, name: str, why: str) -> StatusError:
    return StatusError(409, "Conflict", f'Operation cannot be fulfilled on {resource} "{name}": {why}')


def expired(version: int, floor: int) -> StatusError:
    return StatusError(410, "Expired", f"too old resource version: {version} ({floor})")


def unauthorized() -> StatusError:
    return StatusError(401, "Unauthorized", "Unauthorized")


def too_many(retry_after: int | None = 1) -> StatusError:
    text = "the server has received too many requests and has asked us to try again later"
    return StatusError(429, "TooManyRequests", text, retry_after=retry_after)


def unavailable(retry_after: int | None = None) -> StatusError:
    text = "the server is currently unable to handle the request"
    return StatusError(503, "ServiceUnavailable", text, retry_after=retry_after)


def internal(why: str) -> StatusError:
    return StatusError(500, "InternalError", f"Internal error occurred: {why}")


def forbidden(user: str, verb: str, resource: str, group: str, namespace: str) -> StatusError:
    text = (
        f'{resource} is forbidden: User "{user}" cannot {verb} resource "{resource}" in API group "{group}" in the '
        f'namespace "{namespace}"'
    )
    return StatusError(403, "Forbidden", text)


def bad_request(message: str) -> StatusError:
    return StatusError(400, "BadRequest", message)


def invalid(kind: str, name: str, field: str, why: str) -> StatusError:
    return StatusError(422, "Invalid", f'{kind} "{name}" is invalid: {field}: {why}')
