"""Beside the spool: what its thread does to the rows of its file, each call inside a transaction of the caller."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from edge_agent.batcher import Encoded
from edge_agent.gaps import Loss, Open, OpenLosses, told
from edge_agent.spool_file import (
    PRIORITIES,
    About,
    Priority,
    Spooled,
    fault_of,
    insert_loss,
    insert_waiting,
)
from lab_contract.batch import Gap, GapReason

KEPT_SHARE = 0.5
"""Acknowledged batches take no more of the limit than this."""
PURGE_MOST = 256
"""Kept batches that one transaction lets go of for their age, so that it stays short."""
GAPS_MOST = 500
"""Rows of one gap batch."""
GAP_BYTES = 1024
GAP_ROW_BYTES = 96
"""What a gap batch takes, and each of its rows, at most: an Arrow stream of five columns with their names."""

ABOUT = "priority, kit, stream, rows, t_first, t_last, size"


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes that the batches may take in all, those that frames and events may take, and how long ns are kept."""

    all_bytes: int
    data_bytes: int
    keep_ns: int


@dataclass(slots=True)
class Counts:
    """What stands in the file."""

    batches: int = 0
    bytes: int = 0
    data_bytes: int = 0
    """Of `bytes`, those of frames and events."""
    kept_batches: int = 0
    kept_bytes: int = 0


