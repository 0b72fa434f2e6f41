"""Rules: who is refused must see which rule, what it allows and what they asked for; nobody else is refused."""

# ruff: noqa: DTZ001 - wall times carry no zone

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.booking.rules import (
    ALWAYS,
    Code,
    Extend,
    Policy,
    PolicyInvalid,
    Used,
    Wish,
    extension_refusals,
    hours_text,
    latest_end,
    parse_hours,
    refusals,
    teaching,
    week_of,
)
from hub.booking.zones import DAY, HOUR, LATEST, MINUTE, to_utc, to_wall

ZONE = "Asia/Tashkent"
CAIRO = "Africa/Cairo"
DAYTIME = parse_hours("08:30-12:00, 13:30-17:30")
POLICY = Policy(
    zone=ZONE,
    teaching=dict.fromkeys(range(5), DAYTIME),
    holidays=frozenset({date(2026, 9, 1), date(2026, 9, 2)}),
    notice_min=60,
    horizon_days=30,
    shortest_min=30,
    longest_min=180,
    person_week_h=6,
    course_week_h=10,
    workshop_week_h=40,
)
NOW = to_utc(datetime(2026, 9, 7, 7), ZONE)  # a Monday


def wish(start: str, minutes: int = 60, course: int | None = None, zone: str = ZONE) -> Wish:
    begin = to_utc(datetime.fromisoformat(start), zone)
    return Wish(begin, begin + minutes * MINUTE, course)


def refused(
    one: Wish, used: Used | None = None, policy: Policy = POLICY, now: int = NOW
) -> dict[str, dict[str, object]]:
    found = refusals(policy, one, now, used)
    for refusal in found:
        assert "%(" not in refusal.detail
        # Whatever the text shows is among the numbers, and plain JSON.
        assert all(isinstance(value, int | float | str) for value in refusal.numbers.values())
    return {str(refusal.code): dict(refusal.numbers) for refusal in found}


def test_a_wish_within_every_rule_is_not_refused() -> None:
    assert refused(wish("2026-09-08T09:00", 180, 7), Used(180, 420, 2220)) == {}
    assert refused(wish("2026-09-08T08:30", 30)) == {}
    assert refused(wish("2026-09-08T16:30", 60)) == {}


def test_too_short_and_too_long_say_both_lengths() -> None:
    assert refused(wish("2026-09-08T09:00", 29)) == {"too_short": {"shortest_min": 30, "asked_min": 29}}
    assert refused(wish("2026-09-08T13:30", 181)) == {"too_long": {"longest_min": 180, "asked_min": 181}}
    assert refused(wish("2026-09-08T09:00", 0)) == {"too_short": {"shortest_min": 30, "asked_min": 0}}
    assert refused(wish("2026-09-08T09:00", -5)) == {"too_short": {"shortest_min": 30, "asked_min": -5}}


def test_the_past_is_refused_but_for_a_slightly_late_start() -> None:
    at_once = replace(POLICY, notice_min=0, late_start_min=5)
    now = to_utc(datetime(2026, 9, 8, 9, 5), ZONE)
    assert refused(wish("2026-09-08T09:00"), policy=at_once, now=now) == {}
    assert refused(wish("2026-09-08T09:00"), policy=at_once, now=now + MINUTE) == {
        "in_past": {"late_start_min": 5, "ago_min": 6}
    }


def test_notice_says_how_far_ahead_is_asked_and_how_far_the_wish_is() -> None:
    now = to_utc(datetime(2026, 9, 8, 8, 15), ZONE)
    assert refused(wish("2026-09-08T09:15"), now=now) == {}
    assert refused(wish("2026-09-08T09:00"), now=now) == {"too_soon": {"notice_min": 60, "ahead_min": 45}}


