"""Calendar files: a line too long, a split character or a lost escape, and a calendar program drops the booking."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.booking.ics import Event, Method, Status, calendar, escape, fold

NS = 1_000_000_000
START = int(datetime(2026, 10, 6, 7, 30, tzinfo=UTC).timestamp()) * NS
BOOKING = Event(
    uid="0b7e6b8e-6f0b-4c57-9d7e-4d1a3c9f2a10",
    sequence=3,
    stamp_ns=START - 5_000 * NS,
    start_ns=START,
    end_ns=START + 5_400 * NS,
    summary="Робототехническая ячейка, занятие 4; «Повтор точки» — 机器人单元，第四课：重复定位",
    description="Курс R-2\nВремя мастерской: 12:30–14:00\\15:00",
    location="Ташкент",
    url="http://127.0.0.1:8080/bookings/17",
    organizer="lab@example.org",
    attendee="li.wei@example.org",
)
NAME = re.compile(r"[A-Z-]+\Z")
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=80).flatmap(
    lambda text: st.integers(1, 4).map(lambda times: text * times)
)
"""Repeated, so that lines of several folds are common."""


def content_lines(data: bytes) -> list[str]:
    """Unfolds as section 3.1 tells, and looks at every octet on the way."""
    assert data.endswith(b"\r\n")
    physical = data[:-2].split(b"\r\n")
    lines: list[str] = []
    for piece in physical:
        assert b"\r" not in piece
        assert b"\n" not in piece
        assert 0 < len(piece) <= 75
        text = piece.decode("utf-8", "strict")  # a split character fails here
        if text.startswith(" "):
            lines[-1] += text[1:]
        else:
            lines.append(text)
    return lines


def plain(text: str) -> str:
    """TEXT of section 3.3.11 back to what was meant; anything that is not allowed there fails."""
    out, rest = [], iter(text)
    for character in rest:
        if character == "\\":
            out.append({"\\": "\\", ";": ";", ",": ",", "n": "\n", "N": "\n"}[next(rest)])
        else:
            assert character not in ";,"
            assert character == "\t" or not (ord(character) < 32 or ord(character) == 127)
            out.append(character)
    return "".join(out)


def read(data: bytes) -> tuple[dict[str, str], list[dict[str, str]]]:
    """A calendar's own properties and those of each event, each at most once."""
    own: dict[str, str] = {}
    events: list[dict[str, str]] = []
    inside: list[str] = []
    for line in content_lines(data):
        name, colon, value = line.partition(":")
        assert colon
        assert NAME.match(name)
        if name == "BEGIN":
            inside.append(value)
            if value == "VEVENT":
                events.append({})
        elif name == "END":
            assert inside.pop() == value
        else:
            assert inside in (["VCALENDAR"], ["VCALENDAR", "VEVENT"])
            there = events[-1] if inside[-1] == "VEVENT" else own
            assert name not in there
            there[name] = value
    assert inside == []
    return own, events


def kept(text: str) -> str:
    """What a text is after controls are taken out and breaks made one."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(c for c in text if c in "\n\t" or not (ord(c) < 32 or ord(c) == 127))


def test_a_booking_arrives_in_a_calendar_as_it_is() -> None:
    own, (event,) = read(calendar([BOOKING], method=Method.REQUEST, name="Мои занятия; 我的预约"))
    assert (own["VERSION"], own["METHOD"], own["CALSCALE"]) == ("2.0", "REQUEST", "GREGORIAN")
    assert own["PRODID"]
    assert plain(own["NAME"]) == plain(own["X-WR-CALNAME"]) == "Мои занятия; 我的预约"
    assert event["UID"] == BOOKING.uid
    assert (event["DTSTART"], event["DTEND"]) == ("20261006T073000Z", "20261006T090000Z")
    assert event["DTSTAMP"] == "20261006T060640Z"
    assert (event["SEQUENCE"], event["STATUS"], event["TRANSP"]) == ("3", "CONFIRMED", "OPAQUE")
    assert plain(event["SUMMARY"]) == BOOKING.summary
    assert plain(event["DESCRIPTION"]) == BOOKING.description
    assert plain(event["LOCATION"]) == "Ташкент"
    assert event["URL"] == BOOKING.url
    assert (event["ORGANIZER"], event["ATTENDEE"]) == ("mailto:lab@example.org", "mailto:li.wei@example.org")


def test_a_cancelled_booking_leaves_the_calendar_under_its_old_uid() -> None:
    gone = replace(BOOKING, status=Status.CANCELLED, sequence=4)
    own, (event,) = read(calendar([gone], method=Method.CANCEL))
    assert own["METHOD"] == "CANCEL"
    assert (event["UID"], event["STATUS"], event["SEQUENCE"]) == (BOOKING.uid, "CANCELLED", "4")
    assert event["TRANSP"] == "TRANSPARENT"


def test_an_empty_feed_is_a_calendar_too() -> None:
    own, events = read(calendar([]))
    assert own["METHOD"] == "PUBLISH"
    assert events == []


@given(st.lists(st.tuples(texts, texts, texts), max_size=3))
def test_every_text_comes_back_whatever_is_in_it(written: list[tuple[str, str, str]]) -> None:
    events = [
        replace(BOOKING, uid=f"uid-{n}", summary=summary, description=description, location=location)
        for n, (summary, description, location) in enumerate(written)
    ]
    _, found = read(calendar(events))
    assert [event["UID"] for event in found] == [event.uid for event in events]
    for event, (summary, description, location) in zip(found, written, strict=True):
        assert plain(event["SUMMARY"]) == kept(summary)
        assert plain(event.get("DESCRIPTION", "")) == kept(description)
        assert plain(event.get("LOCATION", "")) == kept(location)


@pytest.mark.parametrize("character", ["a", "я", "机", "\U0001f916"])
def test_lines_are_folded_by_octets_and_as_late_as_they_can(character: str) -> None:
    for ahead in range(5):
        for count in range(1, 160):
            text = "-" * ahead + character * count
            data = fold(text)
            assert content_lines(data) == [text]
            for piece, after in pairwise(data[:-2].split(b"\r\n")):
                assert len(piece) + len(after.decode()[1].encode()) > 75


@given(st.text(st.sampled_from("aя机\U0001f916"), min_size=100, max_size=300))
def test_lines_of_all_scripts_mixed_come_back_whole(text: str) -> None:
    assert content_lines(fold(text)) == [text]


def test_no_text_can_begin_a_line_of_its_own() -> None:
    _, events = read(calendar([replace(BOOKING, summary="x\r\nEND:VEVENT\r\nATTENDEE:mailto:a@b", location="a\rb")]))
    assert len(events) == 1
    assert plain(events[0]["SUMMARY"]) == "x\nEND:VEVENT\nATTENDEE:mailto:a@b"
    assert escape("a;b,c\\d\ne\x00") == "a\\;b\\,c\\\\d\\ne"


@pytest.mark.parametrize(
    "wrong",
    [
        {"uid": ""},
        {"sequence": -1},
        {"end_ns": START},
        {"attendee": "a@b\r\nX:1"},
        {"url": "http://x/ y"},
    ],
)
def test_an_event_that_no_program_could_take_is_not_written(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        calendar([replace(BOOKING, **wrong)])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cancelled"):
        calendar([BOOKING], method=Method.CANCEL)
