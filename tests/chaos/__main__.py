"""`python -m tests.chaos --kills 200 --seed 1 --store duckdb --broker nats`: the long run, `make chaos`."""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.driver import Order, Report, run
from tests.chaos.parts import ROOT

BUILD = ROOT / "build"
BAR = 30


def main(argv: list[str] | None = None) -> int:
    """Run, print, write; 0 where every promise was kept, 1 where one was not, 130 after Ctrl-C."""
    arguments = _parser().parse_args(argv)
    order = Order(
        arguments.kills,
        arguments.seed,
        arguments.store,
        arguments.broker,
        mount=not arguments.no_mount,
        keep=arguments.keep,
    )
    kept = BUILD / f"chaos-{order.store}-{order.broker}-{order.seed}"
    with tempfile.TemporaryDirectory(prefix="epip-chaos-") as scratch:
        try:
            report = asyncio.run(_until_stopped(order, Path(scratch) / "site"))
        except (KeyboardInterrupt, asyncio.CancelledError):
            print("\nstopped; nothing is left behind", file=sys.stderr)
            return 130
        shutil.rmtree(kept, ignore_errors=True)
        if report.failed or order.keep:
            shutil.copytree(Path(scratch) / "site-kept", kept)
    file = BUILD / f"chaos-{order.store}-{order.broker}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(report.as_json(), indent=1) + "\n", "utf-8")
    print("\n".join(summary(report)))
    if kept.exists():
        print(f"its files: {kept.relative_to(ROOT)}")
    return int(report.failed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make chaos", description="kill -9 on every part of the line, and compare.")
    parser.add_argument("--kills", type=int, default=200, metavar="N", help="how many processes are killed (200)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="what is killed when follows from it (1)")
    parser.add_argument("--store", choices=("duckdb", "influx"), default="duckdb")
    parser.add_argument("--broker", choices=("nats", "mosquitto"), default="nats")
    parser.add_argument("--no-mount", action="store_true", help="limit the size of files where a disk is to be full")
    parser.add_argument("--keep", action="store_true", help="keep the files of the run also where all is well")
    return parser


async def _until_stopped(order: Order, folder: Path) -> Report:
    work = asyncio.ensure_future(run(order, folder, Progress(order.kills).tell))
    # Ctrl-C reaches us as a cancellation already; being ended in order shall leave as little behind.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, work.cancel)
    return await work


class Progress:
    """Says how far a run is: a bar on a terminal, else a line now and then."""

    EVERY_S = 10.0

    def __init__(self, kills: int) -> None:
        self._kills = kills
        self._begin = time.monotonic()
        self._said = 0.0
        self._bar = sys.stderr.isatty()

    def tell(self, report: Report, phase: str) -> None:
        """`phase` names a new one, empty: the same goes on."""
        now = time.monotonic()
        if not (self._bar or phase or now - self._said >= self.EVERY_S):
            return
        self._said = now
        done = sum(report.kills.values())
        filled = "#" * (BAR * done // max(1, self._kills))
        bar = f"[{filled:<{BAR}}] " if self._bar else ""
        who = ", ".join(f"{victim} {count}" for victim, count in sorted(report.kills.items()))
        line = f"{bar}{done}/{self._kills} kills, {now - self._begin:.0f} s: {phase or who}"
        print(f"\r\x1b[K{line}" if self._bar else line, end="" if self._bar else "\n", file=sys.stderr, flush=True)


def summary(report: Report) -> list[str]:
    """The result in lines to read."""
    order, verdict = report.order, report.verdict
    at_the_edge, felt = verdict.tolerated, report.felt

    def counted(counts: dict[str, int]) -> str:
        return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"

    lines = [
        f"\nchaos: store {order.store}, broker {order.broker}, seed {order.seed}, {report.duration_s:.0f} s",
        f"kills          {sum(report.kills.values())}: {counted(report.kills)}",
        f"link troubles  {sum(report.troubles.values())}: {counted(report.troubles)}",
        f"disks filled   {sum(report.filled.values())}: {counted(report.filled)} ({report.disks}), edge felt {felt}",
        f"redeliveries   {report.redeliveries} of {report.batches} batches",
        f"lost by server {report.lost_by_server} batches, asked for again",
        f"recovery       {len(report.recoveries_s)} times, slowest {max(report.recoveries_s, default=0):.1f} s",
        f"gap records    {verdict.gaps}: {counted(report.gaps)}",
        f"values made    {verdict.made}: {verdict.said} lost before the spool and said, {at_the_edge} at a gap's edge",
        f"values checked {verdict.committed} committed, {verdict.stored} stored",
        f"lost {verdict.lost}, duplicated {verdict.duplicated}, altered {verdict.altered}, unsaid {verdict.unsaid}",
    ]
    lines += [f"ended by itself on a full disk: {one.part}, code {one.code}" for one in report.ended if one.full]
    lines += [f"DIFFERENCE (seed {order.seed}) {what}" for what in verdict.first]
    lines += [f"FAULT (seed {order.seed}) {what}" for what in report.faults]
    return lines


if __name__ == "__main__":
    sys.exit(main())
