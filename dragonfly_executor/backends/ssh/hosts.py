"""Which hosts there are, and whose turn it is. No clock, no thread, no network: the backend has those."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from dragonfly_executor.core.record import Record
from dragonfly_executor.util.validation import whole

MAX_PORT = 65535


class SSHHost(Record):
    """A host, with what differs on it from the backend's own arguments.

    Args:
        name: what ``ssh`` would be told: a name, an address, an alias of ``~/.ssh/config``, or ``user@name:port``;
            an IPv6 address with a port stands in brackets.
        user, port: as in the name; default the backend's, then those of the configuration.
        python: the interpreter there; default the backend's.
        env: variables for the runners there, in addition to the backend's.
        max_concurrency: calls at once on a runner there; default the pool's, then the host's CPUs.
        runners: runners that this host carries; default the backend's ``runners_per_host``. Hosts take turns in
            proportion to it, so it is a host's weight as well.

    Raises:
        TypeError, ValueError: a value is none of these.
    """

    __match_args__ = ("name", "user", "port", "python", "env", "max_concurrency", "runners")
    __slots__ = __match_args__

    def __init__(
        self,
        name: str,
        *,
        user: str | None = None,
        port: int | None = None,
        python: str | None = None,
        env: Mapping[str, str] | None = None,
        max_concurrency: int | None = None,
        runners: int | None = None,
    ) -> None:
        named_user, self.name, named_port = parse(name)
        self.user = user_name(user if user is not None else named_user)
        self.port = port_number(port if port is not None else named_port)
        self.python = python
        self.env = variables(env)
        self.max_concurrency = None if max_concurrency is None else whole(max_concurrency, "max_concurrency", 1)
        self.runners = None if runners is None else whole(runners, "runners", 1)

    def __repr__(self) -> str:
        """The values of variables are nobody's business."""
        return f"SSHHost({str(self)!r})"

    def __str__(self) -> str:
        """As it is written on a command line."""
        name = f"[{self.name}]" if ":" in self.name and self.port else self.name
        return (f"{self.user}@" if self.user else "") + name + (f":{self.port}" if self.port else "")


def parse(text: str) -> tuple[str | None, str, int | None]:
    """User, name and port of ``user@name:port``; None for what is not there.

    Raises:
        TypeError: it is no text.
        ValueError: there is no host in it.
    """
    if not isinstance(text, str):
        raise TypeError(f"a host must be a text or an SSHHost, not {type(text).__name__}")
    user, at, rest = text.rpartition("@")
    if rest.startswith("["):
        name, bracket, port = rest[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise ValueError(f"not a host: {text!r}")
        port = port[1:]
    elif rest.count(":") == 1:
        name, _, port = rest.partition(":")
        if not port:
            raise ValueError(f"not a host: {text!r}, there is no port after the colon")
    else:
        # Several colons and no brackets: an IPv6 address.
        name, port = rest, ""
    if port and not port.isdecimal():
        raise ValueError(f"not a host: {text!r}, {port!r} is no port")
    # A leading hyphen would be an option to whatever program sees the name, a proxy command above all.
    if not name or name.startswith("-") or not name.isprintable() or any(char in " \"'\\;&|<>`$" for char in name):
        raise ValueError(f"not a host: {text!r}; it must be NAME, USER@NAME or USER@NAME:PORT")
    if at and not user:
        raise ValueError(f"not a host: {text!r}, there is no user before the @")
    return user or None, name, port_number(int(port)) if port else None


def address(text: str, what: str) -> tuple[str, int | None]:
    """Host and port of ``host:port``; None for a port that is not there.

    Raises:
        TypeError: it is no text.
        ValueError: there is no host in it, or more than that.
    """
    if not isinstance(text, str):
        raise TypeError(f"{what} must be a text, not {type(text).__name__}")
    user, host, port = parse(text)
    if user is not None:
        raise ValueError(f"{what} must be HOST or HOST:PORT, not {text!r}")
    return host, port


def port_number(port: int | None) -> int | None:
    """A port, checked."""
    number = None if port is None else whole(port, "port", 1)
    if number is not None and number > MAX_PORT:
        raise ValueError(f"port must be at most {MAX_PORT}, not {number}")
    return number


def user_name(user: str | None) -> str | None:
    """A user's name, checked."""
    if user is not None and (not user or user.startswith("-") or not user.isprintable() or " " in user):
        raise ValueError(f"not a user's name: {user!r}")
    return user


def variables(env: Mapping[str, str] | None) -> dict[str, str]:
    """Environment variables, checked. An error names the variable, never the value."""
    checked: dict[str, str] = {}
    for name, value in (env or {}).items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"env must map texts to texts; {name!r} does not")
        if not name or "=" in name or "\0" in name + value:
            raise ValueError(f"env: {name!r} cannot be a variable")
        checked[name] = value
    return checked


