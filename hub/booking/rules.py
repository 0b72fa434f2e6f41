"""Beside the line: a workshop's rules and a wish to what speaks against it, with every limit and number. Pure.

A `Policy` is what the workshop has set. `refusals` takes it with a wish, the time now and the hours already used, and
answers all that is against the wish, not only the first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from enum import StrEnum

from hub.booking.intervals import Interval, minus, union
from hub.booking.zones import DAY, EARLIEST, HOUR, LATEST, MINUTE, days, start_of_day, stretches, to_wall
from hub.clock import known_zone
from hub.errors import N_, InputRefused

MINUTES_OF_DAY = 1440
LONGEST_MIN = 31 * MINUTES_OF_DAY
"""No workshop lets a booking last longer; what asks for more is not even looked at day by day."""
MOST_DAYS = 1000
"""The farthest horizon."""
WEEK_HOURS = 168

Ranges = tuple[tuple[int, int], ...]
"""Minutes of the wall clock from midnight, [from, to), in order and apart; 1440 is the day's end."""

ALWAYS: Mapping[int, Ranges] = dict.fromkeys(range(7), ((0, MINUTES_OF_DAY),))
"""Open day and night: a workshop that has not set its hours."""
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
_EPOCH_WEEKDAY = 3
_RANGE = re.compile(r"\s*([0-9]{1,2}):([0-9]{2})\s*[-–]\s*([0-9]{1,2}):([0-9]{2})\s*", re.ASCII)


class PolicyInvalid(InputRefused):
    """Mend the settings named in `fields`."""

    code = "policy_invalid"


class Extend(StrEnum):
    """Who may make a booking longer while it runs, as long as nobody waits."""

    NOBODY = "nobody"
    STAFF = "staff"
    OWNER = "owner"
    """The owner of the booking, and staff."""


class Code(StrEnum):
    """The stable codes of refusals."""

    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    IN_PAST = "in_past"
    TOO_SOON = "too_soon"
    TOO_FAR = "too_far"
    OUTSIDE_HOURS = "outside_hours"
    HOLIDAY = "holiday"
    PERSON_QUOTA = "person_quota"
    COURSE_QUOTA = "course_quota"
    WORKSHOP_QUOTA = "workshop_quota"
    EXTENSION_NOT_ALLOWED = "extension_not_allowed"
    SOMEBODY_WAITS = "somebody_waits"


@dataclass(frozen=True, slots=True)
class Policy:
    """What a workshop allows. Raises PolicyInvalid for values that make no sense, each named.

    `teaching` has the hours of each weekday, Monday 0, in the workshop's wall time; a weekday that lacks is closed.
    `holidays` are dates there. A kit rests `turn_around_min` behind each booking. Bookings begin at least
    `notice_min` from now and end at the latest on the day that is `horizon_days` from today. Quotas are hours a week
    (Monday to Sunday there), None for no limit; a booking counts in the week in which it begins. A booking nobody has
    checked in to is released after `no_show_min`; one may be made up to `late_start_min` after its start.
    """

    zone: str
    teaching: Mapping[int, Ranges] = field(default_factory=lambda: ALWAYS)
    holidays: frozenset[date] = frozenset()
    turn_around_min: int = 10
    notice_min: int = 0
    horizon_days: int = 90
    shortest_min: int = 15
    longest_min: int = 240
    person_week_h: float | None = None
    course_week_h: float | None = None
    workshop_week_h: float | None = None
    needs_approval: bool = False
    no_show_min: int = 15
    late_start_min: int = 5
    extend: Extend = Extend.OWNER

    def __post_init__(self) -> None:
        fields = _faults(self)
        if fields:
            raise PolicyInvalid(fields=fields)

    @property
    def turn_around_ns(self) -> int:
        """Nanoseconds for which a kit stays taken behind a booking."""
        return self.turn_around_min * MINUTE


@dataclass(frozen=True, slots=True)
class Wish:
    """[start_ns, end_ns) in UTC, and the course it is for. ValueError outside zones.EARLIEST..LATEST."""

    start_ns: int
    end_ns: int
    course_id: int | str | None = None

    def __post_init__(self) -> None:
        if not (EARLIEST + 2 * DAY <= self.start_ns <= LATEST - 2 * DAY and self.end_ns <= LATEST - 2 * DAY):
            raise ValueError("a wish lies between 1970 and 2200")

    @property
    def length_ns(self) -> int:
        """Nanoseconds from start to end, not above zero where the end does not follow the start."""
        return self.end_ns - self.start_ns


