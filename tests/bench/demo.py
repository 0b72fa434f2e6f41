"""How long `epip-demo` takes from its start to the line with address and sign-ins, each time in a new data folder."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from tests.bench.figures import Figure, figure, median
from tests.bench.programs import Program
from tests.brokers import free_port

RUNS = 3
LEAVE_S = 120
"""Ends a demo whose measurement was cut off in whatever way."""


def measure() -> list[Figure]:
    """The median of the runs: what is needed was set up before."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        times = [_start_s(Path(scratch, str(run))) for run in range(RUNS)]
    return [figure(f"demo: start after set-up, median of {RUNS}", median(times), "s", "<= 10")]


def demo(folder: Path) -> Program:
    """The simulated workshop; its first line is JSON with `address` and `sign_ins`."""
    folder.mkdir(parents=True)
    arguments = ("--json", "--port", str(free_port()), "--data", str(folder / "data"), "--exit-after", str(LEAVE_S))
    return Program(folder, "demo", "-m", "simulators.workshop", *arguments, ends_with_input=False)


def _start_s(folder: Path) -> float:
    begin = time.monotonic()
    with demo(folder) as program:
        program.line("{")
        return time.monotonic() - begin
