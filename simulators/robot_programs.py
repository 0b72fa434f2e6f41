"""The task programs of the simulated robot: each yields the moves that `robot_model` carries out one after another.

Speeds are those at 100 % override; a class works at 50 %, so the square, written with 200 mm/s, is drawn at 100 mm/s.
All points lie in front of the robot inside the cell box; the tool looks down at the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

import numpy as np

from simulators.robot_kinematics import Array, Pose, nearest
from simulators.robot_motion import Dwell, JointMove, LinearMove, Move

HOME: Array = np.array([20.0, 105.0, -95.0, 80.0, 90.0, -70.0])
"""Joint angles at home, degrees: the tool looks down at the middle of the cell."""
CELL_BOX = ((100.0, 800.0), (-500.0, 500.0), (20.0, 800.0))
"""(low, high) in mm of x, y and z that the tool point never leaves."""

RACK = tuple((x, y) for y in (250.0, 320.0) for x in (350.0, 420.0, 490.0, 560.0))
"""The eight places that parts are taken from, mm; the eight they are put to are their mirror image in y."""
PART_Z, ABOVE_Z = 60.0, 180.0
VERTICAL_SPEED = 260.0
SQUARE_CENTRE, SQUARE_SIDE, SQUARE_Z, SQUARE_SPEED = (450.0, 0.0), 200.0, 120.0, 200.0
POINT, POINT_RETURNS = (480.0, -120.0, 150.0), 10
APPROACH = (80.0, 60.0, 100.0)
"""The side from which the taught point is always approached, mm from it."""
GRIP_S, SENSE_S, STAND_S = 0.4, 0.2, 0.8


M = TypeVar("M", bound=Move)


class Hand(Protocol):
    """What a program does beside moving."""

    def close_gripper(self) -> None:
        """The fingers are closed now."""
        ...

    def sense_part(self) -> None:
        """The part sensor has had its time."""
        ...

    def open_gripper(self) -> None:
        """The fingers are open now; a part stays where it is."""
        ...

    def end_cycle(self) -> None:
        """One cycle of the program is complete."""
        ...


class Path:
    """Makes moves that join: each starts where the one before ended."""

    def __init__(self, q: Array) -> None:
        self.q = q

    def joint(self, x: float, y: float, z: float) -> JointMove:
        """To a point with the tool down, by the joints."""
        return self._then(JointMove(self.q, nearest(Pose(x, y, z), self.q)))

    def line(self, x: float, y: float, z: float, speed: float) -> LinearMove:
        """To a point along a straight line at `speed` mm/s."""
        return self._then(LinearMove(self.q, (x, y, z), speed))

    def home(self) -> JointMove:
        """To the home angles."""
        return self._then(JointMove(self.q, HOME))

    def dwell(self, seconds: float, then: Callable[[], None] | None = None) -> Dwell:
        """Stand still, then do something."""
        return Dwell(self.q, seconds, then)

    def _then(self, move: M) -> M:
        self.q = move.end
        return move


def pick_and_place_eight(path: Path, hand: Hand) -> Iterator[Move]:
    """Eight parts from the rack to its mirror image; one cycle a part; then home."""
    for x, y in RACK:
        yield path.joint(x, y, ABOVE_Z)
        yield path.line(x, y, PART_Z, VERTICAL_SPEED)
        yield path.dwell(GRIP_S, hand.close_gripper)
        yield path.dwell(SENSE_S, hand.sense_part)
        yield path.line(x, y, ABOVE_Z, VERTICAL_SPEED)
        yield path.joint(x, -y, ABOVE_Z)
        yield path.line(x, -y, PART_Z, VERTICAL_SPEED)
        yield path.dwell(GRIP_S, hand.open_gripper)
        yield path.line(x, -y, ABOVE_Z, VERTICAL_SPEED)
        yield path.dwell(0.0, hand.end_cycle)
    yield path.home()


def square_corners() -> list[tuple[float, float]]:
    """The corners in the order in which they are drawn, mm."""
    (x, y), half = SQUARE_CENTRE, SQUARE_SIDE / 2
    return [(x - half, y - half), (x + half, y - half), (x + half, y + half), (x - half, y + half)]


def draw_square(path: Path, hand: Hand) -> Iterator[Move]:
    """A square of 200 mm with an exact stop in each corner; then home."""
    first, *others = square_corners()
    yield path.joint(*first, SQUARE_Z + 80)
    yield path.line(*first, SQUARE_Z, VERTICAL_SPEED)
    for corner in (*others, first):
        yield path.line(*corner, SQUARE_Z, SQUARE_SPEED)
    yield path.line(*first, SQUARE_Z + 80, VERTICAL_SPEED)
    yield path.home()
    yield path.dwell(0.0, hand.end_cycle)


def repeat_point(path: Path, hand: Hand) -> Iterator[Move]:
    """Ten returns to one point, always from the same side, standing still there; then home."""
    x, y, z = POINT
    aside = (x - APPROACH[0], y + APPROACH[1], z + APPROACH[2])
    yield path.joint(*aside)
    for _ in range(POINT_RETURNS):
        yield path.line(x, y, z, VERTICAL_SPEED)
        yield path.dwell(STAND_S)
        yield path.line(*aside, VERTICAL_SPEED)
        yield path.dwell(0.0, hand.end_cycle)
    yield path.home()


def home(path: Path, _hand: Hand) -> Iterator[Move]:
    """To the home angles from wherever the robot stands."""
    yield path.home()


PROGRAMS: dict[str, Callable[[Path, Hand], Iterator[Move]]] = {
    "pick_and_place_eight": pick_and_place_eight,
    "draw_square": draw_square,
    "repeat_point": repeat_point,
    "home": home,
}
"""The programs of the controller by name."""
