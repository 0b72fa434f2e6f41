"""Finder: an offered slot that is not free, or a free one nearer than those offered, sends people the wrong way."""

# ruff: noqa: DTZ001 - wall times carry no zone

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from hub.booking.finder import KitTimes, free_at, nearest, shared, starts
from hub.booking.intervals import overlap
from hub.booking.rules import Policy, Used, Wish, earliest_start, parse_hours, refusals, week_of
from hub.booking.zones import DAY, HOUR, MINUTE, to_utc

CAIRO, TASHKENT, SHANGHAI = "Africa/Cairo", "Asia/Tashkent", "Asia/Shanghai"
STEP = 30 * MINUTE
# The days around the night in which Cairo's clocks are put forward; half of the days have hours at night.
BASE = to_utc(datetime(2026, 4, 22), "UTC")
MODEL_DAYS = 4

pairs = st.lists(
    st.tuples(st.integers(0, MODEL_DAYS * 48), st.integers(1, 30)).map(
        lambda one: (BASE + one[0] * STEP, BASE + (one[0] + one[1]) * STEP)
    ),
    max_size=5,
)
policies = st.builds(
    Policy,
    zone=st.sampled_from([CAIRO, TASHKENT]),
    teaching=st.fixed_dictionaries(
        {
            day: st.sampled_from([parse_hours(""), parse_hours("09:00-12:00,13:00-17:00"), parse_hours("00:00-24:00")])
            for day in range(7)
        }
    ),
    holidays=st.sampled_from([frozenset(), frozenset({date(2026, 4, 23)})]),
    turn_around_min=st.sampled_from([0, 10, 30]),
    notice_min=st.sampled_from([0, 60, 600]),
    horizon_days=st.integers(1, 4),
    shortest_min=st.just(30),
    longest_min=st.sampled_from([60, 240]),
    person_week_h=st.sampled_from([None, 2]),
)


@st.composite
def kits_of(draw: st.DrawFn) -> list[KitTimes]:
    count = draw(st.integers(1, 2))
    kits = []
    for n in range(count):
        policy = draw(policies)
        minutes = draw(st.sampled_from([0, 60, 120]))
        kits.append(KitTimes(f"kit-{n}", policy, draw(pairs), {week_of(policy, BASE).start: Used(minutes)}))
    return kits


def bookable(times: KitTimes, start: int, length: int, now: int) -> bool:
    """Asked of the rules and of each busy time, one by one; what is found must not begin in the past either."""
    policy = times.policy
    used = times.used.get(week_of(policy, start).start)
    return (
        start >= earliest_start(policy, now)
        and not refusals(policy, Wish(start, start + length), now, used)
        and not any(overlap((start, start + length + policy.turn_around_ns), one) for one in times.busy)
    )


@settings(max_examples=60)
@given(kits=kits_of(), length=st.integers(1, 5), at=st.integers(-6, MODEL_DAYS * 48 + 6), now=st.integers(-4, 60))
def test_offered_slots_are_free_inside_the_rules_and_none_nearer_is_missed(
    kits: list[KitTimes], length: int, at: int, now: int
) -> None:
    start, length, now = BASE + at * STEP, length * STEP, BASE + now * STEP
    window = (BASE, BASE + MODEL_DAYS * DAY)
    found = nearest(kits, Wish(start, start + length), now, each=3, step_min=30, window=window)
    by_name = {times.kit: times for times in kits}
    for slot in found.before + found.after:
        assert slot.end_ns - slot.start_ns == length
        assert window[0] <= slot.start_ns
        assert slot.end_ns <= window[1]
        assert bookable(by_name[slot.kit], slot.start_ns, length, now)
    free = [
        t
        for t in range(window[0], window[1] - length + 1, STEP)
        if any(bookable(times, t, length, now) for times in kits)
    ]
    before, after = [t for t in free if t < start], [t for t in free if t >= start]
    assert [slot.start_ns for slot in found.before[:1]] == before[-1:]
    assert [slot.start_ns for slot in found.after[:1]] == after[:1]
    assert [slot.start_ns for slot in found.before] == sorted({s.start_ns for s in found.before}, reverse=True)
    assert [slot.start_ns for slot in found.after] == sorted({s.start_ns for s in found.after})


@settings(max_examples=40)
@given(kits=kits_of(), length=st.integers(1, 5), now=st.integers(-4, 60))
def test_possible_starts_are_all_of_them_to_the_minute(kits: list[KitTimes], length: int, now: int) -> None:
    length, now = length * STEP, BASE + now * STEP
    window = (BASE + DAY, BASE + 2 * DAY + 6 * HOUR)
    for times in kits:
        found = starts(times, length, window, now)
        for t in range(window[0] - STEP, window[1] + STEP, 10 * MINUTE):
            inside = window[0] <= t and t + length <= window[1]
            assert any(a <= t < b for a, b in found) == (inside and bookable(times, t, length, now))


