"""A sender and a runner's end of it, in one process, with the bytes between them in the test's hand."""

from __future__ import annotations

import errno
import json
import logging
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragonfly_executor.errors import ProtocolError
from dragonfly_executor.protocol.file_manifest import (
    FILE,
    ManifestEntry,
    SyncStep,
    TreeDifference,
    directory_entry,
    link_entry,
    pack_bits,
)
from dragonfly_executor.protocol.frames import Decoder, Flag, Frame, Kind, encode
from dragonfly_executor.runner import content_cache, sync_receiver
from dragonfly_executor.runner.sync_receiver import SyncedFiles
from dragonfly_executor.sync import FileSnapshot, Sender, Sync
from tests.support.projects import write
from tests.support.trees import digest, file_of, on_disk


class Talk:
    """Both ends. Nothing happens but in `run`, in the order in which it was asked for."""

    def __init__(self, tmp_path: Path, plan: Sync, sizes: Callable[[int], int] = lambda left: left) -> None:
        self.file_snapshot = FileSnapshot(plan)
        self._todo: deque[Callable[[], object]] = deque()
        self._sizes = sizes
        self._drained: Callable[[], None] = lambda: None
        self._decoder = Decoder()
        self.heard: list[str] = []
        self.told: list[str] = []
        self.dispatched: list[str] = []
        self.before_reading: Callable[[], None] = lambda: None
        self.on_release: Callable[[], None] = lambda: None
        self.sender = Sender(self.file_snapshot, self, self, self._read_later, self._todo.append)
        self.far = SyncedFiles(self, self._answer, self, lambda job, then: then(job()))

    # what a sender sees of a link: two lanes of which the first always goes first is what makes END a bulk frame
    def say(self, frame: bytes) -> None:
        self._todo.append(lambda: self._arrive(frame))

    def say_bulk(self, header: bytes, piece: bytes = b"") -> None:
        self._todo.append(lambda: self._arrive(header + piece))
        self._todo.append(lambda: self._drained())

    def when_drained(self, callback: Callable[[], None]) -> None:
        self._drained = callback

    # what hears how it goes
    def synced(self) -> None:
        self.heard.append("synced")

    def sync_failed(self, phase: str, text: str) -> None:
        self.heard.append(f"{phase}: {text}")

    # what the runner's end sees of its agent
    def time(self) -> float:
        return 0.0

    def call_soon(self, callback: Callable[[], object]) -> None:
        self._todo.append(callback)

    def hold(self) -> None:
        self.dispatched.append("hold")

    def release(self, *, fresh: bool) -> None:
        self.dispatched.append("fresh" if fresh else "go on")
        self.on_release()

    def _answer(self, frame: bytes) -> None:
        (arrived,) = Decoder().feed(frame)
        self._todo.append(lambda: self.sender.on_frame(arrived))

    def _read_later(self, job: Callable[..., None], *args: Any) -> None:
        def read() -> None:
            self.before_reading()
            job(*args)

        self._todo.append(read)

    def _arrive(self, data: bytes) -> None:
        while data:
            size = max(1, min(len(data), self._sizes(len(data))))
            for frame in self._decoder.feed(data[:size]):
                self.told.append(Kind(frame.kind).name)
                self.far.receive(frame)
            data = data[size:]

    def run(self) -> None:
        """Until nothing is left to do."""
        while self._todo:
            self._todo.popleft()()

    def sync(self) -> None:
        """Look at the files, send what has changed, and see it through."""
        self.file_snapshot.refresh()
        self.sender.update()
        self.run()

    @property
    def top(self) -> Path:
        return Path(self.far.place.root)

    def end(self) -> None:
        fds = self.far.descriptors()
        self.far.remove()
        for fd in fds[:1]:
            os.close(fd)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with some files, beside the home and the temporary folder of a runner."""
    for name in ("home", "temporary", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(
        "dragonfly_executor.runner.session_directory.temporary_folder", lambda: str(tmp_path / "temporary")
    )
    monkeypatch.chdir(tmp_path / "work")
    write(
        tmp_path / "work", {"data/a.bin": bytes(700_000), "data/b.txt": "b", "data/deep/c.py": "c = 1\n", "data/e": ""}
    )
    return tmp_path / "work"


@pytest.fixture
def start(tmp_path: Path, project: Path) -> Iterator[Callable[..., Talk]]:
    talks: list[Talk] = []

    def start(files: Any = ("data",), **options: Any) -> Talk:
        sizes = options.pop("sizes", lambda left: left)
        talks.append(Talk(tmp_path, Sync(files, **options), sizes))
        # Not what this test run has imported: only what the test names.
        talks[-1].file_snapshot._scanner._imported = {}
        talks[-1].file_snapshot._scanner._script = None
        return talks[-1]

    yield start
    for talk in talks:
        talk.end()


@pytest.fixture(autouse=True)
def _nothing_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dragonfly_executor.sync.user_modules.imported", lambda layout: {})
    monkeypatch.setattr("dragonfly_executor.sync.user_modules.of_script", lambda layout: None)


Start = Callable[..., Talk]


def same(talk: Talk, project: Path) -> bool:
    """Whether the runner has the project as it is."""
    theirs = {path: entry[:1] + entry[2:] for path, entry in on_disk(talk.top / "cwd").items()}
    ours = {path: entry[:1] + entry[2:] for path, entry in on_disk(project).items()}
    return theirs == ours


def test_a_runner_gets_the_files_and_then_what_has_changed(start: Start, project: Path) -> None:
    talk = start()
    talk.sync()
    assert talk.heard == ["synced"]
    assert same(talk, project)
    assert talk.sender.sent == 700_000 + 1 + 6
    (project / "data" / "b.txt").write_text("new")
    (project / "data" / "deep" / "c.py").unlink()
    (project / "data" / "deep").rmdir()
    (project / "data" / "link").symlink_to("b.txt")
    talk.sync()
    assert same(talk, project)
    assert talk.sender.sent == 700_007 + 3
    assert talk.dispatched == ["hold", "fresh"] * 2


def test_nothing_is_said_where_nothing_has_changed(start: Start) -> None:
    talk = start()
    talk.sync()
    told = list(talk.told)
    talk.sync()
    assert talk.told == told
    assert set(told) == {"SYNC_BEGIN", "SYNC_DATA", "SYNC_END"}


def test_slots_go_on_where_only_data_has_changed(start: Start, project: Path) -> None:
    """What they have loaded may have cost much."""
    talk = start()
    talk.sync()
    (project / "data" / "b.txt").write_text("new")
    talk.sync()
    (project / "data" / "deep" / "c.py").write_text("c = 2\n")
    talk.sync()
    (project / "data" / "deep" / "c.py").unlink()
    talk.sync()
    assert talk.dispatched == ["hold", "fresh", "hold", "go on", "hold", "fresh", "hold", "fresh"]


def test_the_next_runner_on_a_host_is_sent_only_what_is_new_there(start: Start, project: Path) -> None:
    start().sync()
    (project / "data" / "b.txt").write_text("new")
    second = start()
    second.sync()
    assert second.sender.sent == 3
    assert same(second, project)


@given(st.lists(st.sampled_from([1, 7, 24, 1000, 10**6]), min_size=1, max_size=8))
@settings(max_examples=15)
def test_bytes_may_come_in_any_pieces(sizes: list[int]) -> None:
    """The stream is cut anywhere."""
    cuts = cycle([*sizes, 10**6])
    with pytest.MonkeyPatch.context() as monkeypatch, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        monkeypatch.setenv("HOME", str(folder))
        monkeypatch.setattr("dragonfly_executor.runner.session_directory.temporary_folder", lambda: str(folder))
        write(folder / "data", {"a": bytes(3000), "b": "b", "c": "", "d/e": "x" * 300_000})
        talk = Talk(folder, Sync([folder / "data"]), lambda left: next(cuts))
        talk.sync()
        assert on_disk(talk.top / "roots" / "1").keys() == on_disk(folder / "data").keys()
        assert talk.heard == ["synced"]
        talk.end()


# -- what changes meanwhile --------------------------------------------------------------------------------------------


def test_a_file_that_changes_before_it_is_read_is_sent_as_it_is_then(start: Start, project: Path) -> None:
    """And calls wait until it is there."""
    talk = start()

    def change_once() -> None:
        (project / "data" / "b.txt").write_text("B, and longer")
        (project / "data" / "deep" / "c.py").write_text("c = 9\n")  # of the same size
        talk.before_reading = lambda: None

    talk.before_reading = change_once
    talk.sync()
    assert talk.heard == ["synced"]
    assert same(talk, project)
    assert talk.dispatched == ["hold", "hold", "fresh"]


def test_a_file_that_goes_before_it_is_read_is_not_there(start: Start, project: Path) -> None:
    talk = start()
    talk.before_reading = lambda: (project / "data" / "b.txt").unlink(missing_ok=True)
    talk.sync()
    assert talk.heard == ["synced"]
    assert same(talk, project)


def test_a_file_that_never_stays_as_it_is_is_left_out(
    start: Start, project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    talk = start()
    numbers = iter(range(10, 99))

    def change() -> None:
        (project / "data" / "b.txt").write_text(str(next(numbers)))

    talk.before_reading = change
    with caplog.at_level(logging.WARNING, "dragonfly_executor"):
        talk.sync()
        assert talk.heard == ["synced"]
        told = len(talk.told)
        change()
        talk.sync()
    assert talk.heard == ["synced"] * 2
    # Once it is known, it costs little.
    assert talk.told[told:].count("SYNC_BEGIN") == 2
    assert not (talk.top / "cwd" / "data" / "b.txt").exists()
    assert (talk.top / "cwd" / "data" / "a.bin").exists()
    assert len([record for record in caplog.records if "b.txt" in record.message]) == 1
    talk.before_reading = lambda: None
    change()
    talk.sync()
    assert same(talk, project)


def test_a_content_that_was_spoilt_on_the_host_is_sent_again(start: Start, project: Path, tmp_path: Path) -> None:
    start().sync()
    cache = tmp_path / "home" / ".cache" / "dragonfly_executor" / "blobs"
    (cache / digest(b"b")).write_bytes(b"x")
    talk = start()
    talk.sync()
    assert talk.heard == ["synced"]
    assert same(talk, project)
    assert talk.sender.sent == 1


def test_a_runner_whose_host_has_everything_is_only_told_so(start: Start, project: Path) -> None:
    """Not even that nothing follows: each such word would be one way there and back more for a first call."""
    start().sync()
    talk = start()
    talk.sync()
    assert talk.heard == ["synced"]
    assert talk.told == ["SYNC_BEGIN"]
    assert same(talk, project)
    assert talk.sender.sent == 0


def test_changes_come_while_others_are_still_on_their_way(start: Start, project: Path) -> None:
    talk = start()
    for number in range(3):
        (project / "data" / "b.txt").write_text(f"number {number}")
        talk.file_snapshot.refresh()
        talk.sender.update()
    talk.run()
    assert same(talk, project)
    assert talk.dispatched[-1] == "fresh"
    assert talk.dispatched.count("fresh") == 1


def test_any_number_of_changes_may_wait_for_their_turn(start: Start, project: Path) -> None:
    """A lock file that comes and goes, say, while a large file or the requirements of the first step take minutes."""
    talk = start()
    for _ in range(200):
        (project / "data" / "lock").touch()
        talk.file_snapshot.refresh()
        talk.sender.update()
        (project / "data" / "lock").unlink()
        talk.file_snapshot.refresh()
        talk.sender.update()
    talk.run()
    assert talk.heard == ["synced"]
    assert same(talk, project)


def test_a_file_that_did_not_come_out_right_is_waited_for_also_where_another_change_is_on_its_way(
    start: Start, project: Path
) -> None:
    """No call runs beside half of its files."""
    talk = start()

    def change_once() -> None:
        (project / "data" / "b.txt").write_text("B, and longer")
        talk.before_reading = lambda: None

    talk.file_snapshot.refresh()
    talk.sender.update()
    (project / "data" / "later").touch()
    talk.file_snapshot.refresh()
    talk.sender.update()
    talk.before_reading = change_once
    complete: list[bool] = []
    talk.on_release = lambda: complete.append(same(talk, project))
    talk.run()
    assert complete == [True]
    assert talk.heard == ["synced"]


def test_a_host_that_starts_no_process_more_is_told_as_it_is(start: Start) -> None:
    talk = start(requirements=["some-package"])
    times = iter(range(1_000_000))
    talk.time = lambda: float(next(times))  # type: ignore[method-assign]  # so it works in pieces, which the loop calls

    def refuse(*job: Any) -> None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    talk.far._run_helper = refuse
    talk.sync()
    text = os.strerror(errno.EAGAIN)
    assert talk.heard == [f"requirements: the installer cannot be started: {text}"]


def test_without_a_home_nothing_is_kept(
    start: Start, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync_receiver, "cache_folder", lambda: str(tmp_path / "work" / "data" / "b.txt"))
    for _ in range(2):
        talk = start()
        talk.sync()
        assert talk.heard == ["synced"]
        assert talk.sender.sent == 700_007
        assert same(talk, project)


def test_a_full_disk_is_told_as_it_is(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checklist 56: and calls that wait are not begun."""
    talk = start()
    talk.sync()
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/cache/blobs/x")

    def write_nothing(fd: int, piece: object) -> None:
        raise full

    monkeypatch.setattr(content_cache, "_write", write_nothing)
    Path("data/new").write_text("new")
    talk.sync()
    assert talk.heard == ["synced", "sync: No space left on device (/cache/blobs/x)"]
    assert talk.dispatched[-1] == "hold"
    assert talk.sender.is_busy


