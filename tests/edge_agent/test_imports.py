"""An old workshop PC has little memory: a protocol that is not used must not be paid for, nor anything of the hub."""

from __future__ import annotations

import subprocess
import sys

import pytest

from edge_agent.sources import SOURCES

HEAVY = ("fastapi", "starlette", "duckdb", "sqlalchemy", "pyarrow", "asyncua", "pandas", "hub", "simulators")
CODE = """
import sys
from importlib import import_module
for name in sys.argv[1].split(","):
    import_module(name)
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def imported_by(*modules: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", CODE, ",".join(modules)], capture_output=True, text=True, check=True, timeout=50
    )
    return set(done.stdout.split())


def test_the_agent_and_every_source_but_opcua_import_nothing_heavy() -> None:
    sources = [place.partition(":")[0] for protocol, place in SOURCES.items() if protocol != "opcua"]
    assert not imported_by("edge_agent.cli", "edge_agent.agent", *sources) & set(HEAVY)


@pytest.mark.parametrize(
    ("protocol", "without"), [("mqtt", {"serial", "asyncua"}), ("cyton", {"asyncua"}), ("opcua", {"serial", "fastapi"})]
)
def test_a_source_does_not_bring_the_library_of_another(protocol: str, without: set[str]) -> None:
    assert not imported_by(SOURCES[protocol].partition(":")[0]) & without


USE = """
import sys
import numpy as np
from edge_agent.eeg_measures import line_ratio, spectrum
from edge_agent.sample_clock import SampleClock
frequencies, density = spectrum(np.sin(np.arange(4000.0)).reshape(8, 500), 250)
line_ratio(frequencies, density, np.zeros(8, dtype=bool), 50)
clock = SampleClock(4e6)
for second in range(30):
    clock.observe(second * 250, second * 1_000_000_000)
    clock.times(np.arange(second * 250, second * 250 + 250))
print("numpy.ma" in sys.modules)
"""


def test_measuring_eeg_does_not_bring_in_masked_arrays() -> None:
    done = subprocess.run([sys.executable, "-c", USE], capture_output=True, text=True, check=False, timeout=50)
    assert done.stdout.strip() == "False", done.stderr