def test_the_horizon_takes_whole_days_of_the_workshop() -> None:
    assert refused(wish("2026-10-07T16:30")) == {}
    assert refused(wish("2026-10-08T09:00")) == {
        "too_far": {"horizon_days": 30, "last_day": "2026-10-07", "asked_days": 31, "asked_day": "2026-10-08"}
    }
    assert to_wall(latest_end(POLICY, NOW), ZONE) == datetime(2026, 10, 8)


def test_teaching_hours_are_told_for_the_day_that_is_asked_for() -> None:
    assert refused(wish("2026-09-08T11:30")) == {
        "outside_hours": {
            "day": "2026-09-08",
            "weekday": 2,
            "hours": "08:30–12:00, 13:30–17:30",
            "zone": ZONE,
            "asked_from": "2026-09-08 11:30",
            "asked_to": "2026-09-08 12:30",
        }
    }
    saturday = refused(wish("2026-09-12T09:00"))["outside_hours"]
    assert (saturday["day"], saturday["hours"]) == ("2026-09-12", "")
    (told,) = refusals(POLICY, wish("2026-09-12T09:00"), NOW)
    assert told.detail.startswith("There is no teaching on 2026-09-12")


def test_a_holiday_is_the_reason_given_and_not_the_hours() -> None:
    now = to_utc(datetime(2026, 8, 31, 7), ZONE)
    assert refused(wish("2026-09-01T09:00"), now=now) == {"holiday": {"days": "2026-09-01"}}
    night = replace(POLICY, teaching=ALWAYS)
    assert refused(wish("2026-08-31T22:30", 90), policy=night, now=now) == {}
    assert refused(wish("2026-09-01T23:00", 120), policy=night, now=now) == {
        "holiday": {"days": "2026-09-01, 2026-09-02"}
    }


def test_quotas_say_what_a_week_gives_what_is_used_left_and_asked() -> None:
    numbers = {"used_h": 5.5, "left_h": 0.5, "asked_h": 1, "week": "2026-W37"}
    assert refused(wish("2026-09-08T09:00"), Used(person_min=330)) == {"person_quota": {"limit_h": 6, **numbers}}
    assert refused(wish("2026-09-08T09:00"), Used(person_min=300)) == {}
    assert refused(wish("2026-09-08T09:00", course=7), Used(course_min=600)) == {
        "course_quota": {"limit_h": 10, "used_h": 10, "left_h": 0, "asked_h": 1, "week": "2026-W37"}
    }
    assert refused(wish("2026-09-08T09:00"), Used(course_min=600)) == {}, "no course, no quota of a course"
    assert refused(wish("2026-09-08T09:00"), Used(workshop_min=2401)) == {
        "workshop_quota": {"limit_h": 40, "used_h": 40.02, "left_h": 0, "asked_h": 1, "week": "2026-W37"}
    }


def test_all_that_is_against_a_wish_is_told_at_once() -> None:
    found = refused(wish("2026-11-07T18:00", 240, 7), Used(360, 600, 2400))
    assert set(found) == {
        "too_long", "too_far", "outside_hours", "person_quota", "course_quota", "workshop_quota"
    }  # fmt: skip


def test_a_wish_of_years_is_answered_without_looking_at_each_day() -> None:
    assert set(refused(Wish(NOW + DAY, LATEST - 2 * DAY))) == {"too_long"}
    for start, end in ((0, HOUR), (LATEST, LATEST + 1), (NOW, 1 << 64)):
        with pytest.raises(ValueError, match="between 1970 and 2200"):
            Wish(start, end)


def test_a_week_is_that_of_the_workshop_also_where_it_is_an_hour_short() -> None:
    week = week_of(POLICY, to_utc(datetime(2026, 9, 14), ZONE))
    assert (to_wall(week.start, ZONE), to_wall(week.end, ZONE)) == (datetime(2026, 9, 14), datetime(2026, 9, 21))
    assert week_of(POLICY, week.start - 1).end == week.start
    assert week_of(Policy(zone=CAIRO), to_utc(datetime(2026, 4, 22), CAIRO)).length == 7 * DAY - HOUR


