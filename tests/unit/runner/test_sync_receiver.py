"""The agent's end of a sync, frame by frame: a loop with a clock of its own, files in a temporary folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor.errors import ProtocolError
from dragonfly_executor.protocol.file_manifest import (
    ManifestEntry,
    SyncStep,
    TreeDifference,
    directory_entry,
    link_entry,
    read_bits,
)
from dragonfly_executor.protocol.frames import Decoder, Flag, Frame, Kind, encode
from dragonfly_executor.runner import requirements, session_directory, sync_receiver
from dragonfly_executor.runner.sync_receiver import AT_A_TIME, SyncedFiles
from tests.support.trees import digest, file_of, on_disk

ONE, TWO = b"value = 1\n", b"value = 2\n"


class Agent:
    """What is around the files: a loop, a link, a dispatcher, helpers."""

    def __init__(self) -> None:
        self.now = 0.0
        self.soon: list[Callable[[], None]] = []
        self.frames: list[Frame] = []
        self.did: list[object] = []
        self.helpers: list[tuple[Callable[[], int], Callable[[int], None]]] = []
        self.fails: OSError | None = None
        self.files = SyncedFiles(self, self.send, self, self.run_helper)  # type: ignore[arg-type]

    # -- what it is given ----------------------------------------------------------------------------------------------

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def send(self, raw: bytes) -> None:
        self.frames += Decoder().feed(raw)

    def hold(self) -> None:
        self.did.append("hold")

    def release(self, *, fresh: bool) -> None:
        self.did.append(("release", fresh))

    def run_helper(self, job: Callable[[], int], on_end: Callable[[int], None]) -> None:
        if self.fails is not None:
            raise self.fails
        self.helpers.append((job, on_end))

    # -- what a test does and sees -------------------------------------------------------------------------------------

    def receive(self, kind: Kind, payload: bytes = b"", **fields: int) -> None:
        raw = encode(kind, fields.pop("call_id", 0), payload, **fields)
        self.files.receive(Decoder().feed(raw)[0])

    def begin(self, number: int, changed: Mapping[str, ManifestEntry], **options: Any) -> None:
        """Let a step begin, which makes these entries."""
        self.receive(Kind.SYNC_BEGIN, step(changed, **options).dump(), detail=number)

    def content(self, place: int, data: bytes, flags: int = 0) -> None:
        self.receive(Kind.SYNC_DATA, data, call_id=place, flags=flags)

    def end(self, number: int) -> None:
        self.receive(Kind.SYNC_END, detail=number)

    def said(self, count: int) -> list[tuple[int, int, list[bool]]]:
        """Return what was sent since the last call: kind, number of the step, and `count` bits each."""
        frames, self.frames = self.frames, []
        return [(frame.kind, frame.detail, read_bits(bytes(frame.payload), count)) for frame in frames]

    def failure(self) -> dict[str, str]:
        frame = self.frames.pop()
        assert (frame.kind, frame.flags) == (Kind.SYNC_END, Flag.ERROR)
        return dict(json.loads(bytes(frame.payload)))

    @property
    def top(self) -> Path:
        return Path(self.files.place.root)

    def files_there(self) -> list[str]:
        return sorted(path for path, entry in on_disk(self.top).items() if entry.kind != "directory")


def step(changed: Mapping[str, ManifestEntry], **options: Any) -> SyncStep:
    """Return a step that makes these entries and asks for nothing else."""
    fields = {"import_path": ["cwd"], "fresh": False, "requirements": [], "heard": 0} | options
    return SyncStep(TreeDifference(dict(changed), []), **fields)


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Agent]:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("DRAGONFLY_CACHE", str(tmp_path / "cache"))
    agent = Agent()
    yield agent
    agent.files.remove()
    session = agent.files._session
    if session is not None:
        os.close(session.fd)
        assert not Path(session.path).exists()


# -- a step ------------------------------------------------------------------------------------------------------------


def test_a_step_whose_contents_are_missing_waits_for_them(agent: Agent) -> None:
    agent.begin(1, {"a.py": file_of(ONE), "b.py": file_of(TWO)}, fresh=True)
    assert agent.said(2) == [(Kind.SYNC_HAVE, 1, [False, False])]
    agent.content(1, ONE[:4], Flag.MORE)
    agent.content(1, ONE[4:])
    agent.content(2, TWO)
    assert agent.did == ["hold"]
    agent.end(1)
    assert agent.said(2) == [(Kind.SYNC_END, 1, [False, False])]
    assert agent.did == ["hold", ("release", True)]
    assert agent.files_there() == ["a.py", "b.py"]
    assert (agent.top / "b.py").read_bytes() == TWO


def test_a_step_whose_contents_are_all_there_waits_for_nothing(agent: Agent) -> None:
    agent.begin(1, {"a.py": file_of(ONE)})
    agent.content(1, ONE)
    agent.end(1)
    agent.frames.clear()
    agent.begin(2, {"b.py": file_of(ONE), "c.py": file_of(TWO)})
    assert agent.said(2) == [(Kind.SYNC_HAVE, 2, [True, False])]
    agent.content(2, TWO)
    agent.end(2)
    agent.frames.clear()
    agent.begin(3, {"d": directory_entry(), "d/e.py": file_of(TWO)})
    assert [(frame.kind, frame.detail) for frame in agent.frames] == [(Kind.SYNC_HAVE, 3), (Kind.SYNC_END, 3)]
    assert agent.did == ["hold", ("release", False)] * 3


def test_a_step_in_parts_begins_with_the_last_of_them(agent: Agent) -> None:
    data = step({"a": link_entry("b")}).dump()
    agent.receive(Kind.SYNC_BEGIN, data[:10], detail=1, flags=Flag.MORE)
    assert agent.frames == []
    agent.receive(Kind.SYNC_BEGIN, data[10:], detail=1)
    assert agent.files_there() == ["a"]
    agent.receive(Kind.SYNC_BEGIN, step({"b": link_entry("b")}).dump(), detail=2)
    assert agent.files_there() == ["a", "b"]


def test_steps_that_come_early_are_taken_one_after_the_other(agent: Agent) -> None:
    agent.begin(1, {"a.py": file_of(ONE)}, fresh=True)
    agent.begin(2, {"b.py": file_of(TWO)})
    assert [frame.detail for frame in agent.frames] == [1]
    agent.content(1, ONE)
    agent.end(1)
    assert agent.did == ["hold", "hold"]
    agent.soon.pop()()
    assert [(frame.kind, frame.detail) for frame in agent.frames[1:]] == [(Kind.SYNC_END, 1), (Kind.SYNC_HAVE, 2)]
    agent.content(1, TWO)
    agent.end(2)
    assert agent.did == ["hold", "hold", ("release", True)], "a step asked for fresh slots"
    assert agent.files_there() == ["a.py", "b.py"]


def test_a_long_step_lets_the_loop_do_other_things(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    def time() -> float:
        agent.now += AT_A_TIME
        return agent.now

    monkeypatch.setattr(agent, "time", time)
    agent.begin(1, {name: link_entry("x") for name in "abc"})
    turns = 0
    while agent.soon:
        agent.soon.pop()()
        turns += 1
    assert turns == 3
    assert agent.files_there() == ["a", "b", "c"]


# -- contents that are not what was announced --------------------------------------------------------------------------


def test_a_content_that_changed_meanwhile_is_told_of_and_calls_wait_on(agent: Agent) -> None:
    agent.begin(1, {"a.py": file_of(ONE), "b.py": file_of(TWO)})
    agent.content(1, TWO)
    agent.content(2, TWO)
    agent.frames.clear()
    agent.end(1)
    assert agent.said(2) == [(Kind.SYNC_END, 1, [True, False])]
    assert agent.files_there() == ["b.py"]
    assert agent.did == ["hold"]
    agent.begin(2, {"c": link_entry("x")})
    assert agent.did == ["hold", "hold"], "the parent had not heard of it when it made this step"
    agent.begin(3, {"a.py": file_of(TWO)}, heard=1)
    assert agent.did == ["hold"] * 3 + [("release", False)]
    assert agent.files_there() == ["a.py", "b.py", "c"]


# -- frames that break the rules ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 2, 9])
def test_a_content_that_was_not_asked_for_is_refused(place: int, agent: Agent) -> None:
    with pytest.raises(ProtocolError, match="not asked for"):
        agent.content(1, ONE)
    agent.begin(1, {"a.py": file_of(ONE)})
    with pytest.raises(ProtocolError, match="not asked for"):
        agent.content(place, ONE)


def test_a_content_amid_another_one_is_refused(agent: Agent) -> None:
    agent.begin(1, {"a.py": file_of(ONE), "b.py": file_of(TWO)})
    agent.content(1, ONE[:4], Flag.MORE)
    with pytest.raises(ProtocolError, match="complete"):
        agent.content(2, TWO)


def test_a_content_that_is_too_large_is_refused(agent: Agent) -> None:
    agent.begin(1, {"a.py": file_of(ONE)})
    with pytest.raises(ProtocolError, match="larger than"):
        agent.content(1, ONE + b"x")


def test_an_end_that_is_none_is_refused(agent: Agent) -> None:
    with pytest.raises(ProtocolError, match="did not begin"):
        agent.end(1)
    agent.begin(1, {"a.py": file_of(ONE)})
    with pytest.raises(ProtocolError, match="did not begin"):
        agent.end(2)
    agent.content(1, ONE[:4], Flag.MORE)
    with pytest.raises(ProtocolError, match="did not begin"):
        agent.end(1)


def test_a_step_has_a_largest_size(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync_receiver, "MAX_STEP", 10)
    agent.receive(Kind.SYNC_BEGIN, bytes(10), detail=1, flags=Flag.MORE)
    with pytest.raises(ProtocolError, match="more than 10 bytes"):
        agent.receive(Kind.SYNC_BEGIN, b"x", detail=1, flags=Flag.MORE)


def test_a_change_that_makes_no_tree_is_refused(agent: Agent) -> None:
    with pytest.raises(ProtocolError):
        agent.begin(1, {"a": link_entry("/"), "a/b": file_of(ONE)})


# -- requirements ------------------------------------------------------------------------------------------------------


class FakeEnvironment:
    """An environment that is ready once `ready` says so."""

    ready = False

    def __init__(self, cache: str, lines: list[str]) -> None:
        self.cache, self.lines = cache, lines
        self.site_packages = f"site of {lines}"
        self.left = False

    def take(self) -> bool:
        return FakeEnvironment.ready

    def leave(self) -> None:
        self.left = True

    def fileno(self) -> int:
        return 99 if self.lines == ["x"] else -1

    def build(self) -> int:
        return 7

    def last_output(self) -> str:
        return "no such package" if self.lines == ["told"] else ""


@pytest.fixture
def litter(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What `clean_up` is called for; there is something to clean if the list is not empty."""
    found: list[str] = []
    monkeypatch.setattr(FakeEnvironment, "ready", False)
    monkeypatch.setattr(requirements, "VirtualEnvironment", FakeEnvironment)
    monkeypatch.setattr(requirements, "has_leftovers", lambda cache: bool(found))
    monkeypatch.setattr(requirements, "clean_up", lambda cache: found.append(cache) or 0)
    return found


