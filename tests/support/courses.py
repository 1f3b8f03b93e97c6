"""Random courses of events for a state machine: several times as many a second as hypothesis makes.

The steps of the machine name the values that each argument may have. So a course is drawn without the machine, can be
played again, and is made smaller after it has failed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from typing import Any, TypeVar

Choices = dict[str, Collection[Any]]
Step = tuple[str, dict[str, Any]]
"""The name of a method, and its arguments."""
Method = TypeVar("Method", bound=Callable[..., None])

RARELY_LEFT_OUT = 0.1
OFTEN_LEFT_OUT = 0.8


def opening(**choices: Collection[Any]) -> Callable[[Method], Method]:
    """Mark the method that opens each course. `choices`: the values of each argument, likelier if listed twice."""
    return _mark("opening", choices)


def step(**choices: Collection[Any]) -> Callable[[Method], Method]:
    """Mark a method as a step that may come at any moment. `choices`: as for `opening`."""
    return _mark("step", choices)


def _mark(kind: str, choices: Choices) -> Callable[[Method], Method]:
    def mark(method: Method) -> Method:
        method.part_of_course = (kind, {name: list(values) for name, values in choices.items()})  # type: ignore[attr-defined]
        return method

    return mark


class StateMachine:
    """Base class of machines whose methods are marked as `opening` and `step`."""

    def end(self) -> None:
        """Check what must hold at the end of a course."""

    @classmethod
    def parts(cls, kind: str) -> list[tuple[str, Choices]]:
        """Return the names and choices of the methods that are marked as `kind`."""
        marked = [(name, getattr(cls, name).part_of_course) for name in dir(cls) if is_marked(getattr(cls, name))]
        return [(name, choices) for name, (its_kind, choices) in marked if its_kind == kind]


def is_marked(method: object) -> bool:
    return hasattr(method, "part_of_course")


def check_courses(machine: type[StateMachine], *, count: int, length: int, seed: int | None = None) -> None:
    """Play `count` random courses of `length` steps each; fail with the smallest course that still fails.

    Args:
        machine: each course gets one of its own.
        count: number of courses.
        length: number of steps after the opening.
        seed: the number that the failure of another run has named, to play the same courses; None = others each time.
    """
    seed = random.SystemRandom().getrandbits(32) if seed is None else seed
    dice = random.Random(seed)
    for _ in range(count):
        course = draw(machine, dice, length)
        if failure(machine, course) is not None:
            smallest = shrink(machine, course)
            raise AssertionError(f"{describe(smallest)}\n\n(seed={seed})") from failure(machine, smallest)


def draw(machine: type[StateMachine], dice: random.Random, length: int) -> list[Step]:
    """Draw a course. It leaves some kinds of step out: a frequent step may hide what others can do."""
    (opening_,) = machine.parts("opening")
    every = machine.parts("step")
    left_out = dice.uniform(RARELY_LEFT_OUT, OFTEN_LEFT_OUT)
    steps = [each for each in every if dice.random() >= left_out] or every
    parts = [opening_, *dice.choices(steps, k=length)]
    return [(name, {arg: dice.choice(values) for arg, values in choices.items()}) for name, choices in parts]


def failure(machine: type[StateMachine], course: list[Step]) -> Exception | None:
    """Play a course. Return how it failed, or None."""
    state = machine()
    try:
        for name, arguments in course:
            getattr(state, name)(**arguments)
        state.end()
    except Exception as error:
        return error
    return None


def shrink(machine: type[StateMachine], course: list[Step]) -> list[Step]:
    """Leave out steps, in ever smaller pieces, as long as the course fails nevertheless."""
    piece = len(course) // 2
    while piece:
        at = 1
        while at < len(course):
            shorter = course[:at] + course[at + piece :]
            if failure(machine, shorter) is None:
                at += piece
            else:
                course = shorter
        piece //= 2
    return course


def describe(course: list[Step]) -> str:
    """Return a course as the code that plays it."""
    calls = [f"{name}({', '.join(f'{arg}={value!r}' for arg, value in args.items())})" for name, args in course]
    return "\n".join(["a course fails:", *(f"state.{call}" for call in calls), "state.end()"])