@settings(max_examples=60)
@given(kits=kits_of(), length=st.integers(1, 5), at=st.integers(0, MODEL_DAYS * 48), now=st.integers(-4, 60))
def test_what_is_free_at_a_time_is_what_can_be_booked_then_and_for_as_long_as_said(
    kits: list[KitTimes], length: int, at: int, now: int
) -> None:
    start, length, now = BASE + at * STEP, length * STEP, BASE + now * STEP
    kits = [replace(times, policy=replace(times.policy, late_start_min=0)) for times in kits]
    found = free_at(kits, Wish(start, start + length), now)
    assert [free.kit for free in found] == [times.kit for times in kits if bookable(times, start, length, now)]
    for free in found:
        times = next(one for one in kits if one.kit == free.kit)
        # Quotas aside: they are about the person, not about when the kit is free.
        open_handed = KitTimes(times.kit, replace(times.policy, person_week_h=None), times.busy)
        assert bookable(open_handed, start, free.until_ns - start, now)
        assert not bookable(open_handed, start, free.until_ns - start + MINUTE, now)


@settings(max_examples=60)
@given(
    kits=kits_of(),
    sites=st.lists(policies, max_size=2),
    people=st.lists(pairs, max_size=2),
    length=st.integers(1, 4),
    now=st.integers(-4, 40),
)
def test_a_shared_slot_suits_every_workshop_person_and_group_and_the_first_is_not_missed(
    kits: list[KitTimes], sites: list[Policy], people: list[list[tuple[int, int]]], length: int, now: int
) -> None:
    length, now = length * STEP, BASE + now * STEP
    window = (BASE, BASE + MODEL_DAYS * DAY)
    groups = [kits[:1], kits]

    def suits(t: int) -> bool:
        return (
            all(bookable(KitTimes("", policy), t, length, now) for policy in sites)
            and not any(overlap((t, t + length), one) for busy in people for one in busy)
            and all(any(bookable(times, t, length, now) for times in group) for group in groups)
        )

    found = shared(sites, people, groups, length, window, now, step_min=30, limit=500)
    fits = [t for t in range(window[0], window[1] - length + 1, STEP) if suits(t)]
    assert [slot.start_ns for slot in found[:1]] == fits[:1]
    covered: set[int] = set()
    assert all(slot.end_ns <= after.start_ns for slot, after in pairwise(found))
    for slot in found:
        assert slot.end_ns == slot.start_ns + length
        assert suits(slot.start_ns)
        assert suits(slot.latest_ns)
        covered |= set(range(slot.start_ns, slot.latest_ns + 1, STEP))
        for group, free in zip(groups, slot.kits, strict=True):
            assert list(free) == [times.kit for times in group if bookable(times, slot.start_ns, length, now)]
            assert free
    assert covered == set(fits)


def test_a_class_of_tianjin_tashkent_and_cairo_finds_the_hours_that_all_three_teach() -> None:
    def site(zone: str) -> Policy:
        return Policy(zone=zone, teaching=dict.fromkeys(range(5), parse_hours("09:00-17:00")))

    now = to_utc(datetime(2026, 9, 1), "UTC")
    tuesday = (to_utc(datetime(2026, 9, 8), "UTC"), to_utc(datetime(2026, 9, 9), "UTC"))
    cell = KitTimes("tas-cell-1", site(TASHKENT), [(to_utc(datetime(2026, 9, 8, 11), TASHKENT),) * 2])
    found = shared([site(SHANGHAI), site(CAIRO)], [], [[cell]], 90 * MINUTE, tuesday, now)
    # 17:00 in Tianjin is 12:00 in Cairo's summer: three hours in common.
    assert [slot.start_ns for slot in found] == [
        to_utc(datetime(2026, 9, 8, hour, m), CAIRO) for hour, m in ((9, 0), (10, 30))
    ]
    assert found[0].kits == (("tas-cell-1",),)
    assert shared([site(SHANGHAI), site(CAIRO)], [[tuesday]], [[cell]], HOUR, tuesday, now) == []


def test_the_same_time_on_an_equivalent_kit_is_the_nearest_slot() -> None:
    policy = Policy(zone=TASHKENT)
    now = to_utc(datetime(2026, 9, 1), "UTC")
    start = to_utc(datetime(2026, 9, 8, 9, 7), TASHKENT)
    taken = KitTimes("cell-1", policy, [(start - HOUR, start + HOUR)])
    found = nearest([taken, KitTimes("cell-2", policy)], Wish(start, start + HOUR), now)
    assert (found.after[0].kit, found.after[0].start_ns) == ("cell-2", start)
    assert found.before[0].start_ns == to_utc(datetime(2026, 9, 8, 9, 5), TASHKENT)
    alone = nearest([taken], Wish(start, start + HOUR), now)
    assert alone.after[0].start_ns == to_utc(datetime(2026, 9, 8, 10, 10), TASHKENT)
    # Ten minutes of turn-around lie between the slot before and the booking.
    assert alone.before[0].end_ns == to_utc(datetime(2026, 9, 8, 7, 55), TASHKENT)
