"""The clock of the edge, handed to whatever stamps or waits, so that tests own the time."""

from __future__ import annotations

import time
from typing import Protocol

EARLIEST_NS = 946_684_800_000_000_000
LATEST_NS = 4_102_444_800_000_000_000
"""2000-01-01 and 2100-01-01, UTC: a clock that was never set tells a time outside of these."""


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
