"""What an edge costs and how soon its values are durable: real equipment protocols, processes, broker and store."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import psutil

from hub.broker.choose import make_broker
from hub.clock import SystemClock
from hub.line import Line
from hub.setup import open_hub
from hub.store.base import DecodedBatch, DecodedEvents
from tests.bench.figures import Figure, figure, percentile
from tests.bench.programs import PLC_KIT, VARIABLES, NotReady, Program, Site, make_site, opcua_server, plc_kit

WARM_UP_S = 5.0
MEASURE_S = 20.0
SETTLE_S = 10.0
EDGE = "bench-1"
BCI, ROBOT = "bci-1", "robot-1"
MB = 1e6
C = TypeVar("C")


def measure() -> list[Figure]:
    """CPU, delay, losses and memory of an edge."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        return [*asyncio.run(_opcua(Path(scratch, "opcua"))), *asyncio.run(_serial_and_mqtt(Path(scratch, "serial")))]


@dataclass(frozen=True)
class Values:
    """What came in a stretch of time: delays in ms of each value by stage, how many should have come, how many lack."""

    delays: dict[str, list[float]]
    expected: int
    lost: int


class Commits:
    """What the line hands to live, which it does right after each commit, and when."""

    def __init__(self, line: Line) -> None:
        handover = line._handover
        assert handover is not None
        self._publish = handover._publish
        self.kits: set[str] = set()
        self.events: list[tuple[int, DecodedEvents]] = []
        handover._publish = self.note

    def note(self, batches: Sequence[DecodedBatch]) -> None:
        """Takes the time and hands on."""
        now = time.time_ns()
        for batch in batches:
            self.kits.add(batch.header.kit)
            if isinstance(batch, DecodedEvents):
                self.events.append((now, batch))
        self._publish(batches)

    def newest(self) -> int:
        """A source time (UTC ns) after which each channel has no older value to come."""
        return int(self.events[-1][1].t[0]) if self.events else 0

    def between(self, begin: int, end: int) -> Values:
        """The values with a source time from `begin` to `end` (UTC ns)."""
        batches = [batch for _, batch in self.events]
        t = np.concatenate([batch.t for batch in batches])
        inside = (t >= begin) & (t < end)
        received = np.concatenate([batch.t_receipt.to_numpy() for batch in batches])
        rows = [len(batch.t) for batch in batches]
        at_hub = np.repeat([batch.received_ns for batch in batches], rows)
        committed = np.repeat([now for now, _ in self.events], rows)
        names = np.concatenate([np.asarray(batch.channels)[batch.index] for batch in batches])
        numbers = np.concatenate([batch.values for batch in batches]).astype(np.int64)
        numbers_of: dict[str, set[int]] = {name: set() for name in names[inside].tolist()}
        for name, number in zip(names[inside].tolist(), numbers[inside].tolist(), strict=True):
            numbers_of[name].add(number)
        if len(numbers_of) < VARIABLES:
            raise NotReady(f"expected values of {VARIABLES} channels, found {len(numbers_of)}")
        # Each channel counts on by one.
        expected = sum(max(found) - min(found) + 1 for found in numbers_of.values())
        lost = expected - sum(len(found) for found in numbers_of.values())
        stages = {
            "source time to hub commit": committed - t,
            "source time to the edge's receipt": received - t,
            "edge's receipt to hub's receipt": at_hub - received,
            "hub's receipt to commit": committed - at_hub,
        }
        delays = {stage: (ns[inside] / 1e6).tolist() for stage, ns in stages.items()}
        return Values(delays, expected, lost)


@asynccontextmanager
async def running(site: Site, watch: Callable[[Line], C]) -> AsyncIterator[C]:
    """The hub's line in this process, and what `watch` makes of it."""
    with open_hub(site.settings) as hub:
        line = Line(
            store_url=site.settings.store_url,
            broker=make_broker(site.settings),
            accounts=hub.catalog.accounts,
            kits=hub.catalog.kits,
            clock=SystemClock(),
        )
        site.settings.data_folder.mkdir(parents=True, exist_ok=True)
        async with line:
            yield watch(line)


