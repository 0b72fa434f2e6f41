"""The stations of the PLC line at work: feeding, transfer, processing, assembly and sorting, stepped by `plc_model.py`.

Each station is a program: a generator that is resumed once a scan and yields until what it waits for has come. A line
that holds does not resume them, and so everything waits where it is.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from enum import StrEnum

from simulators.plc_parts import AXIS_SPEED, Axis, Belt, Cylinder, Part, PartType

Program = Generator[None, None, None]
"""A station's program: it yields once a scan until what it waits for has come."""


class Fault(StrEnum):
    """The faults of task A3 that can be put in."""

    SENSOR_OFF = "sensor_off"
    """The end switch of the extended push cylinder never closes: the line jams at the magazine."""
    AIR_LOW = "air_low"
    """The supply air sinks to 0.40 MPa: cylinders become slow and the low limit alarms."""
    MAGAZINE_EMPTY = "magazine_empty"
    """Nobody fills the magazine, and what was in it is gone."""


RECIPES: dict[str, dict[PartType, int]] = {
    "by_type": {PartType.METAL: 1, PartType.WHITE: 2, PartType.BLACK: 3},
    "metal_apart": {PartType.METAL: 1, PartType.WHITE: 2, PartType.BLACK: 2},
    "black_apart": {PartType.METAL: 1, PartType.WHITE: 1, PartType.BLACK: 3},
}
"""Recipe to the chute of each part type."""

MAGAZINE_FULL = 12
MAGAZINE_LOW = 3
CORES_FULL = 12
CORES_LOW = 3
CHUTE_FULL = 6
FEED_MM, PROC_MM, ASM_MM, SORT_MM = 0.0, 300.0, 550.0, 900.0
SENSOR_MM = 120.0
CHUTE_MM = {1: 240.0, 2: 340.0, 3: 440.0}
JAM_S = 5.0
"""A cylinder that has not arrived after this time makes the PLC hold; the alarm of the kit model comes at 2 s."""


