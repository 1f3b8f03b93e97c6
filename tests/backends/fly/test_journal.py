"""Boots on disk: there before Fly is asked, whole or not at all, and told apart by whose they are."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dragonfly_executor.backends.fly.journal import FlyEntry, FlyJournal
from dragonfly_executor.backends.journal import KEPT, STALE, default_folder
from dragonfly_executor.backends.label import BOOT, EXPIRES, KIND, OWNER, OwnerLabel
from dragonfly_executor.backends.owner import FIRST_SPACE, Liveness, Owner
from tests.support.helpers import watching

ME = Owner.me()
LABEL = OwnerLabel("b" * 32, "pool", ME, 2_000_000_000)


def entry(name: str = "dragonfly-pool-1", **other: Any) -> FlyEntry:
    return FlyEntry(
        name, "media", "https://api", LABEL, 1.5, 2_000_000_000.0, region="cdg", guest={"cpus": 2}
    )._replace(**other)


@pytest.fixture
def journal(tmp_path: Path) -> FlyJournal:
    return FlyJournal(tmp_path / "journal")


def test_what_is_written_is_read_until_it_is_removed(journal: FlyJournal) -> None:
    journal.write(entry())
    journal.write(entry("dragonfly-pool-2", machine_id="7811", abandoned=True))
    assert journal.entries() == [entry(), entry("dragonfly-pool-2", machine_id="7811", abandoned=True)]
    journal.write(entry(machine_id="7812"))
    assert FlyJournal(journal.folder).entries()[0].machine_id == "7812"
    journal.remove("dragonfly-pool-1")
    journal.remove("dragonfly-pool-1")
    assert [one.name for one in journal.entries()] == ["dragonfly-pool-2"]


def test_it_is_for_this_user_alone(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "journal"
    journal = FlyJournal(folder)
    journal.write(entry())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (path,) = folder.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    folder.chmod(0o755)
    FlyJournal(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_of_somebody_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FlyJournal(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(PermissionError, match="belongs to another user"):
        FlyJournal(tmp_path)


def test_where_it_lies() -> None:
    assert default_folder({"XDG_STATE_HOME": "/x"}, "fly") == Path("/x/dragonfly_executor/fly")
    for environment in ({}, {"XDG_STATE_HOME": ""}, {"XDG_STATE_HOME": "relative"}):
        assert default_folder(environment, "fly") == Path("~/.local/state/dragonfly_executor/fly")


@pytest.mark.parametrize("name", ["../escape", "a/b", "", "A", "-a", "x" * 64, "a.json"])
def test_a_name_is_no_path(journal: FlyJournal, name: str) -> None:
    with pytest.raises(ValueError, match="not a node's name"):
        journal.write(entry(name))
    with pytest.raises(ValueError, match="not a node's name"):
        journal.remove(name)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_what_was_there(
    journal: FlyJournal, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    journal.write(entry())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*{"fsync": (os, "fsync"), "replace": (Path, "replace")}[step], full)
    with pytest.raises(OSError, match="No space left"):
        journal.write(entry(machine_id="7811"))
    monkeypatch.undo()
    assert journal.entries() == [entry()]
    assert len(list(journal.folder.iterdir())) == 1


def test_the_disk_has_it_before_anything_follows(journal: FlyJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file, then its name in the folder."""
    synced: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    journal.write(entry())
    assert synced[0].startswith(f"{journal.folder}/.dragonfly-pool-1.")
    assert synced[1] == str(journal.folder)
    journal.remove(entry().name)
    assert synced[2:] == [str(journal.folder)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_a_torn_file_still_tells_its_name(journal: FlyJournal, data: bytes) -> None:
    journal.write(entry())
    path = journal.folder / f"{entry().name}.json"
    path.write_bytes(data)
    (found,) = journal.entries()
    assert found.name == entry().name
    assert found.label is None
    assert found.expires == pytest.approx(path.stat().st_mtime + KEPT)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 600))
def test_a_file_that_was_cut_short_is_read_whole_or_as_a_name(journal: FlyJournal, size: int) -> None:
    journal.write(entry())
    path = journal.folder / f"{entry().name}.json"
    whole = path.read_bytes()
    path.write_bytes(whole[:size])
    (found,) = journal.entries()
    assert found == entry() if size >= len(whole) else found.label is None


def test_half_writes_and_strange_files_are_no_entries(journal: FlyJournal) -> None:
    for name in (".dragonfly-pool-1.1.aa", "README", "UPPER.json", "x.json.bak"):
        (journal.folder / name).write_text("{")
    assert journal.entries() == []
    draft = journal.folder / ".dragonfly-pool-1.1.aa"
    os.utime(draft, (0, draft.stat().st_mtime - STALE - 1))
    assert journal.entries() == []
    assert not draft.exists()


WRITER = """
import sys
from pathlib import Path
from dragonfly_executor.backends.fly.journal import FlyJournal, FlyEntry
from dragonfly_executor.backends.label import OwnerLabel
from dragonfly_executor.backends.owner import Owner

journal = FlyJournal(sys.argv[1])
label = OwnerLabel("b", "pool", Owner.me(), 2_000_000_000)
print(label.owner.encode(), flush=True)
number = 0
while True:
    number += 1
    for name in ("dragonfly-a", f"dragonfly-{sys.argv[2]}-{number % 7}"):
        journal.write(FlyEntry(name, "app", "host", label, 1.0, 2.0, machine_id=str(number)))
    journal.remove(f"dragonfly-{sys.argv[2]}-{(number + 3) % 7}")
"""


