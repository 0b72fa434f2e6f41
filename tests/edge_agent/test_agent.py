"""The whole edge, from a source to a hub over a real broker: what a source has said must arrive, once and unchanged."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml

from edge_agent.agent import Agent
from edge_agent.errors import SourceUnavailable
from edge_agent.settings import EdgeSettings, load_settings
from edge_agent.source import Event, Frame
from lab_contract.batch import Shape, unpack
from lab_contract.kit import load_kit_model
from tests.brokers import Broker, mosquitto
from tests.edge_agent.support import Script, SmallHub, replay_class, until
from tests.small_kit import MODEL, NOW

pytestmark = pytest.mark.real

SETTINGS = """
edge = "edge-1"
[hub]
url = "{url}"
[[kits]]
id = "kit-1"
model = "kit.yaml"
connections.plc.port = "plc"
connections.amp.port = "amp"
"""


def settings_in(folder: Path, broker: Broker, script: Script) -> EdgeSettings:
    document = yaml.safe_load(MODEL)
    for channel in document["channels"]:
        channel["address"] = {"item": channel["id"]}
    (folder / "kit.yaml").write_text(yaml.safe_dump(document, allow_unicode=True), "utf-8")
    (folder / "edge.toml").write_text(SETTINGS.format(url=broker.url))
    return load_settings(folder / "edge.toml", lambda _protocol: replay_class(script))


@asynccontextmanager
async def running(settings: EdgeSettings) -> AsyncIterator[None]:
    task = asyncio.create_task(Agent(settings, rng=random.Random(1)).run())
    try:
        yield
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def events_at(hub: SmallHub) -> list[tuple[str, float | None]]:
    found: list[tuple[int, str, float | None]] = []
    for data in list(hub.batches.values()):
        batch = unpack(data)
        if batch.header.shape is Shape.EVENT:
            rows = pa.ipc.open_stream(batch.payload).read_all().to_pylist()
            found += [(row["t"], row["channel"], row["value"]) for row in rows]
    return [(channel, value) for _, channel, value in sorted(found)]


async def test_what_a_source_says_arrives_at_the_hub(tmp_path: Path) -> None:
    script = Script()
    with mosquitto(tmp_path) as broker, SmallHub(broker.url) as hub:
        settings = settings_in(tmp_path, broker, script)
        await until(lambda: hub.connected)
        async with running(settings):
            script.readings.put_nowait([Event("line.state", NOW, 1.0, "Execute"), Event("line.good", NOW + 1, 5.0)])
            t = NOW + np.arange(50, dtype=np.int64) * 4_000_000
            values = np.arange(100, dtype=np.float32).reshape(2, 50)
            script.readings.put_nowait(Frame("eeg", t, values))
            await until(lambda: len(hub.batches) == 2)
            await until(lambda: hub.statuses and hub.statuses[-1].kits[0].connections[1].state == "running")
        headers = {unpack(data).header.stream: unpack(data) for data in hub.batches.values()}
        assert events_at(hub) == [("line.state", 1.0), ("line.good", 5.0)]
        table = pa.ipc.open_stream(headers["eeg"].payload).read_all()
        assert np.array_equal(table["t"].to_numpy(), t)
        assert np.array_equal(table["eeg.b"].to_numpy(), values[1])
        await until(lambda: not hub.statuses[-1].online)
        status = next(status for status in reversed(hub.statuses) if status.online)
        assert status.kits[0].digest == load_kit_model(tmp_path / "kit.yaml").digest
        assert [one.id for one in status.kits[0].connections] == ["plc", "amp"]
    assert script.opened == script.closed == 2


async def test_what_was_read_without_a_hub_arrives_after_a_restart(tmp_path: Path) -> None:
    script = Script()
    with mosquitto(tmp_path) as broker:
        settings = settings_in(tmp_path, broker, script)
        broker.kill()
        async with running(settings):
            for i in range(30):
                script.readings.put_nowait([Event("line.good", NOW + i, float(i))])
            await until(script.readings.empty)
            await until(lambda: script.opened == 2)
        await asyncio.to_thread(broker.start)
        with SmallHub(broker.url) as hub:
            await until(lambda: hub.connected)
            async with running(settings):
                await until(lambda: len(events_at(hub)) == 30)
    assert events_at(hub) == [("line.good", float(i)) for i in range(30)]


async def test_one_source_that_fails_does_not_disturb_the_other(tmp_path: Path) -> None:
    script = Script(open_errors=[SourceUnavailable("switched off")])
    with mosquitto(tmp_path) as broker, SmallHub(broker.url) as hub:
        settings = settings_in(tmp_path, broker, script)
        await until(lambda: hub.connected)
        async with running(settings):
            script.readings.put_nowait([Event("line.good", NOW, 1.0)])
            await until(lambda: events_at(hub) == [("line.good", 1.0)])
            await until(lambda: hub.statuses and hub.statuses[-1].kits[0].connections[1].state == "running")
