"""Beside the line: a recurring booking's rule (RFC 5545 section 3.3.10) to its occurrences in UTC. Pure.

A rule is expanded in wall time of the zone of the side that stays fixed, so that a class at nine stays at nine when
clocks shift; for another zone it may then move by an hour: `shifts` says when.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise

from dateutil import rrule

from hub.booking.zones import DAY, LATEST, MINUTE, LocalTimeMissing, LocalTimeTwice, offset_at, to_utc, to_wall
from hub.errors import N_, InputRefused

LIMIT = 200
"""Occurrences of one series, at most."""
LONGEST_TEXT = 200
LONGEST_INTERVAL = 366

_FREQUENCIES = {"DAILY": rrule.DAILY, "WEEKLY": rrule.WEEKLY, "MONTHLY": rrule.MONTHLY}
_WEEKDAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
_PARTS = frozenset({"FREQ", "INTERVAL", "BYDAY", "COUNT", "UNTIL"})
_BYDAY = re.compile(r"([+-]?[1-5])?(MO|TU|WE|TH|FR|SA|SU)", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,4}", re.ASCII)
_UNTIL = re.compile(r"([0-9]{8})(?:T([0-9]{6})(Z)?)?", re.ASCII)


class RuleRefused(InputRefused):
    """Write the rule of the series otherwise; the text says which part and what may stand there."""

    code = "rule_refused"
    title = N_("This repetition cannot be used")

    def __init__(self, message: str, **params: object) -> None:
        super().__init__(message, fields={"rule": message}, **params)


@dataclass(frozen=True, slots=True)
class Rule:
    """A checked rule. `by_day` holds (nth or None, weekday with Monday 0); nth counts within the month, -1 the last.

    `until` is the last start that may be: naive wall time, or UTC where `until_utc` (the text ended in Z).
    """

    text: str
    frequency: str
    interval: int = 1
    by_day: tuple[tuple[int | None, int], ...] = ()
    count: int | None = None
    until: datetime | None = None
    until_utc: bool = False

    def ended(self, wall: datetime, start_ns: int | None, zone: str) -> bool:
        """Whether UNTIL lies before an occurrence, given as wall time in `zone` and, where it has one, as UTC."""
        if self.until is None:
            return False
        if not self.until_utc:
            return wall > self.until
        until_ns = to_utc(self.until, "UTC")
        return wall > to_wall(until_ns, zone).replace(fold=0) if start_ns is None else start_ns > until_ns


@dataclass(frozen=True, slots=True)
class Occurrence:
    """One time of a series, counted from 1. With a `problem` there is no UTC time until somebody has chosen one."""

    number: int
    wall: datetime
    start_ns: int | None
    end_ns: int | None
    problem: LocalTimeMissing | LocalTimeTwice | None = None


@dataclass(frozen=True, slots=True)
class Expansion:
    """The occurrences of a series in order; `more` where limit or horizon left some of them out."""

    occurrences: list[Occurrence]
    more: bool


@dataclass(frozen=True, slots=True)
class Shift:
    """From occurrence `number` on, the other side's wall clock shows another time of day than before it.

    `moved_min` is the change against the occurrence before, `since_first_min` against the first, positive for later.
    """

    number: int
    start_ns: int
    wall_fixed: datetime
    wall_other: datetime
    moved_min: int
    since_first_min: int


def parse_rule(text: str, *, limit: int = LIMIT) -> Rule:
    """Reads an RRULE such as `FREQ=WEEKLY;INTERVAL=2;BYDAY=MO,WE;COUNT=10`, with or without `RRULE:` before it.

    FREQ is DAILY, WEEKLY or MONTHLY; INTERVAL, BYDAY (with numbers as in 1MO or -1FR for MONTHLY only), and one of
    COUNT (1 to `limit`) and UNTIL (a date, a wall time, or UTC) may follow; weeks begin on Monday. Raises RuleRefused.
    """
    if len(text) > LONGEST_TEXT:
        raise RuleRefused(N_("The repetition has more than %(most)d characters."), most=LONGEST_TEXT)
    parts = _split(text.strip().upper().removeprefix("RRULE:"))
    frequency = parts.get("FREQ", "")
    if frequency not in _FREQUENCIES:
        raise RuleRefused(N_("FREQ must be DAILY, WEEKLY or MONTHLY, not “%(value)s”."), value=frequency)
    if "COUNT" in parts and "UNTIL" in parts:
        raise RuleRefused(N_("A repetition ends by COUNT or by UNTIL, not by both."))
    until, until_utc = _until(parts["UNTIL"]) if "UNTIL" in parts else (None, False)
    return Rule(
        text=";".join(f"{name}={value}" for name, value in parts.items()),
        frequency=frequency,
        interval=_whole(parts, "INTERVAL", LONGEST_INTERVAL) or 1,
        by_day=_by_day(parts["BYDAY"], frequency) if "BYDAY" in parts else (),
        count=_whole(parts, "COUNT", limit),
        until=until,
        until_utc=until_utc,
    )


@dataclass(frozen=True, slots=True)
class Series:
    """A rule, where it begins and how long each occurrence lasts.

    `first` is a naive wall time in `zone`. The series begins with the first day from there on that the rule names, at
    `first`'s time of day. Each occurrence lasts `length_ns` of real time, also where the clocks shift within it.
    `folds` answers for wall times that come twice: 0 for the first of the two, 1 for the second.
    """

    rule: Rule
    zone: str
    first: datetime
    length_ns: int
    folds: Mapping[datetime, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.first.tzinfo is not None:
            raise ValueError("a series begins at a naive wall time")
        if not 1970 < self.first.year < 2199:
            raise ValueError("a series begins between 1971 and 2198")
        if self.length_ns <= 0:
            raise ValueError("an occurrence has a length")


def expand(series: Series, horizon_ns: int, *, limit: int = LIMIT) -> Expansion:
    """The occurrences that start before `horizon_ns` (UTC), at most `limit`. RuleRefused where the rule names none.

    One that meets a missing or doubled local time is counted and comes with its problem, so none is left out unseen.
    """
    rule, zone = series.rule, series.zone
    horizon = to_wall(min(horizon_ns, LATEST - 2 * DAY), zone).replace(fold=0)
    found: list[Occurrence] = []
    for wall in _walls(series):
        if len(found) == rule.count:
            break
        if wall > horizon + timedelta(days=1):
            return Expansion(found, not rule.ended(wall, None, zone))
        occurrence = _occurrence(series, len(found) + 1, wall)
        if rule.ended(wall, occurrence.start_ns, zone):
            break
        beyond = wall >= horizon if occurrence.start_ns is None else occurrence.start_ns >= horizon_ns
        if beyond or len(found) == limit:
            return Expansion(found, True)
        found.append(occurrence)
    if not found:
        raise RuleRefused(N_("The repetition names no day from %(first)s on."), first=f"{series.first:%Y-%m-%d}")
    return Expansion(found, False)


def shifts(occurrences: Sequence[Occurrence], fixed: str, other: str) -> list[Shift]:
    """The occurrences at which `other`'s wall clock moves against `fixed`'s: clocks shift in one zone, not in both.

    Empty where it stays the same for both sides, and nobody needs to be asked which side stays fixed. Occurrences
    with a problem are passed over.
    """
    placed = [(one, one.start_ns) for one in occurrences if one.start_ns is not None]
    apart = [(one, start, offset_at(start, other) - offset_at(start, fixed)) for one, start in placed]
    return [
        Shift(
            number=one.number,
            start_ns=start,
            wall_fixed=to_wall(start, fixed),
            wall_other=to_wall(start, other),
            moved_min=(now - before) // MINUTE,
            since_first_min=(now - apart[0][2]) // MINUTE,
        )
        for (_, _, before), (one, start, now) in pairwise(apart)
        if now != before
    ]


def _walls(series: Series) -> Iterator[datetime]:
    rule, first = series.rule, series.first.replace(fold=0)
    days = {day for _, day in rule.by_day}
    if rule.frequency == "DAILY" and days and not days & {(first.weekday() + k * rule.interval) % 7 for k in range(7)}:
        # dateutil would look through every day until the year 9999.
        return iter(())
    return iter(
        rrule.rrule(
            _FREQUENCIES[rule.frequency],
            dtstart=first,
            interval=rule.interval,
            wkst=rrule.MO,
            byweekday=[rrule.weekday(day, nth) for nth, day in rule.by_day] or None,
        )
    )


def _occurrence(series: Series, number: int, wall: datetime) -> Occurrence:
    try:
        start = to_utc(wall, series.zone, series.folds.get(wall))
    except (LocalTimeMissing, LocalTimeTwice) as problem:
        return Occurrence(number, wall, None, None, problem)
    return Occurrence(number, wall, start, start + series.length_ns)


def _split(text: str) -> dict[str, str]:
    parts: dict[str, str] = {}
    for part in text.split(";"):
        name, equals, value = part.partition("=")
        if not equals or not value:
            raise RuleRefused(N_("“%(part)s” is not a part of a repetition: expected NAME=VALUE."), part=part)
        if name not in _PARTS:
            raise RuleRefused(
                N_("“%(name)s” cannot be used: only FREQ, INTERVAL, BYDAY, COUNT and UNTIL can."), name=name
            )
        if name in parts:
            raise RuleRefused(N_("%(name)s stands there twice."), name=name)
        parts[name] = value
    return parts


def _whole(parts: Mapping[str, str], name: str, most: int) -> int | None:
    if name not in parts:
        return None
    text = parts[name]
    if not _NUMBER.fullmatch(text) or not 1 <= int(text) <= most:
        raise RuleRefused(
            N_("%(name)s must be a whole number from 1 to %(most)d, not “%(value)s”."), name=name, most=most, value=text
        )
    return int(text)


def _by_day(text: str, frequency: str) -> tuple[tuple[int | None, int], ...]:
    found: list[tuple[int | None, int]] = []
    for part in text.split(","):
        match = _BYDAY.fullmatch(part)
        if not match:
            raise RuleRefused(N_("BYDAY takes MO, TU, WE, TH, FR, SA and SU, not “%(value)s”."), value=part)
        nth, day = match.groups()
        if nth and frequency != "MONTHLY":
            raise RuleRefused(N_("“%(value)s”: a number before a weekday needs FREQ=MONTHLY."), value=part)
        found.append((int(nth) if nth else None, _WEEKDAYS.index(day)))
    return tuple(found)


def _until(text: str) -> tuple[datetime, bool]:
    match = _UNTIL.fullmatch(text)
    try:
        if match:
            day, clock, utc = match.groups()
            # A bare date lets in all that starts on that day.
            until = datetime.strptime(day + (clock or "235959"), "%Y%m%d%H%M%S")  # noqa: DTZ007
            if 1970 < until.year < 2199:
                return until, utc is not None
    except ValueError:
        # Digits that are no date: told like any other text that is none.
        pass
    raise RuleRefused(
        N_("UNTIL must be a date such as 20270131, or a time such as 20270131T090000, not “%(value)s”."), value=text
    )
