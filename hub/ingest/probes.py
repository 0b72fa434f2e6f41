"""Clock probes: receives an edge's question what time it is, hands on the answer, so many an edge and no more."""

from __future__ import annotations

from hub.clock import Clock
from lab_contract.errors import MessageInvalid
from lab_contract.messages import Time, dump, load_probe

PROBE_BYTES = 1024
PROBES_AT_ONCE = 32
"""An edge asks eight times in a row every 10 s; after a break it may ask more."""
NS_PER_PROBE = 500_000_000
"""What an edge has used up comes back at two a second."""


class Probes:
    """The answers to all edges. Used on the network thread only."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._spent_ns: dict[str, int] = {}

    def answer(self, edge: str, payload: bytes, received_ns: int) -> bytes | None:
        """What to send back at once; None where this edge asks too often. Raises MessageInvalid for what is no probe.

        `received_ns` is when the probe came, by the hub's clock.
        """
        if len(payload) > PROBE_BYTES:
            raise MessageInvalid(f"probe of {len(payload)} bytes, expected at most {PROBE_BYTES}")
        probe = load_probe(payload)
        # A bucket of tokens, kept as the instant up to which they are spent: the number of edges bounds its size.
        now = self._clock.monotonic_ns()
        spent = max(self._spent_ns.get(edge, 0), now - PROBES_AT_ONCE * NS_PER_PROBE) + NS_PER_PROBE
        if spent > now:
            return None
        self._spent_ns[edge] = spent
        return dump(Time(id=probe.id, received_ns=received_ns, answered_ns=self._clock.time_ns()))
