"""`python -m tests.chaos.table`: puts the figures of build/chaos-*.json into docs/reference/reliability.md.

A run stands in the table until one of the same store and broker takes its place.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from tests.chaos.parts import ROOT

PAPER = ROOT / "docs" / "reference" / "reliability.md"
BEGIN = "<!-- runs: python -m tests.chaos.table -->"
END = "<!-- end of runs -->"
HEAD = (
    "| Store | Broker | Seed | Killed | Link troubles | Disks filled | Lost by InfluxDB | Sent again "
    "| Values made | Said to be lost | Values compared "
    "| Lost | Duplicated | Altered | Unsaid | Slowest recovery | Duration |"
)
RULE = "|---|---|" + "---:|" * 15
NAMES = {"duckdb": "DuckDB", "influx": "InfluxDB", "nats": "NATS", "mosquitto": "Mosquitto"}


def row(run: Mapping[str, Any]) -> str:
    """One run as a row of the table."""
    killed = ", ".join(f"{part} {count}" for part, count in sorted(run["killed"].items()))
    cells = [
        NAMES[run["store"]],
        NAMES[run["broker"]],
        run["seed"],
        f"{run['kills']}: {killed}",
        sum(run["link_troubles"].values()),
        sum(run["disks_filled"].values()),
        f"{run['lost_by_server']:,} batches, stored again" if run["lost_by_server"] else "none",
        f"{run['redeliveries']:,} of {run['batches']:,} batches",
        f"{run['made']:,}",
        f"{run['said'] + run['tolerated']:,}",
        f"{run['committed']:,}",
        run["lost"],
        run["duplicated"],
        run["altered"],
        run["unsaid"],
        f"{run['slowest_recovery_s']:.0f} s",
        f"{run['duration_s'] / 60:.0f} min",
    ]
    return f"| {' | '.join(map(str, cells))} |"


def with_runs(paper: str, runs: list[Mapping[str, Any]]) -> str:
    """The paper with these runs in its table, in place of former ones of the same store and broker.

    Raises ValueError where the paper has no place for the table.
    """
    before, begin, rest = paper.partition(BEGIN)
    old, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"expected {BEGIN} and {END} around the table")
    rows = {_key(line): line for line in old.splitlines() if line.startswith("| ") and line != HEAD}
    rows |= {_key(row(run)): row(run) for run in runs}
    table = "\n".join([HEAD, RULE, *(rows[key] for key in sorted(rows))])
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"


def _key(line: str) -> tuple[str, str]:
    store, broker = line.split("|")[1:3]
    return store.strip(), broker.strip()


def main() -> int:
    """Write; 1 where a run is not as promised: it is to be understood, not put into a table."""
    runs: list[Mapping[str, Any]] = []
    for file in sorted((ROOT / "build").glob("chaos-*.json")):
        run = json.loads(file.read_text("utf-8"))
        if run["failed"]:
            print(f"{file.name}: the run found differences, so nothing is written", file=sys.stderr)
            return 1
        runs.append(run)
    PAPER.write_text(with_runs(PAPER.read_text("utf-8"), runs), "utf-8")
    print(f"{len(runs)} runs in {PAPER.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
