"""Trees and what makes one out of another, without any files."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonfly_executor.errors import ProtocolError
from dragonfly_executor.protocol import file_manifest
from dragonfly_executor.protocol.file_manifest import SyncStep, TreeDifference, directory_entry, file_entry, link_entry
from tests.support.trees import manifests

DIGEST = "0" * 64


@given(manifests(), manifests())
def test_a_difference_makes_one_tree_out_of_the_other(old: Any, new: Any) -> None:
    difference = file_manifest.diff(old, new)
    assert file_manifest.merged(old, difference) == new
    assert set(difference.changed) == {path for path in new if old.get(path) != new[path]}
    assert set(difference.deleted) == old.keys() - new.keys()


@given(manifests(), manifests())
def test_what_is_in_a_folder_goes_before_it_and_comes_after_it(old: Any, new: Any) -> None:
    difference = file_manifest.diff(old, new)
    for paths, above_first in ((list(difference.changed), True), (difference.deleted, False)):
        places = {path: place for place, path in enumerate(paths)}
        for path in paths:
            above = path.rpartition("/")[0]
            if above in places:
                assert (places[above] < places[path]) == above_first


@given(manifests(), manifests(), st.booleans(), st.lists(st.text(max_size=20), max_size=3))
def test_a_step_is_read_as_it_was_written(old: Any, new: Any, fresh: bool, lines: list[str]) -> None:
    step = SyncStep(file_manifest.diff(old, new), sorted(new), fresh, lines)
    assert file_manifest.read_step(step.dump()) == step


@given(st.lists(st.booleans(), max_size=70))
def test_bits_are_read_as_they_were_packed(answers: list[bool]) -> None:
    data = file_manifest.pack_bits(answers)
    assert file_manifest.read_bits(data, len(answers)) == answers
    with pytest.raises(ProtocolError):
        file_manifest.read_bits(data + b"\0", len(answers))


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "..", "../x", "a/../../x", "a//b", "a/./b", "", "a/", "a\0b", "x" * 5000, "\ud800", 7, None, ["a"]],
)
def test_a_path_that_may_lead_out_of_the_tree_is_refused(path: Any) -> None:
    for said in (
        {"changed": [[path, *file_entry(DIGEST, 1)]], "deleted": []},
        {"changed": [], "deleted": [path]},
    ):
        with pytest.raises(ProtocolError):
            file_manifest.read(said)
    with pytest.raises(ProtocolError):
        said = {"changed": [], "deleted": [], "path": [path], "fresh": False, "requirements": []}
        file_manifest.read_step(json.dumps(said).encode())


@pytest.mark.parametrize(
    "row",
    [
        ["a", "device", 0, 0, "", ""],
        ["a", "file", 0o4755, 1, DIGEST, ""],
        ["a", "file", -1, 1, DIGEST, ""],
        ["a", "file", 0o644, -1, DIGEST, ""],
        ["a", "file", 0o644, 2**63, DIGEST, ""],
        ["a", "file", True, 1, DIGEST, ""],
        ["a", "file", 0o644, 1, "../../etc/passwd", ""],
        ["a", "file", 0o644, 1, DIGEST.upper().replace("0", "A"), ""],
        ["a", "file", 0o644, 1, DIGEST, "target"],
        ["a", "file", 0o644, 1.5, DIGEST, ""],
        ["a", "directory", 0o755, 1, "", ""],
        ["a", "link", 0, 0, "", ""],
        ["a", "link", 0, 0, "", "x\0y"],
        ["a", "link"],
        ["a"],
        [],
        7,
        None,
    ],
)
def test_an_entry_that_is_none_is_refused(row: Any) -> None:
    with pytest.raises(ProtocolError):
        file_manifest.read({"changed": [row], "deleted": []})


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"changed": 1}', b'{"path": {}, "fresh": 1, "requirements": []}'],
)
def test_a_step_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        file_manifest.read_step(data)


@given(st.binary(max_size=200))
def test_any_bytes_give_a_step_or_a_protocol_error(data: bytes) -> None:
    try:
        file_manifest.read_step(data)
    except ProtocolError:
        return


def test_nothing_lies_in_a_link_or_a_file() -> None:
    for above in (link_entry("/etc"), link_entry("."), file_entry(DIGEST, 0)):
        with pytest.raises(ProtocolError, match="is not a directory of the tree"):
            file_manifest.merged({}, TreeDifference({"a": above, "a/b": file_entry(DIGEST, 0)}, []))
        with pytest.raises(ProtocolError, match="is not a directory of the tree"):
            file_manifest.merged({"a": above}, TreeDifference({"a/b": file_entry(DIGEST, 0)}, []))
    with pytest.raises(ProtocolError, match="is not a directory of the tree"):
        file_manifest.merged({"a": directory_entry(), "a/b": directory_entry()}, TreeDifference({}, ["a"]))


def test_a_tree_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_manifest, "MAX_ENTRIES", 3)
    rows = [[f"f{number}", *file_entry(DIGEST, 0)] for number in range(4)]
    with pytest.raises(ProtocolError, match="4"):
        file_manifest.read({"changed": rows, "deleted": []})
    with pytest.raises(ProtocolError, match="4"):
        file_manifest.read({"changed": [], "deleted": [f"f{number}" for number in range(4)]})
    half = file_manifest.read({"changed": rows[:3], "deleted": []})
    with pytest.raises(ProtocolError, match="4"):
        file_manifest.merged({"other": directory_entry()}, half)
