"""The mobility platform on its course: a pure model that is stepped in time and driven by intents.

Modelled: a differential drive with limits on speed and acceleration, four distance sensors against walls and round
obstacles, slowing below 0.8 m and stopping below 0.4 m, bumper, motor currents from wheel speed and acceleration,
a 24 V battery that is exchanged when low, tilt on a ramp, emergency stop, seat and the attendant's enable switch.

Not modelled: wheel slip and odometry error, the weight of the person, the dynamics of brakes, sensor cones and echoes.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

COURSE_M = (8.0, 6.0)
OBSTACLES = ((4.0, 3.0, 0.2), (7.4, 5.4, 0.25), (0.6, 5.4, 0.2))
"""x, y and radius in m."""
RAMP = (3.2, 4.8, 4.0)
"""On the far straight, from x to x and above y, the floor slopes by RAMP_DEG."""
RAMP_DEG = 3.5
GATES = ((1.6, 1.6), (6.4, 1.6), (6.4, 4.4), (1.6, 4.4))

RADIUS_M = 0.35
TRACK_M = 0.5
RANGE_M = (0.05, 4.0)
SLOW_M = 0.8
STOP_M = 0.4
CLASS_SPEED_M_S = 0.30
TURN_DEG_S = 25.0
TURN_SPEED_M_S = 0.05
BACK_M_S = -0.15
ACCELERATION_M_S2 = 0.4
BRAKING_M_S2 = 1.2
"""From 0.3 m/s to rest in a quarter of a second: the safe state is reached within 0.5 s."""
TURN_ACCELERATION_DEG_S2 = 120.0
TILT_STOP_DEG = 8.0
BATTERY_FULL_V = 27.2
BATTERY_EMPTY_V = 22.0
BATTERY_AH = 8.0
"""Small, so that a demo of an hour shows the battery go down."""
BATTERY_EXCHANGE_PCT = 22.0
REST_A = 1.2
NO_LOAD_A = 1.5
LOAD_A_PER_M_S = 14.0
LOAD_A_PER_M_S2 = 6.0

INTENTS = ("none", "forward", "left", "right", "back", "stop")


@dataclass
class Drive:
    """State of the platform. `armed` is False, or who armed it: `local` (on the spot) or `remote`."""

    rng: random.Random
    x: float = 1.6
    y: float = 1.6
    heading: float = 0.0
    speed: float = 0.0
    turn_rate: float = 0.0
    armed: str | bool = False
    intent: str = "none"
    speed_limit: float = CLASS_SPEED_M_S
    enable_switch: bool = True
    estop: bool = False
    seat: bool = True
    bumper: bool = False
    battery_pct: float = 92.0
    current_l: float = 0.0
    current_r: float = 0.0
    dead_sensors: set[str] = field(default_factory=set)
    """Distance sensors that report nothing."""
    refused: str = ""
    """Why the drive was last disarmed by its own protection."""

    def __post_init__(self) -> None:
        self.ranges = self._ranges()

    @property
    def battery_v(self) -> float:
        """Terminal voltage: by charge, and lower under load."""
        charge = BATTERY_EMPTY_V + (BATTERY_FULL_V - BATTERY_EMPTY_V) * self.battery_pct / 100
        return charge - 0.03 * (self.current_l + self.current_r)

    @property
    def tilt(self) -> float:
        """Slope under the platform in deg."""
        begin, end, above = RAMP
        return RAMP_DEG if begin < self.x < end and self.y > above else 0.3

    def may_arm(self) -> str:
        """Why the drive may not be armed now; empty where it may."""
        if self.estop:
            return "emergency stop is pressed"
        if not self.enable_switch:
            return "enable switch is not held"
        if self.battery_pct < 20:
            return "battery below 20 %"
        if self.dead_sensors:
            return f"no echo from obstacle sensor {min(self.dead_sensors)}"
        return ""

    def disarm(self, why: str) -> None:
        """The safe state: brake to rest, stay there until armed again."""
        if self.armed:
            self.refused = why
        self.armed = False
        self.intent = "none"

    def step(self, dt: float) -> None:
        """Move on by `dt` seconds."""
        self._protect()
        target_speed, target_turn = self._targets()
        slower = abs(target_speed) < abs(self.speed)
        before_left, before_right = self._wheels()
        self.speed = _towards(self.speed, target_speed, (BRAKING_M_S2 if slower else ACCELERATION_M_S2) * dt)
        self.turn_rate = _towards(self.turn_rate, target_turn, TURN_ACCELERATION_DEG_S2 * dt)
        self.heading = (self.heading + self.turn_rate * dt) % 360
        direction = math.radians(self.heading)
        x = self.x + self.speed * dt * math.cos(direction)
        y = self.y + self.speed * dt * math.sin(direction)
        self.bumper = _clearance(x, y) <= RADIUS_M
        if self.bumper:
            self.speed = 0.0
        else:
            self.x, self.y = x, y
        left, right = self._wheels()
        self.current_l = self._current(left, (left - before_left) / dt)
        self.current_r = self._current(right, (right - before_right) / dt)
        used = (REST_A + self.current_l + self.current_r) * dt / 3600
        self.battery_pct -= 100 * used / BATTERY_AH
        if self.battery_pct < BATTERY_EXCHANGE_PCT:
            self.battery_pct = 96.0
        self.ranges = self._ranges()

    def _protect(self) -> None:
        if not self.armed:
            return
        if self.estop:
            self.disarm("emergency stop")
        elif not self.enable_switch:
            self.disarm("enable switch released")
        elif self.tilt > TILT_STOP_DEG:
            self.disarm("tilt")
        elif self.bumper:
            self.disarm("bumper")

    def _targets(self) -> tuple[float, float]:
        if not self.armed:
            return 0.0, 0.0
        match self.intent:
            case "forward":
                front = self.ranges["front"]
                factor = 0.0 if not front >= STOP_M else 0.5 if front < SLOW_M else 1.0
                return self.speed_limit * factor, 0.0
            case "left":
                return TURN_SPEED_M_S, TURN_DEG_S
            case "right":
                return TURN_SPEED_M_S, -TURN_DEG_S
            case "back":
                return (BACK_M_S if self.ranges["rear"] >= STOP_M else 0.0), 0.0
            case _:
                return 0.0, 0.0

    def _wheels(self) -> tuple[float, float]:
        turning = math.radians(self.turn_rate) * TRACK_M / 2
        return self.speed - turning, self.speed + turning

    def _current(self, wheel: float, acceleration: float) -> float:
        if abs(wheel) < 0.005:
            return 0.0
        load = NO_LOAD_A + LOAD_A_PER_M_S * abs(wheel) + max(0.0, LOAD_A_PER_M_S2 * acceleration * wheel / abs(wheel))
        return max(0.0, load + self.rng.gauss(0, 0.1))

    def _ranges(self) -> dict[str, float]:
        ranges: dict[str, float] = {}
        for name, side in (("front", 0), ("left", 90), ("rear", 180), ("right", 270)):
            far = _ray(self.x, self.y, math.radians(self.heading + side)) - RADIUS_M + self.rng.gauss(0, 0.004)
            ranges[name] = math.nan if name in self.dead_sensors else min(RANGE_M[1], max(RANGE_M[0], far))
        return ranges


def _towards(value: float, target: float, step: float) -> float:
    return value + max(-step, min(step, target - value))


def _clearance(x: float, y: float) -> float:
    """Distance from a point to the nearest wall or obstacle."""
    walls = min(x, y, COURSE_M[0] - x, COURSE_M[1] - y)
    return min(walls, *(math.hypot(x - ox, y - oy) - radius for ox, oy, radius in OBSTACLES))


def _ray(x: float, y: float, angle: float) -> float:
    """Distance along a ray to the first wall or obstacle."""
    dx, dy = math.cos(angle), math.sin(angle)
    hits: list[float] = []
    for position, direction, size in ((x, dx, COURSE_M[0]), (y, dy, COURSE_M[1])):
        if abs(direction) > 1e-9:
            hits.append(((size if direction > 0 else 0.0) - position) / direction)
    for ox, oy, radius in OBSTACLES:
        along = (ox - x) * dx + (oy - y) * dy
        aside = (ox - x) ** 2 + (oy - y) ** 2 - along**2
        if along > 0 and aside < radius**2:
            hits.append(along - math.sqrt(radius**2 - aside))
    return max(0.0, min(hits))
