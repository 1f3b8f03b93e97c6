"""Classification of the Machines API's responses: success, retry, or final failure. Pure.

The API has few codes and many texts, some requests fail without a text, and proxies in between answer in HTML. So
bodies are parsed as far as possible, and a body that says something overrides the status.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Any, NamedTuple

MAX_TEXT = 600
"""The maximum number of characters of a body that an error quotes."""
MAX_RETRY_AFTER = 60.0
"""Seconds. A longer Retry-After is ignored."""


class ResponseKind(Enum):
    """The class of a response, which determines the next step."""

    OK = "ok"
    RATE = "rate"
    """Too many requests. Nothing was done; retry later."""
    HOST_FULL = "host full"
    """The chosen host has no room. Nothing was done; a retry may get another host."""
    CAPACITY = "capacity"
    """The region has no room. Nothing was done; another region may have room."""
    QUOTA = "quota"
    """The organization's quota in the region is used up. Nothing was done."""
    CONFLICT = "conflict"
    """Another request or a lease is in the way. Nothing was done; retry later."""
    NAME_TAKEN = "name taken"
    """A machine with this name exists. Nothing was done."""
    NOT_FOUND = "not found"
    """The object does not exist."""
    NOT_YET = "not yet"
    """The awaited state has not been reached."""
    TRANSIENT = "transient"
    """The request did not reach the API. Nothing was done; a retry may succeed."""
    AMBIGUOUS = "ambiguous"
    """An answer that leaves open whether the request was carried out."""
    FATAL = "fatal"
    """A refusal: the request was not carried out, and a retry fails as well."""


