"""Beside the line: wall time to UTC nanoseconds and back. Pure.

Wall times are naive `datetime`s. Twice a year some zones skip an hour and repeat another: a wall time that does not
exist is refused, one that exists twice is asked for, and neither is ever guessed.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from hub.clock import NS
from hub.errors import N_, HubError

MINUTE = 60 * NS
HOUR = 60 * MINUTE
DAY = 24 * HOUR
"""24 hours; a day of the calendar may have 23 or 25."""

EARLIEST = 0
"""1970-01-01 UTC. Times outside EARLIEST..LATEST are refused with ValueError: schemas bound what comes from outside."""
LATEST = 7_258_118_400 * NS
"""2200-01-01 UTC, well within a 64 bit integer of nanoseconds."""

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - wall times are naive
_EPOCH_UTC = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_STEP = 12 * HOUR
"""How far apart a zone's offset is looked at; no zone has shifted and shifted back within this since 1970."""


class LocalTimeMissing(HubError):
    """Choose one of `before` and `after`: on that day the zone's clocks jump over `wall`.

    `before` is the last whole minute that the clocks show ahead of the jump, `after` the first time they show behind
    it; `at_ns` is the instant of the jump (UTC), which is also that of `after`.
    """

    status = 422
    code = "local_time_missing"
    title = N_("This local time does not exist")
    default = N_(
        "%(wall)s does not exist in %(zone)s: the clocks are put forward. "
        "The nearest times are %(before)s and %(after)s."
    )

    def __init__(self, wall: datetime, zone: str, before: datetime, after: datetime, at_ns: int) -> None:
        super().__init__(wall=_shown(wall), zone=zone, before=_shown(before), after=_shown(after))
        self.wall = wall
        self.zone = zone
        self.before = before
        self.after = after
        self.at_ns = at_ns


class LocalTimeTwice(HubError):
    """Ask which one is meant, then call again with `fold` 0 (`first_ns`) or 1 (`second_ns`)."""

    status = 422
    code = "local_time_twice"
    title = N_("This local time comes twice")
    default = N_(
        "%(wall)s comes twice in %(zone)s: the clocks are put back. Say whether the first (%(first)s UTC) "
        "or the second (%(second)s UTC) is meant."
    )

    def __init__(self, wall: datetime, zone: str, first_ns: int, second_ns: int) -> None:
        first, second = (to_wall(t, "UTC") for t in (first_ns, second_ns))
        super().__init__(wall=_shown(wall), zone=zone, first=_shown(first), second=_shown(second))
        self.wall = wall
        self.zone = zone
        self.first_ns = first_ns
        self.second_ns = second_ns


@dataclass(frozen=True, slots=True)
class Day:
    """A day of a zone's calendar, [start_ns, end_ns) in UTC: 23, 24 or 25 hours where clocks shift by an hour."""

    date: date
    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """[start_ns, end_ns) throughout which a zone's wall clock is UTC plus `offset_ns`."""

    start_ns: int
    end_ns: int
    offset_ns: int


