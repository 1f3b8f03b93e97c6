"""Loads for simulations: seeded, so the same at each run."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator

from dragonfly_executor.simulation.trace import TraceCall

Calls = Iterator[tuple[float, float] | tuple[float, float, str]]


def poisson(dice: random.Random, rate: Callable[[float], float], most: float, end: float) -> Iterator[float]:
    """Arrivals at a rate that changes, up to `most` a second, until `end`."""
    now = dice.expovariate(most)
    while now < end:
        if dice.random() * most < rate(now):
            yield now
        now += dice.expovariate(most)


def steady(dice: random.Random) -> Calls:
    """A call a second, of 3 s."""
    for now in poisson(dice, lambda _: 1.0, 1.0, 1800):
        yield now, dice.uniform(2.0, 4.0)


def sparse(dice: random.Random) -> Calls:
    """A call every 90 s, of 4 s."""
    for now in poisson(dice, lambda _: 1 / 90, 1 / 90, 4 * 3600):
        yield now, dice.uniform(2.0, 6.0)


def bursts(dice: random.Random) -> Calls:
    """A hundred calls of 2 s at once, every few minutes."""
    now = 0.0
    for _ in range(15):
        now += dice.uniform(120, 400)
        for _ in range(100):
            yield now + dice.uniform(0, 2), dice.uniform(1.0, 3.0)


def cron(dice: random.Random) -> Calls:
    """Twenty calls of 10 s every five minutes."""
    for minute in range(0, 120, 5):
        for _ in range(20):
            yield minute * 60.0 + dice.uniform(0, 0.5), dice.uniform(8.0, 12.0)


def long_among_short(dice: random.Random) -> Calls:
    """Two calls a second of half a second, and one in fifty takes two minutes."""
    for now in poisson(dice, lambda _: 2.0, 2.0, 1800):
        yield now, 120.0 if dice.random() < 0.02 else dice.uniform(0.3, 0.7)


def thumbnails(dice: random.Random) -> Calls:
    """Albums of a few hundred pictures, each of which takes 0.15 s."""
    for start in poisson(dice, lambda _: 1 / 40, 1 / 40, 3600):
        for _ in range(dice.choice([10, 30, 100, 300])):
            yield start + dice.uniform(0, 3), dice.uniform(0.1, 0.2)


def diurnal(dice: random.Random) -> Calls:
    """A day of four hours: from a call in 40 s to two a second, of 5 s."""
    for now in poisson(dice, lambda t: 1.0 - 0.975 * math.cos(t * math.tau / 14400), 2.0, 14400):
        yield now, dice.expovariate(1 / 5.0)


def heavy_tailed(dice: random.Random) -> Calls:
    """Most calls are short, and a few make up most of the work."""
    for now in poisson(dice, lambda _: 0.5, 0.5, 3600):
        yield now, min(600.0, 0.5 * dice.paretovariate(1.1))


def batch(dice: random.Random) -> Calls:
    """Four hundred calls of half a minute, all at once."""
    for _ in range(400):
        yield 0.0, dice.uniform(20.0, 40.0)


def ramp(dice: random.Random) -> Calls:
    """From nothing to four calls a second within an hour, of 3 s."""
    for now in poisson(dice, lambda t: 4.0 * t / 3600, 4.0, 3600):
        yield now, dice.uniform(2.0, 4.0)


def on_and_off(dice: random.Random) -> Calls:
    """Busy for some minutes, then silent for some."""
    now = 0.0
    while now < 7200:
        end = now + dice.expovariate(1 / 240)
        for at in poisson(dice, lambda _: 2.0, 2.0, end - now):
            yield now + at, dice.uniform(0.5, 3.5)
        now = end + dice.expovariate(1 / 300)


def changing(dice: random.Random) -> Calls:
    """Calls of 0.2 s for half an hour, then of 20 s."""
    for now in poisson(dice, lambda t: 3.0 if t < 1800 else 0.3, 3.0, 3600):
        yield now, dice.uniform(0.1, 0.3) if now < 1800 else dice.uniform(15.0, 25.0)


def pictures_and_films(dice: random.Random) -> Calls:
    """Albums of pictures, each of which takes 0.2 s, and folders of films, each of which takes 20 s."""
    for start in poisson(dice, lambda _: 1 / 40, 1 / 40, 3600):
        if dice.random() < 0.5:
            for _ in range(dice.choice([30, 100, 300])):
                yield start + dice.uniform(0, 3), dice.uniform(0.1, 0.3), "picture"
        else:
            for _ in range(dice.choice([3, 10, 30])):
                yield start + dice.uniform(0, 3), dice.uniform(10.0, 30.0), "film"


LOADS = {
    load.__name__: load
    for load in (
        steady, sparse, bursts, cron, long_among_short, thumbnails, diurnal, heavy_tailed, batch, ramp, on_and_off,
        changing,
    )
}  # fmt: skip


KEYED = {"pictures_and_films": pictures_and_films}
"""Loads whose calls have keys."""


def load(name: str, seed: str = "") -> list[TraceCall]:
    """Return the calls of a load in order of arrival. Each seed gives other calls of the same sort."""
    return sorted(TraceCall(*call) for call in (LOADS | KEYED)[name](random.Random(name + seed)))