class Stations:
    """The equipment of the line and its programs. `faults` are those that are in; the caller may change the set."""

    def __init__(self, rng: random.Random, faults: set[Fault]) -> None:
        self._random = rng
        self.faults = faults
        self.air = 0.62
        """Supply pressure in MPa."""
        self._compressor = False
        self.axis = Axis()
        self.push = Cylinder(0.4)
        self.press = Cylinder(0.35)
        self.clamp = Cylinder(0.25)
        self.pusher = Cylinder(0.3)
        self.table = Cylinder(0.8)
        self.belt = Belt()
        self._current = 0.0

        self._magazine: list[PartType] = []
        self._cores = 0
        self._pushed: Part | None = None
        self._carried: Part | None = None
        self._chutes = {1: 0, 2: 0, 3: 0}
        self.refill()

        self.recipe = "by_type"
        self.parts_good = 0
        self.parts_reject = 0
        self.cycle_time = 0.0
        self.part_type = PartType.NONE
        self.jammed = False
        """A cylinder has not arrived; the caller takes the flag down."""

        self._time = 0.0
        self._worked = 0.0
        self._last_out: float | None = None
        self._programs: list[Program] = []

    @property
    def is_done(self) -> bool:
        """Nothing of the batch is left."""
        return not self._programs

    @property
    def needs_refill(self) -> bool:
        """Magazine or core store is low."""
        return len(self._magazine) <= MAGAZINE_LOW or self._cores <= CORES_LOW

    @property
    def full_chutes(self) -> list[int]:
        """The chutes whose sensor is covered."""
        return [chute for chute, count in self._chutes.items() if count >= CHUTE_FULL]

    def refill(self) -> None:
        """The operator fills magazine and core store."""
        if Fault.MAGAZINE_EMPTY not in self.faults:
            new = [PartType.METAL, PartType.WHITE, PartType.BLACK] * (MAGAZINE_FULL // 3)
            self._random.shuffle(new)
            self._magazine += new[: MAGAZINE_FULL - len(self._magazine)]
        self._cores = CORES_FULL

    def empty_chute(self, chute: int) -> None:
        """The operator takes the parts out of a chute."""
        self._chutes[chute] = 0

    def home(self) -> None:
        """Axis to its reference, cylinders in."""
        self.axis.target = FEED_MM
        for cylinder in (self.push, self.press, self.clamp, self.pusher):
            cylinder.out = False

    def begin(self, parts: int) -> None:
        """Start the programs of a batch."""
        self._last_out = None
        self._programs = [self._feeding(parts), self._transfer(parts), self._sorting(parts)]

    def empty(self) -> None:
        """End the programs; the operator takes out what lay between magazine and chutes."""
        self._programs = []
        self._pushed = self._carried = None
        self.belt.parts.clear()

    def step(self, dt: float, *, at_work: bool, homing: bool, powered: bool) -> None:
        """Move on by `dt` s. `at_work`: the programs run; `homing`: only the axis; not `powered`: dead valves."""
        self._time += dt
        self._utilities(dt)
        if at_work:
            self._worked += dt
            self._programs = [program for program in self._programs if next(program, StopIteration) is None]
        self.axis.step(dt, AXIS_SPEED, held=not (at_work or homing))
        self.belt.on = at_work
        self.belt.step(dt)
        if powered:
            speed = 0.0 if self.air < 0.3 else min(1.0, self.air / 0.5) ** 2
            for cylinder in (self.push, self.press, self.clamp, self.pusher, self.table):
                before = cylinder.position
                cylinder.step(dt, speed)
                self.air -= 0.012 * abs(cylinder.position - before)

    def values(self) -> dict[str, bool | int | float]:
        """The channels of the stations, in the kit model's units."""
        full = self.full_chutes
        return {
            "line.air_pressure": round(self.air, 3),
            "line.cycle_time": round(self.cycle_time, 2),
            "line.parts_good": self.parts_good,
            "line.parts_reject": self.parts_reject,
            "feed.magazine_low": len(self._magazine) <= MAGAZINE_LOW,
            "feed.magazine_empty": not self._magazine,
            "feed.push_out": self.push.is_out and Fault.SENSOR_OFF not in self.faults,
            "feed.push_home": self.push.is_home,
            "proc.press_down": self.press.is_out,
            "proc.press_up": self.press.is_home,
            "proc.clamp_closed": self.clamp.is_out,
            "proc.clamp_open": self.clamp.is_home,
            "asm.core_low": self._cores <= CORES_LOW,
            "asm.turntable_pos": 1 if self.table.is_home else 2 if self.table.is_out else 0,
            "sort.belt_freq": round(self.belt.frequency, 1),
            "sort.belt_current": round(self._current, 2),
            "sort.encoder": int(self.belt.encoder),
            "sort.part_type": int(self.part_type),
            **{f"sort.chute{chute}_full": chute in full for chute in self._chutes},
            "trans.pos": round(self.axis.position, 1),
            "trans.speed": round(abs(self.axis.speed), 1),
            "trans.homed": self.axis.homed,
        }

    def _utilities(self, dt: float) -> None:
        """Air, magazine, and the current of the belt."""
        if Fault.AIR_LOW in self.faults:
            self.air += (0.40 - self.air) * min(1.0, dt)
        else:
            if self.air < 0.56:
                self._compressor = True
            elif self.air > 0.64:
                self._compressor = False
            self.air += (0.02 if self._compressor else -0.0005) * dt
        if Fault.MAGAZINE_EMPTY in self.faults:
            self._magazine.clear()
        load = 0.45 + 0.015 * self.belt.frequency + 0.08 * len(self.belt.parts)
        self._current = max(0.0, load + self._random.gauss(0.0, 0.01)) if self.belt.frequency > 0.5 else 0.0

    # Programs of the stations.

    def _wait(self, condition: Callable[[], bool]) -> Program:
        while not condition():
            yield

    def _pause(self, seconds: float) -> Program:
        end = self._worked + seconds * self._random.uniform(0.95, 1.08)
        return self._wait(lambda: self._worked >= end)

    def _drive(self, cylinder: Cylinder, *, out: bool, arrived: Callable[[], bool]) -> Program:
        """Send a cylinder and wait for its end switch; one that does not arrive is a jam."""
        cylinder.out = out
        patience = self._worked + JAM_S
        while not arrived():
            if self._worked >= patience:
                patience = self._worked + JAM_S
                self.jammed = True
            yield

    def _move(self, target: float) -> Program:
        self.axis.target = target
        return self._wait(lambda: self.axis.arrived)

    def _feeding(self, parts: int) -> Program:
        for _ in range(parts):
            yield from self._wait(lambda: self._pushed is None and bool(self._magazine))
            part = Part(self._magazine[0])
            yield from self._drive(
                self.push, out=True, arrived=lambda: self.push.is_out and Fault.SENSOR_OFF not in self.faults
            )
            # Whoever empties the magazine meanwhile does not reach the part before the cylinder.
            self._magazine = self._magazine[1:]
            self._pushed = part
            yield from self._drive(self.push, out=False, arrived=lambda: self.push.is_home)

    def _transfer(self, parts: int) -> Program:
        for _ in range(parts):
            yield from self._move(FEED_MM)
            yield from self._wait(lambda: self._pushed is not None)
            yield from self._pause(0.25)
            self._carried, self._pushed = self._pushed, None
            yield from self._move(PROC_MM)
            yield from self._pause(0.25)
            yield from self._processing()
            yield from self._pause(0.25)
            yield from self._move(ASM_MM)
            yield from self._pause(0.25)
            yield from self._assembly()
            yield from self._pause(0.25)
            yield from self._move(SORT_MM)
            yield from self._pause(0.25)
            assert self._carried is not None  # noqa: S101 - only empty() takes it, and that ends this program
            self.belt.parts.append(self._carried)
            self._carried = None

    def _processing(self) -> Program:
        yield from self._drive(self.clamp, out=True, arrived=lambda: self.clamp.is_out)
        yield from self._drive(self.press, out=True, arrived=lambda: self.press.is_out)
        yield from self._pause(0.3)
        yield from self._drive(self.press, out=False, arrived=lambda: self.press.is_home)
        yield from self._drive(self.clamp, out=False, arrived=lambda: self.clamp.is_home)

    def _assembly(self) -> Program:
        yield from self._wait(lambda: self._cores > 0 and (self.table.is_home or self.table.is_out))
        self._cores -= 1
        yield from self._pause(0.4)
        self.table.out = not self.table.out

    def _sorting(self, parts: int) -> Program:
        for _ in range(parts):
            yield from self._wait(lambda: bool(self.belt.parts))
            part = self.belt.parts[0]
            yield from self._wait(lambda part=part: part.belt_mm >= SENSOR_MM)
            part.read = part.type
            if self._random.random() < 0.02:
                part.read = self._random.choice((PartType.METAL, PartType.WHITE, PartType.BLACK))
            self.part_type = part.read
            chute = RECIPES[self.recipe][part.read]
            yield from self._wait(lambda part=part, mm=CHUTE_MM[chute]: part.belt_mm >= mm)
            yield from self._wait(lambda chute=chute: self._chutes[chute] < CHUTE_FULL)
            yield from self._drive(self.pusher, out=True, arrived=lambda: self.pusher.is_out)
            self.belt.parts.remove(part)
            self._chutes[chute] += 1
            if chute == RECIPES[self.recipe][part.type]:
                self.parts_good += 1
            else:
                self.parts_reject += 1
            if self._last_out is not None:
                self.cycle_time = self._time - self._last_out
            self._last_out = self._time
            yield from self._drive(self.pusher, out=False, arrived=lambda: self.pusher.is_home)
