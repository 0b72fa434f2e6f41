"""Geometry of the simulated robot: joint angles in, tool pose out, and back. Pure.

A generic six-axis collaborative robot of the 5 kg class: three parallel axes (2, 3, 4) and an offset wrist. Standard
Denavit-Hartenberg parameters (J. Denavit, R. S. Hartenberg, 1955; a and alpha of link i, d and theta of joint i):

    axis   theta   d / mm   a / mm   alpha / deg
    1      q1      160      0         90
    2      q2      0        420       0
    3      q3      0        390       0
    4      q4      130      0         90
    5      q5      100      0        -90
    6      q6      95       0         0
    tool   -       150      -        180 (a turn about x after the shift along z)

The tool frame's z axis points back to the flange, so that a tool that looks down at the table has rx = ry = 0.
Rotations are turns about the fixed axes of the base: R = Rz(rz) Ry(ry) Rx(rx). Angles are degrees, lengths millimetres.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

DH: tuple[tuple[float, float, float], ...] = (
    (160.0, 0.0, 90.0),
    (0.0, 420.0, 0.0),
    (0.0, 390.0, 0.0),
    (130.0, 0.0, 90.0),
    (100.0, 0.0, -90.0),
    (95.0, 0.0, 0.0),
)
"""(d in mm, a in mm, alpha in degrees) of each axis."""
TOOL_MM = 150.0
JOINT_LIMIT_DEG = 175.0
"""Every joint turns from minus to plus this angle."""

_UPPER_ARM = DH[1][1]
_FOREARM = DH[2][1]
_SHOULDER_OFFSET = DH[3][0]
_TINY = 1e-9


class Unreachable(ValueError):
    """Choose another pose: no joint angles inside the limits bring the tool there."""


@dataclass(frozen=True, slots=True)
class Pose:
    """Where the tool point is (mm) and how it is turned (degrees about the fixed axes x, y, z)."""

    x: float
    y: float
    z: float
    rx: float = 0.0
    ry: float = 0.0
    rz: float = 0.0

    @property
    def position(self) -> Array:
        """x, y, z in mm, shape (3,)."""
        return np.array([self.x, self.y, self.z])

    def matrix(self) -> Array:
        """The pose as a homogeneous matrix of shape (4, 4), lengths in mm."""
        (cx, sx), (cy, sy), (cz, sz) = (_cos_sin(angle) for angle in (self.rx, self.ry, self.rz))
        return np.array(
            [
                [cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx, self.x],
                [sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx, self.y],
                [-sy, cy * sx, cy * cx, self.z],
                [0.0, 0.0, 0.0, 1.0],
            ]
        )


def pose_of(matrix: Array) -> Pose:
    """The pose in a homogeneous matrix of shape (4, 4). Where ry is +-90 degrees, rx is given as 0."""
    m = matrix
    level = math.hypot(m[0, 0], m[1, 0])
    ry = math.atan2(-m[2, 0], level)
    if level > _TINY:
        rx, rz = math.atan2(m[2, 1], m[2, 2]), math.atan2(m[1, 0], m[0, 0])
    else:
        rx, rz = 0.0, math.atan2(-m[0, 1], m[1, 1])
    return Pose(float(m[0, 3]), float(m[1, 3]), float(m[2, 3]), math.degrees(rx), math.degrees(ry), math.degrees(rz))


def _cos_sin(angle_deg: float) -> tuple[float, float]:
    angle = math.radians(angle_deg)
    return math.cos(angle), math.sin(angle)


def _link(axis: int, theta_deg: float) -> Array:
    d, a, alpha = DH[axis]
    (ct, st), (ca, sa) = _cos_sin(theta_deg), _cos_sin(alpha)
    return np.array(
        [
            [ct, -st * ca, st * sa, a * ct],
            [st, ct * ca, -ct * sa, a * st],
            [0.0, sa, ca, d],
            [0.0, 0.0, 0.0, 1.0],
        ]
    )


_TOOL = np.array([[1.0, 0, 0, 0], [0, -1.0, 0, 0], [0, 0, -1.0, TOOL_MM], [0, 0, 0, 1.0]])
_FROM_TOOL: Array = np.linalg.inv(_TOOL)


def frames(q: Array) -> list[Array]:
    """The base frame, the frames after each axis and the tool frame: eight of shape (4, 4); `q` in degrees."""
    chain: list[Array] = [np.eye(4)]
    for axis in range(6):
        chain.append(chain[-1] @ _link(axis, float(q[axis])))
    chain.append(chain[-1] @ _TOOL)
    return chain


def forward(q: Array) -> Pose:
    """The tool pose at joint angles `q` of shape (6,) in degrees. Exact."""
    return pose_of(frames(q)[-1])


def jacobian(chain: list[Array]) -> Array:
    """How the tool moves: shape (6, 6), rows vx vy vz in mm and wx wy wz in rad, each per rad of a joint."""
    tip = chain[-1][:3, 3]
    columns = [np.concatenate([np.cross(frame[:3, 2], tip - frame[:3, 3]), frame[:3, 2]]) for frame in chain[:6]]
    return np.stack(columns, axis=1)


def inverse(pose: Pose) -> list[Array]:
    """Every set of joint angles inside the limits that brings the tool to `pose`: at most eight, each of shape (6,).

    Closed form: axis 1 from the wrist's distance to the plane of the arm, axes 5 and 6 from the direction of that plane
    seen by the flange, axes 2 to 4 as a plane arm of two links. With axis 5 straight (axes 4 and 6 parallel) axis 6 is
    free and given as 0. An empty list where the pose is out of reach.
    """
    flange = pose.matrix() @ _FROM_TOOL
    wrist = flange @ np.array([0.0, 0.0, -DH[5][0], 1.0])
    distance = math.hypot(wrist[0], wrist[1])
    if distance < _SHOULDER_OFFSET:
        return []
    lean = math.asin(_SHOULDER_OFFSET / distance)
    heading = math.atan2(wrist[1], wrist[0])
    found: list[Array] = []
    for q1 in (heading + lean, heading + math.pi - lean):
        across = flange[:3, :3].T @ np.array([math.sin(q1), -math.cos(q1), 0.0])
        bend = math.acos(max(-1.0, min(1.0, float(across[2]))))
        for q5 in (bend, -bend):
            straight = math.hypot(across[0], across[1]) < _TINY
            sign = math.copysign(1.0, q5)
            q6 = 0.0 if straight else math.atan2(-across[1] * sign, across[0] * sign)
            for q2, q3, q4 in _plane_arm(flange, q1, q5, q6):
                angles = np.degrees(np.array([q1, q2, q3, q4, q5, q6]))
                angles = (angles + 180.0) % 360.0 - 180.0
                if bool(np.all(np.abs(angles) <= JOINT_LIMIT_DEG)):
                    found.append(angles)
    return found


def _plane_arm(flange: Array, q1: float, q5: float, q6: float) -> list[tuple[float, float, float]]:
    wrist_links = _link(4, math.degrees(q5)) @ _link(5, math.degrees(q6))
    arm = np.linalg.inv(_link(0, math.degrees(q1))) @ flange @ np.linalg.inv(wrist_links)
    x, y = (arm @ np.array([0.0, -_SHOULDER_OFFSET, 0.0, 1.0]))[:2]
    cosine = (x * x + y * y - _UPPER_ARM**2 - _FOREARM**2) / (2 * _UPPER_ARM * _FOREARM)
    if abs(cosine) > 1.0 + _TINY:
        return []
    elbow = math.acos(max(-1.0, min(1.0, float(cosine))))
    turn = math.atan2(arm[1, 0], arm[0, 0])
    solutions: list[tuple[float, float, float]] = []
    for q3 in (elbow, -elbow):
        q2 = math.atan2(y, x) - math.atan2(_FOREARM * math.sin(q3), _UPPER_ARM + _FOREARM * math.cos(q3))
        solutions.append((q2, q3, turn - q2 - q3))
    return solutions


def nearest(pose: Pose, q: Array) -> Array:
    """The joint angles for `pose` whose largest change from `q` is smallest. Raises Unreachable."""
    found = inverse(pose)
    if not found:
        raise Unreachable(f"{pose}: out of reach inside +-{JOINT_LIMIT_DEG:.0f} deg a joint")
    return min(found, key=lambda angles: float(np.max(np.abs(angles - q))))
