"""What counts as left behind: the rules, the journal beside the platform's list, and what is destroyed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonfly_executor.backends.found_node import FoundNode
from dragonfly_executor.backends.journal import KEPT, Journal, JournalEntry
from dragonfly_executor.backends.label import OwnerLabel
from dragonfly_executor.backends.leftovers import VISIBLE_AFTER, Leftovers, ListedNode
from dragonfly_executor.backends.orphans import RENEWAL_SLACK, judge
from dragonfly_executor.backends.owner import Liveness, Owner
from dragonfly_executor.errors import DragonflyError

ME = Owner.me()
GONE = ME._replace(started=ME.started + 1)
ELSEWHERE = ME._replace(host="elsewhere")
OWNERS = {Liveness.ALIVE: ME, Liveness.GONE: GONE, Liveness.UNKNOWN: ELSEWHERE}


def label(owner: Owner = GONE, *, expires: float = 3600.0, boot: str = "b") -> OwnerLabel:
    return OwnerLabel(boot, "pool", owner, int(time.time() + expires))


def entry(name: str = "n1", owner: Owner = GONE, *, node_id: str | None = "i-1", age: float = 3600.0) -> JournalEntry:
    began = time.time() - age
    return JournalEntry(name, "here", label(owner), began, began + 2 * 3600.0, node_id)


def listed(name: str = "n1", found: OwnerLabel | None = None, node_id: str = "i-1") -> ListedNode:
    return ListedNode(name, node_id, "running", found, time.time() - 10.0, "place", 0.5)


def none(node_id: str) -> None:
    """Say that the platform knows no such node."""


def refuse(node_id: str) -> ListedNode | None:
    raise DragonflyError("the platform is away")


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal")


@pytest.fixture
def leftovers(journal: Journal) -> Leftovers:
    return Leftovers(journal, "here")


# -- the rules ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("liveness", Liveness)
def test_an_owner_is_judged_by_its_process(liveness: Liveness) -> None:
    assert judge(label(OWNERS[liveness]), ME, time.time(), None, is_here=False).liveness is liveness


@pytest.mark.parametrize("liveness", Liveness)
def test_only_an_owner_that_cannot_be_checked_loses_an_expired_node(liveness: Liveness) -> None:
    found = judge(label(OWNERS[liveness], expires=-1.0), ME, time.time(), None, is_here=False)
    assert found.liveness is (Liveness.ALIVE if liveness is Liveness.ALIVE else Liveness.GONE)


def test_expiry_counts_from_the_platforms_creation_time() -> None:
    """The owner's clock, which wrote `expires`, may be wrong."""
    written = label(ELSEWHERE, expires=-10_000.0)._replace(lifetime=100)
    assert judge(written, ME, 1000.0, 950.0, is_here=False).liveness is Liveness.UNKNOWN
    assert judge(written, ME, 1000.0, 899.0, is_here=False).liveness is Liveness.GONE


def test_a_claim_that_was_not_renewed_is_over_after_a_while() -> None:
    written = label(ELSEWHERE, expires=10_000.0)._replace(hold=100)
    now = time.time()
    assert judge(written, ME, now, now - 100 - RENEWAL_SLACK + 1, is_here=False).liveness is Liveness.UNKNOWN
    assert judge(written, ME, now, now - 100 - RENEWAL_SLACK - 1, is_here=False).liveness is Liveness.GONE


# -- the platform's list and the journal -------------------------------------------------------------------------------


def test_a_node_without_a_label_is_nobodys_business(leftovers: Leftovers) -> None:
    assert leftovers.find([listed()], none) == []


def test_a_label_alone_is_enough(leftovers: Leftovers) -> None:
    """The journal was on the disk of a machine that is gone."""
    (found,) = leftovers.find([listed(found=label())], none)
    assert (found.name, found.node_id, found.pool, found.place, found.in_journal) == (
        "n1",
        "i-1",
        "pool",
        "place",
        False,
    )
    assert found.is_orphan
    assert found.age is not None
    assert found.cost == found.age * 0.5


def test_an_entry_alone_is_enough_for_a_node_whose_label_is_lost(journal: Journal, leftovers: Leftovers) -> None:
    journal.write(entry())
    (found,) = leftovers.find([listed()], none)
    assert (found.is_orphan, found.in_journal) == (True, True)


def test_what_a_living_pool_has_abandoned_is_an_orphan(journal: Journal, leftovers: Leftovers) -> None:
    journal.write(entry(owner=ME)._replace(abandoned=True))
    (found,) = leftovers.find([listed(found=label(ME))], none)
    assert (found.is_orphan, found.why) == (True, "its pool has released it")


