"""The simulated robot cell as a pure, seeded model: `step(dt)` in, the state that `robot_cell` publishes out.

One robot with its controller (program, speed override, stops), gripper and parts, and the guarded cell around it. The
same seed and the same calls give the same values. What people do at the bench (open the guard, press the emergency
stop, reset) are methods here and never topics.

Not modelled: jerk and servo dynamics (the path is followed exactly but for a settling error and encoder noise), contact
forces, collisions with parts or links, brakes, the order of a safety reset.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

from simulators.robot_drives import RATED_CURRENT_A, currents, warmed
from simulators.robot_kinematics import Array, Pose, frames, jacobian, pose_of
from simulators.robot_motion import Dwell, Move
from simulators.robot_programs import HOME, PROGRAMS, RACK, Path

GRIPPER_KG, PART_KG = 0.95, 0.35
SETTLING_DEG, ENCODER_DEG, SPEED_NOISE, CURRENT_NOISE_A = 0.0012, 0.0004, 0.004, 0.03
"""Standard deviations: error after each move, angle reading, speed reading (deg/s), current reading."""
RAMP_PER_S = 2.0
"""How fast the override takes effect, per second; also how fast a pause brings the robot to rest."""
QUICK_RAMP_PER_S = 6.0
"""The same for protective and emergency stops."""


class Mode(IntEnum):
    """OperationalMode of OPC 40010-1."""

    OTHER = 0
    MANUAL_REDUCED_SPEED = 1
    MANUAL_HIGH_SPEED = 2
    AUTOMATIC = 3
    AUTOMATIC_EXTERNAL = 4


class Execution(IntEnum):
    """ExecutionMode of OPC 40010-1."""

    CYCLE = 0
    CONTINUOUS = 1
    STEP = 2


class ProgramState(IntEnum):
    """What the program does, in the numbers of the kit model."""

    IDLE = 0
    RUNNING = 1
    PAUSED = 2
    STOPPED = 3
    ERROR = 4


ALARMS = {
    0: "",
    1101: "Emergency stop pressed",
    1201: "Guard opened during motion",
    1202: "Person detected during motion",
    1203: "Light curtain interrupted during motion",
    2301: "Part lost while carrying",
}
"""Codes of the controller with its own words for them."""


class Refused(Exception):
    """Change what the message names and ask again: the controller does not allow this now."""


@dataclass
class Cell:
    """Guard and people around the robot, as the safety controller sees them."""

    guard_closed: bool = True
    presence: bool = False
    light_curtain: bool = False


@dataclass
class Robot:
    """States of the controller that change now and then."""

    operational_mode: Mode = Mode.AUTOMATIC_EXTERNAL
    emergency_stop: bool = False
    protective_stop: bool = False
    speed_override: float = 50.0
    in_control: bool = True
    on_path: bool = True
    alarm_code: int = 0
    execution_mode: Execution = Execution.CYCLE
    program_name: str = "home"
    program_state: ProgramState = ProgramState.IDLE
    gripper_closed: bool = False
    part: bool = False
    cycle_time: float = 0.0
    cycles: int = 0


@dataclass
class Sample:
    """What the controller reads of the arm: degrees, degrees per second, amperes, degrees Celsius; mm and mm/s."""

    position: Array
    speed: Array
    current: Array
    temperature: Array
    tcp: Pose
    tcp_speed: float


@dataclass
class RobotCell:
    """The whole cell. `time` is the model's own, in seconds; `sample` is what was read at that time."""

    rng: random.Random
    robot: Robot = field(default_factory=Robot)
    cell: Cell = field(default_factory=Cell)
    time: float = 0.0
    parts_left: int = len(RACK)

    def __post_init__(self) -> None:
        self._q = HOME.copy()
        self._qd = np.zeros(6)
        self._moves: Iterator[Move] = iter(())
        self._move: Move | None = None
        self._path_time = 0.0
        self._scale = 0.0
        self._ending = False
        self._settling = np.zeros(6)
        self._cycle_start = 0.0
        self._temperature = np.array([31.0 + self.rng.uniform(0.0, 2.0) for _ in range(6)])
        self.sample = self._read(np.zeros(6))

    @property
    def payload(self) -> float:
        """kg at the flange: gripper and part."""
        return GRIPPER_KG + (PART_KG if self.robot.part else 0.0)

    @property
    def moving(self) -> bool:
        """Whether the robot is in motion."""
        return bool(np.any(self._qd != 0.0))

    @property
    def at_home(self) -> bool:
        """Whether every joint stands within 0.5 degrees of home."""
        return bool(np.max(np.abs(self._q - HOME)) < 0.5)

    # What the controller can be told.

    def select_program(self, name: str) -> None:
        """Load a program. Raises Refused for an unknown one and while one runs."""
        if name not in PROGRAMS:
            raise Refused(f"program {name!r}: expected one of {', '.join(PROGRAMS)}")
        if self.robot.program_state in (ProgramState.RUNNING, ProgramState.PAUSED):
            raise Refused("a program runs: stop it first")
        self.robot.program_name = name
        self.robot.program_state = ProgramState.IDLE

    def start(self) -> None:
        """Run the loaded program from its beginning. Raises Refused."""
        robot = self.robot
        if robot.program_state not in (ProgramState.IDLE, ProgramState.STOPPED):
            raise Refused("a program runs or waits: stop it first")
        self._motion_allowed()
        if not robot.on_path and robot.program_name != "home":
            raise Refused("off path: run the program home first")
        self._moves = PROGRAMS[robot.program_name](Path(self._q), self)
        self._move = None
        self._ending = False
        self._cycle_start = self.time
        robot.program_state = ProgramState.RUNNING
        robot.alarm_code = 0

    def pause(self) -> None:
        """Come to rest along the path; `resume` goes on. Raises Refused where nothing runs."""
        if self.robot.program_state is not ProgramState.RUNNING:
            raise Refused("no program runs")
        self.robot.program_state = ProgramState.PAUSED

    def resume(self) -> None:
        """Go on with the paused program. Raises Refused."""
        if self.robot.program_state is not ProgramState.PAUSED:
            raise Refused("no program is paused")
        self._motion_allowed()
        self.robot.program_state = ProgramState.RUNNING
        self.robot.alarm_code = 0

    def stop(self) -> None:
        """Come to rest along the path and end the program. Always allowed."""
        if self.robot.program_state in (ProgramState.RUNNING, ProgramState.PAUSED):
            self.robot.program_state = ProgramState.STOPPED
            self._ending = True

    def set_speed_override(self, percent: float) -> None:
        """Scale all motion. Raises Refused outside 0 to 100."""
        if not 0.0 <= percent <= 100.0:
            raise Refused(f"override {percent} %, expected 0 to 100")
        self.robot.speed_override = percent

    def _motion_allowed(self) -> None:
        if self.robot.emergency_stop or not self.robot.in_control:
            raise Refused("the emergency stop is active")
        if self.robot.protective_stop:
            raise Refused("the protective stop is active: reset it at the cell")
        if not self.cell.guard_closed or self.cell.presence or self.cell.light_curtain:
            raise Refused("the cell is not clear")

    # What people do at the bench.

    def open_guard(self) -> None:
        """Open the door; a moving robot stops at once."""
        self.cell.guard_closed = False
        self._intrusion(1201)

    def close_guard(self) -> None:
        """Close the door."""
        self.cell.guard_closed = True

    def enter(self) -> None:
        """A person steps through the light curtain into the cell."""
        self.cell.presence = True
        self._intrusion(1202)

    def leave(self) -> None:
        """Nobody is in the cell any more."""
        self.cell.presence = False
        self.cell.light_curtain = False

    def interrupt_light_curtain(self) -> None:
        """Something stands in the light curtain."""
        self.cell.light_curtain = True
        self._intrusion(1203)

    def refill(self) -> None:
        """Put eight parts back into the rack."""
        self.parts_left = len(RACK)

    def lose_part(self) -> None:
        """The part falls out of the closed gripper."""
        if self.robot.part:
            self.robot.part = False
            self.robot.alarm_code = 2301

    def press_emergency_stop(self) -> None:
        """Drives off, program in error, until released and reset by hand."""
        self.robot.emergency_stop = True
        self.robot.in_control = False
        self.robot.alarm_code = 1101
        self.robot.program_state = ProgramState.ERROR
        self._ending = True

    def reset(self) -> None:
        """Release and reset the stops at the cell. Raises Refused while it is not clear."""
        if not self.cell.guard_closed or self.cell.presence or self.cell.light_curtain:
            raise Refused("the cell is not clear")
        self.robot.emergency_stop = False
        self.robot.protective_stop = False
        self.robot.in_control = True
        self.robot.alarm_code = 0
        if self.robot.program_state is ProgramState.ERROR:
            self.robot.program_state = ProgramState.STOPPED

    def _intrusion(self, code: int) -> None:
        if self.robot.program_state is ProgramState.RUNNING:
            self.robot.protective_stop = True
            self.robot.alarm_code = code
            self.robot.program_state = ProgramState.PAUSED

    # What programs do beside moving.

    def close_gripper(self) -> None:
        """The fingers are closed now."""
        self.robot.gripper_closed = True

    def sense_part(self) -> None:
        """The part sensor has had its time."""
        if self.parts_left > 0:
            self.parts_left -= 1
            self.robot.part = True

    def open_gripper(self) -> None:
        """The fingers are open now; a part stays where it is."""
        self.robot.gripper_closed = False
        self.robot.part = False

    def end_cycle(self) -> None:
        """One cycle of the program is complete."""
        self.robot.cycle_time = round(self.time - self._cycle_start, 3)
        self.robot.cycles += 1
        self._cycle_start = self.time

    # Time.

    def step(self, dt: float) -> None:
        """Let `dt` seconds pass and read the arm."""
        running = self.robot.program_state is ProgramState.RUNNING
        target = self.robot.speed_override / 100.0 if running else 0.0
        quick = self.robot.protective_stop or self.robot.emergency_stop
        most = (QUICK_RAMP_PER_S if quick else RAMP_PER_S) * dt
        before = self._scale
        self._scale += max(-most, min(most, target - self._scale))
        start, speed_before = self.time, self._qd
        self._advance(dt, (before + self._scale) / 2, running)
        self.time = start + dt
        if self._ending and self._scale == 0.0:
            self._drop_program()
        self.sample = self._read((self._qd - speed_before) / dt)
        self._temperature = warmed(self._temperature, self.sample.current, dt)

    def _advance(self, left: float, scale: float, running: bool) -> None:
        self._qd = np.zeros(6)
        start = self.time + left
        while left > 0:
            if self._move is None:
                if not running or not self._next_move():
                    return
                continue
            pace = scale if self._move.scaled else float(running)
            if pace <= 0:
                return
            needed = (self._move.duration - self._path_time) / pace
            if needed > left:
                self._path_time += left * pace
                self._q, rate = self._move.at(self._path_time)
                self._qd = rate * pace
                return
            left -= needed
            self.time = start - left
            self._q = self._move.end
            move, self._move = self._move, None
            if isinstance(move, Dwell):
                if move.then is not None:
                    move.then()
            else:
                self._settling = np.array([self.rng.gauss(0.0, SETTLING_DEG) for _ in range(6)])

    def _next_move(self) -> bool:
        self._path_time = 0.0
        self._move = next(self._moves, None)
        if self._move is None:
            self.robot.program_state = ProgramState.IDLE
            self.robot.on_path = True
            return False
        return True

    def _drop_program(self) -> None:
        self._ending = False
        self._moves = iter(())
        self._move = None
        self.robot.on_path = self.at_home

    def _read(self, acceleration: Array) -> Sample:
        gauss = self.rng.gauss
        position = np.round(self._q + self._settling + [gauss(0.0, ENCODER_DEG) for _ in range(6)], 4)
        speed = self._qd + [gauss(0.0, SPEED_NOISE) for _ in range(6)]
        chain = frames(position)
        noise = [gauss(0.0, CURRENT_NOISE_A) for _ in range(6)]
        drawn = currents(chain, self._qd, acceleration, self.payload) if self.robot.in_control else np.zeros(6)
        return Sample(
            position=position,
            speed=speed,
            current=np.clip(drawn + noise, 0.0, RATED_CURRENT_A),
            temperature=self._temperature,
            tcp=pose_of(chain[-1]),
            tcp_speed=float(np.linalg.norm(jacobian(chain)[:3] @ np.radians(speed))),
        )
