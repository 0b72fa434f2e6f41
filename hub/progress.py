"""Beside the command line: shows how far a long command is, on standard error; a bar on a terminal, lines elsewhere."""

from __future__ import annotations

from typing import TextIO

WIDTH = 30
STEPS_ON_TERMINAL = 1000
STEPS_ELSEWHERE = 10


class Progress:
    """How many of `total` are done. Redrawn each thousandth on a terminal, a line each tenth elsewhere."""

    def __init__(self, stream: TextIO, total: int, unit: str) -> None:
        self._stream = stream
        self._total = total
        self._unit = unit
        self._done = 0
        self._bar = stream.isatty()
        self._steps = STEPS_ON_TERMINAL if self._bar else STEPS_ELSEWHERE
        self._shown = 0

    def add(self, count: int) -> None:
        """So many more are done."""
        self._done += count
        step = min(self._steps, self._done * self._steps // max(1, self._total))
        if step > self._shown:
            self._shown = step
            self._show()

    def end(self) -> None:
        """Leave the line to what is written next."""
        if self._bar and self._shown:
            self._stream.write("\n")
            self._stream.flush()

    def _show(self) -> None:
        percent = min(100, self._done * 100 // max(1, self._total))
        text = f"{percent:3d} %  {self._done:,} of {self._total:,} {self._unit}"
        if self._bar:
            full = WIDTH * self._shown // self._steps
            self._stream.write(f"\r[{'#' * full}{'.' * (WIDTH - full)}] {text}\033[K")
        else:
            self._stream.write(f"{text}\n")
        self._stream.flush()