class Entry:
    """What is known of one host."""

    __slots__ = ("failures", "refused", "runners", "set_aside_until", "size", "turn", "unsettled")

    def __init__(self, size: int) -> None:
        self.size = size
        self.runners = 0
        """Those that boot, those that are up, and those that are being stopped."""
        self.unsettled = 0
        """Of these, those that boot or are being stopped: their places may come free soon."""
        self.failures = 0
        """Boots that failed there in a row."""
        self.set_aside_until = 0.0
        self.refused: Exception | None = None
        """Why it is of no use at all: its key, its Python."""
        self.turn = 0
        """When it was chosen last, counted in choices."""


class HostBook:
    """How many runners each host carries, which is set aside, and whose turn it is.

    Hosts are known by their place in the list. Moments are seconds of any clock that only goes forward.

    Args:
        sizes: how many runners each host carries.
    """

    def __init__(self, sizes: Iterable[int]) -> None:
        self.entries: Sequence[Entry] = [Entry(size) for size in sizes]
        self._turns = 0

    @property
    def size(self) -> int:
        """Runners on all hosts together."""
        return sum(entry.size for entry in self.entries)

    def choose(self, now: float, tried: Collection[int] = ()) -> int | None:
        """The host for the next runner, which counts there from now on; None if there is none.

        The one that carries the least for its size; of equals the one that waited longest. A host that is set aside
        has its turn only where nothing else is left to try: then waiting is up to the pool, which has pauses too.

        Args:
            now: the moment.
            tried: hosts that this boot has tried already.
        """
        places = [
            place
            for place, entry in enumerate(self.entries)
            if place not in tried and entry.refused is None and entry.runners < entry.size
        ]
        ready = [place for place in places if self.entries[place].set_aside_until <= now]
        if ready:
            chosen = min(ready, key=self._load)
        elif places and not tried:
            chosen = min(places, key=lambda place: self.entries[place].set_aside_until)
        else:
            return None
        self._turns += 1
        self.entries[chosen].turn = self._turns
        self.entries[chosen].runners += 1
        self.entries[chosen].unsettled += 1
        return chosen

    def may_come_free(self) -> bool:
        """Return whether a boot or a stop is under way on a host, so that a place there may come free."""
        return any(entry.refused is None and entry.unsettled > 0 for entry in self.entries)

    def _load(self, place: int) -> tuple[float, int]:
        entry = self.entries[place]
        return entry.runners / entry.size, entry.turn

    def leaving(self, place: int) -> None:
        """A runner there is being stopped; `release` follows."""
        self.entries[place].unsettled += 1

    def release(self, place: int) -> None:
        """A runner there that booted, or was being stopped, is gone."""
        self.entries[place].runners -= 1
        self.entries[place].unsettled -= 1

    def worked(self, place: int) -> None:
        """A runner was booted there."""
        self.entries[place].unsettled -= 1
        self.entries[place].failures = 0
        self.entries[place].set_aside_until = 0.0

    def failed(self, place: int) -> int:
        """A boot failed there; how many did so in a row."""
        self.entries[place].failures += 1
        return self.entries[place].failures

    def set_aside(self, place: int, until: float) -> None:
        """Let others go before it until then."""
        self.entries[place].set_aside_until = until

    def refuse(self, place: int, error: Exception) -> None:
        """Never use it again, for this reason."""
        self.entries[place].refused = error
