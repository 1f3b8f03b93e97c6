"""Host specifications, and the choice of the next host. No clock, no thread, no network: the backend has those."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from dragonfly_executor.core.record import Record
from dragonfly_executor.util import validation
from dragonfly_executor.util.validation import whole

MAX_PORT = 65535


class SSHHost(Record):
    """A host, with its deviations from the backend's arguments.

    Args:
        name: the host as for ``ssh``: a name, an address, an alias of ``~/.ssh/config``, or ``user@name:port``. An IPv6
            address with a port is in brackets.
        user, port: override those in the name. Default: the backend's, then those of the SSH configuration.
        python: the interpreter on the host; default the backend's.
        env: environment variables for the runners on the host, in addition to the backend's.
        max_concurrency: the number of slots of a runner on the host; default the pool's, then the host's CPUs.
        runners: the maximum number of runners on the host; default the backend's ``runners_per_host``. Hosts get
            runners in proportion to it, so it is also the host's weight.
        labels: free labels of the runners on the host, such as ``{"a100"}``, in addition to the backend's.

    Raises:
        TypeError, ValueError: a value is invalid.
    """

    __match_args__ = ("name", "user", "port", "python", "env", "max_concurrency", "runners", "labels")
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
        labels: Iterable[str] = (),
    ) -> None:
        named_user, self.name, named_port = parse(name)
        self.user = user_name(user if user is not None else named_user)
        self.port = port_number(port if port is not None else named_port)
        self.python = python
        self.env = variables(env)
        self.max_concurrency = None if max_concurrency is None else whole(max_concurrency, "max_concurrency", 1)
        self.runners = None if runners is None else whole(runners, "runners", 1)
        self.labels = validation.labels(labels, "labels")

    def __repr__(self) -> str:
        """Return the host without `env`, as its values may be secret."""
        return f"SSHHost({str(self)!r})"

    def __str__(self) -> str:
        """Return the host as on a command line."""
        name = f"[{self.name}]" if ":" in self.name and self.port else self.name
        return (f"{self.user}@" if self.user else "") + name + (f":{self.port}" if self.port else "")


def parse(text: str) -> tuple[str | None, str, int | None]:
    """Split ``user@name:port`` into user, name and port. A missing user or port is None.

    Raises:
        TypeError: it is not a text.
        ValueError: it names no host.
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
        # Several colons without brackets are an IPv6 address.
        name, port = rest, ""
    if port and not port.isdecimal():
        raise ValueError(f"not a host: {text!r}, {port!r} is no port")
    # A program that gets the name, such as a proxy command, takes a leading hyphen for an option.
    if not name or name.startswith("-") or not name.isprintable() or any(char in " \"'\\;&|<>`$" for char in name):
        raise ValueError(f"not a host: {text!r}; it must be NAME, USER@NAME or USER@NAME:PORT")
    if at and not user:
        raise ValueError(f"not a host: {text!r}, there is no user before the @")
    return user or None, name, port_number(int(port)) if port else None


def address(text: str, what: str) -> tuple[str, int | None]:
    """Split ``host:port`` into host and port. A missing port is None.

    Raises:
        TypeError: it is not a text.
        ValueError: it names no host, or also a user.
    """
    if not isinstance(text, str):
        raise TypeError(f"{what} must be a text, not {type(text).__name__}")
    user, host, port = parse(text)
    if user is not None:
        raise ValueError(f"{what} must be HOST or HOST:PORT, not {text!r}")
    return host, port


def port_number(port: int | None) -> int | None:
    """Return a port, or None. Raises ValueError or TypeError if it is invalid."""
    number = None if port is None else whole(port, "port", 1)
    if number is not None and number > MAX_PORT:
        raise ValueError(f"port must be at most {MAX_PORT}, not {number}")
    return number


def user_name(user: str | None) -> str | None:
    """Return a user name, or None. Raises ValueError if it is invalid."""
    if user is not None and (not user or user.startswith("-") or not user.isprintable() or " " in user):
        raise ValueError(f"not a user's name: {user!r}")
    return user


def variables(env: Mapping[str, str] | None) -> dict[str, str]:
    """Return checked environment variables. An error names the variable, and never its value."""
    checked: dict[str, str] = {}
    for name, value in (env or {}).items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"env must map texts to texts; {name!r} does not")
        if not name or "=" in name or "\0" in name + value:
            raise ValueError(f"env: {name!r} cannot be a variable")
        checked[name] = value
    return checked


class HostState:
    """The state of one host."""

    __slots__ = ("failures", "refused", "runners", "set_aside_until", "size", "turn", "unsettled")

    def __init__(self, size: int) -> None:
        self.size = size
        self.runners = 0
        """Runners that boot, are up, or are being stopped."""
        self.unsettled = 0
        """Runners that boot or are being stopped. Their places may become free soon."""
        self.failures = 0
        """Boots that failed there in a row."""
        self.set_aside_until = 0.0
        self.refused: Exception | None = None
        """The reason why the host is never used again: its key or its Python."""
        self.turn = 0
        """The number of the choice that last chose this host."""


class HostSelector:
    """The runners and failures of all hosts, and the choice of the next host.

    A host's number is its place in the list. Times are seconds of any monotonic clock.

    Args:
        sizes: the maximum number of runners on each host.
    """

    def __init__(self, sizes: Iterable[int]) -> None:
        self.entries: Sequence[HostState] = [HostState(size) for size in sizes]
        self._turns = 0

    @property
    def size(self) -> int:
        """Return the maximum number of runners on all hosts together."""
        return sum(entry.size for entry in self.entries)

    def choose(self, now: float, tried: Collection[int] = ()) -> int | None:
        """Choose the host for the next runner, and count the runner there. Return None if there is no host.

        The host with the fewest runners for its size wins; among equals, the host whose last choice is longest ago. A
        host that is set aside is chosen only if no other host is left and this boot has tried none. The pool's own
        backoff then limits the rate.

        Args:
            now: the current time.
            tried: numbers of hosts that this boot has tried.
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
        """Return True if a boot or a stop is in progress on a usable host, so that a place may become free."""
        return any(entry.refused is None and entry.unsettled > 0 for entry in self.entries)

    def _load(self, place: int) -> tuple[float, int]:
        entry = self.entries[place]
        return entry.runners / entry.size, entry.turn

    def leaving(self, place: int) -> None:
        """Record that a runner there is being stopped. `release` follows."""
        self.entries[place].unsettled += 1

    def release(self, place: int) -> None:
        """Remove a runner that booted or was being stopped."""
        self.entries[place].runners -= 1
        self.entries[place].unsettled -= 1

    def worked(self, place: int) -> None:
        """Record a successful boot. It resets the failures of the host."""
        self.entries[place].unsettled -= 1
        self.entries[place].failures = 0
        self.entries[place].set_aside_until = 0.0

    def failed(self, place: int) -> int:
        """Record a failed boot. Return the number of failures in a row."""
        self.entries[place].failures += 1
        return self.entries[place].failures

    def set_aside(self, place: int, until: float) -> None:
        """Prefer other hosts until this time."""
        self.entries[place].set_aside_until = until

    def refuse(self, place: int, error: Exception) -> None:
        """Exclude the host for good, for this reason."""
        self.entries[place].refused = error