@dataclass(frozen=True, slots=True)
class Used:
    """Minutes already booked in the week in which the wish begins, without the wish itself where it is changed."""

    person_min: int = 0
    course_min: int = 0
    workshop_min: int = 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """One rule that a wish breaks. `message` is to be translated, then filled from `numbers` (plain JSON values)."""

    code: Code
    message: str
    numbers: Mapping[str, int | float | str]

    @property
    def detail(self) -> str:
        """The text in English."""
        return self.message % self.numbers


def refusals(policy: Policy, wish: Wish, now_ns: int, used: Used | None = None) -> list[Refusal]:
    """Every rule of the workshop that the wish breaks, empty where it may be booked if a kit is free."""
    found = _length(policy, wish.length_ns)
    found += _begin(policy, wish.start_ns, now_ns)
    if wish.length_ns <= 0 or wish.length_ns > LONGEST_MIN * MINUTE:
        return found
    found += _horizon(policy, wish, now_ns)
    found += _hours(policy, wish)
    found += _holidays(policy, wish)
    found += quota_refusals(policy, wish.length_ns, used or Used(), wish.start_ns, wish.course_id)
    return found


def length_allowed(policy: Policy, length_ns: int) -> bool:
    """Whether a booking may last this long."""
    return not _length(policy, length_ns)


def quota_refusals(
    policy: Policy, length_ns: int, used: Used, start_ns: int, course_id: int | str | None
) -> list[Refusal]:
    """The quotas of the week of `start_ns` that `length_ns` more would break."""
    week = f"{to_wall(start_ns, policy.zone):%G-W%V}"
    found: list[Refusal] = []
    for code, limit_h, used_min, message in (
        (
            Code.PERSON_QUOTA,
            policy.person_week_h,
            used.person_min,
            N_(
                "A person may book %(limit_h)s h a week here. In week %(week)s you have %(used_h)s h, "
                "so %(left_h)s h are left; you ask for %(asked_h)s h."
            ),
        ),
        (
            Code.COURSE_QUOTA,
            policy.course_week_h if course_id is not None else None,
            used.course_min,
            N_(
                "A course may book %(limit_h)s h a week here. In week %(week)s this one has %(used_h)s h, "
                "so %(left_h)s h are left; you ask for %(asked_h)s h."
            ),
        ),
        (
            Code.WORKSHOP_QUOTA,
            policy.workshop_week_h,
            used.workshop_min,
            N_(
                "This workshop gives %(limit_h)s h a week. In week %(week)s %(used_h)s h are taken, "
                "so %(left_h)s h are left; you ask for %(asked_h)s h."
            ),
        ),
    ):
        if limit_h is None:
            continue
        limit, taken = round(limit_h * 60) * MINUTE, used_min * MINUTE
        if taken + length_ns > limit:
            numbers = {
                "limit_h": _in(HOUR, limit),
                "used_h": _in(HOUR, taken),
                "left_h": _in(HOUR, max(0, limit - taken)),
                "asked_h": _in(HOUR, length_ns),
                "week": week,
            }
            found.append(Refusal(code, message, numbers))
    return found


def extension_refusals(policy: Policy, *, owner: bool, staff: bool, waiting: int) -> list[Refusal]:
    """What speaks against making a running booking longer: who asks, and whether people wait for the kit."""
    found: list[Refusal] = []
    if not (staff and policy.extend is not Extend.NOBODY) and not (owner and policy.extend is Extend.OWNER):
        found.append(
            Refusal(
                Code.EXTENSION_NOT_ALLOWED,
                {
                    Extend.NOBODY: N_("In this workshop no booking is made longer."),
                    Extend.STAFF: N_("In this workshop only staff make a booking longer."),
                    Extend.OWNER: N_("Only the owner of a booking or staff make it longer."),
                }[policy.extend],
                {"who": policy.extend.value},
            )
        )
    if waiting > 0:
        found.append(
            Refusal(
                Code.SOMEBODY_WAITS,
                N_("The booking cannot be made longer: waiting for this time are %(waiting)d."),
                {"waiting": waiting},
            )
        )
    return found


def teaching(policy: Policy, start_ns: int, end_ns: int, *, but_holidays: bool = True) -> list[Interval]:
    """The parts of [start_ns, end_ns) at which the workshop's wall clock shows teaching hours, in order.

    An hour that the clocks repeat counts twice, one that they skip not at all. Without holidays, unless told.
    """
    found: list[tuple[int, int]] = []
    for piece in stretches(start_ns, end_ns, policy.zone):
        first = (piece.start_ns + piece.offset_ns) // DAY
        last = (piece.end_ns + piece.offset_ns - 1) // DAY
        for day in range(first, last + 1):
            ranges = policy.teaching.get((day + _EPOCH_WEEKDAY) % 7, ())
            if not ranges or (but_holidays and date.fromordinal(day + _EPOCH_ORDINAL) in policy.holidays):
                continue
            midnight = day * DAY - piece.offset_ns
            for opens, closes in ranges:
                start = max(piece.start_ns, midnight + opens * MINUTE)
                end = min(piece.end_ns, midnight + closes * MINUTE)
                if start < end:
                    found.append((start, end))
    return union(found)