async def _opcua(folder: Path) -> list[Figure]:
    site = make_site(folder, {EDGE: {PLC_KIT: "counters"}})
    async with running(site, Commits) as commits:
        with opcua_server(folder) as server, site.edge(EDGE, plc_kit(server)) as edge:
            await until(lambda: PLC_KIT in commits.kits, edge)
            await asyncio.sleep(WARM_UP_S)
            psutil.cpu_percent()  # the share since the call before
            begin, before = time.time_ns(), edge.facts.cpu_times()
            await asyncio.sleep(MEASURE_S)
            end, after = time.time_ns(), edge.facts.cpu_times()
            busy = psutil.cpu_percent()
            rss = edge.facts.memory_info().rss
            # Values of one channel come in order: what is missing once a later one has come is lost.
            await until(lambda: commits.newest() >= end, edge)
            cpu_s = after.user + after.system - before.user - before.system
            values = commits.between(begin, end)
    whole, *stages = values.delays.items()
    stage, delays = whole
    return [
        figure("edge: CPU of one core, 200 OPC UA variables x 10 Hz", 100 * cpu_s / ((end - begin) / 1e9), "%", "<= 6"),
        # The parts here take a fifth of two cores; where it is much more, other programs are in these delays.
        figure("edge: the machine's CPU in use meanwhile", busy, "%"),
        figure(f"edge: {stage}, p50", percentile(delays, 0.5), "ms", "<= 60"),
        figure(f"edge: {stage}, p99", percentile(delays, 0.99), "ms", "<= 200"),
        *(figure(f"edge: of this {stage}, p50", percentile(delays, 0.5), "ms") for stage, delays in stages),
        figure(f"edge: values lost of {values.expected}", values.lost, "values", "<= 0"),
        figure("edge: RSS with OPC UA", rss / MB, "MB", "<= 130"),
    ]


async def _serial_and_mqtt(folder: Path) -> list[Figure]:
    site = make_site(folder, {EDGE: {BCI: "bci_platform", ROBOT: "robot_cell"}}, equipment=[ROBOT])
    ports = [folder / "eeg.port", folder / "drive.port"]
    prefix = f"equipment/{ROBOT}"
    simulator = ("-m", "simulators.cli")
    bci = (*simulator, "bci-platform", "--eeg-port", str(ports[0]), "--drive-port", str(ports[1]))
    robot = (*simulator, "robot-cell", "--broker", site.broker, "--prefix", prefix, "--user", f"equipment-{ROBOT}")
    password = ("--password-file", str(site.password_file(ROBOT)))
    kits = f"""\
[[kits]]
id = "{BCI}"
model = "bci_platform"
[kits.connections.eeg]
port = '{ports[0]}'
[kits.connections.drive]
port = '{ports[1]}'
[[kits]]
id = "{ROBOT}"
model = "robot_cell"
[kits.connections.cell]
url = "{site.broker}"
user = "edge-{EDGE}"
password_file = "{EDGE}.password"
prefix = "{prefix}"
"""
    async with running(site, Commits) as commits:
        with (
            Program(folder, "bci", *bci, "--exit-with-parent") as platform,
            Program(folder, "robot", *robot, *password, "--exit-with-parent") as cell,
        ):
            for kit in (platform, cell):
                kit.line("ready")
            with site.edge(EDGE, kits) as edge:
                await until(lambda: {BCI, ROBOT} <= commits.kits, edge)
                await asyncio.sleep(SETTLE_S)
                memory = edge.facts.memory_full_info()
    return [
        figure("edge: RSS with serial and MQTT only", memory.rss / MB, "MB", "<= 60"),
        # The rest are pages of the interpreter and of libraries, which all programs of a machine share.
        figure("edge: of this its own pages (USS)", memory.uss / MB, "MB"),
    ]


async def until(condition: Callable[[], bool], edge: Program, within_s: float = 30.0) -> None:
    try:
        async with asyncio.timeout(within_s):
            while not condition():  # noqa: ASYNC110 - other processes are waited for
                await asyncio.sleep(0.05)
    except TimeoutError:
        alive = psutil.pid_exists(edge.facts.pid)
        raise NotReady(f"no such values from the edge ({'runs' if alive else 'ended'}):\n{edge.log_tail()}") from None
