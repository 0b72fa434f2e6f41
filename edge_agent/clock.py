"""The clock of the edge, handed to whatever stamps or waits, so that tests own the time."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Wall time and monotonic time, both in nanoseconds."""

    def time_ns(self) -> int:
        """UTC, nanoseconds since 1970."""
        ...

    def monotonic_ns(self) -> int:
        """Nanoseconds since some fixed moment; never steps back."""
        ...


class SystemClock:
    """The clock of the machine."""

    def time_ns(self) -> int:
        """UTC, nanoseconds since 1970."""
        return time.time_ns()

    def monotonic_ns(self) -> int:
        """Nanoseconds since some fixed moment; never steps back."""
        return time.monotonic_ns()
