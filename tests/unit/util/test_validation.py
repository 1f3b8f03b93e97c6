"""Functions that only make a coroutine or a generator are refused before anything is sent."""

from __future__ import annotations

import functools
import types
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from dragonfly_executor.serialization import CallCodec
from tests.support import importable


async def coroutine(x: int = 0) -> int:
    return x


def generator() -> Iterator[int]:
    yield 1


async def both() -> AsyncIterator[int]:
    yield 1


@types.coroutine
def old_coroutine() -> Any:
    yield


class Service:
    async def __call__(self) -> None:
        pass

    async def method(self) -> None:
        pass

    def items(self) -> Iterator[int]:
        yield 1

    @classmethod
    async def of_class(cls) -> None:
        pass

    @staticmethod
    async def static() -> None:
        pass


class Looping:
    def __init__(self) -> None:
        self.__wrapped__ = self


class Evil:
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __call__(self) -> int:
        return 1


@pytest.mark.parametrize(
    ("fn", "said"),
    [
        (coroutine, r"coroutine\(\) is an `async def` function"),
        (generator, r"generator\(\) is a generator function"),
        (both, r"both\(\) is an asynchronous generator function"),
        (old_coroutine, r"old_coroutine\(\) is an `async def` function"),
        (functools.partial(coroutine, 1), r"coroutine\(\) is"),
        (functools.partial(functools.partial(Service().method)), r"Service.method\(\) is"),
        (functools.lru_cache(coroutine), r"coroutine\(\) is"),
        (staticmethod(coroutine), r"coroutine\(\) is"),
        (Service(), r"Service.__call__\(\) is"),
        (Service().method, r"Service.method\(\) is"),
        (Service().items, r"Service.items\(\) is a generator"),
        (Service.of_class, r"Service.of_class\(\) is"),
        (Service.static, r"Service.static\(\) is"),
        (lambda: (yield), r"<lambda>\(\) is a generator"),
    ],
)
@pytest.mark.parametrize("serializer", ["cloudpickle", "pickle"])
def test_what_runs_nothing_when_it_is_called_is_refused(fn: Any, said: str, serializer: str) -> None:
    with pytest.raises(TypeError, match=said):
        CallCodec(serializer).encode_call(fn, (), {})


@pytest.mark.parametrize(
    "fn",
    [
        importable.same,
        len,
        str,
        dict.fromkeys,
        importable.Thing,
        importable.Thing(1).double,
        functools.partial(importable.add, 1),
    ],
)
def test_all_else_goes(fn: Any) -> None:
    assert CallCodec().encode_call(fn, (), {})


def test_looking_harms_nothing() -> None:
    looping = functools.partial(importable.same)
    looping.__dict__["func"] = looping
    assert CallCodec().encode_call(Looping(), (), {})
    assert CallCodec().encode_call(Evil(), (), {})
