"""Exceptions come back whole, or as a stand-in; nothing that they do harms anything else."""

from __future__ import annotations

import dataclasses
import sys
import traceback
from typing import Any

import pytest

from dragonfly_executor.errors import (
    CallDeserializationError,
    RemoteCallError,
    RemoteTraceback,
    ResultDeserializationError,
    ResultSerializationError,
)
from dragonfly_executor.serialization import exceptions
from tests.support import importable
from tests.support.codec_pair import CodecPair
from tests.support.codec_process import CodecProcess


def fail(error: Any) -> None:
    raise error


def fail_with(kind: Any, *args: Any) -> None:
    raise kind(*args)


def fail_from(kind: Any, cause: Any, *args: Any) -> None:
    try:
        raise cause(*args)
    except cause as exc:
        raise kind("outer") from exc


def fail_while_handling() -> None:
    try:
        raise KeyError("inner")
    except KeyError:
        raise ValueError("outer")  # noqa: B904


@pytest.mark.parametrize("error", [ValueError("text"), KeyError("k"), OSError(2, "gone", "file"), StopIteration(5)])
def test_type_and_arguments(error: Exception) -> None:
    there = CodecPair().error(fail, error)
    assert type(there) is type(error)
    assert there.args == error.args
    assert str(there) == str(error)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, BaseException])
def test_every_base_exception_travels(kind: Any) -> None:
    there = CodecPair().error(fail_with, kind, 3)
    assert type(there) is kind
    assert there.args == (3,)


def test_remote_traceback_is_the_cause() -> None:
    there = CodecPair().error(fail, ValueError("text"))
    assert isinstance(there.__cause__, RemoteTraceback)
    text = there.__cause__.text
    assert text.startswith("Traceback (most recent call last):\n")
    assert "in fail\n" in text
    assert text.endswith("ValueError: text\n")
    assert "payload" not in text.replace("tests/support", "")  # none of this package's own frames
    shown = "".join(traceback.format_exception(there))
    assert shown.count("in fail\n") == 1


def test_attributes_and_notes() -> None:
    error = importable.WithState("text", 5)
    error.add_note("a note")
    there = CodecPair().error(fail, error)
    assert there.code == 5
    assert there.__notes__ == ["a note"]
    assert "a note" in there.__cause__.text


def test_chain_travels_and_is_printed_once() -> None:
    there = CodecPair().error(fail_from, ValueError, KeyError, "inner")
    assert "KeyError: 'inner'" in there.__cause__.text
    assert "direct cause" in there.__cause__.text
    inner = there.__cause__.__context__
    assert type(inner) is KeyError
    assert type(there.__context__) is KeyError
    assert "".join(traceback.format_exception(there)).count("KeyError: 'inner'") == 1
    there = CodecPair().error(fail_while_handling)
    assert "During handling" in there.__cause__.text
    assert type(there.__context__) is KeyError


def test_cause_that_does_not_travel_does_not_take_its_error_along() -> None:
    there = CodecPair().error(fail_from, ValueError, NeedsTwoAndHolds, 1, 2)
    assert type(there) is ValueError
    assert there.__context__ is None
    assert "NeedsTwoAndHolds: 1 and 2" in there.__cause__.text


def test_chain_in_a_circle() -> None:
    one, two = ValueError("one"), KeyError("two")
    one.__context__, two.__context__ = two, one
    assert type(CodecPair().error(fail, one)) is ValueError


def test_group() -> None:
    there = CodecPair().error(fail, ExceptionGroup("several", [ValueError(1), ExceptionGroup("more", [KeyError(2)])]))
    assert isinstance(there, ExceptionGroup)
    assert [type(error) for error in there.exceptions] == [ValueError, ExceptionGroup]
    assert "several" in there.__cause__.text


class ReducesToText(Exception):
    def __reduce__(self) -> Any:
        return str, ("not an exception",)


class RaisesInReduce(Exception):
    def __reduce__(self) -> Any:
        raise RuntimeError


class ExitsInReduce(Exception):
    def __reduce__(self) -> Any:
        raise SystemExit


class ExitsInSetState(Exception):
    def __reduce__(self) -> Any:
        return sys.exit, (3,)


