"""What keeps the simulated robot cell busy when nobody commands it; acts on `robot_model` between its steps. Pure."""

from __future__ import annotations

from simulators.robot_model import ProgramState, RobotCell


class ClassHour:
    """What keeps the cell busy when nobody commands it: programs in turn, and a person who refills the rack between.

    `step` is called before the cell's own step and acts at the cell's idle moments only.
    """

    PROGRAMS = ("pick_and_place_eight", "draw_square", "repeat_point", "home")
    PAUSE_S = 3.0
    INSIDE_S = 5.0

    def __init__(self, cell: RobotCell) -> None:
        self._cell = cell
        self._next = 0
        self._act_at = 1.0
        self._visit = 0

    def step(self) -> None:
        """Do what is due now."""
        cell = self._cell
        if cell.robot.program_state is not ProgramState.IDLE or cell.moving or cell.time < self._act_at:
            self._act_at = max(self._act_at, cell.time + self.PAUSE_S) if cell.moving else self._act_at
            return
        if cell.parts_left == 0 or self._visit:
            self._refill()
            return
        name = self.PROGRAMS[self._next % len(self.PROGRAMS)]
        self._next += 1
        cell.select_program(name)
        cell.start()

    def _refill(self) -> None:
        cell = self._cell
        if self._visit == 0:
            cell.open_guard()
        elif self._visit == 1:
            cell.enter()
        elif self._visit == 2:
            cell.refill()
            cell.leave()
        else:
            cell.close_guard()
        self._act_at = cell.time + (self.INSIDE_S if self._visit == 1 else 1.5)
        self._visit = (self._visit + 1) % 4
