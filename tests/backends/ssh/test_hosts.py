"""Names of hosts, and whose turn it is."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonfly_executor import BootRequest, Parent
from dragonfly_executor.backends.base import CancelToken
from dragonfly_executor.backends.ssh.boot_deadline import SSHBootDeadline
from dragonfly_executor.backends.ssh.hosts import HostSelector, SSHHost, parse, variables
from dragonfly_executor.backends.ssh.login_limit import FIRST_LIMIT, LoginLimit
from tests.backends.ssh.conftest import MakeBackend, MakeHost
from tests.support.helpers import PATIENCE


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gpu1", (None, "gpu1", None)),
        ("ann@gpu1", ("ann", "gpu1", None)),
        ("10.0.0.7:2222", (None, "10.0.0.7", 2222)),
        ("ann@10.0.0.7:2222", ("ann", "10.0.0.7", 2222)),
        ("ann@corp@gpu1", ("ann@corp", "gpu1", None)),
        ("::1", (None, "::1", None)),
        ("[::1]:2222", (None, "::1", 2222)),
        ("ann@[fe80::1]", ("ann", "fe80::1", None)),
    ],
)
def test_a_host_is_what_ssh_would_be_told(text: str, expected: tuple[Any, ...]) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "@gpu1", "gpu1:", "gpu1:x", "gpu1:0", "gpu1:70000", "-oProxyCommand=x", "a b", "a;b", "$(a)", "[::1", "[::1]2",
     "a\nb", "ann@", "-x@gpu1"],
)  # fmt: skip
def test_what_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"host|port|user"):
        SSHHost(text)


def test_what_a_host_says_itself_comes_before_its_name() -> None:
    host = SSHHost("ann@gpu1:2222", user="bob", port=22)
    assert (host.user, host.port, str(host)) == ("bob", 22, "bob@gpu1:22")
    assert str(SSHHost("ann@[::1]:2222")) == "ann@[::1]:2222"


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"max_concurrency": 0}, ValueError),
        ({"runners": 0}, ValueError),
        ({"runners": 1.5}, TypeError),
        ({"port": "22"}, TypeError),
        ({"env": {"A": 1}}, TypeError),
        ({"env": {"A=B": "1"}}, ValueError),
    ],
)
def test_options_of_a_host_are_checked(options: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        SSHHost("gpu1", **options)


def test_a_variables_value_is_in_no_error_and_no_repr() -> None:
    """Checklist 57."""
    with pytest.raises(ValueError, match="'TOKEN' cannot") as caught:
        variables({"TOKEN": "canary\0"})
    assert "canary" not in repr(caught.value)
    assert "canary" not in repr(SSHHost("gpu1", env={"TOKEN": "canary"}))


# -- the book ----------------------------------------------------------------------------------------------------------


def test_hosts_take_turns_in_proportion_to_their_size() -> None:
    book = HostSelector([1, 3])
    chosen = [book.choose(0.0) for _ in range(4)]
    assert sorted(chosen, key=str) == [0, 1, 1, 1]
    assert book.choose(0.0) is None


def test_of_equals_the_one_that_waited_longest_is_next() -> None:
    book = HostSelector([1, 1, 1])
    for expected in (0, 1, 2, 0, 1):
        place = book.choose(0.0)
        assert place == expected
        book.release(place)


def test_a_host_that_failed_is_set_aside_and_used_again() -> None:
    book = HostSelector([2, 2])
    assert book.choose(0.0) == 0
    assert book.failed(0) == 1
    book.release(0)
    book.set_aside(0, 10.0)
    assert [book.choose(9.0), book.choose(9.0)] == [1, 1]
    assert book.choose(10.0) == 0
    assert book.failed(0) == 2
    book.worked(0)
    assert book.failed(0) == 1


def test_where_all_are_set_aside_the_one_that_is_due_first_is_tried() -> None:
    book = HostSelector([1, 1])
    book.set_aside(0, 20.0)
    book.set_aside(1, 10.0)
    assert book.choose(0.0) == 1
    assert book.choose(0.0, tried={1}) is None, "one try of that kind is enough for a boot"


def test_a_host_that_is_refused_never_comes_back() -> None:
    book = HostSelector([1])
    book.refuse(0, ValueError())
    assert book.choose(1e9) is None


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=5),
    st.lists(st.tuples(st.sampled_from(["boot", "end", "fail", "refuse"]), st.integers(0, 99)), max_size=60),
)
def test_no_host_carries_more_than_it_may_and_none_is_idle_while_it_may_carry(
    sizes: list[int], steps: list[tuple[str, int]]
) -> None:
    book = HostSelector(sizes)
    up: list[int] = []
    for now, (step, number) in enumerate(steps):
        if step == "boot":
            place = book.choose(now)
            usable = [entry for entry in book.entries if entry.refused is None and entry.runners < entry.size]
            if place is None:
                assert not usable
                continue
            up.append(place)
        elif step == "end" and up:
            book.release(up.pop(number % len(up)))
        elif step == "fail":
            book.set_aside(number % len(sizes), now + number)
        elif step == "refuse" and number > 80:
            book.refuse(number % len(sizes), ValueError())
        counted = [up.count(place) for place in range(len(sizes))]
        assert counted == [entry.runners for entry in book.entries]
        assert all(count <= size for count, size in zip(counted, sizes, strict=True))


# -- a server that is too busy -----------------------------------------------------------------------------------------


class Clock:
    """Hears of the waits of boots."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def queued(self) -> None:
        self.said.append("queued")

    def started(self) -> None:
        self.said.append("started")


def test_a_server_that_refuses_logins_gets_fewer_at_once(
    make_host: MakeHost, make_backend: MakeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    """sshd closes connections beyond its MaxStartups. All runners boot, and no warning is logged.

    Whoever waits for a turn says so: that takes none of the boot's time.
    """
    host = make_host(settings=["MaxStartups 1"])
    backend, clock = make_backend(host, runners_per_host=6), Clock()
    with ThreadPoolExecutor(6) as threads:
        requests = [
            BootRequest(number, Parent.new("test", number, "ssh"), PATIENCE, clock=clock) for number in range(6)
        ]
        nodes = list(threads.map(backend.boot, requests))
        list(threads.map(lambda node: node.stop(), nodes))
    assert len(nodes) == 6
    assert clock.said.count("queued") == clock.said.count("started") > 0
    assert any("MaxStartups" in line for line in host.log), "it refused nothing"
    assert caplog.text == ""


def test_a_limit_is_halved_by_refusals_and_grows_with_logins() -> None:
    limit, deadline = LoginLimit(), SSHBootDeadline(PATIENCE)
    with ExitStack() as logins:
        for _ in range(FIRST_LIMIT):
            logins.enter_context(limit.login(deadline))
        assert limit.refused()
    taken = threading.Event()
    with limit.login(deadline):
        limit.refused()  # alone: one at once from now on

        def wait() -> None:
            with limit.login(deadline):
                taken.set()

        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not taken.is_set()
        limit.succeeded()
        assert taken.wait(PATIENCE)
        waiting.join()


def test_a_wait_for_a_turn_ends_when_the_boot_is_given_up() -> None:
    limit, given_up = LoginLimit(), CancelToken()
    with limit.login(SSHBootDeadline(PATIENCE)):
        limit.refused()
        waiting = threading.Thread(
            target=lambda: limit.login(SSHBootDeadline(3600.0, given_up)).__enter__(), daemon=True
        )
        waiting.start()
        given_up.set()
        waiting.join(PATIENCE)
        assert not waiting.is_alive()