class Holds(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.held = (item for item in ())


class NeedsTwoAndHolds(importable.NeedsTwo):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(one, two)
        self.held = (item for item in ())


class Keyword(Exception):
    def __init__(self, message: str, *, code: int) -> None:
        super().__init__(message)
        self.code = code


class Prefixes(Exception):
    """Its own arguments, given to it again, make another text."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no such host: {name}")
        self.name = name


class Slotted(Exception):
    __slots__ = ("code",)

    def __init__(self, *, code: int) -> None:
        super().__init__()
        self.code = code

    def __str__(self) -> str:
        return f"code {self.code}"


class OwnOSError(OSError):
    def __init__(self, path: str, *, tries: int) -> None:
        super().__init__(2, "gone", path)
        self.tries = tries


class OwnImportError(ImportError):
    def __init__(self, *, module: str) -> None:
        super().__init__(f"no {module}", name=module)


class OwnGroup(ExceptionGroup[Exception]):
    def __new__(cls, members: list[Exception], *, job: int) -> OwnGroup:
        made = super().__new__(cls, f"job {job}", members)
        made.job = job  # type: ignore[attr-defined]
        return made

    def __init__(self, members: list[Exception], *, job: int) -> None:
        super().__init__(f"job {job}", members)


class GroupOfAll(ExceptionGroup[Exception]):
    def __new__(cls, members: list[Exception]) -> GroupOfAll:
        return super().__new__(cls, "all of them", members)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrozenByKeyword(Exception):
    code: int


@pytest.mark.parametrize(
    "error",
    [
        Keyword("no", code=403),
        Prefixes("gpu1"),
        Slotted(code=7),
        OwnOSError("/x", tries=3),
        OwnImportError(module="m"),
        FrozenByKeyword(code=5),
        importable.NeedsTwo(1, 2),
        OwnGroup([Keyword("no", code=403)], job=4),
        GroupOfAll([Keyword("no", code=403)]),
        ExceptionGroup("several", [Keyword("no", code=403), ValueError(1)]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_exception_whose_init_does_not_take_its_args_comes_back_as_itself(error: Any) -> None:
    """With all that it holds, and as a cause, too."""
    near = CodecPair()
    outer = ValueError("outer")
    outer.__cause__ = error
    alone, around = (near.codec.decode_error(b"".join(near.slot.encode_error(sent))) for sent in (error, outer))
    assert around.__cause__ is not None
    for there in (alone, around.__cause__.__context__):
        assert type(there) is type(error)
        assert str(there) == str(error)
        assert vars(there) == vars(error)
        for name in ("code", "errno", "filename", "name", "args"):
            if not isinstance(error, ExceptionGroup):
                assert getattr(there, name, None) == getattr(error, name, None)
        if isinstance(error, ExceptionGroup):
            assert [(type(one), str(one), vars(one)) for one in there.exceptions] == [
                (type(one), str(one), vars(one)) for one in error.exceptions
            ]


class Wraps(Exception):
    def __init__(self, *, inner: Exception) -> None:
        super().__init__("wraps", inner)
        self.inner = inner
        self.all = [inner, self]


def test_an_exception_that_holds_others_and_itself_comes_back_as_itself() -> None:
    """As its arguments or attributes; one that is held twice is one there, too."""
    near = CodecPair()
    there: Any = near.codec.decode_error(b"".join(near.slot.encode_error(Wraps(inner=Keyword("no", code=403)))))
    assert type(there) is Wraps
    assert type(there.inner) is Keyword
    assert vars(there.inner) == {"code": 403}
    assert there.args == ("wraps", there.inner)
    assert there.args[1] is there.inner
    assert there.all[0] is there.inner
    assert there.all[1] is there


@pytest.mark.parametrize(
    "error",
    [kind("t") for kind in (ReducesToText, RaisesInReduce, ExitsInReduce, ExitsInSetState, Holds)]
    + [NeedsTwoAndHolds(1, 2)],
    ids=lambda error: type(error).__name__,
)
def test_stand_in_for_what_does_not_travel(error: Exception) -> None:
    slot, codec = CodecPair().slot, CodecPair().codec
    there = codec.decode_error(b"".join(slot.encode_error(error)))
    assert isinstance(there, RemoteCallError)
    assert there.type_name == f"{type(error).__module__}.{type(error).__qualname__}"
    assert there.text == str(error)
    assert there.traceback_text.endswith(f"{there.type_name}: {error}\n")
    assert isinstance(there.__cause__, RemoteTraceback)


class BadText(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


class ExitingText(Exception):
    def __str__(self) -> str:
        raise SystemExit

    __repr__ = __str__


class HugeText(Exception):
    def __str__(self) -> str:
        return "x" * 50_000_000


class Subtext(str):
    __slots__ = ()

    def __reduce__(self) -> Any:
        raise RuntimeError


class OddText(Exception):
    def __str__(self) -> str:
        return Subtext("odd")


class BadNotes(Exception):
    __notes__ = 5


class OwnCause(Exception):
    @property
    def __cause__(self) -> Any:
        raise RuntimeError


class OwnTraceback(Exception):
    @property
    def __traceback__(self) -> Any:
        raise RuntimeError


class AnswersNothing(Exception):
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


class Nameless(type):
    def __getattribute__(cls, name: str) -> Any:
        if name in ("__module__", "__name__", "__qualname__"):
            raise LookupError(name)
        return super().__getattribute__(name)


class Unnamed(Exception, metaclass=Nameless):
    pass


class NoBool(Exception):
    def __bool__(self) -> bool:
        raise RuntimeError


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    code: int

    def __reduce__(self) -> Any:
        return Frozen, (self.code,)


MISBEHAVING = [
    BadText,
    ExitingText,
    HugeText,
    OddText,
    BadNotes,
    OwnCause,
    OwnTraceback,
    AnswersNothing,
    Unnamed,
    NoBool,
]


def fail_by_name(name: str) -> None:
    raise globals()[name](1)


def fail_because(name: str) -> None:
    raise ValueError("outer") from globals()[name](1)


@pytest.mark.parametrize("kind", MISBEHAVING, ids=lambda kind: "Unnamed" if kind is Unnamed else kind.__name__)
def test_exceptions_that_misbehave(kind: Any) -> None:
    near = CodecPair()
    name = next(name for name, found in globals().items() if found is kind)
    error = near.error(fail_by_name, name)
    assert type(error) in (kind, RemoteCallError)
    assert type(near.error(fail_because, name)) is ValueError
    assert near(importable.add, 1) == 2


def test_long_texts_are_cut_in_the_middle() -> None:
    name, text, shown, _ = __import__("pickle").loads(b"".join(CodecPair().slot.encode_error(HugeText("t"))))
    assert name.endswith("HugeText")
    assert len(text) < 100_000
    assert len(shown) < 100_000
    assert "left out" in text


def test_frozen_exception() -> None:
    there = CodecPair().error(fail, Frozen(5))
    assert there == Frozen(5)
    assert isinstance(there.__cause__, RemoteTraceback)


class Nowhere(Exception):
    """Cannot be found in the parent: its module is taken away there."""


def test_class_that_cannot_be_imported_in_the_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    near = CodecPair()
    _, _, data = near.perform(fail, Nowhere("text"))
    monkeypatch.delattr(sys.modules[__name__], "Nowhere")
    there = near.codec.decode_error(data)
    assert isinstance(there, RemoteCallError)
    assert (there.type_name, there.text) == (f"{__name__}.Nowhere", "text")


@pytest.mark.parametrize("data", [b"", b"garbage", b"\x80\x05N.", b"\x80\x05K\x01K\x02\x86."])
def test_error_payload_that_cannot_be_read(data: bytes) -> None:
    there = CodecPair().codec.decode_error(data)
    assert isinstance(there, RemoteCallError)


class FailsToOpen:
    def __init__(self, kind: Any = None) -> None:
        self.kind = kind

    def __reduce__(self) -> Any:
        return fail_with, (self.kind, "on opening")


def make(kind: Any) -> Any:
    return FailsToOpen(kind)


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt])
def test_call_that_cannot_be_opened(kind: Any) -> None:
    near = CodecPair()
    error = near.error(importable.same, FailsToOpen(kind))
    assert type(error) is CallDeserializationError
    assert f"{kind.__name__}: on opening" in str(error)
    assert type(error.__context__) is kind
    assert near(importable.add, 1) == 2


def test_result_that_cannot_be_opened() -> None:
    near = CodecPair()
    with pytest.raises(ResultDeserializationError, match="ValueError: on opening") as caught:
        near(make, ValueError)
    assert type(caught.value.__cause__) is ValueError
    with pytest.raises(ResultDeserializationError, match="SystemExit"):
        near(make, SystemExit)
    with pytest.raises(KeyboardInterrupt):
        near(make, KeyboardInterrupt)


def unpicklable_result() -> Any:
    return [1], (n for n in range(3))


def test_result_that_cannot_be_pickled() -> None:
    near = CodecPair()
    error = near.error(unpicklable_result)
    assert type(error) is ResultSerializationError
    assert "tuple" in str(error)
    assert "generator" in str(error)
    assert near(importable.add, 1) == 2


def test_missing_module_in_the_slot(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "only_here.py").write_text("def work(): return 1\n")
    with CodecProcess() as far:  # its import path was taken before the folder was on it
        monkeypatch.syspath_prepend(tmp_path)
        work = __import__("only_here").work
        error = far.error(work)
        assert type(error) is CallDeserializationError
        assert "No module named 'only_here'" in str(error)
        assert far(importable.add, 1) == 2
    del sys.modules["only_here"]


def test_qualified_names() -> None:
    assert exceptions.qualified_name(ValueError) == "ValueError"
    assert exceptions.qualified_name(Nowhere) == f"{__name__}.Nowhere"


class ExitsInPickling:
    def __reduce__(self) -> Any:
        raise SystemExit(5)


def test_result_that_exits_when_it_is_pickled() -> None:
    near = CodecPair()
    error = near.error(ExitsInPickling)
    assert type(error) is SystemExit
    assert error.code == 5
