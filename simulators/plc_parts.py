"""What the PLC line is built of: cylinders, the transfer axis, the belt and the parts on it; used by `plc_model.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

MM_PER_HZ = 8.0
"""Belt speed in mm/s for each Hz of the inverter."""
COUNTS_PER_MM = 2.0
AXIS_SPEED, AXIS_ACCELERATION = 340.0, 1200.0
AXIS_TRAVEL_MM = 1000.0


class State(IntEnum):
    """PackML states that the line uses, with the numbers of OPC 30060 (TMC), StateEnumeration."""

    STOPPED = 0
    RESETTING = 1
    IDLE = 2
    STARTING = 3
    EXECUTE = 4
    COMPLETING = 5
    COMPLETE = 6
    ABORTING = 7
    ABORTED = 8
    STOPPING = 9
    CLEARING = 10
    HOLDING = 14
    HELD = 15
    UNHOLDING = 16


class Mode(IntEnum):
    """The mode switch on the panel."""

    MANUAL = 0
    AUTO = 1
    MAINT = 2


class PartType(IntEnum):
    """What the sorting sensor reads."""

    NONE = 0
    METAL = 1
    WHITE = 2
    BLACK = 3


@dataclass
class Cylinder:
    """A double-acting cylinder with an end switch at each end; `position` runs from 0 (home) to 1 (out)."""

    travel_s: float
    position: float = 0.0
    out: bool = False
    """Where the valve sends it."""

    def step(self, dt: float, speed: float) -> None:
        """Move for `dt` s at `speed` times the normal speed."""
        way = dt * speed / self.travel_s
        self.position = min(1.0, self.position + way) if self.out else max(0.0, self.position - way)

    @property
    def is_out(self) -> bool:
        """The end switch of the extended position."""
        return self.position >= 0.999

    @property
    def is_home(self) -> bool:
        """The end switch of the retracted position."""
        return self.position <= 0.001


@dataclass
class Axis:
    """The transfer axis: position in mm, speed in mm/s, a trapezoidal profile towards `target`."""

    position: float = 137.0
    speed: float = 0.0
    target: float = 137.0
    homed: bool = False

    def step(self, dt: float, top: float, *, held: bool) -> None:
        """Move for `dt` s at `top` mm/s at most; `held` brakes on the spot."""
        way = self.target - self.position
        # The highest speed from which the axis can still stop at its target.
        wanted = 0.0 if held else min(top, (2 * AXIS_ACCELERATION * abs(way)) ** 0.5)
        if way < 0:
            wanted = -wanted
        change = AXIS_ACCELERATION * dt
        self.speed = min(max(wanted, self.speed - change), self.speed + change)
        step = self.speed * dt
        if not held and abs(way) <= max(abs(step), 0.05):
            self.position, self.speed = self.target, 0.0
        else:
            # Braking can carry it past its target, but never past the end stops.
            self.position = min(max(self.position + step, 0.0), AXIS_TRAVEL_MM)

    @property
    def arrived(self) -> bool:
        """It stands at its target."""
        return self.position == self.target


@dataclass
class Part:
    """A part on its way; `read` is what the sensor said, `belt_mm` where it lies on the belt."""

    type: PartType
    read: PartType = PartType.NONE
    belt_mm: float = 0.0


@dataclass
class Belt:
    """The sorting belt behind its inverter: frequency in Hz, encoder in counts."""

    setpoint: float = 25.0
    frequency: float = 0.0
    encoder: float = 0.0
    on: bool = False
    parts: list[Part] = field(default_factory=list)

    def step(self, dt: float) -> None:
        """Ramp the inverter at 50 Hz/s and carry the parts."""
        wanted = self.setpoint if self.on else 0.0
        change = 50.0 * dt
        self.frequency = min(max(wanted, self.frequency - change), self.frequency + change)
        way = self.frequency * MM_PER_HZ * dt
        self.encoder += way * COUNTS_PER_MM
        for part in self.parts:
            part.belt_mm += way
