"""The PLC line as a model: PackML states, commands, the operator, and the stations, stepped in time without any I/O.

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

from simulators.plc_parts import Mode, State
from simulators.plc_stations import RECIPES, Fault, Stations


class NotAllowed(Exception):
    """The line refuses the command now; the text says why."""


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

        self.stations = Stations(self._random, self.faults)
        self._supply = 24.1
        self._scan = 4.2
        self.servo_alarm = 0

        self._refill_at: float | None = None
        self._empty_chute_at: dict[int, float] = {}

        self.batch = 12
        self.run_seconds = 0.0
        self.down_seconds = 0.0

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
        if not self.stations.axis.homed:
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
        belt = self.stations.belt
        if abs(freq - belt.setpoint) > 5:
            raise NotAllowed(f"set_belt_freq: expected a step of 5 Hz at most from {belt.setpoint:g}")
        self._outside_command()
        belt.setpoint = freq

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
        self.stations.recipe = recipe

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
        noise = self._random.gauss
        self._supply += (24.1 - self._supply) * min(1.0, dt / 5) + noise(0.0, 0.02) * dt**0.5
        self._scan = 4.2 + abs(noise(0.0, 0.4))
        if self.state is State.EXECUTE:
            self.run_seconds += dt
        elif self.state in DOWN:
            self.down_seconds += dt
        self.stations.step(
            dt,
            at_work=self.state in (State.EXECUTE, State.COMPLETING),
            homing=self.state is State.RESETTING,
            powered=self.state is not State.ABORTED,
        )

    def values(self) -> dict[str, bool | int | float]:
        """Every channel of the kit model that the PLC knows, in the kit model's units."""
        return {
            "line.state": int(self.state),
            "line.mode": int(self.mode),
            "line.estop": self.estop_open,
            "line.guard_closed": self.guard_closed,
            "line.power_24v": round(self._supply, 2),
            "line.run_seconds": round(self.run_seconds, 1),
            "line.down_seconds": round(self.down_seconds, 1),
            "trans.servo_alarm": self.servo_alarm,
            "plc.scan_ms": round(self._scan, 1),
            **self.stations.values(),
        }

    # States.

    def _enter(self, state: State) -> None:
        self.state = state
        self._in_state = 0.0
        if state is State.ABORTING:
            # The drive loses its reference when the chain opens.
            self.stations.axis.homed = False
        if state in (State.STOPPING, State.ABORTING):
            self.stations.empty()

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
        axis = self.stations.axis
        if self.state is State.RESETTING and axis.arrived and self._in_state > 1.0:
            axis.homed = True
            self._enter(State.IDLE)
        elif self.state in TRANSIENT and self._in_state >= TRANSIENT[self.state][0]:
            starting = self.state is State.STARTING
            self._enter(TRANSIENT[self.state][1])
            if starting:
                self.stations.begin(self.batch)
        elif self.state is State.EXECUTE and self.stations.jammed:
            self._enter(State.HOLDING)
        elif self.state is State.EXECUTE and self.stations.is_done:
            self._enter(State.COMPLETING)
        self.stations.jammed = False

    def _begin_reset(self) -> None:
        self._enter(State.RESETTING)
        self.stations.home()

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
            self.stations.refill()
        elif self._refill_at is None and self.stations.needs_refill:
            # One time in four they come late, and the line stands empty for a while.
            late = self._random.random() < 0.25
            self._refill_at = self.time + (60.0 if late else self._random.uniform(4.0, 15.0))
        for chute in self.stations.full_chutes:
            if self.time >= self._empty_chute_at.setdefault(chute, self.time + 2.0):
                self.stations.empty_chute(chute)
                del self._empty_chute_at[chute]
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
