"""`python -m tests.bench [PART ...]`: measure all parts, or those named."""

from __future__ import annotations

import importlib
import os
import sys
import time
from pathlib import Path

from tests.bench.figures import Figure, table, write
from tests.bench.programs import NotReady

PARTS = ("edge", "spool", "hub", "store", "influx", "live", "demo", "page")
OUT = Path(__file__).resolve().parents[2] / "build" / "bench.json"


def main() -> int:
    """Measure, print, write; the exit code is 0 also where a figure is missed: a miss is said, not a failure.

    It is 1 where a part could not be measured at all.
    """
    parts = sys.argv[1:] or PARTS
    figures: list[Figure] = []
    failed = False
    for number, part in enumerate(parts, 1):
        print(f"[{number}/{len(parts)}] {part} ({_load()}) ...", end=" ", flush=True, file=sys.stderr)
        begin = time.monotonic()
        try:
            figures += importlib.import_module(f"tests.bench.{part}").measure()
        except NotReady as error:
            print(f"not measured: {error}", file=sys.stderr)
            failed = True
        else:
            print(f"{time.monotonic() - begin:.0f} s", file=sys.stderr)
    if figures:
        print(table(figures))
        write(figures, OUT)
    return int(failed)


def _load() -> str:
    """What else the machine does, as it spoils every figure. Windows does not tell."""
    if not hasattr(os, "getloadavg"):
        return "load unknown"
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


if __name__ == "__main__":
    sys.exit(main())
