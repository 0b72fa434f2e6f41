"""The table of `make bench` is what people quote: a miss must be called one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench.figures import figure, percentile, table, write


@pytest.mark.parametrize(
    ("value", "goal", "met"), [(60.0, "<= 60", True), (60.1, "<= 60", False), (5, ">= 6", False), (7, "", None)]
)
def test_a_figure_is_judged_by_its_goal(value: float, goal: str, met: bool | None) -> None:
    """A regression would be printed as met."""
    assert figure("a", value, "ms", goal).met is met


def test_a_miss_too_small_to_print_is_still_a_miss() -> None:
    """Rounding first would turn 60.0004 into a goal met."""
    assert figure("a", 60.0004, "ms", "<= 60").met is False


def test_percentiles_are_measured_values() -> None:
    """A p99 below the slowest hundredth would hide the stalls that people feel."""
    values = [float(i) for i in range(100, 0, -1)]
    assert [percentile(values, share) for share in (0, 0.5, 0.99, 1)] == [1, 51, 100, 100]


def test_the_table_and_the_file_tell_the_same(tmp_path: Path) -> None:
    """Whoever reads build/bench.json would be told another result than the terminal."""
    figures = [figure("delay", 61, "ms", "<= 60"), figure("rate", 1234.5, "samples/s")]
    lines = table(figures).splitlines()
    assert lines[1].split() == ["delay", "61.000", "ms", "<=", "60", "MISSED"]
    assert lines[2].split() == ["rate", "1,234.500", "samples/s"]
    write(figures, tmp_path / "build" / "bench.json")
    assert json.loads((tmp_path / "build" / "bench.json").read_text("utf-8")) == [
        {"name": "delay", "value": 61, "unit": "ms", "goal": "<= 60", "met": False},
        {"name": "rate", "value": 1234.5, "unit": "samples/s", "goal": "", "met": None},
    ]
