"""Series: a class every Tuesday that lands an hour off, or on a day nobody meant, is a class that is missed."""

# ruff: noqa: DTZ001 - wall times carry no zone

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.booking.series import LIMIT, Expansion, RuleRefused, Series, expand, parse_rule, shifts
from hub.booking.zones import HOUR, MINUTE, NS, LocalTimeMissing, LocalTimeTwice, to_utc, to_wall

DAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
CAIRO, TASHKENT = "Africa/Cairo", "Asia/Tashkent"
FAR = to_utc(datetime(2040, 1, 1), "UTC")


def series(rule: str, first: str, zone: str = TASHKENT, **more: object) -> Series:
    return Series(parse_rule(rule), zone, datetime.fromisoformat(first), 2 * HOUR, **more)  # type: ignore[arg-type]


def walls(found: Expansion) -> list[str]:
    return [f"{one.wall:%Y-%m-%d %H:%M}" for one in found.occurrences]


def refusal(text: str) -> str:
    with pytest.raises(RuleRefused) as refused:
        parse_rule(text)
    assert refused.value.fields.keys() == {"rule"}
    return refused.value.detail


def test_every_second_monday_and_wednesday_counts_weeks_from_monday() -> None:
    found = expand(series("RRULE:FREQ=WEEKLY;INTERVAL=2;BYDAY=MO,WE;COUNT=4", "2026-09-02T09:00"), FAR)
    assert walls(found) == ["2026-09-02 09:00", "2026-09-14 09:00", "2026-09-16 09:00", "2026-09-28 09:00"]
    assert not found.more
    assert [one.number for one in found.occurrences] == [1, 2, 3, 4]


def test_months_take_a_date_or_a_weekday_counted_from_either_end() -> None:
    assert walls(expand(series("FREQ=MONTHLY;BYDAY=1MO,-1FR;COUNT=4", "2026-09-01T09:00"), FAR)) == [
        "2026-09-07 09:00",
        "2026-09-25 09:00",
        "2026-10-05 09:00",
        "2026-10-30 09:00",
    ]
    # Months without a 31st are left out, as RFC 5545 says.
    found = expand(series("FREQ=MONTHLY;COUNT=3", "2026-08-31T09:00"), FAR)
    assert walls(found) == ["2026-08-31 09:00", "2026-10-31 09:00", "2026-12-31 09:00"]


@pytest.mark.parametrize(
    ("until", "last"),
    [
        ("20260908", "2026-09-08 09:00"),
        ("20260908T090000", "2026-09-08 09:00"),
        ("20260908T085959", "2026-09-01 09:00"),
        ("20260908T040000Z", "2026-09-08 09:00"),
        ("20260908T035959Z", "2026-09-01 09:00"),
    ],
)
def test_until_lets_in_its_own_moment_as_date_wall_time_or_utc(until: str, last: str) -> None:
    found = expand(series(f"FREQ=WEEKLY;UNTIL={until}", "2026-09-01T09:00"), FAR)
    assert walls(found)[-1] == last
    assert not found.more


def test_a_series_without_end_stops_at_the_limit_or_the_horizon_and_says_so() -> None:
    endless = series("FREQ=DAILY", "2026-09-01T09:00")
    assert len(expand(endless, FAR).occurrences) == LIMIT
    assert expand(endless, FAR).more
    horizon = to_utc(datetime(2026, 9, 4, 9), TASHKENT)
    assert walls(expand(endless, horizon)) == ["2026-09-01 09:00", "2026-09-02 09:00", "2026-09-03 09:00"]
    assert len(expand(endless, horizon + 1).occurrences) == 4
    assert expand(endless, horizon).more
    three = series("FREQ=DAILY;COUNT=3", "2026-09-01T09:00")
    assert not expand(three, horizon).more
    assert expand(three, horizon, limit=2).more
    until = series("FREQ=WEEKLY;UNTIL=20260907", "2026-09-01T09:00")
    assert not expand(until, horizon).more


@given(
    frequency=st.sampled_from(["DAILY", "WEEKLY"]),
    interval=st.integers(1, 9),
    days=st.sets(st.integers(0, 6)),
    first=st.dates(date(2025, 1, 1), date(2030, 1, 1)),
    count=st.integers(1, 12),
)
def test_daily_and_weekly_rules_name_the_days_that_counting_names(
    frequency: str, interval: int, days: set[int], first: date, count: int
) -> None:
    text = f"FREQ={frequency};INTERVAL={interval};COUNT={count}"
    if days:
        text += ";BYDAY=" + ",".join(DAYS[day] for day in sorted(days))
    monday = first - timedelta(days=first.weekday())
    expected: list[date] = []
    for ahead in range(12 * 9 * 7 + 7):
        day = first + timedelta(days=ahead)
        if frequency == "DAILY":
            hit = ahead % interval == 0 and (not days or day.weekday() in days)
        else:
            hit = (day - monday).days // 7 % interval == 0 and day.weekday() in (days or {first.weekday()})
        if hit and len(expected) < count:
            expected.append(day)
    one = Series(parse_rule(text), "UTC", datetime(first.year, first.month, first.day, 9), HOUR)
    if not expected:
        with pytest.raises(RuleRefused, match="names no day"):
            expand(one, FAR)
        return
    assert [occurrence.wall.date() for occurrence in expand(one, FAR).occurrences] == expected


