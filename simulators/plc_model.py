"""The PLC line as a model: parts, cylinders, axis, belt and PackML states, stepped in time, without any I/O.

`PlcLineModel.step(dt)` moves everything on and `values()` reads every channel of the kit model `plc_line`; the OPC UA
server around it is in `plc_line.py`. Two models with the same seed and the same steps and commands say the same.

A part is pushed out of the magazine, carried by the transfer axis to the press, to the assembly (a core drops in from
a turntable) and to the belt, where a sensor reads its type and a pusher sends it into a chute. One cycle takes about
10 s at 25 Hz.

Not modelled: forces, collisions and dropped parts; the single PLCs of the stations and the bus between them; valves,
air consumption by leakage; the servo's torque; suspend and the other states that a neighbouring machine would cause.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from enum import StrEnum

from simulators.plc_parts import AXIS_SPEED, Axis, Belt, Cylinder, Mode, Part, PartType, State

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


class NotAllowed(Exception):
    """The line refuses the command now; the text says why."""


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
HEARTBEAT_HOLD_S, HEARTBEAT_SAFE_S = 3.0, 10.0
HANDS_OFF_S = 120.0
"""After a command from outside the simulated operator leaves the line alone for this long."""

DOWN = frozenset(
    {State.STOPPING, State.STOPPED, State.HOLDING, State.HELD, State.ABORTING, State.ABORTED, State.CLEARING}
)
TRANSIENT: dict[State, tuple[float, State]] = {
    State.STARTING: (3.0, State.EXECUTE),  # 3 s of light and sound before anything moves
    State.COMPLETING: (1.0, State.COMPLETE),
    State.ABORTING: (0.2, State.ABORTED),
    State.STOPPING: (1.0, State.STOPPED),
    State.CLEARING: (1.0, State.STOPPED),
    State.HOLDING: (0.5, State.HELD),
    State.UNHOLDING: (0.5, State.EXECUTE),
}
"""How long a passing state lasts, in s, and what follows. Resetting lasts until the axis has found its reference."""


class PlcLineModel:
    """The whole line. `operated`: a simulated operator starts it, refills it and takes up what stopped."""

    def __init__(self, seed: int = 0, *, operated: bool = True) -> None:
        self._random = random.Random(seed)
        self._operated = operated
        self.time = 0.0
        self.state = State.STOPPED
        self._in_state = 0.0
        self.mode = Mode.AUTO
        self.estop_open = False
        self.guard_closed = True
        self.faults: set[Fault] = set()

        self.air = 0.62
        self._compressor = False
        self._supply = 24.1
        self._scan = 4.2
        self.axis = Axis()
        self.push = Cylinder(0.4)
        self.press = Cylinder(0.35)
        self.clamp = Cylinder(0.25)
        self.pusher = Cylinder(0.3)
        self.table = Cylinder(0.8)
        self.belt = Belt()

        self._magazine: list[PartType] = []
        self._fill()
        self._cores = CORES_FULL
        self._refill_at: float | None = None
        self._pushed: Part | None = None
        self._carried: Part | None = None
        self._chutes = {1: 0, 2: 0, 3: 0}
        self._chute_emptied_at: dict[int, float] = {}
        self._current = 0.0

        self.batch = 12
        self.recipe = "by_type"
        self.parts_good = 0
        self.parts_reject = 0
        self.cycle_time = 0.0
        self._last_out: float | None = None
        self.part_type = PartType.NONE
        self.run_seconds = 0.0
        self.down_seconds = 0.0
        self.servo_alarm = 0

        self._worked = 0.0
        self._programs: list[Program] = []
        self._hands_off_until = 0.0
        self._heartbeat: int | None = None
        self._heartbeat_at = 0.0

    # Commands. Each raises NotAllowed where the line refuses it now.

    def reset(self) -> None:
        """Stopped or Complete to Resetting and on to Idle."""
        self._only_in("reset", State.STOPPED, State.COMPLETE)
        self._only_safe("reset")
        self._outside_command()
        self._begin_reset()

    def start(self) -> None:
        """Idle to Starting: 3 s of light and sound, then the batch runs."""
        self._only_in("start", State.IDLE)
        self._only_safe("start")
        if not self.axis.homed:
            raise NotAllowed("start: the axis has not found its reference")
        self._outside_command()
        self._enter(State.STARTING)

    def stop(self) -> None:
        """A controlled stop from any state but the aborted ones; nothing happens where the line stands already."""
        self._outside_command()
        if self.state not in (State.STOPPED, State.STOPPING, State.ABORTING, State.ABORTED, State.CLEARING):
            self._enter(State.STOPPING)

    def hold(self) -> None:
        """Execute to Held; the parts stay where they are."""
        self._only_in("hold", State.EXECUTE)
        self._outside_command()
        self._enter(State.HOLDING)

    def unhold(self) -> None:
        """Held to Execute."""
        self._only_in("unhold", State.HELD)
        self._only_safe("unhold")
        self._outside_command()
        self._enter(State.UNHOLDING)

    def clear(self) -> None:
        """Aborted to Stopped, at the panel only, once the chain is closed again."""
        self._only_in("clear", State.ABORTED)
        if self.estop_open:
            raise NotAllowed("clear: the emergency stop chain is open")
        self._enter(State.CLEARING)

    def set_belt_freq(self, freq: float) -> None:
        """Frequency of the inverter, 10 to 35 Hz, at most 5 Hz away from the present one."""
        self._only_in("set_belt_freq", State.IDLE, State.EXECUTE)
        if not 10 <= freq <= 35:
            raise NotAllowed(f"set_belt_freq: expected 10 to 35 Hz, found {freq:g}")
        if abs(freq - self.belt.setpoint) > 5:
            raise NotAllowed(f"set_belt_freq: expected a step of 5 Hz at most from {self.belt.setpoint:g}")
        self._outside_command()
        self.belt.setpoint = freq

    def set_batch(self, parts: int) -> None:
        """Parts of the next batch, 1 to 20."""
        self._only_in("set_batch", State.IDLE)
        if not 1 <= parts <= 20:
            raise NotAllowed(f"set_batch: expected 1 to 20 parts, found {parts}")
        self._outside_command()
        self.batch = parts

    def select_recipe(self, recipe: str) -> None:
        """One of RECIPES."""
        self._only_in("select_recipe", State.IDLE)
        if recipe not in RECIPES:
            raise NotAllowed(f"select_recipe: expected one of {', '.join(RECIPES)}")
        self._outside_command()
        self.recipe = recipe

    def heartbeat(self, count: int) -> None:
        """Someone controls the line from afar: without a new count the line holds after 3 s, stops after 10 s.

        0 ends the watch.
        """
        self._outside_command()
        self._heartbeat = count or None
        self._heartbeat_at = self.time

    # What happens on the panel and to the equipment.

    def open_estop(self) -> None:
        """Somebody presses the emergency stop."""
        self.estop_open = True

    def close_estop(self) -> None:
        """Somebody releases the emergency stop; the line stays Aborted until it is cleared."""
        self.estop_open = False

    def inject(self, fault: Fault) -> None:
        """Put a fault in."""
        self.faults.add(fault)

    def clear_fault(self, fault: Fault) -> None:
        """Take a fault out."""
        self.faults.discard(fault)
        if fault is Fault.MAGAZINE_EMPTY and self._operated:
            self._refill_at = self.time + 2.0

    # Time.

    def step(self, dt: float) -> None:
        """Everything moves on by `dt` s, 0.05 in the simulator; above 0.2 the end switches would be missed."""
        self.time += dt
        self._in_state += dt
        self._change_state()
        if self._operated:
            self._operate()
        self._utilities(dt)
        moving = self.state in (State.EXECUTE, State.COMPLETING)
        if moving:
            self.run_seconds += dt if self.state is State.EXECUTE else 0.0
            self._worked += dt
            self._programs = [program for program in self._programs if next(program, StopIteration) is None]
        elif self.state in DOWN:
            self.down_seconds += dt
        self.axis.step(dt, AXIS_SPEED, held=not moving and self.state is not State.RESETTING)
        self.belt.on = moving
        self.belt.step(dt)
        if self.state is not State.ABORTED:
            speed = 0.0 if self.air < 0.3 else min(1.0, self.air / 0.5) ** 2
            for cylinder in (self.push, self.press, self.clamp, self.pusher, self.table):
                before = cylinder.position
                cylinder.step(dt, speed)
                self.air -= 0.012 * abs(cylinder.position - before)

    def values(self) -> dict[str, bool | int | float]:
        """Every channel of the kit model that the PLC knows, in the kit model's units."""
        out = self.push.is_out and Fault.SENSOR_OFF not in self.faults
        return {
            "line.state": int(self.state),
            "line.mode": int(self.mode),
            "line.estop": self.estop_open,
            "line.guard_closed": self.guard_closed,
            "line.air_pressure": round(self.air, 3),
            "line.power_24v": round(self._supply, 2),
            "line.cycle_time": round(self.cycle_time, 2),
            "line.parts_good": self.parts_good,
            "line.parts_reject": self.parts_reject,
            "line.run_seconds": round(self.run_seconds, 1),
            "line.down_seconds": round(self.down_seconds, 1),
            "feed.magazine_low": len(self._magazine) <= MAGAZINE_LOW,
            "feed.magazine_empty": not self._magazine,
            "feed.push_out": out,
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
            **{f"sort.chute{n}_full": count >= CHUTE_FULL for n, count in self._chutes.items()},
            "trans.pos": round(self.axis.position, 1),
            "trans.speed": round(abs(self.axis.speed), 1),
            "trans.servo_alarm": self.servo_alarm,
            "trans.homed": self.axis.homed,
            "plc.scan_ms": round(self._scan, 1),
        }

    # States.

    def _enter(self, state: State) -> None:
        self.state = state
        self._in_state = 0.0
        if state is State.ABORTING:
            # The drive loses its reference when the chain opens.
            self.axis.homed = False
        if state in (State.STOPPING, State.ABORTING):
            self._empty_line()

    def _change_state(self) -> None:
        chain_broken = self.estop_open or (not self.guard_closed and self.state is State.EXECUTE)
        if chain_broken and self.state not in (State.ABORTING, State.ABORTED):
            self._enter(State.ABORTING)
            return
        if self._heartbeat is not None:
            missing = self.time - self._heartbeat_at
            if missing > HEARTBEAT_SAFE_S:
                self._heartbeat = None
                if self.state not in DOWN - {State.HOLDING, State.HELD}:
                    self._enter(State.STOPPING)
            elif missing > HEARTBEAT_HOLD_S and self.state is State.EXECUTE:
                self._enter(State.HOLDING)
        if self.state is State.RESETTING and self.axis.arrived and self._in_state > 1.0:
            self.axis.homed = True
            self._enter(State.IDLE)
        elif self.state in TRANSIENT and self._in_state >= TRANSIENT[self.state][0]:
            starting = self.state is State.STARTING
            self._enter(TRANSIENT[self.state][1])
            if starting:
                self._begin_batch()
        elif self.state is State.EXECUTE and not self._programs:
            self._enter(State.COMPLETING)

    def _begin_reset(self) -> None:
        self._enter(State.RESETTING)
        self.axis.target = FEED_MM
        for cylinder in (self.push, self.press, self.clamp, self.pusher):
            cylinder.out = False

    def _begin_batch(self) -> None:
        self._last_out = None
        self._programs = [self._feeding(self.batch), self._transfer(self.batch), self._sorting(self.batch)]

    def _empty_line(self) -> None:
        # The operator takes out what lay between magazine and chutes.
        self._programs = []
        self._pushed = self._carried = None
        self.belt.parts.clear()

    def _only_in(self, command: str, *states: State) -> None:
        if self.state not in states:
            names = " or ".join(state.name.capitalize() for state in states)
            raise NotAllowed(f"{command}: expected the state {names}, it is {self.state.name.capitalize()}")

    def _only_safe(self, command: str) -> None:
        if self.mode is not Mode.AUTO:
            raise NotAllowed(f"{command}: the mode switch is not on automatic")
        if self.estop_open:
            raise NotAllowed(f"{command}: the emergency stop chain is open")
        if not self.guard_closed:
            raise NotAllowed(f"{command}: the guard is open")

    def _outside_command(self) -> None:
        self._hands_off_until = self.time + HANDS_OFF_S

    def _operate(self) -> None:
        """What the simulated operator does at the panel."""
        if self._refill_at is not None and self.time >= self._refill_at:
            self._refill_at = None
            self._fill()
            self._cores = CORES_FULL
        elif self._refill_at is None and (len(self._magazine) <= MAGAZINE_LOW or self._cores <= CORES_LOW):
            # One time in four they come late, and the line stands empty for a while.
            late = self._random.random() < 0.25
            self._refill_at = self.time + (60.0 if late else self._random.uniform(4.0, 15.0))
        for chute, count in self._chutes.items():
            if count >= CHUTE_FULL and self.time >= self._chute_emptied_at.setdefault(chute, self.time + 2.0):
                self._chutes[chute] = 0
                del self._chute_emptied_at[chute]
        if self.time < self._hands_off_until or self.mode is not Mode.AUTO or not self.guard_closed:
            return
        if self.state is State.ABORTED and not self.estop_open and self._in_state > 10.0:
            self.clear()
        elif self.state in (State.STOPPED, State.COMPLETE) and self._in_state > 2.0:
            self._begin_reset()
        elif self.state is State.IDLE and self._in_state > 2.0:
            self._enter(State.STARTING)
        elif self.state is State.HELD and self._in_state > 8.0 and Fault.SENSOR_OFF not in self.faults:
            self._enter(State.UNHOLDING)

    def _fill(self) -> None:
        if Fault.MAGAZINE_EMPTY in self.faults:
            return
        new = [PartType.METAL, PartType.WHITE, PartType.BLACK] * (MAGAZINE_FULL // 3)
        self._random.shuffle(new)
        self._magazine += new[: MAGAZINE_FULL - len(self._magazine)]

    def _utilities(self, dt: float) -> None:
        """Air, supply and scan time."""
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
        noise = self._random.gauss
        self._supply += (24.1 - self._supply) * min(1.0, dt / 5) + noise(0.0, 0.02) * dt**0.5
        self._scan = 4.2 + abs(noise(0.0, 0.4))
        load = 0.45 + 0.015 * self.belt.frequency + 0.08 * len(self.belt.parts)
        self._current = max(0.0, load + noise(0.0, 0.01)) if self.belt.frequency > 0.5 else 0.0

    # Programs of the stations.

    def _wait(self, condition: Callable[[], bool]) -> Program:
        while not condition():
            yield

    def _pause(self, seconds: float) -> Program:
        end = self._worked + seconds * self._random.uniform(0.95, 1.08)
        return self._wait(lambda: self._worked >= end)

    def _drive(self, cylinder: Cylinder, *, out: bool, arrived: Callable[[], bool]) -> Program:
        """Send a cylinder and wait for its end switch; one that does not arrive makes the line hold."""
        cylinder.out = out
        patience = self._worked + JAM_S
        while not arrived():
            if self._worked >= patience and self.state is State.EXECUTE:
                patience = self._worked + JAM_S
                self._enter(State.HOLDING)
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
            assert self._carried is not None  # noqa: S101 - only _empty_line takes it, and that ends this program
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
                self.cycle_time = self.time - self._last_out
            self._last_out = self.time
            yield from self._drive(self.pusher, out=False, arrived=lambda: self.pusher.is_home)