# -- what no peer says -------------------------------------------------------------------------------------------------


def frame(kind: Kind, payload: bytes = b"", *, call_id: int = 0, flags: int = 0, detail: int = 1) -> Frame:
    (decoded,) = Decoder().feed(encode(kind, call_id, payload, flags=flags, detail=detail))
    return decoded


def begin(changed: dict[str, ManifestEntry], deleted: tuple[str, ...] = (), path: tuple[str, ...] = ()) -> Frame:
    step = SyncStep(TreeDifference(changed, list(deleted)), list(path), True, [])
    return frame(Kind.SYNC_BEGIN, step.dump())


FOUR = {"cwd": directory_entry(), "cwd/f": file_of(b"four")}


@pytest.mark.parametrize(
    "frames",
    [
        [frame(Kind.SYNC_DATA, b"x", call_id=1)],
        [frame(Kind.SYNC_END)],
        [begin(FOUR), frame(Kind.SYNC_DATA, b"four", call_id=0)],
        [begin(FOUR), frame(Kind.SYNC_DATA, b"four", call_id=2)],
        [begin(FOUR), frame(Kind.SYNC_DATA, b"fours", call_id=1)],
        [begin(FOUR), frame(Kind.SYNC_DATA, b"four", call_id=1, flags=Flag.MORE), frame(Kind.SYNC_END)],
        [begin(FOUR), frame(Kind.SYNC_END, detail=2)],
        [begin({"../f": file_of(b"four")})],
        [begin({"/f": file_of(b"four")})],
        [begin({"cwd/f": file_of(b"four")})],
        [begin({}, ("../../kept",))],
        [begin({}, (), ("../..",))],
        [begin({"cwd": link_entry("/"), "cwd/f": file_of(b"four")})],
        [begin({"cwd": link_entry("../../..")}), frame(Kind.SYNC_END), begin({"cwd/kept": file_of(b"four")})],
        [frame(Kind.SYNC_BEGIN, b"{}")],
    ],
    ids=str,
)
def test_what_no_parent_says_ends_the_link_and_writes_nothing_outside(
    frames: list[Frame], start: Start, tmp_path: Path
) -> None:
    (tmp_path / "temporary" / "kept").write_text("kept")
    talk = start()
    with pytest.raises(ProtocolError):
        for said in frames:
            talk.far.receive(said)
    allowed = ("home", "temporary/dragonfly-session-", "work", "temporary/kept")
    left = [path for path in on_disk(tmp_path) if path != "temporary" and not path.startswith(allowed)]
    assert left == []
    assert (tmp_path / "temporary" / "kept").read_text() == "kept"
    contents = {path for path, entry in on_disk(tmp_path / "home").items() if entry.kind == FILE}
    assert all(path.startswith(".cache/dragonfly_executor/blobs/") for path in contents)


