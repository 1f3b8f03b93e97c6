"""Calls that submit calls: `Parent.pool()` keeps the types of functions, and `Parent.get().pool` is a name."""

from typing import assert_type

from dragonfly_executor import Parent


async def later(value: int) -> str:
    return str(value)


def total(number: int) -> int:
    pool = Parent.pool()
    assert_type(pool.submit(total, number - 1).result(), int)
    assert_type(pool.options(run_timeout=5, retries=1).submit(later, 1).result(), str)
    assert_type(pool.call(total, 1), int)
    pool.submit(total, "3")  # error: call-overload, reportArgumentType, reportCallIssue
    pool.options(timeuot=5)  # error: call-arg, reportCallIssue
    return sum(pool.map(total, range(number)))


async def total_later(number: int) -> int:
    pool = Parent.pool()
    assert_type(await pool.submit(total, number), int)
    return await pool.acall(total, number)


def name() -> str:
    parent = Parent.get()
    assert parent is not None
    return assert_type(parent.pool, str)
