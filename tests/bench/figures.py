"""A figure with its goal, and how figures are printed and kept."""

from __future__ import annotations

import json
import operator
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

COMPARE = {"<=": operator.le, ">=": operator.ge}


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value. `goal` is such as `<= 60`, or empty where none is set; `met` is None then."""

    name: str
    value: float
    unit: str
    goal: str = ""
    met: bool | None = None


def figure(name: str, value: float, unit: str, goal: str = "") -> Figure:
    """A figure judged against its goal."""
    met = None
    if goal:
        sign, _, bound = goal.partition(" ")
        met = COMPARE[sign](value, float(bound))
    return Figure(name, round(value, 3), unit, goal, met)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median(values: Sequence[float]) -> float:
    """The middle value."""
    return statistics.median(values)


def table(figures: Sequence[Figure]) -> str:
    """The figures as text, one a line."""
    width = max(len(f.name) for f in figures)
    words = {True: "met", False: "MISSED", None: ""}
    lines = [f"{'figure':<{width}}  {'value':>12}  {'unit':<12}{'goal':<12}"]
    lines += [f"{f.name:<{width}}  {f.value:>12,.3f}  {f.unit:<12}{f.goal:<12}{words[f.met]}" for f in figures]
    return "\n".join(lines)


def write(figures: Sequence[Figure], path: Path) -> None:
    """The figures as a JSON list of {name, value, unit, goal, met}."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(f) for f in figures], indent=1) + "\n", "utf-8")