def earliest_start(policy: Policy, now_ns: int) -> int:
    """The first instant (UTC ns) at which a booking made now may begin; a late start is not counted in."""
    return now_ns + policy.notice_min * MINUTE


def latest_end(policy: Policy, now_ns: int) -> int:
    """The instant (UTC ns) at which the last day ends that can be booked now."""
    return start_of_day(_last_day(policy, now_ns) + timedelta(days=1), policy.zone)


def week_of(policy: Policy, t_ns: int) -> Interval:
    """The week, Monday to Sunday in the workshop's zone, that an instant lies in: what quotas are counted over."""
    day = to_wall(t_ns, policy.zone).date()
    monday = day - timedelta(days=day.weekday())
    return Interval(start_of_day(monday, policy.zone), start_of_day(monday + timedelta(days=7), policy.zone))


def parse_hours(text: str) -> Ranges:
    """Reads `08:30-12:00, 13:30-17:30`; an empty text is a closed day. ValueError for anything else, 24:00 may end."""
    ranges: list[tuple[int, int]] = []
    for part in text.split(",") if text.strip() else ():
        match = _RANGE.fullmatch(part)
        if not match:
            raise ValueError(f"expected HH:MM-HH:MM, got {part.strip()!r}")
        hour, minute, to_hour, to_minute = (int(group) for group in match.groups())
        if minute > 59 or to_minute > 59:
            raise ValueError(f"an hour has 60 minutes: {part.strip()!r}")
        ranges.append((hour * 60 + minute, to_hour * 60 + to_minute))
    if not _ranges_hold(tuple(ranges)):
        raise ValueError("hours come in order, apart from each other, between 00:00 and 24:00")
    return tuple(ranges)


def hours_text(ranges: Ranges) -> str:
    """`08:30–12:00, 13:30–17:30`; empty for a closed day. `parse_hours` reads it."""
    return ", ".join(f"{a // 60:02}:{a % 60:02}–{b // 60:02}:{b % 60:02}" for a, b in ranges)


def _length(policy: Policy, length_ns: int) -> list[Refusal]:
    asked = _in(MINUTE, length_ns)
    if length_ns < policy.shortest_min * MINUTE:
        return [
            Refusal(
                Code.TOO_SHORT,
                N_("A booking lasts at least %(shortest_min)d min here; you ask for %(asked_min)s min."),
                {"shortest_min": policy.shortest_min, "asked_min": asked},
            )
        ]
    if length_ns > policy.longest_min * MINUTE:
        return [
            Refusal(
                Code.TOO_LONG,
                N_("A booking lasts at most %(longest_min)d min here; you ask for %(asked_min)s min."),
                {"longest_min": policy.longest_min, "asked_min": asked},
            )
        ]
    return []


def _begin(policy: Policy, start_ns: int, now_ns: int) -> list[Refusal]:
    ahead = start_ns - now_ns
    if ahead < -policy.late_start_min * MINUTE:
        return [
            Refusal(
                Code.IN_PAST,
                N_("This time began %(ago_min)s min ago; a booking may begin at most %(late_start_min)d min late."),
                {"late_start_min": policy.late_start_min, "ago_min": _in(MINUTE, -ahead)},
            )
        ]
    if policy.notice_min and ahead < policy.notice_min * MINUTE:
        return [
            Refusal(
                Code.TOO_SOON,
                N_("Bookings are made at least %(notice_min)d min ahead here; this is %(ahead_min)s min ahead."),
                {"notice_min": policy.notice_min, "ahead_min": _in(MINUTE, max(0, ahead))},
            )
        ]
    return []


def _horizon(policy: Policy, wish: Wish, now_ns: int) -> list[Refusal]:
    if wish.end_ns <= latest_end(policy, now_ns):
        return []
    today = to_wall(now_ns, policy.zone).date()
    asked = to_wall(wish.end_ns - 1, policy.zone).date()
    return [
        Refusal(
            Code.TOO_FAR,
            N_(
                "Bookings are made at most %(horizon_days)d days ahead here, now up to %(last_day)s; "
                "%(asked_day)s is %(asked_days)d days ahead."
            ),
            {
                "horizon_days": policy.horizon_days,
                "last_day": _last_day(policy, now_ns).isoformat(),
                "asked_days": (asked - today).days,
                "asked_day": asked.isoformat(),
            },
        )
    ]


