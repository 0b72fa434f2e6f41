"""`python -m tests.bench [PART ...]`: measure all parts, or those named."""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path

from tests.bench.figures import Figure, table, write

PARTS = ("edge", "hub", "live", "demo", "page")
OUT = Path(__file__).resolve().parents[2] / "build" / "bench.json"


def main() -> int:
    """Measure, print, write; the exit code is 0 also where a figure is missed: a miss is said, not a failure."""
    parts = sys.argv[1:] or PARTS
    figures: list[Figure] = []
    for number, part in enumerate(parts, 1):
        print(f"[{number}/{len(parts)}] {part} ...", end=" ", flush=True, file=sys.stderr)
        begin = time.monotonic()
        figures += importlib.import_module(f"tests.bench.{part}").measure()
        print(f"{time.monotonic() - begin:.0f} s", file=sys.stderr)
    print(table(figures))
    write(figures, OUT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
