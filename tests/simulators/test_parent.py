"""A simulator leaves with the program that started it; otherwise a crashed demo would leave processes behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CHILD = """
import asyncio
from simulators.parent import until_parent_ends

async def work():
    print("ready", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        print("closed", flush=True)

asyncio.run(until_parent_ends(work()))
"""
FAILING = """
import asyncio
from simulators.parent import until_parent_ends

async def work():
    raise SystemError("a fault of the simulator")

asyncio.run(until_parent_ends(work()))
"""


def start(program: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def test_it_ends_in_order_when_its_standard_input_closes() -> None:
    with start(CHILD) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        out, err = child.communicate(timeout=20)
    assert (child.returncode, out, err) == (0, "closed\n", "")


def test_a_fault_of_the_simulator_is_not_hidden() -> None:
    with start(FAILING) as child:
        _, err = child.communicate(timeout=20)
    assert child.returncode == 1
    assert "a fault of the simulator" in err
