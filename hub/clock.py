"""Beside the line: what time it is, handed to every part that asks so that tests need not wait."""

from __future__ import annotations

import time
from typing import Protocol
from zoneinfo import ZoneInfo

NS = 1_000_000_000
"""Nanoseconds of a second."""


class Clock(Protocol):
    """UTC for what is stored, a monotonic clock for what is waited for; both in nanoseconds."""

    def time_ns(self) -> int:
        """Nanoseconds since 1970-01-01 UTC."""
        ...

    def monotonic_ns(self) -> int:
        """Nanoseconds that never run backwards; comparable within one process only."""
        ...


class SystemClock:
    """The clock of this machine."""

    def time_ns(self) -> int:
        """Nanoseconds since 1970-01-01 UTC."""
        return time.time_ns()

    def monotonic_ns(self) -> int:
        """Nanoseconds that never run backwards."""
        return time.monotonic_ns()


def known_zone(zone: str) -> bool:
    """Whether this is a time zone's IANA name."""
    try:
        ZoneInfo(zone)
    except (KeyError, ValueError, OSError):
        # Besides unknown names: paths out of the zone folder, names too long for a file, folders such as "Asia".
        return False
    return bool(zone)
