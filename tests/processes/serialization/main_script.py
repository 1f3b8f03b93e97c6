"""A script like a user's: `test_main` runs it as one, in every way in which Python runs scripts.

It is not imported from here: a copy of this text, with or without a guard at its end, becomes some process's
``__main__``.
"""

import abc
import collections
import dataclasses
import enum
import functools
import json
import os
import sys
import threading
import traceback
import xml.etree.ElementTree
from typing import Generic, NamedTuple, NewType, ParamSpec, TypeVar

from dragonfly_executor.errors import CallSerializationError, RemoteTraceback
from tests.support.codec_process import CodecProcess

IMPORTED = False  # the end of a copy says how it is
T = TypeVar("T")
P = ParamSpec("P")
UserId = NewType("UserId", int)
FACTOR = 3
__version__ = "1.2"
model = None
hidden = "the parent's"
seen = []
lock = threading.Lock()
PARENT = int(os.environ.setdefault("MAIN_SCRIPT_PARENT", str(os.getpid())))


def initialize(value):
    global model
    model = value


def initialize_dynamically(value):
    globals()["hidden"] = value


def read_hidden():
    return hidden


def use_model(number):
    return model, number * FACTOR


def factorial(number):
    return 1 if number < 2 else number * factorial(number - 1)


def is_even(number):
    return number == 0 or is_odd(number - 1)


def is_odd(number):
    return number != 0 and is_even(number - 1)


def with_lock():
    with lock:
        return "locked"


def attribute_named_lock(thing):
    return thing.lock


def root_tag():
    return xml.etree.ElementTree.fromstring("<root/>").tag


def local_import():
    import lock_like_name_that_does_not_exist as lock

    return lock


def remember(item):
    seen.append(item)
    return len(seen)


def through_main():
    import __main__

    return __main__.FACTOR, __main__.__name__


def main_is_not_the_parents():
    return os.getpid() != PARENT


def read_version():
    return __version__


def pid_of_slot():
    return os.getpid()


class Base:
    level = 1

    def who(self):
        return type(self).__name__, FACTOR


class Point(Base):
    default = None

    def __init__(self, x):
        self.x = x

    def __eq__(self, other):
        return isinstance(other, Point) and self.x == other.x

    __hash__ = None

    class Inner:
        pass

    def up(self):
        return super().who()

    @staticmethod
    def static():
        return helper()

    @classmethod
    def build(cls):
        return cls(1)

    @property
    def prop(self):
        return self.x

    @functools.cached_property
    def cached(self):
        return self.x * 2


Point.default = Point(7)


def helper():
    return "helped"


def defaults(point=Point(3), *, factor=FACTOR):
    return point.x + factor


@dataclasses.dataclass
class Data:
    point: Point
    data: "Data | None" = None
    items: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    x: int


class Slotted:
    __slots__ = ("a", "b")

    def __init__(self, a):
        self.a = a


class Color(enum.Enum):
    RED = 1
    BLUE = "b"

    def nice(self):
        return self.name.lower()


class Flag(enum.IntFlag):
    A = 1
    B = 2


class Named(NamedTuple):
    a: int
    b: str = "x"


Pair = collections.namedtuple("Pair", "x y")


class Box(Generic[T]):
    def __init__(self, item: T):
        self.item = item

    def get(self) -> T:
        return self.item


class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self): ...


class Square(Shape):
    def area(self):
        return 4


class Meta(type):
    def __new__(mcls, name, bases, namespace):
        namespace["made_by"] = "Meta"
        return super().__new__(mcls, name, bases, namespace)


class WithMeta(metaclass=Meta):
    pass


class Singleton:
    def __reduce__(self):
        return "SINGLETON"


SINGLETON = Singleton()


class One:
    pass


class Two:
    pass


One.other = Two
Two.other = One


class Callable_:
    def __call__(self, number):
        return number * FACTOR


class Problem(Exception):
    def __init__(self, text, code):
        super().__init__(text)
        self.code = code

    def __reduce__(self):
        return Problem, (self.args[0], self.code)


class Stubborn(Exception):
    def __init__(self, one, two):
        super().__init__("only one")


def raise_problem():
    raise Problem("text", 2)


def raise_stubborn():
    raise Stubborn(1, 2)


def decorate(function):
    @functools.wraps(function)
    def wrapper(*args):
        return "decorated", function(*args)

    return wrapper


@decorate
def decorated(number):
    return number + FACTOR


@functools.lru_cache(None)
def cached(number):
    return number * FACTOR


@functools.singledispatch
def dispatched(thing):
    return "any"


@dispatched.register
def _(thing: int):
    return "int"


def annotated(user: UserId) -> T:
    return user


def local_class():
    class Local(Base):
        factor = FACTOR

    return Local().who(), Local.factor


def make_lambda():
    return lambda number: number * FACTOR


def generator(count):
    yield from (FACTOR * number for number in range(count))


def items(count):
    return list(generator(count))


def nested(number):
    with CodecProcess() as far:
        return far(use_model, number), far(lambda: Point(number)), far(pid_of_slot) != os.getpid()


# The cases. They share one slot, and none relies on what another left there.


def case_is_another_process(far):
    assert far(main_is_not_the_parents)


def case_global_of_an_initializer(far):
    far(initialize, "loaded")
    assert far(use_model, 2) == ("loaded", 6)
    assert far(lambda: model) == "loaded"
    assert model is None


def case_global_set_dynamically(far):
    far(initialize_dynamically, "the slot's")
    assert far(read_hidden) == "the slot's"


