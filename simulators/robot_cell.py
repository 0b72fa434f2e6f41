"""The robot cell simulator: steps `robot_model` ten times a second and publishes it over MQTT, as a controller would.

Topics below the prefix; each message is one JSON object with `t_ns` (UTC ns) and `seq` (counts what is new on a topic):

    axes           10 Hz   position[6] deg, speed[6] deg/s, current[6] A
    tcp            10 Hz   x y z mm, rx ry rz deg, speed mm/s
    temperature    0.2 Hz  axis[6] degC
    state/robot    change  operational_mode emergency_stop protective_stop speed_override in_control on_path payload
                           alarm_code alarm_text
    state/program  change  name loaded execution_mode state
    state/gripper  change  closed part
    state/cell     change  guard_closed presence light_curtain
    cycle          change  time s, count; from the first whole cycle on

States come again every 5 s, and at once after any message on `request`, with the `seq` they had: nothing is retained at
the broker, and a listener who missed a change still sees the jump in `seq`. A repeated state carries the time of the
repeat, because it is true then; a repeated cycle keeps the time at which the cycle ended. Samples that could not be
sent are gone, and their numbers with them.

Not modelled beyond `robot_model`: commands over MQTT (nothing received moves the robot), samples kept while the broker
is away, clock errors of the controller. The programs run in turn by themselves.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import random
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from firmware_bridge.mqtt_link import MqttLink
from simulators.robot_class_hour import ClassHour
from simulators.robot_model import ALARMS, RobotCell

log = logging.getLogger(__name__)

RATE_HZ = 10
PERIOD_S = 1 / RATE_HZ
SLOW_EVERY = 5 * RATE_HZ
"""Ticks between two temperature messages and between two repeats of all states."""
LATE_S = 1.0
"""A tick that is later than this starts the rhythm anew instead of hurrying after it."""

Message = tuple[str, bytes, int]
"""Topic below the prefix, payload, MQTT quality of service: 0 for samples, 1 for states."""


class Telegrams:
    """Turns the model into messages: numbers them, finds what changed, repeats states when due. No I/O."""

    def __init__(self, cell: RobotCell) -> None:
        self._cell = cell
        self._seq: dict[str, int] = {}
        self._states: dict[str, tuple[dict[str, Any], int]] = {}
        self._tick = 0

    def next(self, t_ns: int, repeat: bool = False) -> list[Message]:
        """The messages of one tick at `t_ns`; `repeat` asks for every state again."""
        sample, messages = self._cell.sample, []
        axes = {
            "position": [round(v, 4) for v in sample.position.tolist()],
            "speed": [round(v, 3) for v in sample.speed.tolist()],
            "current": [round(v, 3) for v in sample.current.tolist()],
        }
        pose = sample.tcp
        tcp = {name: round(getattr(pose, name), 3) for name in ("x", "y", "z", "rx", "ry", "rz")}
        tcp["speed"] = round(sample.tcp_speed, 2)
        messages = [self._new("axes", axes, t_ns, 0), self._new("tcp", tcp, t_ns, 0)]
        slow = self._tick % SLOW_EVERY == 0
        if slow:
            axis = [round(v, 2) for v in sample.temperature.tolist()]
            messages.append(self._new("temperature", {"axis": axis}, t_ns, 0))
        for topic, state in self._present().items():
            last, since_ns = self._states.get(topic, (None, t_ns))
            if state != last:
                self._states[topic] = (state, t_ns)
                messages.append(self._new(topic, state, t_ns, 1))
            elif slow or repeat:
                messages.append(self._again(topic, state, since_ns if topic == "cycle" else t_ns))
        self._tick += 1
        return messages

    def _present(self) -> dict[str, dict[str, Any]]:
        robot, cell = self._cell.robot, self._cell.cell
        states: dict[str, dict[str, Any]] = {
            "state/robot": {
                "operational_mode": int(robot.operational_mode),
                "emergency_stop": robot.emergency_stop,
                "protective_stop": robot.protective_stop,
                "speed_override": robot.speed_override,
                "in_control": robot.in_control,
                "on_path": robot.on_path,
                "payload": round(self._cell.payload, 2),
                "alarm_code": robot.alarm_code,
                "alarm_text": ALARMS[robot.alarm_code],
            },
            "state/program": {
                "name": robot.program_name,
                "loaded": bool(robot.program_name),
                "execution_mode": int(robot.execution_mode),
                "state": int(robot.program_state),
            },
            "state/gripper": {"closed": robot.gripper_closed, "part": robot.part},
            "state/cell": {
                "guard_closed": cell.guard_closed,
                "presence": cell.presence,
                "light_curtain": cell.light_curtain,
            },
        }
        if robot.cycles:
            states["cycle"] = {"time": robot.cycle_time, "count": robot.cycles}
        return states

    def _new(self, topic: str, body: dict[str, Any], t_ns: int, qos: int) -> Message:
        self._seq[topic] = self._seq.get(topic, 0) + 1
        return topic, self._dump(topic, body, t_ns), qos

    def _again(self, topic: str, body: dict[str, Any], t_ns: int) -> Message:
        return topic, self._dump(topic, body, t_ns), 1

    def _dump(self, topic: str, body: dict[str, Any], t_ns: int) -> bytes:
        return json.dumps({"seq": self._seq[topic], "t_ns": t_ns, **body}, separators=(",", ":")).encode()


class RobotCellSimulator:
    """A robot cell on a broker, from `async with` to its end. `cell` may be acted on from outside, as at the bench.

    Entering waits until the broker has accepted the connection, however long that takes.
    """

    def __init__(
        self,
        *,
        broker: str,
        prefix: str,
        seed: int,
        user: str | None = None,
        password: str | None = None,
        autorun: bool = True,
        time_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        if not prefix or prefix != prefix.strip("/") or any(sign in prefix for sign in "+# "):
            raise ValueError(f"prefix {prefix!r}: expected a topic such as cells/robot-1, without + # or outer slashes")
        self.prefix = prefix
        rng = random.Random(seed)
        self.cell = RobotCell(rng)
        self.counters = {"ticks": 0, "late": 0}
        self._class_hour = ClassHour(self.cell) if autorun else None
        self._telegrams = Telegrams(self.cell)
        self._time_ns = time_ns
        self._repeat = False
        self._connected = asyncio.Event()
        self._ticking: asyncio.Task[None] | None = None
        self._link = MqttLink(
            broker,
            client_id=f"robot-cell-{secrets.token_hex(6)}",
            user=user,
            password=password,
            on_message=self._on_message,
            on_connection=self._on_connection,
            rng=rng,
        )

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._link.subscribe(f"{self.prefix}/request")
        self._link.start()
        try:
            await self._connected.wait()
        except asyncio.CancelledError:
            await asyncio.to_thread(self._link.stop)
            raise
        self._ticking = asyncio.create_task(self._run(), name="robot cell")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.wait({self._ticking})
        await asyncio.to_thread(self._link.stop)

    async def wait(self) -> None:
        """Until the simulator fails or the caller is cancelled."""
        if self._ticking is not None:
            await asyncio.shield(self._ticking)

    async def _run(self) -> None:
        due = self._loop.time()
        while True:
            self.tick()
            due += PERIOD_S
            now = self._loop.time()
            if now - due > LATE_S:
                self.counters["late"] += 1
                due = now
            await asyncio.sleep(max(0.0, due - now))

    def tick(self) -> None:
        """One tenth of a second of the model, published."""
        if self._class_hour is not None:
            self._class_hour.step()
        self.cell.step(PERIOD_S)
        repeat, self._repeat = self._repeat, False
        for topic, payload, qos in self._telegrams.next(self._time_ns(), repeat):
            self._link.publish(f"{self.prefix}/{topic}", payload, qos)
        self.counters["ticks"] += 1

    def _on_message(self, _topic: str, _payload: bytes) -> None:
        self._repeat = True

    def _on_connection(self, connected: bool, detail: str) -> None:
        if connected:
            self._repeat = True
            self._loop.call_soon_threadsafe(self._connected.set)
        elif detail:
            log.warning("no broker: %s", detail)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `epip-sim robot-cell` beside the common ones."""
    parser.add_argument("--broker", default="mqtt://127.0.0.1:1883", metavar="URL", help="mqtt://host:port")
    parser.add_argument("--prefix", default="cells/robot-1", metavar="TOPIC", help="every topic stands below this one")
    parser.add_argument("--user", help="account at the broker")
    parser.add_argument("--password-file", type=Path, metavar="FILE", help="holds that account's password")


async def run(options: argparse.Namespace) -> None:
    """Simulate until cancelled. Raises OSError where the password file cannot be read, ValueError for bad options."""
    password = options.password_file.read_text("utf-8").strip() if options.password_file else None
    simulator = RobotCellSimulator(
        broker=options.broker, prefix=options.prefix, seed=options.seed, user=options.user, password=password
    )
    async with simulator:
        print(f"ready {options.broker} {options.prefix}", flush=True)
        await simulator.wait()
