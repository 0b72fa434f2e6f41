"""One run: the line is started, the plan is carried out, everything recovers and drains, and the judge compares.

The driver waits for time only where the plan says so. Otherwise it waits for what the line does, as the link hears it:
a batch that was sent for the first time after the trouble is over and has come back acknowledged.
"""

from __future__ import annotations

import asyncio
import random
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edge_agent.uplink import STATUS_S
from hub.ingest.replays import AUDIT_NS
from hub.store import open_store
from lab_contract.batch import Gap
from tests.chaos.link import Heard, Link
from tests.chaos.made import CHANNELS, KIT, read_log
from tests.chaos.parts import Child, Ended, Part, Stuck, end_left_behind
from tests.chaos.schedule import Cut, Episode, Fill, Kill, Pause, plan
from tests.chaos.site import Broker, Site, Store, make_site, point_edge
from tests.chaos.spooled import Committed
from tests.chaos.verdict import Sample, Verdict, judge

BEGINS_S = 60.0
RECOVERS_S = 90.0
DRAINS_S = 180.0
FEELS_S = 20.0
QUIET_S = 1.5
"""So long nothing new is sent before the line counts as drained: a batch is gathered for 0.25 s."""
AUDIT_S = AUDIT_NS / 1e9 + 2 * STATUS_S
"""The same where a database server may have lost what it confirmed: the hub looks, and asks at a status of the edge."""
LOST = re.compile(r"(\d+) batches are forgotten")
ALL_TIME = (0, 2**62)


@dataclass(frozen=True)
class Order:
    """What is to be done. `mount`: small disks may be mounted where this account may do so. `keep`: also without any
    difference the files are kept."""

    kills: int
    seed: int
    store: Store = "duckdb"
    broker: Broker = "nats"
    mount: bool = True
    keep: bool = False