@given(
    zone=st.sampled_from([CAIRO, ZONE, "America/St_Johns", "Australia/Lord_Howe", "Pacific/Apia", "UTC"]),
    start=st.integers(1_735_689_600, 1_924_905_600),
    hours=st.lists(st.integers(0, 1440), unique=True, max_size=6).map(sorted),
    closed=st.integers(0, 6),
)
def test_it_is_teaching_time_exactly_when_the_wall_clock_says_so(
    zone: str, start: int, hours: list[int], closed: int
) -> None:
    ranges = tuple(zip(hours[::2], hours[1::2], strict=False))
    begin, end = start * 10**9, (start + 3 * 86400) * 10**9
    holiday = to_wall(begin + DAY, zone).date()
    policy = Policy(
        zone=zone,
        teaching={day: ranges for day in range(7) if day != closed},
        holidays=frozenset({holiday}),
    )
    found = teaching(policy, begin, end)
    assert all(one.end < after.start for one, after in pairwise(found))
    for t in range(begin, end, 17 * MINUTE):
        wall = to_wall(t, zone)
        minute = wall.hour * 60 + wall.minute
        open_now = wall.weekday() != closed and wall.date() != holiday and any(a <= minute < b for a, b in ranges)
        assert any(s <= t < e for s, e in found) == open_now


def test_an_extension_needs_the_right_person_and_nobody_waiting() -> None:
    def codes(extend: Extend, owner: bool, staff: bool, waiting: int = 0) -> list[str]:
        found = extension_refusals(replace(POLICY, extend=extend), owner=owner, staff=staff, waiting=waiting)
        assert all(refusal.detail for refusal in found)
        return [str(refusal.code) for refusal in found]

    assert codes(Extend.OWNER, True, False) == codes(Extend.OWNER, False, True) == []
    assert codes(Extend.OWNER, False, False) == codes(Extend.STAFF, True, False) == ["extension_not_allowed"]
    assert codes(Extend.STAFF, False, True) == []
    assert codes(Extend.NOBODY, True, True) == ["extension_not_allowed"]
    assert codes(Extend.OWNER, True, True, waiting=2) == ["somebody_waits"]
    (told,) = extension_refusals(POLICY, owner=True, staff=False, waiting=2)
    assert told.numbers == {"waiting": 2}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("zone", "Mars/Olympus"),
        ("teaching", {7: ((0, 60),)}),
        ("teaching", {0: ((60, 60),)}),
        ("teaching", {0: ((0, 120), (60, 180))}),
        ("teaching", {0: ((0, 1441),)}),
        ("turn_around_min", -1),
        ("notice_min", -1),
        ("horizon_days", 1001),
        ("shortest_min", 0),
        ("longest_min", 10),
        ("person_week_h", 0),
        ("course_week_h", 169),
        ("workshop_week_h", float("nan")),
        ("no_show_min", 0),
        ("late_start_min", -1),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(PolicyInvalid) as invalid:
        replace(POLICY, **{name: value})
    assert list(invalid.value.fields) == [name]


def test_hours_are_written_as_people_write_them() -> None:
    assert parse_hours("") == ()
    assert parse_hours(" 8:30 - 12:00,13:30–24:00 ") == ((510, 720), (810, 1440))
    assert parse_hours(hours_text(DAYTIME)) == DAYTIME
    for wrong in ("morning", "12:00-08:00", "08:00-09:60", "08:00-10:00,09:00-11:00", "08:00-24:01", ","):
        with pytest.raises(ValueError, match=r".+"):
            parse_hours(wrong)


def test_the_codes_that_programs_rely_on_stay() -> None:
    assert [str(code) for code in Code] == [
        "too_short", "too_long", "in_past", "too_soon", "too_far", "outside_hours", "holiday",
        "person_quota", "course_quota", "workshop_quota", "extension_not_allowed", "somebody_waits",
    ]  # fmt: skip
