"""The simulated PLC line as an OPC UA server: what `edge_agent.sources.opcua` reads, built from the kit model.

Each channel of the kit model's connection `plc` is a variable at its browse path below the kit's object; `Reset`,
`Start`, `Stop`, `Hold`, `Unhold` and `AckAlarm` are methods; set points, `Line.Heartbeat` and the faults below
`Simulation` are variables that a client may write. A set point that the line refuses jumps back to its old value.

Not modelled: certificates and users (the server is open and listens on 127.0.0.1 only), alarms and conditions of
OPC 10000-9, history, and the type model of OPC 30050. What the line itself leaves out stands in `plc_model.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from asyncua import Node, Server, ua

from lab_contract.kit import Channel, KitModel, ValueKind, find_kit_model
from simulators.plc_model import NotAllowed, PlcLineModel
from simulators.plc_stations import Fault

# asyncua logs each lost client with a traceback; a viewer that leaves is no event here.
logging.getLogger("asyncua").setLevel(logging.CRITICAL)

HOST = "127.0.0.1"
SCAN_S = 0.05
LATE_SCANS = 20
"""Scans made up for after the machine was busy; older time is dropped, as a real PLC would not run faster either."""

TYPES = {
    ValueKind.BOOL: ua.VariantType.Boolean,
    ValueKind.INT: ua.VariantType.Int32,
    ValueKind.ENUM: ua.VariantType.Int32,
    ValueKind.FLOAT: ua.VariantType.Double,
    ValueKind.TEXT: ua.VariantType.String,
}


@dataclass
class _Output:
    """A variable that the line writes, at most every `scans` scans."""

    channel: str
    node_id: ua.NodeId
    type: ua.VariantType
    scans: int
    last: object = None


@dataclass
class _Input:
    """A variable that clients write: `take` hands a new value to the line, `read` says what the line has."""

    node_id: ua.NodeId
    type: ua.VariantType
    take: Callable[[Any], None]
    read: Callable[[], Any]


class PlcLineSimulator:
    """The server with a line in it, as an async context manager; `endpoint` holds its address once entered.

    `port` 0 takes a free port. `leave_out` names channels whose variables are missing (a PLC without that tag).
    """

    def __init__(
        self, model: PlcLineModel | None = None, *, port: int = 0, leave_out: frozenset[str] = frozenset()
    ) -> None:
        self.model = model or PlcLineModel()
        self.endpoint = ""
        self.kit: KitModel = find_kit_model("plc_line", Path())
        self._port = port
        self._leave_out = leave_out
        self._server = Server()
        self._index = 0
        self._objects: dict[str, Node] = {}
        self._outputs: dict[str, _Output] = {}
        self._inputs: list[_Input] = []
        self._scan = 0
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        settings = self.kit.connection_by_id["plc"].settings
        server = self._server
        await server.init()
        server.set_endpoint(f"opc.tcp://{HOST}:{self._port}/")
        server.set_server_name("PLC line simulator")
        server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
        server.set_identity_tokens([ua.AnonymousIdentityToken])
        self._index = await server.register_namespace(settings["namespace"])
        self._objects[""] = await server.nodes.objects.add_object(
            ua.NodeId(settings["object"], self._index), ua.QualifiedName(settings["object"], self._index)
        )
        for channel in self.kit.channels:
            if channel.connection == "plc" and channel.id not in self._leave_out:
                await self.add_channel(channel)
        await self._add_inputs()
        await self._add_methods()
        await server.start()
        self.endpoint = f"opc.tcp://{HOST}:{server.bserver.port if server.bserver else self._port}/"
        self._task = asyncio.create_task(self._run(), name="plc line scans")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._server.stop()

    async def serve(self) -> None:
        """Run until cancelled; raises what stopped the scans."""
        if self._task is None:
            raise RuntimeError("enter the simulator first")
        await asyncio.shield(self._task)

    @property
    def server(self) -> Server:
        """The OPC UA server, for tests that write a bad quality."""
        return self._server

    def node_id(self, channel: str) -> ua.NodeId:
        """The NodeId of a channel's variable."""
        return self._outputs[channel].node_id

    async def add_channel(self, channel: Channel) -> None:
        """Make the variable of a channel, as a PLC program downloaded later would."""
        path = str(channel.address["node"])
        node_type = TYPES[channel.kind]
        value = self.model.values()[channel.id]
        node = await self._add_variable(path, value, node_type)
        scans = round(1 / channel.rate_hz / SCAN_S) if channel.rate_hz else 1
        self._outputs[channel.id] = _Output(channel.id, node.nodeid, node_type, scans, value)

    async def _add_variable(self, path: str, value: object, node_type: ua.VariantType) -> Node:
        parent, name = await self._parent(path)
        node_id = ua.NodeId(f"{self.kit.connection_by_id['plc'].settings['object']}.{path}", self._index)
        return await parent.add_variable(node_id, ua.QualifiedName(name, self._index), value, node_type)

    async def _parent(self, path: str) -> tuple[Node, str]:
        *folders, name = path.split(".")
        place = ""
        for folder in folders:
            above, place = self._objects[place], f"{place}.{folder}".lstrip(".")
            if place not in self._objects:
                node_id = ua.NodeId(f"{self.kit.connection_by_id['plc'].settings['object']}.{place}", self._index)
                self._objects[place] = await above.add_object(node_id, ua.QualifiedName(folder, self._index))
        return self._objects[place], name

    async def _add_inputs(self) -> None:
        model = self.model

        def fault(which: Fault) -> tuple[Callable[[Any], None], Callable[[], Any]]:
            return lambda on: model.inject(which) if on else model.clear_fault(which), lambda: which in model.faults

        count = 0

        def heartbeat(value: int) -> None:
            nonlocal count
            count = value
            model.heartbeat(value)

        double, text = ua.VariantType.Double, ua.VariantType.String
        inputs: list[tuple[str, ua.VariantType, Callable[[Any], None], Callable[[], Any]]] = [
            ("Sorting.BeltFrequencySetpoint", double, model.set_belt_freq, lambda: model.stations.belt.setpoint),
            ("Line.Batch", ua.VariantType.Int32, model.set_batch, lambda: model.batch),
            ("Line.Recipe", text, model.select_recipe, lambda: model.stations.recipe),
            ("Line.Heartbeat", ua.VariantType.UInt32, heartbeat, lambda: count),
            ("Simulation.SensorOff", ua.VariantType.Boolean, *fault(Fault.SENSOR_OFF)),
            ("Simulation.AirLow", ua.VariantType.Boolean, *fault(Fault.AIR_LOW)),
            ("Simulation.MagazineEmpty", ua.VariantType.Boolean, *fault(Fault.MAGAZINE_EMPTY)),
        ]
        for path, node_type, take, read in inputs:
            node = await self._add_variable(path, read(), node_type)
            await node.set_writable()
            self._inputs.append(_Input(node.nodeid, node_type, take, read))

    async def _add_methods(self) -> None:
        model = self.model
        for name, command in (
            ("Reset", model.reset),
            ("Start", model.start),
            ("Stop", model.stop),
            ("Hold", model.hold),
            ("Unhold", model.unhold),
        ):
            await self._add_method(f"Line.{name}", command, [])
        # The PLC keeps no alarms of its own: an acknowledgement only silences the horn.
        await self._add_method("Line.AckAlarm", lambda: None, [ua.VariantType.String])

    async def _add_method(self, path: str, command: Callable[[], None], arguments: list[ua.VariantType]) -> None:
        def called(_parent: ua.NodeId, *_arguments: ua.Variant) -> list[ua.Variant] | ua.StatusCode:
            try:
                command()
            except NotAllowed:
                return ua.StatusCode(ua.StatusCodes.BadInvalidState)
            return []

        parent, name = await self._parent(path)
        node_id = ua.NodeId(f"{self.kit.connection_by_id['plc'].settings['object']}.{path}", self._index)
        await parent.add_method(node_id, ua.QualifiedName(name, self._index), called, arguments, [])

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due = max(due + SCAN_S, loop.time() - LATE_SCANS * SCAN_S)
            await asyncio.sleep(max(0.0, due - loop.time()))
            await self.scan()

    async def scan(self) -> None:
        """One scan: take what clients wrote, move the line on, write what changed."""
        await self._take_inputs()
        self.model.step(SCAN_S)
        now = datetime.now(UTC)
        values = self.model.values()
        for output in self._outputs.values():
            value = values[output.channel]
            if value != output.last and self._scan % output.scans == 0:
                output.last = value
                await self._write(output.node_id, value, output.type, now)
        self._scan += 1

    async def _take_inputs(self) -> None:
        for variable in self._inputs:
            written = self._server.read_attribute_value(variable.node_id).Value
            held = variable.read()
            if written is None or written.Value == held:
                continue
            with contextlib.suppress(NotAllowed):  # the client sees it: its value jumps back
                variable.take(written.Value)
            if variable.read() != written.Value:
                await self._write(variable.node_id, held, variable.type, datetime.now(UTC))

    async def _write(self, node_id: ua.NodeId, value: object, node_type: ua.VariantType, now: datetime) -> None:
        data = ua.DataValue(ua.Variant(value, node_type), SourceTimestamp=now, ServerTimestamp=now)
        await self._server.write_attribute_value(node_id, data)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `epip-sim plc-line`."""
    parser.add_argument("--port", type=int, default=4840, help="TCP port on 127.0.0.1; 0 takes a free one")
    parser.add_argument(
        "--fault", action="append", default=[], choices=[fault.value for fault in Fault], help="put a fault in"
    )
    parser.add_argument("--unattended", action="store_true", help="no simulated operator: the line waits for commands")


async def run(options: argparse.Namespace) -> None:
    """Serve until cancelled; prints `ready <endpoint>` once a client may connect."""
    model = PlcLineModel(options.seed, operated=not options.unattended)
    for fault in options.fault:
        model.inject(Fault(fault))
    async with PlcLineSimulator(model, port=options.port) as simulator:
        print(f"ready {simulator.endpoint}", flush=True)
        await simulator.serve()
