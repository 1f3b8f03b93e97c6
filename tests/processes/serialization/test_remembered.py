"""What is remembered of ``__main__``: what has changed since the last submit travels again, and nothing else does."""

from __future__ import annotations

import pickle
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dragonfly_executor.errors import CallSerializationError
from dragonfly_executor.serialization import CallCodec
from dragonfly_executor.serialization.global_fingerprint import fingerprint
from dragonfly_executor.serialization.layout import BOX, unpack
from tests.support.codec_process import CodecProcess

Make = Callable[..., "Program"]


class Program:
    """A program whose functions are submitted by their names. Its ``__main__`` stands in for this process's."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        self.codec = CallCodec()
        self.pickled: list[str] = []
        define = self.codec._main._define

        def count(values: Any, owners: frozenset[str]) -> Any:
            self.pickled.append(" ".join(values))
            return define(values, owners)

        self.codec._main._define = count

    def run(self, text: str) -> None:
        exec(textwrap.dedent(text), self.module.__dict__)

    def submit(self, name: str, *args: Any) -> dict[str, int]:
        """The names that travel with a call of this function, each with its version."""
        payload = b"".join(self.codec.encode_call(eval(name, self.module.__dict__), args, {}))
        if payload[0] != BOX:
            return {}
        definitions = bytes(unpack(payload)[1])
        sent = pickle.loads(definitions) if definitions else []
        return {name: version for names, version, _ in sent for name in names}

    def changed(self, name: str, change: str) -> set[str]:
        """The names whose definitions are newer than before for a call of this function, after a change."""
        before = self.submit(name)
        self.run(change)
        after = self.submit(name)
        return {name for name, version in after.items() if version != before.get(name)}

    def pickles(self, name: str) -> list[str]:
        """What is pickled for another call of this function."""
        self.submit(name)
        self.pickled.clear()
        self.submit(name)
        return self.pickled


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Make:
    def make(text: str, *, guarded: bool = False) -> Program:
        module = ModuleType("__main__")
        text = textwrap.dedent(text)
        if guarded:
            text += '\nif __name__ == "__main__":\n    in_guard = 1\n'
            path = tmp_path / "script.py"
            path.write_text(text)
            module.__file__ = str(path)
        monkeypatch.setitem(sys.modules, "__main__", module)
        program = Program(module)
        program.run(text)
        return program

    return make


# -- what changes ------------------------------------------------------------------------------------------------------

FUNCTION = """
import functools
def other(): return 1
def made(value):
    def inner(): return value
    return inner
def use(x=1, *, y=2) -> int:
    "its text"
    return f(x), y, g, late
f = made(1)
g = 1
class Plain:
    level = 1
    def method(self): return 1
    @staticmethod
    def static(): return 1
    @classmethod
    def of(cls): return 1
    @property
    def prop(self): return 1
    @prop.setter
    def prop(self, value): pass
    @prop.deleter
    def prop(self): pass