def _hours(policy: Policy, wish: Wish) -> list[Refusal]:
    hours = teaching(policy, wish.start_ns, wish.end_ns, but_holidays=False)
    outside = minus([(wish.start_ns, wish.end_ns)], hours)
    if not outside:
        return []
    day = to_wall(outside[0].start, policy.zone).date()
    hours_then = hours_text(policy.teaching.get(day.weekday(), ()))
    return [
        Refusal(
            Code.OUTSIDE_HOURS,
            N_("Teaching hours on %(day)s are %(hours)s (%(zone)s); you ask for %(asked_from)s to %(asked_to)s.")
            if hours_then
            else N_("There is no teaching on %(day)s (%(zone)s); you ask for %(asked_from)s to %(asked_to)s."),
            {
                "day": day.isoformat(),
                "weekday": day.isoweekday(),
                "hours": hours_then,
                "zone": policy.zone,
                "asked_from": f"{to_wall(wish.start_ns, policy.zone):%Y-%m-%d %H:%M}",
                "asked_to": f"{to_wall(wish.end_ns, policy.zone):%Y-%m-%d %H:%M}",
            },
        )
    ]


def _holidays(policy: Policy, wish: Wish) -> list[Refusal]:
    touched = [day.date for day in days(wish.start_ns, wish.end_ns, policy.zone) if day.date in policy.holidays]
    if not touched:
        return []
    return [
        Refusal(
            Code.HOLIDAY,
            N_("The workshop is closed for holidays on: %(days)s."),
            {"days": ", ".join(day.isoformat() for day in touched)},
        )
    ]


def _last_day(policy: Policy, now_ns: int) -> date:
    return to_wall(now_ns, policy.zone).date() + timedelta(days=policy.horizon_days)


def _in(unit: int, length_ns: int) -> int | float:
    """Whole units as int, else two digits behind the point."""
    whole, rest = divmod(length_ns, unit)
    return round(length_ns / unit, 2) if rest else whole


def _ranges_hold(ranges: Ranges) -> bool:
    edges = [0, *(edge for pair in ranges for edge in pair), MINUTES_OF_DAY]
    return edges == sorted(edges) and all(a < b for a, b in ranges)


def _faults(policy: Policy) -> dict[str, str]:
    minutes = N_("Expected a whole number of minutes within its limits.")
    quota = N_("Expected hours a week, above 0 and at most 168, or nothing.")
    checks: tuple[tuple[str, Callable[[], bool], str], ...] = (
        ("zone", lambda: known_zone(policy.zone), N_("Expected the IANA name of a time zone, such as Asia/Tashkent.")),
        (
            "teaching",
            lambda: all(day in range(7) and _ranges_hold(ranges) for day, ranges in policy.teaching.items()),
            N_("Expected hours in order and apart from each other, between 00:00 and 24:00."),
        ),
        ("turn_around_min", lambda: 0 <= policy.turn_around_min <= MINUTES_OF_DAY, minutes),
        ("notice_min", lambda: 0 <= policy.notice_min <= LONGEST_MIN, minutes),
        ("shortest_min", lambda: 1 <= policy.shortest_min <= LONGEST_MIN, minutes),
        (
            "longest_min",
            lambda: policy.shortest_min <= policy.longest_min <= LONGEST_MIN,
            N_("Expected a whole number of minutes, not below the shortest length."),
        ),
        ("no_show_min", lambda: 1 <= policy.no_show_min <= MINUTES_OF_DAY, minutes),
        ("late_start_min", lambda: 0 <= policy.late_start_min <= MINUTES_OF_DAY, minutes),
        (
            "horizon_days",
            lambda: 0 <= policy.horizon_days <= MOST_DAYS,
            N_("Expected a whole number of days, 0 to 1000."),
        ),
        ("person_week_h", lambda: _quota_holds(policy.person_week_h), quota),
        ("course_week_h", lambda: _quota_holds(policy.course_week_h), quota),
        (
            "workshop_week_h",
            lambda: policy.workshop_week_h is None or policy.workshop_week_h > 0,
            N_("Expected hours a week, above 0, or nothing."),
        ),
    )
    return {name: text for name, holds, text in checks if not holds()}


def _quota_holds(hours: float | None) -> bool:
    return hours is None or 0 < hours <= WEEK_HOURS
