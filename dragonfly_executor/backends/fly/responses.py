"""What an answer of the Machines API means, or that there was none. Pure.

The API has few codes and many texts, some requests fail without a word, and whoever stands in between answers in HTML.
So bodies are read as far as they can be, and count before the status where they say something.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Any, NamedTuple

MAX_TEXT = 600
"""Characters of a body that an error quotes."""
MAX_RETRY_AFTER = 60.0
"""Seconds; whoever asks for more is not believed."""


class Verdict(Enum):
    """What to do about an answer."""

    OK = "ok"
    RATE = "rate"
    """Too many requests; nothing was done. Ask again, later."""
    HOST_FULL = "host full"
    """The host that was chosen has no room; nothing was done. Another try may get another host."""
    CAPACITY = "capacity"
    """The region has no room; nothing was done. Another region may have."""
    QUOTA = "quota"
    """The organization may have no more there; nothing was done."""
    CONFLICT = "conflict"
    """Somebody else is at it, or has it; nothing was done. Ask again, later."""
    NAME_TAKEN = "name taken"
    """There is a machine with this name; nothing was done."""
    NOT_FOUND = "not found"
    """There is none."""
    NOT_YET = "not yet"
    """What was waited for has not come."""
    TRANSIENT = "transient"
    """Nothing was done, and the next try may do better: it did not get there."""
    AMBIGUOUS = "ambiguous"
    """Nobody knows whether it was done."""
    FATAL = "fatal"
    """Nothing was done, and it will not be any better."""


class Reply(NamedTuple):
    """What came of one request.

    Attributes:
        status: of HTTP; 0 where no whole answer came.
        body: as far as it was read.
        headers: with their names in lower case.
        failure: what went wrong where no whole answer came, in words.
        sent: whether the request may have got there.
    """

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = {}
    failure: str = ""
    sent: bool = True

    @property
    def request_id(self) -> str:
        """Fly's name for the request, which its support asks for."""
        return self.headers.get("fly-request-id", "")[:64]

    def json(self) -> Any:
        """The body, or None if it is none."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None

    def record(self) -> dict[str, Any] | None:
        """The body if it is an object."""
        found = self.json()
        return found if isinstance(found, dict) else None

    def text(self) -> str:
        """What it says about what went wrong, in one line."""
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
"""The host that was chosen; `no capacity` at the end is the region."""
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
"""In whatever words: `status` is often missing, and each text is known from one place only."""
QUOTA = re.compile(r"over the allowed quota|quota exceeded|exceed\w* .{0,40}quota")
PAYMENT = re.compile(r"payment method|credit card")
NAME = re.compile(r"unique machine name violation|already exists with name|name .{0,80}already (?:taken|in use|exists)")
CONFLICT = re.compile(r"lease currently held|concurrent update|lease .{0,40}(?:held|conflict)")
LIMIT = re.compile(r"limit|quota|payment|credit card")
"""What is said where there are too many machines: there may be fewer, some time."""
MACHINE_ID = re.compile(r"machine ID (\w{1,64})\b", re.IGNORECASE)
CODES = {
    "insufficient_capacity": Verdict.CAPACITY,
    "volume_placement_capacity": Verdict.CAPACITY,
    "name_taken": Verdict.NAME_TAKEN,
}
"""What `status` in a body says: it is trusted, and the text is not asked."""


def classify(reply: Reply, *, is_wait: bool = False) -> Verdict:
    """What an answer means.

    Args:
        reply: whatever it is.
        is_wait: whether it was asked to wait for a state, which may take longer than the request.
    """
    status = reply.status
    if not status:
        return Verdict.AMBIGUOUS if reply.sent else Verdict.TRANSIENT
    if 200 <= status < 300:
        return Verdict.OK
    if status == 404:
        return Verdict.NOT_FOUND
    if status == 429:
        return Verdict.RATE
    if status == 408:
        return Verdict.NOT_YET if is_wait else Verdict.AMBIGUOUS
    if status >= 500 or status < 200:
        return Verdict.AMBIGUOUS
    if status in (403, 409, 412, 422):
        return _refusal(reply)
    return Verdict.FATAL


def _refusal(reply: Reply) -> Verdict:
    """One of the statuses that mean one thing or another, depending on what is said."""
    code = (reply.record() or {}).get("status")
    if isinstance(code, str) and code in CODES:
        return CODES[code]
    text = reply.text().lower()
    if PAYMENT.search(text):
        return Verdict.FATAL
    for pattern, verdict in (
        (NAME, Verdict.NAME_TAKEN),
        (CONFLICT, Verdict.CONFLICT),
        (FULL_HOST, Verdict.HOST_FULL),
        (FULL_REGION, Verdict.CAPACITY),
    ):
        if reply.status != 403 and pattern.search(text):
            return verdict
    return Verdict.QUOTA if QUOTA.search(text) else Verdict.FATAL


def is_final(reply: Reply, verdict: Verdict) -> bool:
    """Whether such a request will be answered so again and again, until a person has changed something.

    So it is where it is wrong, or not allowed, or about an app or an image that there is none of; not where something
    is in its way, or room is short, or the number of machines is what is not allowed.
    """
    if verdict not in (Verdict.FATAL, Verdict.NOT_FOUND) or reply.status in (409, 412):
        return False
    return 400 <= reply.status < 500 and not LIMIT.search(reply.text().lower())


def retry_after(reply: Reply, now: float) -> float | None:
    """Seconds that it asks to wait before the next try; None where it says nothing that makes sense.

    Args:
        reply: the answer.
        now: seconds since the epoch: the header may name a date.
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


def is_image_missing(reply: Reply) -> bool:
    """Whether it is said that there is no such image, which is also said of one that was pushed some seconds ago."""
    return 400 <= reply.status < 500 and "MANIFEST_UNKNOWN" in reply.text().upper()


def taken_by(reply: Reply) -> str | None:
    """The machine that has the name that was asked for, where the answer says so."""
    found = MACHINE_ID.search(reply.text())
    return found.group(1) if found else None
