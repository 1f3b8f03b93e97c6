"""Functions that only make a coroutine or a generator are refused before anything is sent."""

from __future__ import annotations

import functools
import types
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from dragonfly_executor.serialization import CallCodec
from dragonfly_executor.util import validation
from tests.support import importable
from tests.support.helpers import without_addresses


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
        (generator, r"generator\(\) is a generator function"),
        (both, r"both\(\) is an asynchronous generator function"),
        (old_coroutine, r"old_coroutine\(\) is a generator that `types.coroutine` wraps"),
        (functools.partial(generator), r"generator\(\) is"),
        (functools.partial(functools.partial(Service().items)), r"Service.items\(\) is"),
        (functools.lru_cache(generator), r"generator\(\) is"),
        (staticmethod(both), r"both\(\) is"),
        (Service().items, r"Service.items\(\) is a generator"),
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
    assert not validation.is_async(fn)


@pytest.mark.parametrize(
    "fn",
    [
        coroutine,
        functools.partial(coroutine, 1),
        functools.partial(functools.partial(Service().method)),
        functools.lru_cache(coroutine),
        staticmethod(coroutine),
        Service(),
        Service().method,
        Service.of_class,
        Service.static,
    ],
    ids=without_addresses,
)
def test_an_asynchronous_function_goes_and_is_known(fn: Any) -> None:
    assert validation.is_async(fn)
    validation.refuse(fn)


def test_looking_harms_nothing() -> None:
    looping = functools.partial(importable.same)
    looping.__dict__["func"] = looping
    assert CallCodec().encode_call(Looping(), (), {})
    assert CallCodec().encode_call(Evil(), (), {})