class Rows:
    """The rows of an open spool file. After a transaction that was rolled back make a new one."""

    def __init__(self, db: sqlite3.Connection, room: Room, now_ns: int) -> None:
        """`now_ns` is monotonic."""
        self._db = db
        self._room = room
        self.counts = Counts()
        self.losses = OpenLosses()
        self.kept: dict[int, tuple[int, int]] = {}
        """First and last number kept of each epoch."""
        for *one, reason, count in db.execute("SELECT id, kit, stream, t_from, t_to, reason, count FROM losses"):
            self.losses.restore(one[0], Loss(*one[1:], GapReason(reason), count), now_ns)
        self._count()

    def _count(self) -> None:
        db, counts = self._db, self.counts
        found = db.execute("SELECT priority, count(*), sum(size) FROM waiting GROUP BY priority").fetchall()
        counts.batches = sum(number for _, number, _ in found)
        counts.bytes = sum(size for _, _, size in found)
        counts.data_bytes = sum(size for priority, _, size in found if priority < Priority.RECORD)
        counts.kept_batches, counts.kept_bytes = db.execute(
            "SELECT count(*), coalesce(sum(size), 0) FROM kept"
        ).fetchone()
        rows = db.execute("SELECT epoch, min(seq), max(seq) FROM kept JOIN batches USING (place) GROUP BY epoch")
        self.kept = {epoch: (first, last) for epoch, first, last in rows}

    # Into the spool.

    def insert(self, batches: Sequence[Encoded], epoch: int, place: int) -> list[Spooled]:
        """Batches that have come, from this place on."""
        spooled = [Spooled(place + i, epoch, one.seq, one.data) for i, one in enumerate(batches)]
        for one, batch in zip(spooled, batches, strict=True):
            new = self._db.execute(
                "INSERT INTO batches VALUES (?, ?, ?, ?) ON CONFLICT (epoch, seq) DO NOTHING",
                (one.place, one.epoch, one.seq, one.data),
            ).rowcount
            if new:  # a commit that failed after all may have been whole
                priority = PRIORITIES[batch.shape]
                size = len(batch.data)
                found = About(priority, batch.kit, batch.stream, batch.rows, batch.t_first, batch.t_last, size)
                insert_waiting(self._db, one.place, found)
                self._waits(found)
        return spooled

    def _waits(self, one: About, times: int = 1) -> None:
        self.counts.batches += times
        self.counts.bytes += times * one.size
        if one.priority < Priority.RECORD:
            self.counts.data_bytes += times * one.size

    def remember(self, ends: Mapping[tuple[str, str], int]) -> None:
        """The last sample of each stream, the last sign of life of each connection."""
        self._db.executemany(
            "INSERT INTO ends VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET t = excluded.t",
            [(kit, name, t) for (kit, name), t in ends.items()],
        )

    def note(self, losses: Iterable[Loss], now_ns: int) -> None:
        """What was lost; it is said when it has settled. `now_ns` is monotonic."""
        for loss in losses:
            if (sane := told(loss)) is not None:
                entry = self.losses.add(sane, now_ns)
                insert_loss(self._db, entry.id, entry.loss)

    def settled(self, now_ns: int) -> list[tuple[str, list[Gap], list[Open]]]:
        """The gaps that are to be said now, by kit; no more of one kit than a batch holds.

        None while there is no room for them: saying them would cost data, whose gap would have to be said again. They
        are as durable as losses, joined, and are said when something has been sent.
        """
        by_kit: dict[str, list[Open]] = {}
        for entry in self.losses.due(now_ns):
            by_kit.setdefault(entry.loss.kit, []).append(entry)
        free = self._room.all_bytes - self.counts.bytes
        found: list[tuple[str, list[Gap], list[Open]]] = []
        for kit, entries in by_kit.items():
            some = entries[: max(0, min(GAPS_MOST, (free - GAP_BYTES) // GAP_ROW_BYTES))]
            free -= GAP_BYTES + GAP_ROW_BYTES * len(some)
            if some:
                found.append((kit, [entry.loss.gap() for entry in some], some))
        return found

    def said(self, entries: Sequence[Open]) -> None:
        """These have become a batch in this transaction."""
        self.losses.said(entries)
        self._db.executemany("DELETE FROM losses WHERE id = ?", [(entry.id,) for entry in entries])

    # Out of it.

    def acknowledge(self, keys: Iterable[tuple[int, int]], now_ns: int) -> None:
        """Keep these acknowledged batches (epoch, seq) for a while; `now_ns` is UTC."""
        for key in keys:
            found = self._take(self._place_of(key))
            if found is None:
                continue
            place, one = found
            if not self._room.keep_ns:
                self._db.execute("DELETE FROM batches WHERE place = ?", (place,))
                continue
            self._db.execute(
                "INSERT INTO kept VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (place, one.priority, one.kit, one.stream, one.rows, one.t_first, one.t_last, one.size, now_ns),
            )
            self.counts.kept_batches += 1
            self.counts.kept_bytes += one.size
            epoch, seq = key
            first, last = self.kept.get(epoch, (seq, seq))
            self.kept[epoch] = min(first, seq), max(last, seq)

    def let_go(self, keys: Iterable[tuple[int, int]]) -> None:
        """Forget these batches (epoch, seq) that the hub keeps aside: it would do so again."""
        for key in keys:
            if (found := self._take(self._place_of(key))) is not None:
                self._db.execute("DELETE FROM batches WHERE place = ?", (found[0],))

    def _place_of(self, key: tuple[int, int]) -> int | None:
        row = self._db.execute("SELECT place FROM batches WHERE epoch = ? AND seq = ?", key).fetchone()
        return None if row is None else int(row[0])

    def _take(self, place: int | None) -> tuple[int, About] | None:
        """Take a batch off those that wait; None where it does not wait."""
        row = self._db.execute(f"DELETE FROM waiting WHERE place = ? RETURNING {ABOUT}", (place,)).fetchone()  # noqa: S608
        if row is None or place is None:
            return None
        one = About(*row)
        self._waits(one, -1)
        return place, one

    def make_room(self, now_ns: int) -> list[int]:
        """Drop what there is no room for; places of the dropped batches. `now_ns` is monotonic.

        What is kept goes first, then frames, then events, of each the oldest first; gap records have the rest of the
        room to themselves. What goes leaves a loss behind.
        """
        counts, room = self.counts, self._room
        while counts.kept_batches and (
            counts.kept_bytes > KEPT_SHARE * room.all_bytes or counts.bytes + counts.kept_bytes > room.all_bytes
        ):
            self._drop_kept()
        dropped: list[int] = []
        lost: list[Loss] = []
        while counts.batches > 1 and (counts.bytes > room.all_bytes or counts.data_bytes > room.data_bytes):
            place = self._db.execute("SELECT place FROM waiting ORDER BY priority, place LIMIT 1").fetchone()[0]
            if (found := self._take(place)) is None:
                break
            self._db.execute("DELETE FROM batches WHERE place = ?", (place,))
            dropped.append(place)
            lost += found[1].lost(GapReason.SPOOL_FULL, ())
        self.note(lost, now_ns)
        return dropped

    def is_old(self, now_ns: int) -> bool:
        """Whether a kept batch has been kept long enough; `now_ns` is UTC."""
        row = self._db.execute("SELECT acknowledged_ns FROM kept ORDER BY place LIMIT 1").fetchone()
        return row is not None and row[0] < now_ns - self._room.keep_ns

    def purge(self, now_ns: int) -> None:
        """Let go of some that have been kept long enough, in their order."""
        for _ in range(PURGE_MOST):
            if not self.is_old(now_ns):
                return
            self._drop_kept()

    def _drop_kept(self) -> None:
        place, size = self._db.execute("SELECT place, size FROM kept ORDER BY place LIMIT 1").fetchone()
        self._db.execute("DELETE FROM kept WHERE place = ?", (place,))
        self.counts.kept_batches -= 1
        self.counts.kept_bytes -= size
        row = self._db.execute("DELETE FROM batches WHERE place = ? RETURNING epoch, seq", (place,)).fetchone()
        if row is None:
            return
        epoch, seq = row
        first, last = self.kept.get(epoch, (seq, seq))
        if seq in (first, last):
            self._count_kept(epoch)

    def _count_kept(self, epoch: int) -> None:
        # The outer ones are found at once by the index of `batches`; min() and max() together would read them all.
        ends = [
            self._db.execute(
                f"SELECT seq FROM batches CROSS JOIN kept USING (place) WHERE epoch = ? ORDER BY seq {order} LIMIT 1",  # noqa: S608
                (epoch,),
            ).fetchone()
            for order in ("ASC", "DESC")
        ]
        if ends[0] is None:
            self.kept.pop(epoch, None)
        else:
            self.kept[epoch] = ends[0][0], ends[1][0]

    def replay(self, epoch: int, ranges: Iterable[tuple[int, int]]) -> list[int]:
        """Let kept batches of these numbers (first, last) wait again; their places."""
        places: list[int] = []
        for first, last in ranges:
            rows = self._db.execute(
                "SELECT place FROM batches CROSS JOIN kept USING (place) WHERE epoch = ? AND seq BETWEEN ? AND ?",
                (epoch, first, last),
            ).fetchall()
            places += [row[0] for row in rows]
        for place in places:
            row = self._db.execute(f"DELETE FROM kept WHERE place = ? RETURNING {ABOUT}", (place,)).fetchone()  # noqa: S608
            one = About(*row)
            self.counts.kept_batches -= 1
            self.counts.kept_bytes -= one.size
            insert_waiting(self._db, place, one)
            self._waits(one)
        self._count_kept(epoch)
        return places

    # Read back.

    def read(self, after: int, before: int, limit: int, most_bytes: int, now_ns: int) -> tuple[list[Spooled], int, int]:
        """Batches that wait at `after` < place < `before`; up to where all were read; how many could not be read.

        At most `limit`, and no more once they have `most_bytes`. `now_ns` is monotonic.
        """
        found: list[Spooled] = []
        rotten: list[tuple[Spooled, str]] = []
        size = 0
        read_to = before - 1
        rows = self._db.execute(
            "SELECT place, epoch, seq, data FROM waiting CROSS JOIN batches USING (place) "
            "WHERE place > ? AND place < ? ORDER BY place",
            (after, before),
        )
        for row in rows:
            one = Spooled(*row)
            reason = fault_of(one)
            if reason is None:
                found.append(one)
                size += len(one.data)
            else:
                rotten.append((one, reason))
            if len(found) >= limit or size >= most_bytes:
                read_to = one.place
                break
        rows.close()
        for one, reason in rotten:
            self._set_aside(one, reason, now_ns)
        return found, read_to, len(rotten)

    def _set_aside(self, one: Spooled, reason: str, now_ns: int) -> None:
        """Bytes that rotted on the disk would be sent for ever: no hub can acknowledge an id that it cannot trust."""
        self._db.execute("INSERT INTO unreadable (reason, data) VALUES (?, ?)", (reason, one.data))
        self._db.execute("DELETE FROM batches WHERE place = ?", (one.place,))
        found = self._take(one.place)
        if found is not None:
            ends = self._db.execute("SELECT kit, name FROM ends").fetchall()
            self.note(found[1].lost(GapReason.UNREADABLE, ends), now_ns)
