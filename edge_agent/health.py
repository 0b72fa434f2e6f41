"""Beside the line: what the agent knows of itself. Runners and uplink report here, the `agent` source reads it."""

from __future__ import annotations

from edge_agent.clock import Clock

SMOOTHING = 0.25
"""Weight of the newest round trip; single late acknowledgements should not look like a bad link."""


class Health:
    """Round trip of the link and age of each kit's data. Used from the event loop only."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rtt_ms: float | None = None
        self._heard: dict[tuple[str, str], int] = {}

    def acknowledged_after(self, ns: int) -> None:
        """A batch that was sent once was acknowledged after `ns`."""
        ms = ns / 1e6
        self._rtt_ms = ms if self._rtt_ms is None else self._rtt_ms + SMOOTHING * (ms - self._rtt_ms)

    def cut_off(self) -> None:
        """The broker is gone: an old round trip says nothing any more."""
        self._rtt_ms = None

    def watch(self, kit: str, connection: str) -> None:
        """Count the age of this connection from now on, heard or not."""
        self._heard[kit, connection] = self._clock.monotonic_ns()

    def heard(self, kit: str, connection: str) -> None:
        """The equipment behind this connection has just said something, or proved that it is there."""
        self._heard[kit, connection] = self._clock.monotonic_ns()

    def link_rtt_ms(self) -> float | None:
        """Time from publishing a batch to the hub's acknowledgement; None before the first and while cut off."""
        return self._rtt_ms

    def data_age_s(self, kit: str) -> float | None:
        """Time since the equipment of the kit was last heard, the most silent connection counting; None before."""
        heard = [at for (owner, _), at in self._heard.items() if owner == kit]
        return (self._clock.monotonic_ns() - min(heard)) / 1e9 if heard else None
