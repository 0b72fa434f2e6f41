"""Batches of the small kit as the hub has decoded them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hub.ingest.decode import KitEntry, decode
from hub.store.base import DecodedBatch
from lab_contract.batch import CLOCK_UNKNOWN, Gap
from tests.small_kit import EDGE, KIT, NOW, Row, event_bytes, frame_bytes, gap_bytes, model


def kits(edge: str = EDGE, kit: str = KIT) -> dict[str, KitEntry]:
    return {kit: KitEntry(kit, edge, model(), "workshop-1")}


def frame(
    seq: int,
    t: Sequence[int] | np.ndarray,
    values: np.ndarray | None = None,
    *,
    now: int = NOW,
    epoch: int = 1,
    clock: tuple[int, int] = (0, CLOCK_UNKNOWN),
) -> DecodedBatch:
    return decode(frame_bytes(seq, t, values, epoch=epoch, clock=clock), EDGE, kits(), now)


def events(
    seq: int,
    rows: Sequence[Row],
    *,
    now: int = NOW,
    epoch: int = 1,
    clock: tuple[int, int] = (0, CLOCK_UNKNOWN),
) -> DecodedBatch:
    return decode(event_bytes(seq, rows, epoch=epoch, clock=clock), EDGE, kits(), now)


def gaps(seq: int, lost: Sequence[Gap], *, now: int = NOW, epoch: int = 1) -> DecodedBatch:
    return decode(gap_bytes(seq, lost, epoch=epoch), EDGE, kits(), now)