def test_writers_that_are_killed_leave_whole_entries(journal: FlyJournal) -> None:
    """Two processes at once, killed in the middle: what is read is whole, and says that its owner is gone."""
    command = [sys.executable, "-c", WRITER, str(journal.folder)]
    writers = [subprocess.Popen([*command, number], stdout=subprocess.PIPE) for number in "12"]
    owners = []
    for writer in writers:
        assert writer.stdout is not None
        owners.append(Owner.decode(writer.stdout.readline().decode()))
    readings = 0
    while readings < 200:
        entries = journal.entries()
        assert all(one.label is not None for one in entries)
        # Only those count in which there was something to read.
        readings += len(entries) > 2
    assert [owner.liveness(ME) for owner in owners if owner is not None] == [Liveness.ALIVE] * 2
    for writer in writers:
        with writer, watching(writer.pid) as (watch,):
            writer.kill()
            assert watch.ended()
    entries = journal.entries()
    assert len(entries) > 2
    for one in entries:
        assert one.label is not None
        assert one.label.owner in owners
        assert one.label.owner.liveness(ME) is Liveness.GONE


# -- whose it is -------------------------------------------------------------------------------------------------------


def test_an_owner_is_told_from_a_later_process_of_the_same_number() -> None:
    assert Owner.decode(ME.encode()) == ME
    assert ME.liveness(ME) is Liveness.ALIVE
    assert ME._replace(started=ME.started - 1).liveness(ME) is Liveness.GONE


def test_a_zombie_is_gone() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    stat_fields = Path(f"/proc/{process.pid}/stat").read_bytes().rpartition(b")")[2].split()
    owner = ME._replace(pid=process.pid, started=int(stat_fields[19]))
    assert owner.liveness(ME) is Liveness.ALIVE
    process.send_signal(signal.SIGKILL)
    with watching(process.pid) as (watch,):
        assert watch.ended()
    assert owner.liveness(ME) is Liveness.GONE
    process.wait()
    assert owner.liveness(ME) is Liveness.GONE


def test_a_process_that_is_hidden_may_be_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user's, where /proc shows everybody only their own."""
    hidden = ME._replace(pid=4_000_000)
    assert hidden.liveness(ME) is Liveness.GONE

    def kill(_pid: int, _number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", kill)
    assert hidden.liveness(ME) is Liveness.UNKNOWN


@pytest.mark.parametrize("is_here", [False, True])
def test_what_cannot_be_told_is_not_told(is_here: bool) -> None:
    """Another host, also one whose home directory is this one's; another container; a clone; no /proc."""
    for other in (
        ME._replace(host="elsewhere"),
        ME._replace(host="elsewhere", boot="another"),
        ME._replace(host="fly:7811", boot="another"),
        ME._replace(space="pid:[1]"),
        ME._replace(boot=""),
        ME._replace(space=""),
    ):
        assert other.liveness(ME, is_here=is_here) is Liveness.UNKNOWN
    assert ME.liveness(ME._replace(boot=""), is_here=is_here) is Liveness.UNKNOWN


def test_another_boot_of_the_same_host_is_an_earlier_one() -> None:
    """Where the host is known to be the same one: by its disk, or because Fly numbers its machines."""
    me = ME._replace(space=FIRST_SPACE)
    earlier = me._replace(boot="another")
    assert earlier.liveness(me, is_here=True) is Liveness.GONE
    assert earlier.liveness(me) is Liveness.UNKNOWN
    on_fly = ME._replace(host="fly:7811")
    assert on_fly._replace(boot="another").liveness(on_fly) is Liveness.GONE


def test_a_machine_of_fly_is_known_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLY_MACHINE_ID", "7811")
    assert Owner.me().fly_machine == "7811"
    monkeypatch.delenv("FLY_MACHINE_ID")
    assert Owner.me().fly_machine is None


def test_a_label_is_read_as_it_was_written() -> None:
    assert OwnerLabel.decode(LABEL.encode()) == LABEL
    assert OwnerLabel.decode({**LABEL.encode(), "other": "x"}) == LABEL


@pytest.mark.parametrize(
    "change",
    [{KIND: "other"}, {BOOT: ""}, {OWNER: "[]"}, {OWNER: "x"}, {EXPIRES: "soon"}, {EXPIRES: "9" * 20}, {EXPIRES: "-1"}],
)
def test_what_is_not_ours_has_no_label(change: dict[str, str]) -> None:
    assert OwnerLabel.decode({**LABEL.encode(), **change}) is None
    assert OwnerLabel.decode(None) is None
    assert OwnerLabel.decode({}) is None


@given(st.dictionaries(st.sampled_from([KIND, BOOT, OWNER, EXPIRES]), st.text(max_size=30)))
def test_any_metadata_is_read(metadata: dict[str, str]) -> None:
    OwnerLabel.decode({KIND: "runner", BOOT: "x", EXPIRES: "1", **metadata})


def test_an_entry_that_cannot_be_read_hides_no_other(journal: FlyJournal) -> None:
    """A folder, or what another user has left: its name is all that is known of it, and the others are seen."""
    journal.write(entry())
    (journal.folder / "dragonfly-pool-0.json").mkdir()
    assert [(found.name, found.label is None) for found in journal.entries()] == [
        ("dragonfly-pool-0", True),
        ("dragonfly-pool-1", False),
    ]