def with_class(): return Plain
"""


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("late = 1", {"late"}),
        ("g = 2", {"g"}),
        ("f = made(2)", {"f"}),
        ("f = made(1)", set()),  # it comes to the same bytes
        ("f = other", {"f", "other"}),
        ("use.__code__ = (lambda x, *, y: (f, g, 3, late)).__code__", {"use"}),
        ("use.__defaults__ = (2,)", {"use"}),
        ("use.__kwdefaults__ = {'y': 3}", {"use"}),
        ("use.__kwdefaults__['y'] = 3", {"use"}),
        ("use.__kwdefaults__ = {'z': 2}", {"use"}),
        ("use.__name__ = 'renamed'", {"use"}),
        ("use.__qualname__ = 'renamed'", {"use"}),
        ("use.__doc__ = 'another text'", {"use"}),
        ("use.__annotations__['x'] = int", {"use"}),
        ("use.__annotations__ = {'return': str}", {"use"}),
        ("use.__type_params__ = (int,)", {"use"}),
        ("use.attribute = 1", {"use"}),
        ("use.attribute = [1]", {"use"}),
        ("f.__closure__[0].cell_contents = 2", {"f"}),
        ("f.attribute = 1", {"f"}),
        ("made.attribute = 1", set()),
        ("unused = 1", set()),
    ],
)
def test_what_changes_of_a_function_is_sent_again(make: Make, change: str, expected: set[str]) -> None:
    assert make(FUNCTION).changed("use", change) == expected


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("use.attribute = 1", "use.attribute = 2"),
        ("use.attribute = 1", "del use.attribute"),
        ("use.attribute = 1", "use.other = use.__dict__.pop('attribute')"),
        ("use.attribute = use", "use.attribute = other"),
        ("use.attribute = [1]", "use.attribute.append(2)"),
        ("use.attribute = (1, (2, [3]))", "use.attribute[1][1].append(4)"),
        ("use.attribute = other", "other.attribute = 1"),
        ("use.attribute = functools.partial(other)", "use.attribute = functools.partial(made, 2)"),
        ("def use(x=[1]): return x", "use.__defaults__[0].append(2)"),
        ("def use(*, x=[1]): return x", "use.__kwdefaults__['x'].append(2)"),
        ("shared = [1]\ndef use(x: shared = shared): return x", "shared.append(2)"),
        ("g = [1]", "g.append(2)"),
        ("g = {'a': 1}", "g['a'] = 2"),
        ("g = (1, [2])", "g[1].append(3)"),
        ("g = made([1])", "g.__closure__[0].cell_contents.append(2)"),
        ("g = made((1, [2]))", "g.__closure__[0].cell_contents[1].append(3)"),
        ("g = made(other)\nother.x = 1", "other.x = 2"),
        ("g = Plain()", "g.x = 1"),
    ],
)
def test_what_changes_in_itself_is_sent_again(make: Make, first: str, second: str) -> None:
    program = make(FUNCTION)
    program.run(first)
    assert program.changed("use", second)


@pytest.mark.parametrize(
    ("first", "change"),
    [
        ("", "Plain.level = 2"),
        ("", "Plain.added = 1"),
        ("", "del Plain.level"),
        ("", "Plain.renamed = Plain.level; del Plain.level"),
        ("", "Plain.method = lambda self: 2"),
        ("", "Plain.method.attribute = 1"),
        ("", "Plain.method.__defaults__ = (1,)"),
        ("", "Plain.method.__code__ = (lambda self: 3).__code__"),
        ("", "Plain.static.attribute = 1"),
        ("", "Plain.static = staticmethod(other)"),
        ("", "Plain.of.__func__.attribute = 1"),
        ("", "Plain.prop = 1"),
        ("", "Plain.prop.fget.attribute = 1"),
        ("", "Plain.prop.fset.attribute = 1"),
        ("", "Plain.prop.fdel.attribute = 1"),
        ("", "Plain.__qualname__ = 'Other'"),
        ("", "Plain.__name__ = 'Other'"),
        ("", "Plain.__doc__ = 'text'"),
        ("Plain.items = [1]", "Plain.items.append(2)"),
        ("Plain.f = functools.lru_cache(made(1))", "Plain.f.__wrapped__.x = 1"),
        ("Plain.f = functools.lru_cache(other)", "Plain.f = functools.lru_cache(maxsize=3)(other)"),
        ("Plain.f = functools.cached_property(made(1))", "Plain.f.func.x = 1"),
        ("Plain.f = functools.cached_property(made(1))", "Plain.f = functools.cached_property(made(2))"),
        ("Plain.inner = type('Inner', (), {'x': 1})", "Plain.inner.x = 2"),
        ("Plain.itself = Plain; Plain.last = made(other)", "Plain.last.x = 1"),
        ("Plain = type('Plain', (type('Hidden', (), {'x': 1}),), {})", "Plain.__bases__[0].x = 2"),
        (
            "class A: pass\nclass B: pass\nclass Plain(A): pass",
            "Plain.__bases__ = (B,)",
        ),
        ("import enum\nclass Plain(enum.Enum):\n    A = 1\n    def f(self): return 1", "Plain.f = lambda self: 2"),
        (
            "import dataclasses\n@dataclasses.dataclass\nclass Plain:\n    x: int = 1\n    def f(self): return 1",
            "Plain.f.attribute = 2",
        ),
        (
            "import dataclasses\n@dataclasses.dataclass\nclass Plain:\n    x: int = 1",
            "Plain.__init__ = lambda self: None",
        ),
        # What looks like a method that `dataclasses` has made is one only in a dataclass, by its name and by its file.
        ("Plain.__call__ = lambda self: 1", "Plain.__call__.attribute = 2"),
        *[
            (
                f"import dataclasses\nPlain = dataclasses.dataclass(Plain)\n{line}",
                f"vars(Plain)[{name!r}].attribute = 2",
            )
            for name, line in {
                "half__": "Plain.half__ = eval('lambda self: 1')",
                "__half": "setattr(Plain, '__half', eval('lambda self: 1'))",
                "__call__": "Plain.__call__ = eval(compile('lambda self: 1', 'a.py', 'eval'))",
            }.items()
        ],
    ],
)
def test_what_changes_of_a_class_is_sent_again(make: Make, first: str, change: str) -> None:
    program = make(FUNCTION)
    program.run(first)
    assert "Plain" in program.changed("with_class", change)


def test_a_name_that_is_bound_between_two_submits_travels_with_the_second(make: Make) -> None:
    program = make("def use(): return late\nif False: late = 0")
    assert set(program.submit("use")) == {"use"}
    program.run("late = 1")
    assert set(program.submit("use")) == {"use", "late"}
    program.run("del late")
    assert set(program.submit("use")) == {"use"}
    program.run("late = 2")
    assert set(program.submit("use")) == {"use", "late"}


def test_what_a_late_name_needs_travels_with_it(make: Make) -> None:
    program = make("def use(): return late()")
    assert set(program.submit("use")) == {"use"}
    program.run("factor = 2\ndef late(): return factor, later")
    assert set(program.submit("use")) == {"use", "late", "factor"}
    program.run("later = 2")
    assert set(program.submit("use")) == {"use", "late", "factor", "later"}


def test_a_late_name_reaches_a_slot(make: Make) -> None:
    program = make("def use():\n    try:\n        return late\n    except NameError:\n        return 'absent'")
    with CodecProcess() as far:
        assert far(program.module.use) == "absent"
        program.run("late = 'there'")
        assert far(program.module.use) == "there"
        program.run("use.mark = 1\ndef late(): return use.mark\ndef ask(): return late()")
        assert far(program.module.ask) == 1
        program.run("use.mark = 2")
        assert far(program.module.ask) == 2


def test_a_global_that_changes_and_changes_back_is_newer_each_time(make: Make) -> None:
    program = make("def use(): return g\ng = 1\nh = 2")
    versions = [program.submit("use")["g"]]
    for value in ("h", "1", "h", "1"):
        program.run(f"g = {value}")
        versions.append(program.submit("use")["g"])
    assert versions == sorted(set(versions))


def test_two_functions_that_use_a_global_agree_about_its_version(make: Make) -> None:
    program = make("def use(): return g\ndef also(): return g\ng = 1")
    first = program.submit("use")["g"]
    assert program.submit("also")["g"] == first
    program.run("g = 2")
    second = program.submit("also")["g"]
    assert second > first
    assert program.submit("use")["g"] == second
    program.run("g = 1")
    assert program.submit("use")["g"] > second


def test_a_plan_knows_that_slots_may_have_met_a_newer_version(make: Make) -> None:
    """Nothing of it looks changed: the global has its old value again. But another call has sent the newer one."""
    program = make("def use(): return g\ndef also(): return g\ng = 1")
    first = program.submit("use")["g"]
    program.run("g = 2")
    second = program.submit("also")["g"]
    program.run("g = 1")
    assert program.submit("use")["g"] > second > first


def test_another_module_under_a_name_travels(make: Make) -> None:
    program = make("import textwrap as g\ndef use(): return g")
    assert program.changed("use", "import string as g") == {"g"}
    assert program.changed("use", "g = 1") == {"g"}
    assert program.changed("use", "import string as g") == {"g"}


def test_another_main_is_looked_at_anew(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    program = make("def use(): return 1", guarded=True)
    assert program.submit("use") == {}
    bare = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", bare)
    program.module = bare
    program.run("def use(): return 1")
    assert set(program.submit("use")) == {"use"}
    # Nor is another script the one that slots import.
    again = make("def use(): return 2", guarded=True)
    again.codec = program.codec
    assert set(again.submit("use")) == {"use"}


# -- what does not -----------------------------------------------------------------------------------------------------

CONSTANT = {
    "number": "1", "text": "'a'", "float": "1.5", "bytes": "b'a'", "none": "None", "range": "range(3)",
    "complex": "1j", "ellipsis": "...", "not implemented": "NotImplemented", "tuple": "(1, ('a', None))",
    "builtin": "len", "type": "int", "function": "other", "class": "Plain", "closure": "made((1, other))",
    "module's function": "functools.wraps", "module's class": "functools.partial",
}  # fmt: skip


@pytest.mark.parametrize("value", CONSTANT.values(), ids=CONSTANT)
def test_what_cannot_change_is_pickled_once(make: Make, value: str) -> None:
    program = make(FUNCTION)
    program.run(f"g = {value}")
    assert program.pickles("use") == []


CLASSES = {
    "plain": "class Plain: pass",
    "abstract": "class Plain(abc.ABC):\n    @abc.abstractmethod\n    def f(self): ...",
    "registered": "class Plain(abc.ABC): pass\nPlain.register(int)\nissubclass(bool, Plain)",
    "annotated": "class Plain:\n    x: list[int]",
    "dataclass": "@dataclasses.dataclass\nclass Plain:\n    x: int\n    y: int = dataclasses.field(default=1)",
    "frozen": "@dataclasses.dataclass(frozen=True, order=True)\nclass Plain:\n    x: int",
    "matched": "class Plain:\n    __match_args__ = ['x']",
    "generic": "T = typing.TypeVar('T')\nclass Plain(typing.Generic[T]): pass",
    "slotted": "class Plain:\n    __slots__ = ['x']",
    "slotted by a dict": "class Plain:\n    __slots__ = {'x': 'its text'}",
    "pickled": "class Plain: pass\nimport copy; copy.copy(Plain())",
    "named tuple": "class Plain(typing.NamedTuple):\n    x: int = 1",
    "cached": (
        "class Plain:\n    @functools.lru_cache\n    def f(self): return 1\n"
        "    @functools.cached_property\n    def g(self): return 1"
    ),
    "enumeration": "class Plain(enum.Enum):\n    A = [1]",
    "flag": "class Plain(enum.Flag):\n    A = 1\n    B = 2",
    "borrowed": (
        "class Plain:\n    add = int.__add__; find = str.find; real = int.real; size = len; flag = True"
        "; late = datetime.datetime.year; cast = complex(1); none = None; many = range(2)"
        "; member = functools.partial.func; view = type.__dict__['__dict__']; rest = ...; no = NotImplemented"
    ),
}


@pytest.mark.parametrize("text", CLASSES.values(), ids=CLASSES)
def test_a_class_is_pickled_once(make: Make, text: str) -> None:
    program = make("import abc, copy, dataclasses, datetime, enum, functools, typing\ndef with_class(): return Plain")
    program.run(text)
    assert [names for names in program.pickles("with_class") if "Plain" in names.split()] == []


def test_a_function_that_refers_to_itself_is_pickled_once(make: Make) -> None:
    program = make("def use(): return 1\nuse.itself = use\nclass Plain: pass\nPlain.itself = (Plain, Plain)")
    program.run("def made(x):\n    def inner(): return inner, x\n    return inner\ng = made(1)\ndef with_g(): return g")
    assert program.pickles("use") == []
    assert program.pickles("with_g") == []


def test_what_lies_deep_in_each_way_is_seen_to_lie_deep(make: Make) -> None:
    """The same depth counts through functions, classes and tuples."""
    program = make("def use(): return 1")
    program.run("value = 1\nfor _ in range(5):\n    def f(): return 1\n    f.x = (value,)\n    value = f\ng = value")
    assert fingerprint(program.module.g) is None
    program.run("value = 1\nfor _ in range(4):\n    def f(): return 1\n    f.x = (value,)\n    value = f\ng = value")
    assert fingerprint(program.module.g) is not None


@pytest.mark.parametrize(
    "value",
    [
        "Plain()",
        "[Plain()]",
        "{1: Plain()}",
        "bytearray(1)",
        "functools.partial(int)",
        "list(range(1000))",
        "dict.fromkeys(range(1000))",
        "made(list(range(1000)))",
    ],
)
def test_what_may_change_is_pickled_each_time_and_travels_once(make: Make, value: str) -> None:
    program = make(FUNCTION)
    program.run(f"g = {value}")
    first = program.submit("use")
    assert program.pickles("use") == ["g"]
    assert program.submit("use") == first


CHANGES = {
    "[1]": ["g.append(2)", "g[0] = 2", "g.clear()", "g[:] = [2]", "g[:] = [True]"],
    "[1, 2]": ["g.reverse()", "del g[0]"],
    "{1: 2}": ["g[2] = 3", "g[1] = 3", "del g[1]", "g[3] = g.pop(1)", "g.clear()"],
    "{'a': 1, 'b': 2}": ["g['a'] = g.pop('a')", "g.update(a=2, b=1)"],
    "{1}": ["g.add(2)", "g.discard(1)", "g.clear(); g.add(2)"],
    "{}": ["g['a'] = 1"],
    "[]": ["g.append(1)"],
    "set()": ["g.add(1)"],
    "[[1], {2: [3]}]": ["g[0].append(2)", "g[1][2].append(4)", "g[1][2][0] = 5", "g[0] = [1]; g[0].append(2)"],
    "(1, [2])": ["g[1].append(3)"],
    "made([1])": ["g.__closure__[0].cell_contents.append(2)"],
    "{'f': other}": ["other.x = 1", "g['f'] = made", "other.__code__ = (lambda: 7).__code__"],
    "{'c': Plain}": ["Plain.level = 3", "Plain.method.x = 1"],
}


@pytest.mark.parametrize(("value", "change"), [(value, change) for value in CHANGES for change in CHANGES[value]])
def test_a_small_container_is_pickled_again_only_when_it_has_changed(make: Make, value: str, change: str) -> None:
    program = make(FUNCTION)
    program.run(f"g = {value}")
    assert program.pickles("use") == []
    assert {"g", "other", "Plain"} & program.changed("use", change)
    assert program.pickles("use") == []


def test_a_container_that_contains_itself_is_checked_too(make: Make) -> None:
    program = make("def use(): return g\ng = [1]\ng.append(g)")
    assert program.pickles("use") == []
    assert program.changed("use", "g.append(2)") == {"g"}


def test_a_class_that_holds_a_registry_is_pickled_once(make: Make) -> None:
    program = make(FUNCTION)
    program.run("Plain.items = {}; Plain.names = []")
    assert [names for names in program.pickles("with_class") if "Plain" in names.split()] == []
    assert "Plain" in program.changed("with_class", "Plain.items['a'] = [1]")
    assert "Plain" in program.changed("with_class", "Plain.items['a'].append(2)")
    assert "Plain" in program.changed("with_class", "Plain.names.append('a')")


@pytest.mark.parametrize("value", [*CONSTANT.values(), "textwrap"])
@pytest.mark.parametrize("guarded", [False, True])
def test_a_plan_is_used_again_while_nothing_changes(make: Make, value: str, guarded: bool) -> None:
    program = make(FUNCTION + "import textwrap\nif 0: in_guard = 1\ndef also(): return use", guarded=guarded)
    program.run(f"g = {value}")
    for name in ("use", "also"):
        program.submit(name)
    plans = dict(program.codec._main._plans)
    known = dict(program.codec._main._known)
    assert plans
    for name in ("use", "also"):
        program.submit(name)
    assert {id(plan) for plan in program.codec._main._plans.values()} == {id(plan) for plan in plans.values()}
    assert {id(entry) for entry in program.codec._main._known.values()} == {id(entry) for entry in known.values()}


def test_what_may_change_is_not_kept_alive(make: Make) -> None:
    program = make("def use(): return g\nclass Plain: pass\ng = Plain()")
    for value in ("Plain()", "[Plain()]", "list(range(1000))"):
        program.run(f"g = {value}")
        program.submit("use")
        assert "g" not in program.codec._main._known
        assert program.codec._main._plans == {}
    assert set(program.codec._main._known) <= {"use", "Plain"}


OWN = (
    "__annotations__", "__builtins__", "__cached__", "__doc__", "__file__", "__loader__", "__name__", "__package__",
    "__path__", "__spec__",
)  # fmt: skip


@pytest.mark.parametrize("name", OWN)
def test_what_each_module_has_of_its_own_does_not_travel(make: Make, name: str) -> None:
    program = make(f"def use(): return {name}, __version__\n__version__ = 1")
    program.module.__dict__.setdefault(name, "the parent's")
    assert set(program.submit("use")) == {"use", "__version__"}


GUARDED = """
import functools
in_guard = 1
def plain(): return in_guard
def nested():
    def inner(): return in_guard
    return inner