def test_a_step_has_an_end(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync_receiver, "MAX_STEP", 1000)
    talk = start()
    with pytest.raises(ProtocolError, match="1000"):
        for _ in range(11):
            talk.far.receive(frame(Kind.SYNC_BEGIN, bytes(100), flags=Flag.MORE))


@pytest.mark.parametrize(
    "answers",
    [
        [frame(Kind.SYNC_HAVE, pack_bits([True] * 4), detail=2)],
        [frame(Kind.SYNC_HAVE, b"\xff\xff")],
        [frame(Kind.SYNC_HAVE, b"")],
        [frame(Kind.SYNC_END, pack_bits([False] * 8))],
        [frame(Kind.SYNC_HAVE, b"\xff"), frame(Kind.SYNC_HAVE, b"\xff")],
        [frame(Kind.SYNC_HAVE, b"\xff"), frame(Kind.SYNC_END, b"")],
        [frame(Kind.SYNC_END, b"not JSON", flags=Flag.ERROR)],
        [frame(Kind.SYNC_END, json.dumps([1]).encode(), flags=Flag.ERROR)],
    ],
    ids=str,
)
def test_what_no_runner_answers_is_a_protocol_error(answers: list[Frame], start: Start) -> None:
    """Checklist 44: of that one runner; the engine goes on."""
    talk = start()
    talk.file_snapshot.refresh()
    talk.sender.update()
    with pytest.raises(ProtocolError):
        for answer in answers:
            talk.sender.on_frame(answer)


def test_an_answer_nobody_asked_for(start: Start) -> None:
    with pytest.raises(ProtocolError):
        start().sender.on_frame(frame(Kind.SYNC_HAVE))
