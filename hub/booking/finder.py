"""Beside the line: rules and busy times to what is free: nearest slots, free kits, windows shared by workshops. Pure.

Everything works on the set of starts that are possible, so that no slot is missed between two looks at the clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from hub.booking.intervals import Interval, Pairs, gaps, intersect, minus, overlap, union
from hub.booking.rules import (
    Policy,
    Used,
    Wish,
    earliest_start,
    latest_end,
    length_allowed,
    quota_refusals,
    refusals,
    teaching,
    week_of,
)
from hub.booking.zones import DAY, EARLIEST, LATEST, MINUTE

SEARCH_DAYS = 14
"""How far around a wish other slots are looked for."""
STEP_MIN = 5
"""Found slots begin on multiples of this, as people read them off a clock."""


@dataclass(frozen=True, slots=True)
class KitTimes:
    """A kit, its workshop's rules, and when it is taken: [start, end + turn-around) of bookings, and maintenance.

    `used` has the quota minutes already used, by the UTC start of `rules.week_of`; a week that lacks has none.
    """

    kit: str
    policy: Policy
    busy: Sequence[tuple[int, int]] = ()
    used: Mapping[int, Used] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Slot:
    """A kit that is free throughout [start_ns, end_ns), inside every rule."""

    kit: str
    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class Nearby:
    """Free slots of a wish's length, nearest first: `before` begin earlier than the wish, `after` with it or later."""

    before: list[Slot]
    after: list[Slot]


@dataclass(frozen=True, slots=True)
class FreeKit:
    """A kit that is free for a wish, and until when one booking from the wish's start could last."""

    kit: str
    until_ns: int


@dataclass(frozen=True, slots=True)
class SharedSlot:
    """A time that suits all. `kits` has, for each group asked for, those free; the slot may begin until `latest_ns`.

    With a later start other kits of a group may be the free ones, but one always is.
    """

    start_ns: int
    end_ns: int
    latest_ns: int
    kits: tuple[tuple[str, ...], ...]


def starts(
    times: KitTimes, length_ns: int, window: tuple[int, int], now_ns: int, course_id: int | str | None = None
) -> list[Interval]:
    """All starts at which the kit can be booked for `length_ns` now, the whole slot within the window."""
    allowed = _allowed(times.policy, length_ns, window, now_ns, times.used, course_id)
    if not allowed:
        return []
    rest = times.policy.turn_around_ns
    around = (allowed[0].start, allowed[-1].end + length_ns + rest)
    return intersect(allowed, _starts_in(gaps(around, times.busy), length_ns + rest))


def nearest(
    kits: Iterable[KitTimes],
    wish: Wish,
    now_ns: int,
    *,
    each: int = 2,
    step_min: int = STEP_MIN,
    window: tuple[int, int] | None = None,
) -> Nearby:
    """The nearest free slots around a wish on any of these kits, at most `each` before and after it.

    Without a window, SEARCH_DAYS to each side. A start lies on a multiple of `step_min`, or is the wish's own. Of two
    kits free from the same instant the one named first is told; further slots of a kit do not overlap the nearer ones.
    """
    length, step = wish.length_ns, step_min * MINUTE
    around = window or (wish.start_ns - SEARCH_DAYS * DAY, wish.end_ns + SEARCH_DAYS * DAY)
    before: dict[int, Slot] = {}
    after: dict[int, Slot] = {}
    for times in kits:
        for run in starts(times, length, around, now_ns, wish.course_id):
            low, high = _up(run.start, step), _down(run.end - 1, step)
            at = wish.start_ns if run.start <= wish.start_ns < run.end else max(low, _up(wish.start_ns, step))
            for _ in range(each):
                if at >= run.end:
                    break
                after.setdefault(at, Slot(times.kit, at, at + length))
                at = _up(at + length, step)
            at = min(high, _down(wish.start_ns - 1, step))
            for _ in range(each):
                if at < run.start:
                    break
                before.setdefault(at, Slot(times.kit, at, at + length))
                at = _down(at - length, step)
    return Nearby(
        before=[before[at] for at in sorted(before, reverse=True)[:each]],
        after=[after[at] for at in sorted(after)[:each]],
    )