@given(
    zone=st.sampled_from(sorted(available_timezones())),
    hour=st.integers(0, 23),
    minute=st.sampled_from([0, 15, 30]),
    first=st.dates(date(2025, 1, 1), date(2030, 1, 1)),
)
def test_each_time_of_a_series_shows_the_same_wall_clock_or_a_problem(
    zone: str, hour: int, minute: int, first: date
) -> None:
    wall = datetime(first.year, first.month, first.day, hour, minute)
    for one in expand(Series(parse_rule("FREQ=DAILY;COUNT=200"), zone, wall, 90 * MINUTE), FAR).occurrences:
        assert (one.wall.hour, one.wall.minute) == (hour, minute)
        if one.start_ns is None:
            assert one.end_ns is None
            with pytest.raises((LocalTimeMissing, LocalTimeTwice)):
                to_utc(one.wall, zone)
        else:
            assert one.problem is None
            shown = datetime.fromtimestamp(one.start_ns // NS, UTC).astimezone(ZoneInfo(zone))
            assert shown.replace(tzinfo=None) == one.wall
            assert one.end_ns == one.start_ns + 90 * MINUTE


def test_a_skipped_and_a_doubled_night_are_counted_and_told_and_an_answer_places_the_second() -> None:
    spring = expand(series("FREQ=DAILY;COUNT=3", "2026-04-23T00:30", CAIRO), FAR).occurrences
    assert [one.problem is None for one in spring] == [True, False, True]
    assert isinstance(spring[1].problem, LocalTimeMissing)
    autumn = series("FREQ=DAILY;COUNT=3", "2026-10-28T23:30", CAIRO)
    asked = expand(autumn, FAR).occurrences[1]
    assert isinstance(asked.problem, LocalTimeTwice)
    for fold, expected in ((0, asked.problem.first_ns), (1, asked.problem.second_ns)):
        told = series("FREQ=DAILY;COUNT=3", "2026-10-28T23:30", CAIRO, folds={asked.wall: fold})
        assert expand(told, FAR).occurrences[1].start_ns == expected


def test_a_weekly_class_of_tashkent_and_cairo_moves_by_an_hour_for_the_side_that_is_not_fixed() -> None:
    weekly = expand(series("FREQ=WEEKLY;COUNT=40", "2026-03-03T15:00"), FAR).occurrences
    spring, autumn = shifts(weekly, TASHKENT, CAIRO)
    assert (spring.wall_fixed, spring.wall_other) == (datetime(2026, 4, 28, 15), datetime(2026, 4, 28, 13))
    assert (spring.moved_min, spring.since_first_min) == (60, 60)
    assert (autumn.wall_fixed, autumn.wall_other) == (datetime(2026, 11, 3, 15), datetime(2026, 11, 3, 12))
    assert (autumn.moved_min, autumn.since_first_min) == (-60, 0)
    assert spring.number == 1 + weekly.index(next(o for o in weekly if o.wall == spring.wall_fixed))
    cairo = expand(series("FREQ=WEEKLY;COUNT=12", "2026-03-03T12:00", CAIRO), FAR).occurrences
    (earlier,) = shifts(cairo, CAIRO, TASHKENT)
    assert (earlier.wall_other, earlier.moved_min) == (datetime(2026, 4, 28, 14), -60)
    assert shifts(weekly, TASHKENT, "Asia/Shanghai") == []
    assert shifts([], TASHKENT, CAIRO) == []


def test_zones_that_shift_on_the_same_night_are_not_asked_about() -> None:
    berlin = expand(series("FREQ=WEEKLY;COUNT=52", "2026-01-06T15:00", "Europe/Berlin"), FAR).occurrences
    assert shifts(berlin, "Europe/Berlin", "Europe/Helsinki") == []
    assert to_wall(berlin[0].start_ns or 0, "Europe/Helsinki").hour == 16


def test_what_a_rule_may_not_hold_is_named() -> None:
    assert "“HOURLY”" in refusal("FREQ=HOURLY")
    assert "“”" in refusal("COUNT=3")
    assert "“BYHOUR” cannot be used" in refusal("FREQ=DAILY;BYHOUR=9")
    assert "stands there twice" in refusal("FREQ=DAILY;COUNT=2;COUNT=3")
    assert "not by both" in refusal("FREQ=DAILY;COUNT=2;UNTIL=20260101")
    assert "INTERVAL must be a whole number from 1 to 366, not “0”" in refusal("FREQ=DAILY;INTERVAL=0")
    assert "COUNT must be a whole number from 1 to 200, not “201”" in refusal("FREQ=DAILY;COUNT=201")
    assert "“1e1”" in refusal("FREQ=DAILY;COUNT=1e1").lower()
    assert "“XX”" in refusal("FREQ=WEEKLY;BYDAY=MO,XX")
    assert "“2MO”: a number before a weekday needs FREQ=MONTHLY" in refusal("FREQ=WEEKLY;BYDAY=2MO")
    for until in ("TOMORROW", "20261332", "20260101T990000", "99990101", "20260101T0900"):
        assert f"not “{until}”" in refusal(f"FREQ=DAILY;UNTIL={until}")
    assert "expected NAME=VALUE" in refusal("")
    assert "200 characters" in refusal("FREQ=DAILY;" + "X" * 300)


@pytest.mark.parametrize(
    "rule", ["FREQ=DAILY;INTERVAL=7;BYDAY=MO", "FREQ=DAILY;INTERVAL=364;BYDAY=MO,WE", "FREQ=DAILY;UNTIL=20260831"]
)
def test_a_rule_that_never_comes_true_is_told_at_once(rule: str) -> None:
    with pytest.raises(RuleRefused, match="names no day from 2026-09-01 on"):
        expand(series(rule, "2026-09-01T09:00"), FAR)


@given(st.text(alphabet="FREQ=DAILYWKMONTHUBSCV;,0123456789-+: ", max_size=60))
def test_any_text_is_a_rule_or_is_refused(text: str) -> None:
    try:
        rule = parse_rule(text)
    except RuleRefused:
        return
    assert parse_rule(rule.text) == rule