closure = nested()
@functools.wraps(plain)
def wrapped(): return 1
cached = functools.lru_cache(plain)
class Itself:
    @staticmethod
    def static(): return in_guard
Itself.itself = Itself
class OfClass:
    @classmethod
    def of(cls): return in_guard
class Getter:
    @property
    def prop(self): return in_guard
class Setter:
    prop = property(None, lambda self, value: in_guard)
class Deleter:
    prop = property(None, None, lambda self: in_guard)
class Nested:
    class Inner:
        def method(self): return in_guard
def looped(): return looped.x
looped.x = looped
class Unrelated:
    def method(self): return other
    in_guard = 2
other = 1
"""


@pytest.mark.parametrize(
    "name",
    ["plain", "closure", "cached", "Itself", "OfClass", "Getter", "Setter", "Deleter", "Nested"],
)
def test_names_are_found_in_all_that_a_script_defines(make: Make, name: str) -> None:
    """The slot imports the script; what only its guard binds has to travel, and is found in the code."""
    program = make(GUARDED.replace("in_guard = 1\n", "") + f"def use(): return {name}\n", guarded=True)
    program.run("in_guard = 1")
    assert set(program.submit("use")) == {"in_guard"}


def test_names_that_no_code_uses_do_not_travel(make: Make) -> None:
    program = make(GUARDED.replace("in_guard = 1\n", "") + "def use(): return Unrelated, looped\n", guarded=True)
    program.run("in_guard = 1")
    assert program.submit("use") == {}


def test_three_definitions_that_need_each_other_travel_as_one(make: Make) -> None:
    program = make(
        "class A: pass\nclass B: pass\nclass C: pass\nclass D(A): pass\n"
        "A.other = B\nB.other = C\nC.other = A\ndef use(): return D"
    )
    sent = program.submit("use")
    assert sent["A"] == sent["B"] == sent["C"] != sent["D"]
    with CodecProcess() as far:
        assert far(program.module.use) is program.module.D


def test_a_module_is_looked_at_again_only_when_others_were_imported(make: Make) -> None:
    program = make("import os\ndef use(): return os.path")
    assert program.pickles("use") == []
    first = program.submit("use")
    sys.modules["test_remembered_extra"] = ModuleType("test_remembered_extra")
    try:
        assert program.submit("use") == first
    finally:
        del sys.modules["test_remembered_extra"]


def test_a_submodule_that_was_imported_since_goes_with_its_module(make: Make) -> None:
    program = make("import xml\ndef use(): return xml.dom.minidom")
    for name in ("xml.dom.minidom", "xml.dom"):
        sys.modules.pop(name, None)
    before = program.submit("use")
    program.run("import xml.dom.minidom")
    assert program.submit("use")["xml"] > before["xml"]


def test_what_an_import_of_the_script_binds_does_not_travel(make: Make) -> None:
    program = make("def use(): return other(), in_guard, late\ndef other(): return 1", guarded=True)
    program.run("in_guard = 1")
    assert set(program.submit("use")) == {"in_guard"}
    program.run("late = 1")
    assert set(program.submit("use")) == {"in_guard", "late"}
    assert program.pickles("use") == []


def test_a_script_that_binds_what_cannot_travel_is_trusted_to_bind_it(make: Make) -> None:
    program = make("import threading\ndef use(): return dynamic, in_guard", guarded=True)
    program.run("dynamic = threading.Lock()\nin_guard = 1")
    assert set(program.submit("use")) == {"in_guard"}
    program.run("in_guard = threading.Lock()")
    with pytest.raises(CallSerializationError, match="the global 'in_guard' of __main__, which the call uses"):
        program.submit("use")


def test_definitions_that_need_each_other_travel_as_one(make: Make) -> None:
    program = make("class A: pass\nclass B: pass\nA.other = B\nB.other = A\ndef use(): return A")
    sent = program.submit("use")
    assert set(sent) == {"A", "B", "use"}
    assert sent["A"] == sent["B"] != sent["use"]
    with CodecProcess() as far:
        assert far(program.module.use) is program.module.A
    assert program.changed("use", "B.x = 1") == {"A", "B"}


def test_definitions_come_in_an_order_in_which_they_can_be_opened(make: Make) -> None:
    program = make(
        """
        def used(): return 7
        class Base:
            def __init_subclass__(cls): cls.made = used()
        class Derived(Base): pass
        class Last(Derived): pass
        def use(): return Last.made
        """
    )
    with CodecProcess() as far:
        assert far(program.module.use) == 7


def test_only_so_many_sets_of_names_are_remembered(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dragonfly_executor.serialization.parent_main._PLANS", 3)
    program = make("\n".join(f"def use_{number}(): return {number}" for number in range(8)))
    for number in range(8):
        assert set(program.submit(f"use_{number}")) == {f"use_{number}"}
        assert 1 <= len(program.codec._main._plans) <= 3


# -- fingerprints ------------------------------------------------------------------------------------------------------


def test_what_may_change_has_no_fingerprint() -> None:
    for value in (object(), bytearray(1), [object()], list(range(1000)), memoryview(b"")):
        assert fingerprint(value) is None


def test_a_fingerprint_holds_until_the_value_changes() -> None:
    for value in (1, (), (1, (2,)), "text", len):
        assert fingerprint(value).holds()
    items: Any = [1, {"a": {2}}]
    found = fingerprint(items)
    assert found.holds()
    items[1]["a"].add(3)
    assert not found.holds()
    assert fingerprint(items).holds()


def test_a_variable_that_loses_its_value_has_changed(make: Make) -> None:
    program = make("def outer(value):\n    def inner(): return value\n    return inner\nuse = outer(1)")
    found = fingerprint(program.module.use)
    assert found.holds()
    del program.module.use.__closure__[0].cell_contents
    assert not found.holds()


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = (value,)
    return value


def test_what_lies_deeper_than_is_looked_may_change() -> None:
    assert fingerprint(nested(9)) is not None
    assert fingerprint(nested(10)) is None


def test_a_cell_that_is_empty_may_be_filled(make: Make) -> None:
    program = make(
        """
        def outer():
            def inner(): return value
            if False: value = 0
            return inner
        use = outer()
        """
    )
    assert fingerprint(program.module.use) is None


def test_what_no_runner_imports_may_change(make: Make) -> None:
    """A function of a module that nobody else can import travels by value, with its module's globals."""
    made = ModuleType("made_by_hand")
    exec("g = 1\ndef f(): return g\nclass C: pass", made.__dict__)
    assert fingerprint(made.f) is None
    assert fingerprint(made.C) is None
    assert fingerprint(textwrap.dedent) is not None
    assert fingerprint(textwrap.TextWrapper) is not None


