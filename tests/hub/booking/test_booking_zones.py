"""Wall times: a slot booked for a local time that does not exist, or that comes twice, would find nobody there."""

# ruff: noqa: DTZ001 - wall times carry no zone

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.booking.zones import (
    DAY,
    HOUR,
    LATEST,
    MINUTE,
    NS,
    LocalTimeMissing,
    LocalTimeTwice,
    days,
    offset_at,
    start_of_day,
    stretches,
    to_utc,
    to_wall,
)

ZONES = sorted(available_timezones())
EPOCH = datetime(1970, 1, 1)
CAIRO = "Africa/Cairo"
CAIRO_SPRING = ("2025-04-25", "2026-04-24", "2027-04-30", "2028-04-28", "2029-04-27", "2030-04-26")
"""Fridays at whose midnight the clocks go to 01:00."""
CAIRO_AUTUMN = ("2025-10-30", "2026-10-29", "2027-10-28", "2028-10-26", "2029-10-25", "2030-10-31")
"""Thursdays at whose end the clocks go back to 23:00."""

zones = st.sampled_from(ZONES)
instants = st.integers(2 * DAY // 1000, (LATEST - 2 * DAY) // 1000).map(lambda us: us * 1000)


def utc(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * NS


def offset(second: int, zone: str) -> int:
    """Seconds, straight from the zone data."""
    there = datetime.fromtimestamp(second, ZoneInfo(zone)).utcoffset()
    assert there is not None
    return round(there.total_seconds())


@cache
def shifts_of(zone: str, year: int, step: int = 86400) -> list[int]:
    """The seconds at which the offset changes, found by looking at it each `step` seconds."""
    first = int(datetime(year, 1, 1, tzinfo=UTC).timestamp())
    found = []
    for day in range(first, first + 366 * 86400, step):
        if offset(day, zone) == offset(day + step, zone):
            continue
        low, high = day, day + step
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if offset(middle, zone) == offset(day, zone) else (low, middle)
        found.append(high)
    return found


def instants_of(wall: datetime, zone: str, near: int) -> list[int]:
    """Every second at which the zone's clock shows `wall`, of all offsets it has within two days of `near`."""
    shown = round((wall - EPOCH).total_seconds())
    offsets = {offset(second, zone) for second in range(near - 172800, near + 172801, 1800)}
    return sorted(shown - ahead for ahead in offsets if offset(shown - ahead, zone) == ahead)


def check_like_the_clock(wall: datetime, zone: str, near: int) -> int:
    """Compares to_utc with what the clock shows; answers how often it shows it."""
    there = instants_of(wall, zone, near)
    if len(there) == 1:
        assert to_utc(wall, zone) == there[0] * NS
    elif len(there) == 2:
        with pytest.raises(LocalTimeTwice) as twice:
            to_utc(wall, zone)
        assert [twice.value.first_ns, twice.value.second_ns] == [t * NS for t in there]
        assert [to_utc(wall, zone, fold) for fold in (0, 1)] == [t * NS for t in there]
    else:
        assert there == []
        for fold in (None, 0, 1):
            with pytest.raises(LocalTimeMissing) as missing:
                to_utc(wall, zone, fold)
            before, after = missing.value.before, missing.value.after
            assert before < wall < after
            assert instants_of(before, zone, near)
            assert instants_of(after, zone, near) == [missing.value.at_ns // NS]
            # Nothing nearer exists: the next minute on either side is missing too.
            assert instants_of(before + timedelta(minutes=1), zone, near) in ([], [missing.value.at_ns // NS])
            assert not instants_of(after - timedelta(seconds=1), zone, near)
    return len(there)


@given(t=instants, zone=zones)
def test_a_time_that_was_shown_leads_back_to_the_same_instant_in_every_zone(t: int, zone: str) -> None:
    wall = to_wall(t, zone)
    assert to_utc(wall, zone, wall.fold) == t
    assert offset_at(t, zone) == offset(t // NS, zone) * NS


@given(zone=zones, year=st.integers(1971, 2100), minute=st.integers(-1500, 1500), data=st.data())
def test_local_times_around_every_shift_are_taken_refused_or_asked_as_the_clocks_go(
    zone: str, year: int, minute: int, data: st.DataObject
) -> None:
    shifts = shifts_of(zone, year)
    near = data.draw(st.sampled_from(shifts)) if shifts else int(datetime(year, 6, 1, tzinfo=UTC).timestamp())
    side = data.draw(st.sampled_from([-1, 0]))
    wall = EPOCH + timedelta(seconds=near + offset(near + side, zone), minutes=minute)
    check_like_the_clock(wall, zone, near)


def test_every_skipped_local_time_is_refused_and_every_doubled_one_asked_in_all_zones_to_2030() -> None:
    missing = doubled = 0
    for zone in ZONES:
        for year in range(2025, 2031):
            for shift in shifts_of(zone, year, 9 * 86400):
                edges = sorted(EPOCH + timedelta(seconds=shift + offset(shift + side, zone)) for side in (-1, 0))
                middle = edges[0] + (edges[1] - edges[0]) / 2
                for wall in (edges[0], middle, edges[1] - timedelta(seconds=1)):
                    # At the first instant of a gap the clock already shows its end.
                    if offset(shift, zone) > offset(shift - 1, zone):
                        missing += 1
                        with pytest.raises(LocalTimeMissing):
                            to_utc(wall, zone)
                    else:
                        doubled += 1
                        with pytest.raises(LocalTimeTwice):
                            to_utc(wall, zone)
                for wall in (edges[0] - timedelta(seconds=1), edges[1]):
                    to_utc(wall, zone)
    assert missing > 1000
    assert doubled > 1000


@pytest.mark.parametrize("friday", CAIRO_SPRING)
def test_in_cairo_the_first_hour_of_summer_time_cannot_be_booked(friday: str) -> None:
    day = datetime.fromisoformat(friday)
    for minute in (0, 30, 59):
        with pytest.raises(LocalTimeMissing) as missing:
            to_utc(day + timedelta(minutes=minute), CAIRO)
        assert missing.value.before == day - timedelta(minutes=1)
        assert missing.value.after == day + timedelta(hours=1)
        assert missing.value.at_ns == utc(friday) - 2 * HOUR
    assert to_utc(day - timedelta(minutes=1), CAIRO) == utc(friday) - 2 * HOUR - MINUTE
    assert to_utc(day + timedelta(hours=1), CAIRO) == utc(friday) - 2 * HOUR
    (only,) = days(utc(friday) + 9 * HOUR, utc(friday) + 10 * HOUR, CAIRO)
    assert only.end_ns - only.start_ns == 23 * HOUR


@pytest.mark.parametrize("thursday", CAIRO_AUTUMN)
def test_in_cairo_the_last_hour_of_summer_time_is_asked_for(thursday: str) -> None:
    eleven = datetime.fromisoformat(thursday) + timedelta(hours=23)
    for minute in (0, 30, 59):
        with pytest.raises(LocalTimeTwice) as twice:
            to_utc(eleven + timedelta(minutes=minute), CAIRO)
        assert twice.value.first_ns == utc(thursday) + 20 * HOUR + minute * MINUTE
        assert twice.value.second_ns == twice.value.first_ns + HOUR
    assert to_utc(eleven - timedelta(minutes=1), CAIRO) == utc(thursday) + 20 * HOUR - MINUTE
    assert to_utc(eleven + timedelta(hours=1), CAIRO) == utc(thursday) + 22 * HOUR
    (only,) = days(utc(thursday) + 9 * HOUR, utc(thursday) + 10 * HOUR, CAIRO)
    assert only.end_ns - only.start_ns == 25 * HOUR


def test_the_texts_of_both_questions_say_what_to_choose_from() -> None:
    with pytest.raises(LocalTimeMissing, match="2026-04-23 23:59 and 2026-04-24 01:00"):
        to_utc(datetime(2026, 4, 24, 0, 30), CAIRO)
    with pytest.raises(LocalTimeTwice, match=r"2026-10-29 20:30 UTC.*2026-10-29 21:30 UTC"):
        to_utc(datetime(2026, 10, 29, 23, 30), CAIRO)


@given(zone=zones, t=instants, length=st.integers(1, 40 * DAY))
def test_the_days_of_a_plan_leave_no_instant_out_and_show_none_twice(zone: str, t: int, length: int) -> None:
    end = min(t + length, LATEST - DAY * 2)
    window = days(t, end, zone)
    if end <= t:
        assert window == []
        return
    assert window[0].start_ns <= t < window[0].end_ns
    assert window[-1].start_ns < end <= window[-1].end_ns
    for day, after in pairwise(window):
        assert day.end_ns == after.start_ns
        assert day.date < after.date
    for day in window:
        assert to_wall(day.start_ns, zone).date() == day.date
        assert start_of_day(day.date, zone) == day.start_ns


def test_a_date_that_a_zone_skipped_is_no_day_of_its_plan() -> None:
    found = days(utc("2011-12-29T12:00"), utc("2012-01-01T00:00"), "Pacific/Apia")
    assert [day.date for day in found] == [date(2011, 12, 29), date(2011, 12, 31), date(2012, 1, 1)]


@given(zone=zones, t=instants, length=st.integers(1, 800 * DAY), parts=st.lists(st.floats(0, 1), max_size=5))
def test_within_a_stretch_the_offset_stays(zone: str, t: int, length: int, parts: list[float]) -> None:
    end = min(t + length, LATEST)
    pieces = stretches(t, end, zone)
    assert (pieces[0].start_ns, pieces[-1].end_ns) == (t, end)
    for piece, after in pairwise(pieces):
        assert piece.end_ns == after.start_ns
        assert piece.offset_ns != after.offset_ns
    for piece in pieces:
        for part in (0.0, *parts):
            inside = min(piece.start_ns + int((piece.end_ns - piece.start_ns) * part), piece.end_ns - 1)
            assert offset_at(inside, zone) == piece.offset_ns


def test_a_time_with_a_zone_of_its_own_or_out_of_reach_is_no_wall_time() -> None:
    with pytest.raises(ValueError, match="no zone"):
        to_utc(datetime(2026, 1, 1, tzinfo=UTC), CAIRO)
    for year in (1, 1969, 2200, 9999):
        with pytest.raises(ValueError, match="not between"):
            to_utc(datetime(year, 12, 31), CAIRO)
    for t in (-1, LATEST + 1, 1 << 63):
        with pytest.raises(ValueError, match="not between"):
            to_wall(t, CAIRO)
