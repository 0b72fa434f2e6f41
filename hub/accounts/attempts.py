"""Beside the line: bounds how often a password may be tried, per account and per address. Pure, with a clock handed in.

An attempt counts before the password is looked at, so that many at once cannot slip through together; one that
succeeds is taken back. The counts are in memory: they guard one process, and a restart clears them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque

from hub.clock import NS, Clock
from hub.errors import TryLater

WINDOW_S = 300
PER_ACCOUNT = 5
PER_ADDRESS = 30
"""Larger than for an account: a whole class may stand behind one address."""
MOST_KEYS = 20_000


class Attempts:
    """Attempts of the last five minutes by account name and by address."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._times: OrderedDict[tuple[str, str], deque[int]] = OrderedDict()
        """Whose last attempt is oldest stands first."""

    def begin(self, account: str, address: str) -> None:
        """Counts an attempt. Raises TryLater, without counting, where this account or address had too many."""
        now = self._clock.monotonic_ns()
        with self._lock:
            wait = 0
            for key, most in ((("account", account), PER_ACCOUNT), (("address", address), PER_ADDRESS)):
                times = self._recent(key, now)
                if len(times) >= most:
                    wait = max(wait, times[0] + WINDOW_S * NS - now)
            if wait > 0:
                raise TryLater(-(-wait // NS))
            for key in (("account", account), ("address", address)):
                self._times.setdefault(key, deque()).append(now)
                self._times.move_to_end(key)
            while len(self._times) > MOST_KEYS:
                self._times.popitem(last=False)

    def succeeded(self, account: str, address: str) -> None:
        """Forgets the account's attempts and takes back this one of the address."""
        with self._lock:
            self._times.pop(("account", account), None)
            times = self._times.get(("address", address))
            if times:
                times.pop()

    def _recent(self, key: tuple[str, str], now: int) -> deque[int]:
        times = self._times.get(key)
        if times is None:
            return deque()
        while times and times[0] <= now - WINDOW_S * NS:
            times.popleft()
        if not times:
            del self._times[key]
        return times