def case_mutated_global_stays(far):
    assert [far(remember, 0) for _ in range(3)] == [1, 2, 3]
    assert seen == []


def case_recursion(far):
    assert far(factorial, 5) == 120
    assert far(is_even, 10)


def case_classes(far):
    point = far(Point, 4)
    assert type(point) is Point
    assert point == Point(4)
    assert far(Point.build) == Point(1)
    assert far(Point.static) == "helped"
    assert far(Point(9).up) == ("Point", FACTOR)
    assert far(lambda point: (point.prop, point.cached), Point(3)) == (3, 6)
    assert type(far(lambda: Point.Inner())) is Point.Inner
    assert far(lambda: Point.default.x) == 7
    assert far(lambda: isinstance(Point(1), Base))
    assert far(lambda point: type(point) is Point, Point(1))
    assert far(lambda: Point) is Point
    assert [type(item) for item in far(lambda: [Point(1), Base()])] == [Point, Base]


def case_kinds_of_classes(far):
    assert far(Data, Point(2)) == Data(Point(2))
    assert far(dataclasses.replace, Data(Point(2)), items=[1]) == Data(Point(2), items=[1])
    assert far(Frozen, 1) == Frozen(1)
    assert far(Slotted, 5).a == 5
    assert far(lambda color: color is Color.RED, Color.RED)
    assert far(lambda: Color.BLUE) is Color.BLUE
    assert far(Color.RED.nice) == "red"
    assert far(lambda: Flag.A | Flag.B) == Flag.A | Flag.B
    assert far(Named, 3) == Named(3)
    assert type(far(Pair, 3, 4)) is Pair
    assert far(Box(5).get) == 5
    assert type(far(lambda: Box[int](5))) is Box
    assert far(Square().area) == 4
    assert far(lambda: WithMeta.made_by) == "Meta"
    assert type(far(WithMeta)) is WithMeta
    assert far(Callable_(), 2) == 6
    assert far(lambda one: one is SINGLETON, SINGLETON)
    assert far(lambda: SINGLETON) is SINGLETON


def case_classes_that_need_each_other(far):
    assert far(lambda: One.other.other is One)
    assert far(lambda thing: type(thing).other is Two, One())


def case_functions(far):
    assert far(decorated, 1) == ("decorated", 4)
    assert far(cached, 2) == 6
    assert far(dispatched, 1) == "int"
    assert far(dispatched, "") == "any"
    assert far(defaults) == 6
    assert far(annotated, 4) == 4
    assert far(functools.partial(use_model, 2))[1] == 6
    assert far(local_class) == (("Local", 3), 3)
    assert far(items, 3) == [0, 3, 6]
    assert far(map, str, [1]) is not None
    assert far(read_version) == "1.2"
    assert far(make_lambda)(2) == 6
    assert far(factorial.__class__, factorial.__code__, {}).__name__ == "factorial"
    assert far(lambda: factorial) is factorial


def case_modules(far):
    assert far(root_tag) == "root"
    assert far(lambda: json.dumps([FACTOR])) == "[3]"
    name = "__mp_main__" if IMPORTED else "__main__"
    assert far(through_main) == (FACTOR, name)


def case_names_that_are_not_globals(far):
    # Each uses the word "lock", none the global, which cannot be pickled.
    assert far(attribute_named_lock, Slotted) is None if hasattr(Slotted, "lock") else True
    assert isinstance(far.error(local_import), ModuleNotFoundError)


def case_errors(far):
    error = far.error(raise_problem)
    assert type(error) is Problem
    assert error.code == 2
    assert isinstance(error.__cause__, RemoteTraceback)
    assert "raise_problem" in error.__cause__.text
    error = far.error(raise_stubborn)
    assert type(error) is Stubborn
    assert str(error) == "only one"


def case_retry_on_own_class(far):
    assert far.retryable((Problem,), raise_problem)
    assert not far.retryable((Stubborn,), raise_problem)


def case_unpicklable_global(far):
    if IMPORTED:
        assert far(with_lock) == "locked"
        return
    try:
        far(with_lock)
    except CallSerializationError as error:
        assert "'lock'" in str(error), error
    else:
        raise AssertionError("the lock cannot have travelled")
    assert far(factorial, 3) == 6


def case_changed_global(far):
    global model
    far(initialize, "loaded")
    model = "the parent's new one"
    try:
        # A script that is imported is imported once; one that is not brings what has changed.
        assert far(use_model, 1)[0] == ("loaded" if IMPORTED else model)
    finally:
        model = None


def case_new_global(far):
    global defined_late
    try:
        defined_late = [1]
        assert far(lambda: defined_late) == [1]  # noqa: F821
        defined_late.append(2)
        assert far(lambda: defined_late) == [1, 2]  # noqa: F821
    finally:
        del defined_late


def case_slot_of_a_slot(far):
    far(initialize, "loaded")
    # The slot's slot is imported too, or gets what has changed in the slot: there the slot is the parent.
    assert far(nested, 2) == ((None if IMPORTED else "loaded", 6), Point(2), True)


def case_nothing_of_the_process_below(far):
    assert far(lambda: "serve" in vars(sys.modules["__main__"])) is False


def run():
    failures = []
    with CodecProcess(os.environ.get("MAIN_SCRIPT_SERIALIZER", "cloudpickle")) as far:
        for name, case in list(globals().items()):
            if name.startswith("case_"):
                try:
                    case(far)
                except BaseException:
                    failures.append(f"{name}\n{traceback.format_exc()}")
    print("\n".join(failures) or "all well")
