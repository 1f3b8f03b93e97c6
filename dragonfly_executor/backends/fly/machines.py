"""Machines as Fly's responses describe them. Any field may be missing, and states may be new. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

ENDED = frozenset({"stopped", "failed", "launch_failed", "destroying", "destroyed", "replaced", "suspended"})
"""States without a runner. In any other state, known or not, a runner may run."""
STILL_EXISTS = "Fly has accepted the request to destroy it, and it still exists"
"""The reason why a machine may still exist after it was destroyed."""
GONE = frozenset({"destroyed", "replaced", "migrated"})
"""States of machines that no longer exist and cost nothing."""
MAX_EVENTS = 6


class MachineExit(NamedTuple):
    """The exit of a machine's main process.

    Attributes:
        code: its exit status.
        oom_killed: whether the kernel killed it for lack of memory.
        requested: whether a stop was requested.
        error: Fly's message, or "".
    """

    code: int
    oom_killed: bool
    requested: bool
    error: str


class FlyMachine(NamedTuple):
    """A machine as Fly describes it.

    Attributes:
        id, name, state, region: "" if missing.
        metadata: None if unknown, such as when the machine's host is unreachable.
        guest: the size; empty if unknown.
        created_at: the creation time as Fly formats it.
        events: newest first, as Fly sends them.
        host_status: "ok", or the trouble of its host.
        private_ip: its address in the private network.
    """

    id: str
    name: str
    state: str
    region: str
    metadata: Mapping[str, str] | None
    guest: Mapping[str, Any]
    created_at: str
    events: list[Mapping[str, Any]]
    host_status: str
    private_ip: str

    @classmethod
    def unseen(cls, name: str) -> FlyMachine:
        """Return a machine of which only the name is known."""
        return cls("", name, "", "", None, {}, "", [], "ok", "")

    @classmethod
    def read(cls, said: object) -> FlyMachine | None:
        """Parse a machine from a response. None if the response describes no machine."""
        if not isinstance(said, dict) or not isinstance(said.get("id"), str) or not said["id"]:
            return None
        config = next((found for key in ("config", "incomplete_config") if (found := _mapping(said.get(key)))), {})
        metadata = config.get("metadata")
        known = "config" in said or "incomplete_config" in said
        if isinstance(metadata, dict):
            metadata = {str(key): str(value) for key, value in metadata.items()}
        else:
            metadata = {} if known and config else None
        events = said.get("events")
        return cls(
            id=said["id"],
            name=_text(said, "name"),
            state=_text(said, "state"),
            region=_text(said, "region"),
            metadata=metadata,
            guest=_mapping(config.get("guest")),
            created_at=_text(said, "created_at"),
            events=[event for event in events if isinstance(event, dict)] if isinstance(events, list) else [],
            host_status=_text(said, "host_status") or "ok",
            private_ip=_text(said, "private_ip"),
        )

    @property
    def created(self) -> float | None:
        """Return the creation time in seconds since the epoch; None if unknown."""
        try:
            at = datetime.fromisoformat(self.created_at)
            seconds = (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            return None
        # The API is written in Go, where a time that was never set is in the year 1.
        return seconds if seconds > 0 else None

    @property
    def exit(self) -> MachineExit | None:
        """Return the last exit of the main process; None if no event reports one."""
        for event in self.events:
            request = _mapping(event.get("request"))
            for found in (request, _mapping(request.get("MonitorEvent"))):
                told = found.get("exit_event")
                if isinstance(told, dict):
                    code = told.get("exit_code")
                    # A missing field means 0 or False: Go's JSON encoder omits such values.
                    return MachineExit(
                        code if isinstance(code, int) else 0,
                        told.get("oom_killed") is True,
                        told.get("requested_stop") is True,
                        _text(told, "error") or _text(told, "guest_error"),
                    )
        return None

    def history(self) -> str:
        """Return the last events as text, oldest first."""
        words = [
            "/".join(word for key in ("type", "status") if (word := _text(event, key))) or "?"
            for event in self.events[:MAX_EVENTS]
        ]
        return " -> ".join(reversed(words))

    def __str__(self) -> str:
        where = f" in {self.region}" if self.region else ""
        named = f" ({self.name})" if self.name and self.id else ""
        return f"machine {self.id or self.name}{named}{where}"

    def standing(self) -> str:
        """Return the machine's state, its host's trouble and its events as text."""
        trouble = "" if self.host_status == "ok" else f"; its host is {self.host_status}"
        events = f"; events: {history}" if (history := self.history()) else ""
        return f"{self}: state {self.state or 'unknown'}{trouble}{events}"


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(said: Mapping[str, Any], key: str) -> str:
    value = said.get(key)
    return value[:400] if isinstance(value, str) else ""
