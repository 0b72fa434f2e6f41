"""What each edge last said of itself: receives statuses from ingest, hands on whether an edge and its links are up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hub.clock import Clock
from lab_contract.messages import ConnectionStatus, EdgeStatus, KitStatus

ONLINE_FOR_NS = 15 * 1_000_000_000
"""An edge reports every few seconds; silent for longer it counts as offline although the broker has not said so."""


@dataclass(frozen=True, slots=True)
class EdgeState:
    """The newest status of an edge and when the hub received it (UTC ns)."""

    status: EdgeStatus
    received_ns: int


class EdgeRegistry:
    """The newest status of every edge. Used on the event loop only."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._edges: dict[str, EdgeState] = {}
        self._listeners: list[Callable[[str], None]] = []

    def update(self, status: EdgeStatus, received_ns: int) -> None:
        """Take over a status and tell the listeners whose it is."""
        known = self._edges.get(status.edge)
        if not status.online and known is not None:
            # The last will was written before the edge knew its kits: keep what was last said of them.
            status = known.status.model_copy(update={"online": False})
        self._edges[status.edge] = EdgeState(status, received_ns)
        for listener in self._listeners:
            listener(status.edge)

    def listen(self, listener: Callable[[str], None]) -> None:
        """Call `listener(edge id)` after each update."""
        self._listeners.append(listener)

    def get(self, edge: str) -> EdgeState | None:
        """The newest status; None where the edge has not reported since the hub started."""
        return self._edges.get(edge)

    def all(self) -> dict[str, EdgeState]:
        """The newest status of each edge that has reported since the hub started."""
        return dict(self._edges)

    def online(self, edge: str) -> bool:
        """Whether the edge has said so within the last 15 s."""
        state = self._edges.get(edge)
        if state is None or not state.status.online:
            return False
        return self._clock.time_ns() - state.received_ns <= ONLINE_FOR_NS

    def kit(self, edge: str, kit: str) -> KitStatus | None:
        """What the edge last said of one of its kits."""
        state = self._edges.get(edge)
        return next((k for k in state.status.kits if k.id == kit), None) if state is not None else None

    def connection(self, edge: str, kit: str, connection: str) -> ConnectionStatus | None:
        """What the edge last said of one link to the equipment."""
        status = self.kit(edge, kit)
        return next((c for c in status.connections if c.id == connection), None) if status is not None else None
