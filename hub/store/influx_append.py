"""The InfluxDB store's way in: receives decoded batches, hands on lines to the server, then rows to the ledger.

Samples first, then roll-up, gaps and clock facts with the number of the write, then the ledger: only then a batch
counts as stored. What a crash leaves half written is rewritten, onto itself, when the batch comes again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hub.store import influx_questions
from hub.store.base import SECOND, DecodedBatch, DecodedGaps, Latest, Outcome
from hub.store.columns import clock_facts
from hub.store.influx_lines import LINES, clock_line, gap_line, sample_bodies, time_of, write_line
from hub.store.influx_marks import Marks
from hub.store.influx_points import Points, Second
from hub.store.influx_session import Session
from hub.store.influx_sidecar import Entry, Held
from hub.store.ledger import first_of_each, outcomes


def append(session: Session, batches: Sequence[DecodedBatch]) -> list[Outcome]:
    """See TelemetryStore.append."""
    with session.writer():
        first = first_of_each(batches)
        known = session.ledger().known(first)
        fresh = [batch for key, batch in first.items() if key not in known]
        if fresh:
            _write(session, fresh)
        return outcomes(batches, known)


def _write(session: Session, fresh: Sequence[DecodedBatch]) -> None:
    points = session.book.points(fresh, lambda *asked: influx_questions.stored(session.server, *asked))
    number = session.write_no + 1
    facts, newest_clock = clock_facts(fresh, session.clock)
    told = [
        *(gap_line(batch.header.kit, gap) for batch in fresh if isinstance(batch, DecodedGaps) for gap in batch.gaps),
        *(clock_line(kit, fact.t, fact.offset_ns, fact.uncertainty_ns) for kit, fact in facts),
    ]
    session.book.begin(points)
    marks = Marks(number, session.ledger())
    computed: dict[int, dict[int, Second]] = {}
    # The number last, so that a database that has it has everything before it; in one body with little else, as
    # most appends are small.
    small = points.samples.num_rows <= LINES and not points.unknown
    samples = sample_bodies(points.samples, session.book.series, points.twins, None if small else marks.lines)
    first = next(samples, b"") if small else b""
    session.server.write_all(samples)
    if points.unknown:
        computed = _compute(session, points)
    lines = [*told, *(line for part in (points.known, computed) for line in session.book.rollup_lines(part))]
    times = np.array([time_of(line) for line in lines], dtype=np.int64)
    last = marks.lines(np.concatenate([points.samples["t"].to_numpy(), times]) if small else times)
    session.server.write(first + "".join(lines).encode() + last + write_line(number).encode())
    session.write_no = number
    _enter(session, fresh, points, number, marks.made)
    session.book.complete(points, computed)
    session.clock = newest_clock


def _compute(session: Session, points: Points) -> dict[int, dict[int, Second]]:
    windows: dict[tuple[str, int, int], list[tuple[str, int]]] = {}
    for number, times in points.unknown.items():
        kit, channel = session.book.series[number]
        windows.setdefault((kit, min(times), max(times) + SECOND), []).append((channel, number))
    computed: dict[int, dict[int, Second]] = {}
    for (kit, t0, t1), found in windows.items():
        numbers = dict(found)
        for channel, second in influx_questions.seconds(session.server, kit, list(numbers), t0, t1):
            if second.t in points.unknown[numbers[channel]]:
                computed.setdefault(numbers[channel], {})[second.t] = second
    return computed


def _enter(session: Session, fresh: Sequence[DecodedBatch], points: Points, number: int, marks: Sequence[int]) -> None:
    latest = {
        session.book.series[series]: one
        for series, one in points.columns.latest.items()
        if not _newer_known(session, *session.book.series[series], one)
    }
    entries = [_entry(batch) for batch in fresh]
    session.ledger().enter(entries, latest, number, marks)
    for (kit, channel), one in latest.items():
        session.know(kit, channel, one)
    session.samples += points.samples.num_rows
    _hold(session, entries)


def _newer_known(session: Session, kit: str, channel: str, one: Latest) -> bool:
    known = session.latest.get(kit, {}).get(channel)
    return known is not None and known.t > one.t


def _hold(session: Session, entries: Sequence[Entry]) -> None:
    held = session.held
    firsts = [entry.t_first for entry in entries if entry.t_first is not None]
    lasts = [entry.t_last for entry in entries if entry.t_last is not None]
    session.held = Held(
        held.batches + len(entries),
        held.samples + sum(entry.samples for entry in entries),
        min([*firsts, *([held.first_ns] if held.first_ns is not None else [])], default=None),
        max([*lasts, *([held.last_ns] if held.last_ns is not None else [])], default=None),
    )


def _entry(batch: DecodedBatch) -> Entry:
    header = batch.header
    gap = isinstance(batch, DecodedGaps)
    return Entry(
        *header.id,
        header.crc,
        header.kit,
        header.stream,
        header.rows,
        batch.received_ns,
        header.clock_offset_ns,
        header.clock_uncertainty_ns,
        0 if gap else batch.values.size,
        None if gap else int(batch.t.min()),
        None if gap else int(batch.t.max()),
    )