class APIResponse(NamedTuple):
    """The outcome of one request.

    Attributes:
        status: the HTTP status; 0 if there was no complete response.
        body: the bytes that were read.
        headers: by lower-case name.
        failure: the reason why there is no complete response, in words.
        sent: whether the request may have reached the API.
    """

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = {}
    failure: str = ""
    sent: bool = True

    @property
    def request_id(self) -> str:
        """Return Fly's id of the request, for Fly's support."""
        return self.headers.get("fly-request-id", "")[:64]

    def json(self) -> Any:
        """Return the body parsed as JSON, or None if it is not JSON."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None

    def record(self) -> dict[str, Any] | None:
        """Return the body if it is a JSON object, otherwise None."""
        found = self.json()
        return found if isinstance(found, dict) else None

    def text(self) -> str:
        """Return the reason of the failure in one line."""
        if self.failure:
            return self.failure
        said = self.record() or {}
        for key in ("error", "message"):
            value = said.get(key)
            if isinstance(value, str) and value.strip():
                return _line(value)
        plain = self.body[: 4 * MAX_TEXT].decode(errors="replace")
        if "<" in plain and ">" in plain:
            plain = re.sub(r"<(script|style).*?(</\1>|$)|<[^>]*(>|$)", " ", plain, flags=re.DOTALL | re.IGNORECASE)
        return _line(plain) or "an empty answer"


def _line(text: str) -> str:
    words = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return words if len(words) <= MAX_TEXT else f"{words[:MAX_TEXT]}..."


FULL_HOST = re.compile(r"insufficient \S+ available to fulfill request|deploys to this host|governor policy blocked")
"""Texts about a full host. A text that ends in `no capacity` is about the region."""
FULL_REGION = re.compile(
    r"no capacity\W*$"
    r"|(?:could not|cannot|can't|unable to|failed to) (?:find|get|allocate|reserve|obtain)"
    r" (?:an? |any |enough |sufficient |more )?(?:candidate |suitable |available |free )?"
    r"(?:capacity|host|resource|room|server|worker|placement)"
    r"|(?:insufficient|not enough|out of|lack of|no (?=available|free|suitable|candidate|more)) ?"
    r"(?:available |free |suitable |candidate |more )?(?:capacity|resources?|hosts?|servers?|memory|cpus?|room)\b"
    r"|no (?:capacity|hosts?|resources|room) (?:is |are |was )?(?:available|left|found|in|for|with)\b"
    r"|capacity (?:is |was )?(?:not available|unavailable|exhausted|reached)"
)
"""Texts about a full region. They vary: `status` is often missing, and each text is known from a single source."""
QUOTA = re.compile(r"over the allowed quota|quota exceeded|exceed\w* .{0,40}quota")
PAYMENT = re.compile(r"payment method|credit card")
NAME = re.compile(r"unique machine name violation|already exists with name|name .{0,80}already (?:taken|in use|exists)")
CONFLICT = re.compile(r"lease currently held|concurrent update|lease .{0,40}(?:held|conflict)")
LIMIT = re.compile(r"limit|quota|payment|credit card")
"""Words in refusals of too many machines. Such a refusal may end when there are fewer machines."""
MACHINE_ID = re.compile(r"machine ID (\w{1,64})\b", re.IGNORECASE)
CODES = {
    "insufficient_capacity": ResponseKind.CAPACITY,
    "volume_placement_capacity": ResponseKind.CAPACITY,
    "name_taken": ResponseKind.NAME_TAKEN,
}
"""Verdicts by the `status` field of a body. If it is known, the text does not matter."""


def classify(reply: APIResponse, *, is_wait: bool = False) -> ResponseKind:
    """Return the verdict on a response.

    Args:
        reply: any response, or the failure to get one.
        is_wait: whether the request waited for a machine state, so that a timeout is no error.
    """
    status = reply.status
    if not status:
        return ResponseKind.AMBIGUOUS if reply.sent else ResponseKind.TRANSIENT
    if 200 <= status < 300:
        return ResponseKind.OK
    if status == 404:
        return ResponseKind.NOT_FOUND
    if status == 429:
        return ResponseKind.RATE
    if status == 408:
        return ResponseKind.NOT_YET if is_wait else ResponseKind.AMBIGUOUS
    if status >= 500 or status < 200:
        return ResponseKind.AMBIGUOUS
    if status in (403, 409, 412, 422):
        return _refusal(reply)
    return ResponseKind.FATAL


def _refusal(reply: APIResponse) -> ResponseKind:
    """Classify a response whose status has several meanings, by its body."""
    code = (reply.record() or {}).get("status")
    if isinstance(code, str) and code in CODES:
        return CODES[code]
    text = reply.text().lower()
    if PAYMENT.search(text):
        return ResponseKind.FATAL
    for pattern, verdict in (
        (NAME, ResponseKind.NAME_TAKEN),
        (CONFLICT, ResponseKind.CONFLICT),
        (FULL_HOST, ResponseKind.HOST_FULL),
        (FULL_REGION, ResponseKind.CAPACITY),
    ):
        if reply.status != 403 and pattern.search(text):
            return verdict
    return ResponseKind.QUOTA if QUOTA.search(text) else ResponseKind.FATAL


def is_final(reply: APIResponse, verdict: ResponseKind) -> bool:
    """Return True if every retry fails until a person changes something.

    That holds if the request is wrong or not allowed, or if the app or the image does not exist. It does not hold if a
    conflict, a lack of room, or the number of machines is the reason.
    """
    if verdict not in (ResponseKind.FATAL, ResponseKind.NOT_FOUND) or reply.status in (409, 412):
        return False
    return 400 <= reply.status < 500 and not LIMIT.search(reply.text().lower())


def retry_after(reply: APIResponse, now: float) -> float | None:
    """Return the seconds that Retry-After demands; None if it is missing or makes no sense.

    Args:
        reply: the response.
        now: seconds since the epoch, as the header may be a date.
    """
    text = reply.headers.get("retry-after", "").strip()[:64]
    if not text:
        return None
    if text.isascii() and text.isdigit():
        seconds = float(text)
    else:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - now
        except (ValueError, TypeError, OverflowError, IndexError):
            return None
    return seconds if 0 <= seconds <= MAX_RETRY_AFTER else None


def is_image_missing(reply: APIResponse) -> bool:
    """Return True if the response reports a missing image. Fly also reports that for an image pushed seconds ago."""
    return 400 <= reply.status < 500 and "MANIFEST_UNKNOWN" in reply.text().upper()


def taken_by(reply: APIResponse) -> str | None:
    """Return the id of the machine that has the requested name, if the response says so."""
    found = MACHINE_ID.search(reply.text())
    return found.group(1) if found else None