def test_packages_are_installed_before_calls_start(agent: Agent, litter: list[str], tmp_path: Path) -> None:
    agent.begin(1, {}, requirements=["x"])
    assert agent.did == ["hold"]
    ((build, ended),) = agent.helpers
    assert build() == 7
    FakeEnvironment.ready = True
    ended(0)
    assert agent.did == ["hold", ("release", False)]
    assert agent.files.place.site == "site of ['x']"
    assert agent.files._environments[0].cache == str(tmp_path / "cache")  # type: ignore[attr-defined]
    assert 99 in agent.files.descriptors()
    agent.begin(2, {}, requirements=["x"])
    assert len(agent.helpers) == 1, "they are there"
    agent.begin(3, {}, requirements=["y"])
    assert agent.files.place.site == "site of ['y']"
    assert -1 not in agent.files.descriptors()
    agent.files.remove()
    assert all(environment.left for environment in agent.files._environments)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("line", "text"), [("told", "no such package"), ("silent", "it ended with status 3")])
def test_an_install_that_fails_is_told_of(line: str, text: str, agent: Agent, litter: list[str]) -> None:
    agent.begin(1, {}, requirements=[line])
    agent.helpers[0][1](3 << 8)
    assert agent.failure() == {"phase": "requirements", "text": text}
    assert agent.did == ["hold"]