# -- large globals -----------------------------------------------------------------------------------------------------

LARGE = 1 << 21


def _large_parts(program: Program) -> list[Any]:
    """The objects behind the large pieces of a call's payload."""
    parts = program.codec.encode_call(program.module.__dict__["use"], (), {})
    return [part.obj if isinstance(part, memoryview) else part for part in parts if len(part) >= LARGE]


def test_a_large_global_is_copied_only_if_it_has_changed(make: Make) -> None:
    program = make(f"data = bytearray({LARGE})\nuse = lambda: data")
    (first,), (second,) = _large_parts(program), _large_parts(program)
    assert first is second
    for place in (0, LARGE // 2, LARGE - 1):
        program.module.__dict__["data"][place] += 1
        (changed,), (again,) = _large_parts(program), _large_parts(program)
        assert changed is again
        assert changed is not second
        assert pickle.loads(changed) == {"data": program.module.__dict__["data"]}
        second = changed
    program.module.__dict__["data"].append(7)
    (longer,) = _large_parts(program)
    assert pickle.loads(longer) == {"data": program.module.__dict__["data"]}
    del program.module.__dict__["data"][LARGE - 5 :]
    program.module.__dict__["data"] += bytes(LARGE)
    (other,) = _large_parts(program)
    assert pickle.loads(other) == {"data": program.module.__dict__["data"]}