def to_utc(wall: datetime, zone: str, fold: int | None = None) -> int:
    """UTC nanoseconds of a naive wall time. `fold` says which of two equal wall times is meant; `wall.fold` is ignored.

    Raises LocalTimeMissing, LocalTimeTwice (only where `fold` is None), and ValueError for a `wall` that carries a
    zone or lies outside EARLIEST..LATEST. An unknown zone is a KeyError: `hub.clock.known_zone` asks before.
    """
    if wall.tzinfo is not None:
        raise ValueError("a wall time carries no zone")
    plain = (wall.replace(fold=0) - _EPOCH) // _MICROSECOND * 1000
    if not EARLIEST + DAY <= plain <= LATEST - DAY:
        raise ValueError(f"{wall} is not between 1970-01-02 and 2199-12-31")
    info = _info(zone)
    # PEP 495: on a skipped or repeated time fold 0 gives the offset ahead of the shift and fold 1 the one behind it.
    ahead, behind = (_ns(wall.replace(fold=f).replace(tzinfo=info).utcoffset()) for f in (0, 1))
    if ahead == behind:
        return plain - ahead
    if ahead > behind:
        first, second = plain - ahead, plain - behind
        if fold is None:
            raise LocalTimeTwice(wall.replace(fold=0), zone, first, second)
        return second if fold else first
    shift = _shift_between(info, plain - behind, plain - ahead)
    gap = to_wall(shift, zone)
    last = (_EPOCH + timedelta(microseconds=(shift + ahead) // 1000)) - _MICROSECOND
    raise LocalTimeMissing(wall.replace(fold=0), zone, last.replace(second=0, microsecond=0), gap, shift)


def to_wall(t_ns: int, zone: str) -> datetime:
    """The naive wall time at an instant, with `fold` 1 on the second of two equal ones. Cut to whole microseconds.

    `to_utc(wall, zone, wall.fold)` leads back. Raises ValueError outside EARLIEST..LATEST.
    """
    if not EARLIEST <= t_ns <= LATEST:
        raise ValueError(f"{t_ns} ns is not between 1970 and 2200")
    return (_EPOCH_UTC + timedelta(microseconds=t_ns // 1000)).astimezone(_info(zone)).replace(tzinfo=None)


def start_of_day(day: date, zone: str) -> int:
    """The first instant (UTC ns) of a date: midnight, or the end of the jump where clocks skip midnight.

    The first instant of the day after where a zone skips the whole date (Apia, 2011-12-30).
    """
    try:
        return to_utc(datetime.combine(day, time()), zone)
    except LocalTimeMissing as missing:
        return missing.at_ns
    except LocalTimeTwice as twice:
        return twice.first_ns


def days(start_ns: int, end_ns: int, zone: str) -> list[Day]:
    """The whole days of the zone's calendar that [start_ns, end_ns) touches, in order and without gaps between them."""
    found: list[Day] = []
    if end_ns <= start_ns:
        return found
    # Where clocks are put back over midnight, a date's first instant may come before times of the date before it.
    day = to_wall(start_ns, zone).date()
    while start_of_day(day + timedelta(days=1), zone) <= start_ns:
        day += timedelta(days=1)
    begin = start_of_day(day, zone)
    while begin < end_ns:
        end = start_of_day(day + timedelta(days=1), zone)
        if end > begin:
            found.append(Day(day, begin, end))
        begin, day = end, day + timedelta(days=1)
    return found


def stretches(start_ns: int, end_ns: int, zone: str) -> list[Stretch]:
    """[start_ns, end_ns) cut wherever the zone's offset changes; usually one piece. ValueError as `to_wall`."""
    pieces: list[Stretch] = []
    if end_ns <= start_ns:
        return pieces
    begin, offset = start_ns, offset_at(start_ns, zone)
    for year in range(to_wall(start_ns, "UTC").year, to_wall(end_ns - 1, "UTC").year + 1):
        shifts = _shifts(zone, year)
        for shift in shifts[bisect_left(shifts, (begin + 1, 0)) :]:
            if shift[0] >= end_ns:
                break
            pieces.append(Stretch(begin, shift[0], offset))
            begin, offset = shift
    pieces.append(Stretch(begin, end_ns, offset))
    return pieces


def offset_at(t_ns: int, zone: str) -> int:
    """Nanoseconds by which the zone's wall clock is ahead of UTC at an instant. ValueError as `to_wall`."""
    return (to_wall(t_ns, zone) - _EPOCH) // _MICROSECOND * 1000 - t_ns // 1000 * 1000


@lru_cache(maxsize=4096)
def _shifts(zone: str, year: int) -> tuple[tuple[int, int], ...]:
    """Instants in (the year's first, the next year's first] at which the zone's offset changes, with the new offset."""
    info = _info(zone)
    begin = to_utc(datetime(year, 1, 1), "UTC") if year > 1970 else EARLIEST  # noqa: DTZ001
    end = min(to_utc(datetime(year + 1, 1, 1), "UTC") if year < 2199 else LATEST, LATEST)  # noqa: DTZ001
    found: list[tuple[int, int]] = []
    offset = offset_at(begin, zone)
    for t in range(begin, end, _STEP):
        until = min(t + _STEP, end)
        there = offset_at(until, zone)
        if there != offset:
            found.append((_shift_between(info, t, until), there))
            offset = there
    return tuple(found)


def _shift_between(info: ZoneInfo, before_ns: int, after_ns: int) -> int:
    """The whole second in (before, after] at which the offset becomes another than at `before`."""
    low, high = before_ns // NS, -(-after_ns // NS)
    offset = _offset(info, low)
    while high - low > 1:
        middle = (low + high) // 2
        if _offset(info, middle) == offset:
            low = middle
        else:
            high = middle
    return high * NS


def _offset(info: ZoneInfo, second: int) -> int:
    return _ns((_EPOCH_UTC + timedelta(seconds=second)).astimezone(info).utcoffset())


def _ns(offset: timedelta | None) -> int:
    return (offset or timedelta()) // _MICROSECOND * 1000


@lru_cache(maxsize=1024)
def _info(zone: str) -> ZoneInfo:
    # ZoneInfo itself keeps the last eight zones only.
    return ZoneInfo(zone)


def _shown(wall: datetime) -> str:
    return wall.strftime("%Y-%m-%d %H:%M")
