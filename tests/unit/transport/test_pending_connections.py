"""Which connection makes room for another: the oldest of those that come from where most come from."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dragonfly_executor.transport.pending_connections import Networks, PendingConnections, networks_of

ONE, TWO = ("a", "a"), ("b", "b")


def test_nobody_goes_while_there_is_room() -> None:
    table: PendingConnections[int] = PendingConnections(3)
    assert [table.add(number, ONE) for number in range(3)] == [None] * 3
    assert table.items() == [0, 1, 2]


def test_the_oldest_goes_first() -> None:
    table: PendingConnections[int] = PendingConnections(2)
    assert [table.add(number, ONE) for number in range(5)] == [None, None, 0, 1, 2]


def test_a_crowd_makes_room_for_itself() -> None:
    table: PendingConnections[int] = PendingConnections(4)
    table.add(100, TWO)
    assert [table.add(number, ONE) for number in range(50)] == [None, None, None, *range(47)]
    assert 100 in table


def test_who_has_come_further_stays_longer_within_its_network() -> None:
    table: PendingConnections[int] = PendingConnections(3)
    for number in range(3):
        table.add(number, ONE)
    table.prefer(0)
    assert [table.add(number, ONE) for number in range(3, 6)] == [1, 2, 3]
    table.prefer(4)
    table.prefer(5)
    assert table.add(6, ONE) == 0


def test_favour_is_no_shield_for_a_crowd() -> None:
    """Whoever finishes handshakes and then says nothing more does not push out those that begin elsewhere."""
    table: PendingConnections[int] = PendingConnections(4)
    for number in range(3):
        table.add(number, ONE)
        table.prefer(number)
    table.add(100, TWO)
    assert table.add(101, TWO) == 0


def test_addresses_are_counted_by_who_may_own_them() -> None:
    assert networks_of("198.51.100.7") == ("198.51.100.7", "198.51.100.7")
    assert networks_of("::ffff:198.51.100.7") == networks_of("198.51.100.7")
    # A provider's customer has a /64 ...
    wide = {networks_of(f"2001:db8:0:1:{number:x}::1")[0] for number in range(9)}
    assert len(wide) == 1
    # ... and machines of one private network, with a /112 each, may share one.
    assert networks_of("fdaa:0:1:a7b:1:2:3:4")[1] == networks_of("fdaa:0:1:a7b:1:2:3:5")[1]
    assert networks_of("fdaa:0:1:a7b:1:2:3:4")[1] != networks_of("fdaa:0:1:a7b:1:2:4:4")[1]
    assert networks_of("fe80::1%eth0") == networks_of("fe80::1")
    assert networks_of("somewhere") == ("somewhere", "somewhere")


def test_within_a_network_that_is_shared_one_machine_makes_room_for_itself() -> None:
    table: PendingConnections[int] = PendingConnections(8)
    table.add(100, networks_of("fdaa:0:1:a7b:1:1:1:2"))
    table.add(101, networks_of("2001:db8::1"))
    flood = [table.add(number, networks_of(f"fdaa:0:1:a7b:1:1:2:{number:x}")) for number in range(50)]
    assert flood == [None] * 6 + list(range(44))


STEPS = st.sampled_from(["add", "prefer", "discard", "make_room"])


@given(st.integers(1, 6), st.lists(st.tuples(STEPS, st.integers(0, 12), st.integers(0, 5))))
def test_the_table_is_bounded_and_nobody_is_lost_from_it(limit: int, steps: list[tuple[str, int, int]]) -> None:
    table: PendingConnections[int] = PendingConnections(limit)
    held: dict[int, Networks] = {}
    for what, number, where in steps:
        if what == "add" and number not in held:
            held[number] = (str(where // 2), str(where))
            victim = table.add(number, held[number])
            if victim is not None:
                sizes = [networks[0] for networks in held.values()]
                del sizes[-1]
                assert sizes.count(held.pop(victim)[0]) == max(map(sizes.count, sizes))
        elif what == "prefer":
            table.prefer(number)
        elif what == "discard":
            table.discard(number)
            held.pop(number, None)
        elif what == "make_room":
            victim = table.make_room()
            assert (victim is None) == (not held)
            if victim is not None:
                del held[victim]
        assert table.items() == list(held)
        assert len(table) == len(held) <= limit
