"""`OptionSet`: a class whose body states each option once: its name, its default and its check."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    import inspect
    from typing import Any, ClassVar, TypeVar

    V = TypeVar("V")


class Option:
    """An option of a set.

    Args:
        default: the value if the user gives none. It is checked too.
        check: gets a value and the option's name. Returns the value to keep, or raises.
    """

    __slots__ = ("check", "default")

    def __init__(self, default: object, check: Callable[[Any, str], object]) -> None:
        self.default = default
        self.check = check


if TYPE_CHECKING:

    def option(default: object, check: Callable[[Any, str], V]) -> V:
        """State an option in the body of a set. An instance has the value that `check` returned."""
        raise NotImplementedError
else:
    option = Option


class OptionSet:
    """A set of options. A subclass states its options in its body, each as ``name = option(default, check)``."""

    KIND: ClassVar[str] = ""
    """Word before "option" in the error for an unknown name."""
    OPTIONS: ClassVar[dict[str, Option]] = {}

    def __init_subclass__(cls) -> None:
        cls.OPTIONS = {name: value for name, value in vars(cls).items() if type(value) is Option}
        for name in cls.OPTIONS:
            delattr(cls, name)
        type.__setattr__(cls, "__match_args__", tuple(cls.OPTIONS))

    def _take(self, given: Mapping[str, Any]) -> None:
        """Check and keep each option, in the order of the body.

        Raises:
            TypeError: a name is not an option, or a value has the wrong type.
            ValueError: a value is out of range.
        """
        for name in given:
            if name not in self.OPTIONS:
                raise TypeError(
                    f"no such {self.KIND}option: {name!r}; the options are {', '.join(sorted(self.OPTIONS))}"
                )
        for name, stated in self.OPTIONS.items():
            setattr(self, name, stated.check(given.get(name, stated.default), name))


class OptionSignature:
    """The `__signature__` of a class with ``**options``: `inspect.signature` and `help` list each option.

    The signature is made when it is asked for, because `inspect` is slow to import.

    Args:
        sets: the sets of options that ``**options`` takes. A set takes its own options.
        defaults: defaults of this class that differ from those of the sets.
    """

    def __init__(self, *sets: type[OptionSet], **defaults: object) -> None:
        self._sets = sets
        self._defaults = defaults
        self._init: Any = None

    def __set_name__(self, owner: type, _name: str) -> None:
        self._init = vars(owner)["__init__"]

    def __get__(self, _instance: object, owner: type) -> inspect.Signature:
        init: Any = getattr(owner, "__init__", None)
        if init is not self._init:
            raise AttributeError("__signature__")  # a subclass has a signature of its own
        import inspect

        from dragonfly_executor.engine.option_keywords import types_by_name

        own = inspect.signature(init)
        named = [each for each in own.parameters.values() if each.kind is not each.VAR_KEYWORD][1:]
        taken, types = {each.name for each in named}, types_by_name()
        sets = (*self._sets, owner) if issubclass(owner, OptionSet) else self._sets
        for options in sets:
            for name, stated in options.OPTIONS.items():
                if name not in taken:
                    default = self._defaults.get(name, stated.default)
                    kind = inspect.Parameter.KEYWORD_ONLY
                    named.append(inspect.Parameter(name, kind, default=default, annotation=types[name]))
        return own.replace(parameters=named)