@dataclass
class Report:
    """What was done and what came of it."""

    order: Order
    kills: Counter[str] = field(default_factory=Counter[str])
    troubles: Counter[str] = field(default_factory=Counter[str])
    filled: Counter[str] = field(default_factory=Counter[str])
    felt: int = 0
    """How often the edge said that its full disk took nothing."""
    ended: list[Ended] = field(default_factory=list[Ended])
    """Parts that ended though nobody killed them."""
    forced: list[str] = field(default_factory=list[str])
    """Parts that did not end in order when they were asked to."""
    recoveries_s: list[float] = field(default_factory=list[float])
    batches: int = 0
    redeliveries: int = 0
    lost_by_server: int = 0
    """Batches that the hub found to be gone from the database though it had confirmed them, and asked for again."""
    aside: dict[str, int] = field(default_factory=dict[str, int])
    gaps: Counter[str] = field(default_factory=Counter[str])
    verdict: Verdict = field(default_factory=Verdict)
    faults: list[str] = field(default_factory=list[str])
    """Promises broken that are no matter of single values."""
    disks: str = ""
    duration_s: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether anything is not as promised."""
        return bool(self.verdict.differences or self.faults)

    def as_json(self) -> dict[str, Any]:
        """For build/chaos-STORE-BROKER.json."""
        return {
            "store": self.order.store,
            "broker": self.order.broker,
            "seed": self.order.seed,
            "kills": sum(self.kills.values()),
            "killed": dict(self.kills),
            "link_troubles": dict(self.troubles),
            "disks_filled": dict(self.filled),
            "disks": self.disks,
            "edge_felt_it": self.felt,
            "batches": self.batches,
            "redeliveries": self.redeliveries,
            "lost_by_server": self.lost_by_server,
            "recoveries": len(self.recoveries_s),
            "slowest_recovery_s": max(self.recoveries_s, default=0.0),
            "gap_records": dict(self.gaps),
            **asdict(self.verdict),
            "faults": self.faults,
            "ended_on_a_full_disk": [one.part for one in self.ended if one.full],
            "duration_s": round(self.duration_s, 1),
            "failed": self.failed,
        }


Tell = Callable[[Report, str], None]


async def run(order: Order, folder: Path, tell: Tell) -> Report:
    """Carry out the order in `folder`, which is made and removed; after a difference its files are kept beside it.

    `tell` hears of progress. Cancel it to stop: nothing stays behind.
    """
    report = Report(order)
    begin = time.monotonic()
    kept = folder.with_name(f"{folder.name}-kept")

    def ended(part: str, code: int, said: str) -> None:
        # A part that cannot run on a full disk is started again by its service manager until it can.
        report.ended.append(Ended(part, code, any(disk.is_full for disk in site.disks.values()), said))

    with make_site(folder, order.store, order.broker, mount=order.mount, on_end=ended) as site:
        report.disks = "tmpfs" if all(disk.mounted for disk in site.disks.values()) else "file size limit"
        try:
            async with Link(site.broker_port, random.Random(order.seed)) as link:
                await _Run(site, link, report, tell).whole()
        except Stuck as stuck:
            report.faults.append(f"stuck: {stuck}")
        finally:
            for part in reversed(site.parts.values()):
                with suppress(ProcessLookupError):
                    await part.end()
            end_left_behind(folder)
            if report.failed or order.keep:
                shutil.rmtree(kept, ignore_errors=True)
                shutil.copytree(folder, kept, ignore=shutil.ignore_patterns("*.password", "ballast"))
    shutil.rmtree(folder)
    report.duration_s = time.monotonic() - begin
    return report


class _Run:
    def __init__(self, site: Site, link: Link, report: Report, tell: Tell) -> None:
        self._site = site
        self._link = link
        self._report = report
        self._tell = tell
        self._committed = Committed()
        self._restarts: set[asyncio.Task[None]] = set()
        self._troubles: set[asyncio.Task[None]] = set()
        self._begin = time.monotonic()

    async def whole(self) -> None:
        """From the first start to the verdict. Raises Stuck."""
        order = self._report.order
        point_edge(self._site, self._link.port)
        self._tell(self._report, "starting")
        try:
            for part in self._site.parts.values():
                await part.start()
            await self._fresh(BEGINS_S, "the line to begin")
            for episode in plan(order.kills, order.seed, self._site.victims, tuple(self._site.disks)):
                await self._episode(episode)
                self._tell(self._report, "")
            self._tell(self._report, "draining")
            await self._drain()
        finally:
            for task in (*self._restarts, *self._troubles):
                task.cancel()
            await asyncio.gather(*self._restarts, *self._troubles, return_exceptions=True)
        self._tell(self._report, "comparing")
        await self._compare()

    def _note(self, what: str) -> None:
        """Into the run's own log, which is kept with the other files where a difference was found."""
        with (self._site.folder / "run.log").open("a", encoding="utf-8") as log:
            log.write(f"{time.time():.3f} {time.monotonic() - self._begin:8.3f} {what}\n")

    async def _episode(self, episode: Episode) -> None:
        for step in episode.steps:
            self._note(str(step))
            match step:
                case Pause():
                    await asyncio.sleep(step.seconds)
                case Kill():
                    await self._kill(step)
                case Cut():
                    self._report.troubles[step.trouble] += 1
                    self._troubles.add(asyncio.create_task(self._link.trouble(step.trouble, step.for_s)))
                case Fill():
                    self._site.disks[step.part].fill()
                    self._report.filled[step.part] += 1
                    if step.part == "edge":
                        await self._edge_feels_it()
                    self._troubles.add(asyncio.create_task(self._free_after(step)))
        await _all(self._troubles)
        if episode.recovers:
            await _all(self._restarts)
            begin = time.monotonic()
            self._note("may recover")
            await self._fresh(RECOVERS_S, f"the line to recover from {episode.steps}")
            self._report.recoveries_s.append(round(time.monotonic() - begin, 3))
            self._note("has recovered")

    async def _kill(self, step: Kill) -> None:
        # One that is still to be started again from before is waited for: only what runs can be killed.
        await asyncio.gather(*(self._site.parts[victim].kill() for victim in step.victims))
        self._report.kills.update(step.victims)
        if "edge" in step.victims:
            # Before it starts again: this is what it had committed at its end.
            await asyncio.to_thread(self._committed.read, self._site.spool)
        for victim in step.victims:
            self._restarts.add(asyncio.create_task(_start_after(self._site.parts[victim], step.down_s)))

    async def _free_after(self, step: Fill) -> None:
        try:
            await asyncio.sleep(step.for_s)
        finally:
            self._site.disks[step.part].free()
            self._note(f"disk of {step.part} free")
        if step.part == "influx":
            # InfluxDB 1.x answers every write with the former error, also when there is room, until it is restarted.
            await self._site.parts["influx"].kill()
            await self._site.parts["influx"].start()

    async def _edge_feels_it(self) -> None:
        """Until the edge says that its disk takes nothing: SQLite goes on for a while in the room that its log has."""
        before = _spool_faults(self._link.heard)

        def felt(heard: Heard) -> bool:
            return _spool_faults(heard) > before

        if await self._link.wait(felt, FEELS_S):
            self._report.felt += 1

    async def _fresh(self, seconds: float, what: str) -> None:
        """Until a batch that was first sent from now on is acknowledged, and the edge has heard it."""
        now = asyncio.get_running_loop().time()
        if not await self._link.wait(lambda heard: heard.newest_stored > now, seconds):
            raise Stuck(f"waited {seconds:.0f} s for {what}; {self._state()}")

    async def _drain(self) -> None:
        """The producer ends; then everything that the edge has read reaches the store."""
        await self._end("producer")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + DRAINS_S
        quiet_s = AUDIT_S if self._report.order.store == "influx" else QUIET_S
        while True:
            seen = self._link.heard.statuses
            if not await self._link.wait(lambda heard, n=seen: heard.statuses > n and _is_empty(heard), DRAINS_S):
                raise Stuck(f"waited {DRAINS_S:.0f} s for the spool to drain; {self._state()}")
            sent = len(self._link.heard.sent)
            if not await self._link.wait(lambda heard, n=sent: len(heard.sent) > n, quiet_s):
                break
            if loop.time() > deadline:
                raise Stuck(f"the edge still sends after {DRAINS_S:.0f} s; {self._state()}")
        await self._end("edge")
        await asyncio.to_thread(self._committed.read, self._site.spool)
        await self._end("hub")

    async def _end(self, name: str) -> None:
        if not await self._site.parts[name].end():
            self._report.forced.append(name)

    async def _compare(self) -> None:
        report, heard, committed = self._report, self._link.heard, self._committed
        samples, gaps, aside = await asyncio.to_thread(self._read_store)
        made = read_log(self._site.log)
        report.verdict = await asyncio.to_thread(judge, made, committed.samples, committed.gaps, samples, gaps)
        report.batches = len(committed.digests)
        report.redeliveries = heard.redeliveries
        report.lost_by_server = sum(map(int, LOST.findall(self._site.folder.joinpath("hub.log").read_text("utf-8"))))
        report.aside = aside
        report.gaps.update(gap.reason.value for gap in gaps)
        if unknown := set(heard.sent) - set(committed.digests):
            report.faults.append(f"{len(unknown)} batches were sent that no spool holds, first {min(unknown)}")
        if committed.changed:
            report.faults.append(f"{len(committed.changed)} batches changed in the spool, first {committed.changed[0]}")
        if committed.waiting:
            report.faults.append(f"{committed.waiting} batches still wait in the spool")
        if aside:
            report.faults.append(f"batches were kept aside: {aside}")
        report.faults += [
            f"{one.part} ended by itself with code {one.code}: ...{one.said[-300:]}"
            for one in report.ended
            if not one.full
        ]
        report.faults += [f"{name} did not end when asked" for name in report.forced]

    def _read_store(self) -> tuple[list[Sample], list[Gap], dict[str, int]]:
        settings = self._site.settings
        store = open_store(settings.store_url, **settings.store_options)
        try:
            samples: list[Sample] = []
            with store.raw(KIT, CHANNELS, *ALL_TIME) as reader:
                for batch in reader:
                    names = ("channel", "t", "value", "text", "quality")
                    for channel, t, value, text, quality in zip(*(batch[n].to_pylist() for n in names), strict=True):
                        samples.append((channel, t, (value, text, quality)))
            return samples, store.gaps(KIT, *ALL_TIME), store.quarantine_counts()
        finally:
            store.close()

    def _state(self) -> str:
        heard = self._link.heard
        status = heard.status
        counters = {} if status is None else status.counters
        running = {name: part.pids for name, part in self._site.parts.items()}
        return (
            f"{len(heard.sent)} batches sent, {len(heard.stored)} acknowledged, edge says {counters}, running {running}"
        )


def _spool_faults(heard: Heard) -> int:
    return 0 if heard.status is None else heard.status.counters.get("spool_faults", 0)


def _is_empty(heard: Heard) -> bool:
    status = heard.status
    return status is not None and status.online and not status.counters.get("spool_batches", 0)


async def _start_after(part: Part | Child, seconds: float) -> None:
    await asyncio.sleep(seconds)
    await part.start()


async def _all(tasks: set[asyncio.Task[None]]) -> None:
    """Until all have ended; raises the error of one that failed."""
    while tasks:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        tasks -= done
        for task in done:
            task.result()