def test_another_node_of_the_same_name_is_judged_by_its_own_label(journal: Journal, leftovers: Leftovers) -> None:
    journal.write(entry(owner=ME)._replace(abandoned=True))
    (found,) = leftovers.find([listed(found=label(ME, boot="another"))], none)
    assert found.liveness is Liveness.ALIVE


def test_an_entry_of_another_place_is_left_alone(journal: Journal, leftovers: Leftovers) -> None:
    journal.write(entry(age=10 * 24 * 3600.0)._replace(place="there"))
    assert leftovers.find([], none) == []
    assert len(journal.entries()) == 1


def test_a_node_that_is_not_listed_is_looked_up(journal: Journal, leftovers: Leftovers) -> None:
    journal.write(entry())
    (found,) = leftovers.find([], lambda node_id: listed(found=label(), node_id=node_id))
    assert found.is_orphan


def test_a_platform_that_does_not_answer_proves_nothing(journal: Journal, leftovers: Leftovers) -> None:
    journal.write(entry())
    (found,) = leftovers.find([], refuse)
    assert (found.liveness, found.exists, found.state) == (Liveness.UNKNOWN, False, "not known")
    assert "the platform is away" in found.why
    assert len(journal.entries()) == 1


@pytest.mark.parametrize(
    ("owner", "node_id", "age", "kept"),
    [
        (GONE, "i-1", VISIBLE_AFTER + 10, False),
        (GONE, "i-1", VISIBLE_AFTER - 10, True),
        (ME, "i-1", VISIBLE_AFTER + 10, True),
        (ELSEWHERE, "i-1", VISIBLE_AFTER + 10, False),
        # The create request may still be under way: kept until the entry expires.
        (GONE, None, 3600.0, True),
        (GONE, None, 3 * 3600.0, False),
        (ME, None, 3 * 3600.0, True),
    ],
)
def test_an_entry_whose_node_is_not_known_is_forgotten_in_time(
    journal: Journal, leftovers: Leftovers, owner: Owner, node_id: str | None, age: float, *, kept: bool
) -> None:
    journal.write(entry(owner=owner, node_id=node_id, age=age))
    found = leftovers.find([], none)
    assert [(one.exists, one.is_orphan) for one in found] == ([(False, False)] if kept else [])
    assert len(journal.entries()) == kept


def test_a_damaged_entry_hides_no_other_and_is_kept_for_a_while(journal: Journal, leftovers: Leftovers) -> None:
    journal.write(entry())
    (journal.folder / "n2.json").write_text('{"label": [')
    found = leftovers.find([listed(found=label())], none)
    assert [(one.name, one.liveness) for one in found] == [("n1", Liveness.GONE), ("n2", Liveness.UNKNOWN)]
    (damaged,) = (one for one in journal.entries() if one.label is None)
    assert damaged.expires - damaged.began == KEPT


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=8))
def test_any_json_is_an_entry_or_a_damaged_one(said: object) -> None:
    journal = Journal.__new__(Journal)
    for content in (said, {"label": said, "began": said, "expires": said, "node_id": said, "place": said}):
        with pytest.raises((ValueError, TypeError, KeyError, OverflowError)):
            journal._decode("n1", content)


# -- destroying --------------------------------------------------------------------------------------------------------


def destroyer(*answers: str | DragonflyError) -> tuple[Callable[[str], str], list[str]]:
    waiting, asked = list(answers), list[str]()

    def destroy(node_id: str) -> str:
        asked.append(node_id)
        answer = waiting.pop(0)
        if isinstance(answer, DragonflyError):
            raise answer
        return answer

    return destroy, asked


def node(name: str, *, exists: bool = True) -> FoundNode:
    return FoundNode(name, f"i-{name}", "running", Liveness.GONE, "why", exists=exists, in_journal=True)


def test_a_node_that_is_gone_is_forgotten_and_one_that_may_exist_is_not(journal: Journal, leftovers: Leftovers) -> None:
    for name in ("a", "b", "c", "d"):
        journal.write(entry(name))
    destroy, asked = destroyer("", "it still exists", DragonflyError("refused"))
    swept = leftovers.destroy([node("a"), node("b"), node("c"), node("d", exists=False)], destroy)
    assert [one.name for one in swept.destroyed] == ["a"]
    assert [(one.name, why) for one, why in swept.left] == [("b", "it still exists"), ("c", "refused")]
    assert asked == ["i-a", "i-b", "i-c"]
    assert [one.name for one in journal.entries()] == ["b", "c", "d"]
