"""Trees of real files, and that nothing is ever written outside of them."""

from __future__ import annotations

import errno
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings

from dragonfly_executor.errors import ProtocolError
from dragonfly_executor.protocol.file_manifest import ManifestEntry, TreeDifference, diff, directory_entry, link_entry
from dragonfly_executor.runner.content_cache import ContentCache, cache_folder, private_folder
from dragonfly_executor.runner.file_tree import FileTree
from dragonfly_executor.runner.session_directory import PREFIX, SessionDirectory, remove_tree, sweep
from tests.support.trees import BY_DIGEST, CONTENTS, digest, file_of, manifests, on_disk


class World:
    """A tree in a folder, with all contents at hand."""

    def __init__(self, folder: str | Path) -> None:
        self.top, blobs = Path(folder, "tree"), Path(folder, "blobs")
        self.top.mkdir()
        blobs.mkdir()
        self.blobs = ContentCache(str(blobs))
        for content in CONTENTS:
            self.add(content)
        self.tree = FileTree(str(self.top), self.blobs)

    def add(self, content: bytes) -> None:
        receiving = self.blobs.receive(digest(content), len(content))
        assert receiving.write(memoryview(content))
        assert receiving.finish()

    def become(self, manifest: Mapping[str, ManifestEntry]) -> list[str]:
        """Make the tree this one; what turned out to be stale."""
        return self.apply(diff(self.tree.manifest, manifest))

    def apply(self, difference: TreeDifference) -> list[str]:
        stale: list[str] = []
        for _ in self.tree.apply(difference, stale):
            continue
        return stale


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@given(manifests(), manifests())
@settings(max_examples=60)
def test_the_difference_of_two_trees_makes_the_files_of_the_other(
    old: dict[str, ManifestEntry], new: dict[str, ManifestEntry]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(folder)
        assert world.become(old) == []
        assert on_disk(world.top) == old
        assert world.become(new) == []
        assert on_disk(world.top) == new == world.tree.manifest


def test_a_link_that_calls_put_where_a_folder_was_is_not_followed(world: World, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim.py").write_text("mine")
    world.become({"a": directory_entry(), "a/b": directory_entry(), "a/b/old.py": file_of(b"x")})
    remove_tree(str(world.top / "a"))
    (world.top / "a").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(outside)
    world.become(
        {
            "a": directory_entry(),
            "a/b": directory_entry(),
            "a/b/old.py": file_of(b"value = 1\n"),
            "a/b/victim.py": file_of(b"x"),
        }
    )
    assert sorted(path.name for path in outside.iterdir()) == ["victim.py"]
    assert (outside / "victim.py").read_text() == "mine"
    assert (world.top / "a/b/victim.py").read_bytes() == b"x"
    assert not (world.top / "a").is_symlink()


def test_nothing_is_deleted_through_a_link(world: World, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "__pycache__").mkdir(parents=True)
    (outside / "kept.py").write_text("mine")
    (outside / "__pycache__" / "kept.cpython.pyc").write_text("mine")
    world.become({"a": directory_entry(), "a/kept.py": file_of(b"x")})
    remove_tree(str(world.top / "a"))
    (world.top / "a").symlink_to(outside)
    world.become({})
    assert (outside / "kept.py").exists()
    assert (outside / "__pycache__" / "kept.cpython.pyc").exists()
    assert not (world.top / "a").exists()


def test_an_entry_in_a_link_changes_nothing(world: World, tmp_path: Path) -> None:
    with pytest.raises(ProtocolError):
        world.apply(TreeDifference({"a": link_entry(str(tmp_path)), "a/x": file_of(b"x")}, []))
    assert on_disk(world.top) == {}
    assert world.become({"a": link_entry(str(tmp_path))}) == []
    with pytest.raises(ProtocolError):
        world.apply(TreeDifference({"a/x": file_of(b"x")}, []))
    assert not (tmp_path / "x").exists()


def test_modes_are_kept_and_a_folder_stays_usable(world: World) -> None:
    world.become({"a": directory_entry(0o500), "a/run": file_of(b"x", 0o755), "a/secret": file_of(b"x", 0o400)})
    modes = {path: entry.mode for path, entry in on_disk(world.top).items()}
    assert modes == {"a": 0o700, "a/run": 0o755, "a/secret": 0o400}


def test_a_folder_in_which_calls_have_put_something_stays(world: World) -> None:
    world.become({"a": directory_entry(), "a/x": file_of(b"x"), "b": directory_entry(), "b/x.py": file_of(b"x")})
    (world.top / "a" / "result").write_text("theirs")
    (world.top / "b" / "__pycache__").mkdir()
    (world.top / "b" / "__pycache__" / "x.cpython.pyc").write_text("bytecode")
    world.become({})
    assert sorted(on_disk(world.top)) == ["a", "a/result"]


def test_bytecode_of_a_source_goes_with_it(world: World) -> None:
    """Bytecode is taken for that of a source of the same size in the same second."""
    world.become({"m.py": file_of(b"value = 1\n"), "n.py": file_of(b"x")})
    cache = world.top / "__pycache__"
    cache.mkdir()
    for name in ("m.cpython-311.pyc", "m.cpython-311.opt-1.pyc", "n.cpython-311.pyc", "mm.cpython-311.pyc"):
        (cache / name).write_text("bytecode")
    first = int((world.top / "m.py").stat().st_mtime)
    world.become({"m.py": file_of(b"value = 2\n"), "n.py": file_of(b"x")})
    assert sorted(os.listdir(cache)) == ["mm.cpython-311.pyc", "n.cpython-311.pyc"]  # noqa: PTH208
    assert int((world.top / "m.py").stat().st_mtime) > first


# -- contents ----------------------------------------------------------------------------------------------------------


def test_a_content_that_was_cut_short_or_meddled_with_is_not_used(world: World) -> None:
    for spoilt, spoil in ((b"value = 1\n", b"value = 3\n"), (b"import os\n", b"import")):
        Path(world.blobs.path(digest(spoilt))).write_bytes(spoil)
        assert world.become({"m.py": file_of(spoilt), "n.py": file_of(b"x")}) == ["m.py"]
        assert set(on_disk(world.top)) == {"n.py"}
        assert world.tree.manifest.keys() == {"n.py"}
        assert not world.blobs.has(digest(spoilt), len(spoilt))


def test_a_content_is_kept_only_if_it_is_what_its_name_says(world: World) -> None:
    for pieces in ([b"val", b"ue = 3\n"], [b"short"], []):
        receiving = world.blobs.receive(digest(b"value = 4\n"), 10)
        assert all(receiving.write(memoryview(piece)) for piece in pieces)
        assert not receiving.finish()
    longer = world.blobs.receive(digest(b""), 0)
    assert not longer.write(memoryview(b"x"))
    longer.drop()
    assert not world.blobs.has(digest(b"value = 4\n"), 10)


def test_contents_that_were_not_used_for_the_longest_time_go_first(world: World) -> None:
    now = time.time()
    for age, content in enumerate(CONTENTS):
        os.utime(world.blobs.path(digest(content)), (now - age, now - age))
    unfinished = world.blobs.receive(digest(b"y"), 1)
    world.blobs.trim(limit=30)
    assert {BY_DIGEST[name] for name in os.listdir(world.blobs.folder) if name[0] != "."} == set(CONTENTS[:4])  # noqa: PTH208
    assert unfinished.write(memoryview(b"y"))
    assert unfinished.finish()
    abandoned = world.blobs.receive(digest(b"z"), 1)
    os.utime(abandoned.fd, (now - 2 * 24 * 3600, now - 2 * 24 * 3600))
    world.blobs.trim()
    assert not abandoned.finish()
    assert not [name for name in os.listdir(world.blobs.folder) if name[0] == "."]  # noqa: PTH208


def test_the_cache_is_this_users_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = cache_folder()
    assert folder == str(tmp_path / ".cache" / "dragonfly_executor")
    Path(folder).mkdir(parents=True, mode=0o755)
    assert private_folder(folder)
    assert Path(folder).stat().st_mode & 0o777 == 0o700
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    assert not private_folder(str(tmp_path / "link"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache_folder() == str(tmp_path / "cache" / "dragonfly_executor")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/")
    assert cache_folder() is None


# -- sessions ----------------------------------------------------------------------------------------------------------


def test_a_session_is_swept_when_its_owner_is_gone_and_not_before(tmp_path: Path) -> None:
    mine, other = SessionDirectory(str(tmp_path)), SessionDirectory(str(tmp_path))
    assert Path(mine.path).stat().st_mode & 0o777 == 0o700
    (Path(other.path) / "deep").mkdir()
    (Path(other.path) / "deep" / "file").write_text("x")
    (Path(other.path) / "deep").chmod(0o000)
    stranger = tmp_path / f"{PREFIX}{os.geteuid() + 1}-abc"
    stranger.mkdir()
    (tmp_path / f"{PREFIX}{os.geteuid()}-link").symlink_to(stranger)
    assert sweep(str(tmp_path)) == []
    os.close(other.fd)  # as the kernel does for a process that ends
    assert sweep(str(tmp_path)) == [other.path]
    assert Path(mine.path).exists()
    assert stranger.exists()
    mine.remove()
    os.close(mine.fd)
    assert not Path(mine.path).exists()


def test_where_there_are_no_locks_a_session_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "no locks here")

    monkeypatch.setattr("fcntl.flock", refuse)
    session = SessionDirectory(str(tmp_path))
    os.close(session.fd)
    assert sweep(str(tmp_path)) == []
    assert Path(session.path).exists()


def test_a_tree_is_removed_without_following_links(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("x")
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "link").symlink_to(tmp_path / "kept")
    remove_tree(str(tmp_path / "gone"))
    remove_tree(str(tmp_path / "never was"))
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept" / "file").exists()