def free_at(kits: Iterable[KitTimes], wish: Wish, now_ns: int) -> list[FreeKit]:
    """What is free at this time: the kits, in their order, on which the wish can be booked now."""
    free: list[FreeKit] = []
    for times in kits:
        policy = times.policy
        week = week_of(policy, wish.start_ns)
        if refusals(policy, wish, now_ns, times.used.get(week.start)):
            continue
        taken = union(times.busy)
        if any(overlap((wish.start_ns, wish.end_ns + policy.turn_around_ns), one) for one in taken):
            continue
        until = min(wish.start_ns + policy.longest_min * MINUTE, latest_end(policy, now_ns))
        until = min([until, *(start - policy.turn_around_ns for start, _ in taken if start >= wish.end_ns)])
        # The wish itself is inside teaching hours, so the first interval begins with it.
        free.append(FreeKit(times.kit, teaching(policy, wish.start_ns, until)[0].end))
    return free


def shared(
    policies: Iterable[Policy],
    people: Iterable[Pairs],
    groups: Sequence[Sequence[KitTimes]],
    length_ns: int,
    window: tuple[int, int],
    now_ns: int,
    *,
    step_min: int = STEP_MIN,
    limit: int = 50,
) -> list[SharedSlot]:
    """The slots inside every workshop's rules, when nobody is busy and one kit of every group is free throughout.

    `people` has each person's busy times. Slots come in order and do not overlap; each tells how much later it could
    begin. At most `limit`.
    """
    step = step_min * MINUTE
    busy = union(*people)
    possible = _starts_in(gaps(window, busy), length_ns)
    for policy in policies:
        possible = intersect(possible, _allowed(policy, length_ns, window, now_ns, {}, None))
    per_group = [[(times.kit, starts(times, length_ns, window, now_ns)) for times in group] for group in groups]
    for group in per_group:
        possible = intersect(possible, union(*(free for _, free in group)))
    found: list[SharedSlot] = []
    for run in possible:
        at = _up(run.start, step)
        while at < run.end:
            if len(found) == limit:
                return found
            kits = tuple(
                tuple(kit for kit, free in group if any(start <= at < end for start, end in free))
                for group in per_group
            )
            found.append(SharedSlot(at, at + length_ns, _down(run.end - 1, step), kits))
            at = _up(at + length_ns, step)
    return found


def _allowed(
    policy: Policy,
    length_ns: int,
    window: tuple[int, int],
    now_ns: int,
    used: Mapping[int, Used],
    course_id: int | str | None,
) -> list[Interval]:
    """The starts that the workshop's rules allow, whatever the kits do."""
    begin = max(window[0], earliest_start(policy, now_ns), EARLIEST)
    end = min(window[1], latest_end(policy, now_ns), LATEST)
    if end - begin < length_ns or not length_allowed(policy, length_ns):
        return []
    allowed = _starts_in(teaching(policy, begin, end), length_ns)
    full: list[Interval] = []
    week = week_of(policy, begin)
    while week.start < end:
        if quota_refusals(policy, length_ns, used.get(week.start, Used()), week.start, course_id):
            full.append(week)
        week = week_of(policy, week.end)
    return minus(allowed, full)


def _starts_in(free: Pairs, length_ns: int) -> list[Interval]:
    """The instants from which `length_ns` fits: the last one still belongs to them, hence the 1."""
    return [Interval(start, end - length_ns + 1) for start, end in free if end - start >= length_ns]


def _up(t_ns: int, step: int) -> int:
    return -(-t_ns // step) * step


def _down(t_ns: int, step: int) -> int:
    return t_ns // step * step
