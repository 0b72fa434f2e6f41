"""The plan of a run: what is killed, cut and filled in which order; all of it follows from the seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tests.chaos.link import Trouble

T = TypeVar("T")

WEIGHTS = {"edge": 4, "hub": 4, "broker": 3, "influx": 3, "producer": 1}
"""How often each is a victim in comparison."""
ON_AT_ONCE_MOST = 3
"""Episodes in a row that begin before the line has recovered from the one before."""


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL for these, all at once; those that do not come back by themselves are started after `down_s`."""

    victims: tuple[str, ...]
    down_s: float


@dataclass(frozen=True, slots=True)
class Cut:
    """The link is in trouble for so long, whatever happens meanwhile."""

    trouble: Trouble
    for_s: float


@dataclass(frozen=True, slots=True)
class Fill:
    """The disk of `part` is full for so long, whatever happens meanwhile."""

    part: str
    for_s: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Time goes by."""

    seconds: float


Step = Kill | Cut | Fill | Pause


@dataclass(frozen=True, slots=True)
class Episode:
    """Steps, one after the other, and whether the line may recover before the next episode begins."""

    steps: tuple[Step, ...]
    recovers: bool

    @property
    def kills(self) -> int:
        """How many processes are killed."""
        return sum(len(step.victims) for step in self.steps if isinstance(step, Kill))


class _Bag:
    """Deals everything in it in random order before it begins anew: also a short run meets everything."""

    def __init__(self, content: Sequence[T], rng: random.Random) -> None:
        self._content = list(content)
        self._rng = rng
        self._left: list[T] = []

    def take(self) -> T:
        """The next."""
        if not self._left:
            self._left = list(self._content)
            self._rng.shuffle(self._left)
        return self._left.pop()


def plan(kills: int, seed: int, victims: Sequence[str], disks: Sequence[str]) -> Iterator[Episode]:
    """Episodes with exactly so many kills in all; the last one lets the line recover."""
    rng = random.Random(seed)
    who = _Bag([victim for victim in victims for _ in range(WEIGHTS[victim])], rng)
    troubles = _Bag(list(Trouble), rng)
    filled = _Bag(list(disks), rng)
    kinds = _Bag(["one"] * 5 + ["two"] * 2 + ["quick"] * 2 + ["cut"] * 4 + ["full"] * 2, rng)
    make: dict[str, Callable[[], list[Step]]] = {
        "one": lambda: [Kill((who.take(),), _down(rng))],
        "two": lambda: [Kill(_two(who), _down(rng))],
        "quick": lambda: _quick(who.take(), rng),
        "cut": lambda: _cut(troubles.take(), who, rng),
        "full": lambda: _full(filled.take(), who, rng),
    }
    left = kills
    on_at_once = 0
    while left:
        episode = Episode((Pause(rng.uniform(0.05, 0.8)), *make[kinds.take()]()), recovers=False)
        if episode.kills > left:
            episode = Episode((Pause(rng.uniform(0.05, 0.8)), Kill((who.take(),), _down(rng))), recovers=False)
        left -= episode.kills
        recovers = left == 0 or on_at_once == ON_AT_ONCE_MOST or rng.random() < 0.6
        on_at_once = 0 if recovers else on_at_once + 1
        yield Episode(episode.steps, recovers)


def _down(rng: random.Random) -> float:
    """Half of what is killed is started again at once."""
    return 0.0 if rng.random() < 0.5 else rng.uniform(0.05, 1.5)


def _two(who: _Bag) -> tuple[str, str]:
    first = second = who.take()
    while second == first:
        second = who.take()
    return first, second


def _quick(victim: str, rng: random.Random) -> list[Step]:
    """The same one again before it has recovered: while it starts, or in the midst of what it does first."""
    steps: list[Step] = [Kill((victim,), 0.0)]
    for _ in range(rng.randint(1, 2)):
        steps += [Pause(rng.choice((rng.uniform(0.0, 1.0), rng.uniform(1.0, 5.0)))), Kill((victim,), 0.0)]
    return steps


def _cut(trouble: Trouble, who: _Bag, rng: random.Random) -> list[Step]:
    """With a kill in the midst of it every other time."""
    cut = Cut(trouble, rng.uniform(0.1, 3.0))
    if rng.random() < 0.5:
        return [cut]
    return [cut, Pause(rng.uniform(0.0, cut.for_s)), Kill((who.take(),), _down(rng))]


def _full(part: str, who: _Bag, rng: random.Random) -> list[Step]:
    """With a kill while the disk is full every other time."""
    fill = Fill(part, rng.uniform(1.0, 4.0))
    if rng.random() < 0.5:
        return [fill]
    return [fill, Pause(rng.uniform(0.3, fill.for_s)), Kill((who.take(),), _down(rng))]