def test_an_installer_that_cannot_be_started_is_told_of(agent: Agent, litter: list[str]) -> None:
    agent.fails = BlockingIOError(11, "no process is left")
    agent.begin(1, {}, requirements=["x"])
    failure = agent.failure()
    assert failure["phase"] == "requirements"
    assert "no process is left" in failure["text"]


@pytest.mark.parametrize("fails", [False, True])
def test_old_environments_are_cleaned_up_beside_the_calls(fails: bool, agent: Agent, litter: list[str]) -> None:
    FakeEnvironment.ready = True
    litter.append("something")
    agent.fails = BlockingIOError(11, "no process is left") if fails else None
    agent.begin(1, {}, requirements=["x"])
    assert agent.did == ["hold", ("release", False)]
    if not fails:
        ((job, ended),) = agent.helpers
        assert job() == 0
        ended(0)
        assert litter[1:] == [agent.files._cache]


# -- trouble, and the end ----------------------------------------------------------------------------------------------


def test_a_disk_that_is_full_ends_the_sync(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    agent.begin(1, {"a.py": file_of(ONE), "b.py": file_of(TWO)})
    agent.content(1, ONE[:4], Flag.MORE)
    receiving = agent.files._receiving
    assert receiving is not None
    assert receiving[1].fd in agent.files.descriptors()

    def refuse(piece: object) -> bool:
        raise OSError(28, "No space left on device", "/some/where")

    monkeypatch.setattr(receiving[1], "write", refuse)
    agent.content(1, ONE[4:])
    assert agent.failure() == {"phase": "sync", "text": "No space left on device (/some/where)"}
    assert agent.files._receiving is None
    agent.frames.clear()
    agent.end(1)
    agent.begin(2, {})
    assert agent.frames == []
    assert agent.did == ["hold"]


def test_a_tree_that_cannot_be_written_ends_the_sync(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sync_receiver.os, "mkdir", refuse)
    monkeypatch.setattr(session_directory, "SessionDirectory", refuse)
    agent.begin(1, {})
    monkeypatch.undo()
    assert agent.failure()["text"].startswith("No space left on device (")


def test_a_session_ends_with_all_that_it_has(agent: Agent) -> None:
    assert agent.files.descriptors() == []
    agent.files.remove()
    agent.begin(1, {"a.py": file_of(ONE)})
    agent.content(1, ONE[:4], Flag.MORE)
    session = agent.files._session
    assert session is not None
    assert len(agent.files.descriptors()) == 2
    assert agent.top == Path(session.path, "tree")
    agent.files.remove()
    assert not Path(session.path).exists()
    assert not [name for name in os.listdir(agent.files._blobs.folder) if name.startswith(".")]  # noqa: PTH208
    agent.files._receiving = None


def test_slots_start_among_the_files(agent: Agent) -> None:
    agent.begin(1, {"cwd": directory_entry()}, import_path=["cwd", "lib"])
    place = agent.files.place
    assert place.cwd == str(agent.top / "cwd")
    assert place.import_path == [str(agent.top / "cwd"), str(agent.top / "lib")]


def test_without_a_cache_of_its_own_contents_last_as_long_as_the_session(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync_receiver, "cache_folder", lambda: None)
    agent.begin(1, {"a.py": file_of(ONE)})
    agent.content(1, ONE)
    agent.end(1)
    session = agent.files._session
    assert session is not None
    assert Path(session.path, "blobs", digest(ONE)).exists()
    assert not (tmp_path / "cache").exists()
