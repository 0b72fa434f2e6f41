"""Moves of the simulated robot: from where it stands and where it shall go to joint angles along the way. Pure.

A move runs in path time: the seconds it would take at 100 % speed override. `robot_model` advances path time by the
override, so that a robot at 50 % follows the same path at half the speed, as real controllers do. Speed profiles are
trapezoids (constant acceleration, constant speed, constant deceleration) without jerk limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from simulators.robot_kinematics import Array, Pose, forward, frames, jacobian, nearest

JOINT_SPEED = 100.0
"""deg/s of the fastest joint in a joint move, at 100 % override."""
JOINT_ACCELERATION = 240.0
"""deg/s^2."""
TOOL_SPEED_LIMIT = 460.0
"""mm/s at 100 % override that no joint move exceeds: below 250 mm/s at the 50 % of a class."""
TOOL_ACCELERATION = 1600.0
"""mm/s^2 along a straight line."""
_PROBES = 24


@dataclass(frozen=True, slots=True)
class Trapezoid:
    """A way of length `distance` from standstill to standstill with at most `speed` and at most `acceleration`."""

    distance: float
    speed: float
    acceleration: float

    @property
    def peak(self) -> float:
        """The highest speed reached; below `speed` where the way is too short for it."""
        return min(self.speed, math.sqrt(self.distance * self.acceleration))

    @property
    def duration(self) -> float:
        """Seconds from standstill to standstill."""
        return 0.0 if self.distance <= 0 else self.distance / self.peak + self.peak / self.acceleration

    def at(self, t: float) -> tuple[float, float]:
        """(way gone, speed) at `t` seconds; at rest before the start and after the end."""
        if t <= 0 or self.distance <= 0:
            return 0.0, 0.0
        if t >= self.duration:
            return self.distance, 0.0
        ramp = self.peak / self.acceleration
        if t < ramp:
            return self.acceleration * t * t / 2, self.acceleration * t
        left = self.duration - t
        if left < ramp:
            return self.distance - self.acceleration * left * left / 2, self.acceleration * left
        return self.peak * (t - ramp / 2), self.peak


class Move(Protocol):
    """Something that takes time. `scaled` moves slow down with the override; the others take their own time."""

    duration: float
    scaled: bool
    end: Array
    """Joint angles afterwards, shape (6,), degrees."""

    def at(self, t: float) -> tuple[Array, Array]:
        """Joint angles (deg) and their speeds (deg per second of path time) at path time `t`."""
        ...


class JointMove:
    """All joints start and stop together; the slowest joint and the tool speed limit set the pace."""

    scaled = True

    def __init__(self, start: Array, end: Array, tool_speed: float = TOOL_SPEED_LIMIT) -> None:
        self.start = start
        self.end = end
        self._change = end - start
        way = float(np.max(np.abs(self._change)))
        speed = JOINT_SPEED
        if way > 0:
            rate = np.radians(self._change / way)
            fastest = max(
                float(np.linalg.norm(jacobian(frames(start + self._change * u))[:3] @ rate))
                for u in np.linspace(0.0, 1.0, _PROBES)
            )
            speed = min(speed, tool_speed / fastest) if fastest > 0 else speed
        self._profile = Trapezoid(way, speed, JOINT_ACCELERATION)
        self.duration = self._profile.duration

    def at(self, t: float) -> tuple[Array, Array]:
        """Joint angles and speeds at path time `t`."""
        if self._profile.distance <= 0:
            return self.end, np.zeros(6)
        way, speed = self._profile.at(t)
        return self.start + self._change * (way / self._profile.distance), self._change * (
            speed / self._profile.distance
        )


class LinearMove:
    """The tool point goes along a straight line and keeps its attitude. Raises Unreachable where the end is."""

    scaled = True

    def __init__(self, start: Array, to: tuple[float, float, float], speed: float) -> None:
        self._from = forward(start)
        self._change = np.array(to) - self._from.position
        self._profile = Trapezoid(float(np.linalg.norm(self._change)), speed, TOOL_ACCELERATION)
        self._last = start
        self.end = nearest(self._pose(self._change), start)
        self.duration = self._profile.duration

    def _pose(self, offset: Array) -> Pose:
        x, y, z = (self._from.position + offset).tolist()
        return Pose(x, y, z, self._from.rx, self._from.ry, self._from.rz)

    def at(self, t: float) -> tuple[Array, Array]:
        """Joint angles and speeds at path time `t`; the speeds by the inverse of the Jacobian."""
        if self._profile.distance <= 0:
            return self.end, np.zeros(6)
        way, speed = self._profile.at(t)
        direction = self._change / self._profile.distance
        q = nearest(self._pose(direction * way), self._last)
        self._last = q
        twist = np.concatenate([direction * speed, np.zeros(3)])
        return q, np.degrees(np.linalg.solve(jacobian(frames(q)), twist))


class Dwell:
    """The robot stands still for `duration` seconds; `then` is called at the end: a gripper, a cycle mark."""

    scaled = False

    def __init__(self, at: Array, duration: float, then: Callable[[], None] | None = None) -> None:
        self.end = at
        self.duration = duration
        self.then = then

    def at(self, _t: float) -> tuple[Array, Array]:
        """Always the same place, at rest."""
        return self.end, np.zeros(6)
