"""Beside the line: bookings as iCalendar text (RFC 5545, RFC 5546), for calendar programs. Pure.

Times are UTC, so no VTIMEZONE is needed. A booking keeps its UID for ever; each change of it goes out with a higher
SEQUENCE, its end with STATUS:CANCELLED, or else a calendar shows it twice or keeps what is gone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from hub.clock import NS

MEDIA_TYPE = "text/calendar; charset=utf-8"
PRODUCT = "-//EPIP//lab hub//EN"
LINE_OCTETS = 75
"""RFC 5545 section 3.1: a line SHOULD NOT be longer than this many octets, its break not counted."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
"""TEXT holds none of these (section 3.3.11); new lines are written as \\n and tabulators may stay."""
_UNSAFE_URI = re.compile(r"[\s\x00-\x1f\x7f\"]")


class Method(StrEnum):
    """What a calendar program is to do with the events (RFC 5546)."""

    PUBLISH = "PUBLISH"
    """Show them: a feed, a file to keep."""
    REQUEST = "REQUEST"
    """Enter or change them: a mail that tells of a booking."""
    CANCEL = "CANCEL"
    """Take them out."""


class Status(StrEnum):
    """How sure an event is."""

    CONFIRMED = "CONFIRMED"
    TENTATIVE = "TENTATIVE"
    """Waits for approval."""
    CANCELLED = "CANCELLED"


@dataclass(frozen=True, slots=True)
class Event:
    """One booking. Times are UTC ns, cut to whole seconds; `stamp_ns` is when this version was made (DTSTAMP).

    `organizer` and `attendee` are mail addresses; RFC 5546 wants both in a REQUEST or CANCEL that is sent by mail.
    """

    uid: str
    sequence: int
    stamp_ns: int
    start_ns: int
    end_ns: int
    summary: str
    description: str = ""
    location: str = ""
    url: str = ""
    status: Status = Status.CONFIRMED
    organizer: str = ""
    attendee: str = ""


def calendar(events: Iterable[Event], *, method: Method = Method.PUBLISH, name: str = "") -> bytes:
    """A whole calendar, UTF-8 with CRLF, to be served as MEDIA_TYPE or attached to a mail.

    `name` is shown by programs that take the feed. ValueError for an event that cannot be written: no UID, a negative
    SEQUENCE, an end not behind the start, an address or link with spaces or breaks in it, or one that is not
    cancelled under Method.CANCEL.
    """
    lines = ["BEGIN:VCALENDAR", "VERSION:2.0", f"PRODID:{PRODUCT}", "CALSCALE:GREGORIAN", f"METHOD:{method}"]
    if name:
        # NAME is RFC 7986; the programs that came before it read X-WR-CALNAME.
        lines += [f"NAME:{escape(name)}", f"X-WR-CALNAME:{escape(name)}"]
    for event in events:
        lines += _event(event, method)
    lines.append("END:VCALENDAR")
    return b"".join(fold(line) for line in lines)


def escape(text: str) -> str:
    r"""TEXT of section 3.3.11: backslash, semicolon and comma behind a backslash, a line break as \n, no controls."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    for character in ("\\", ";", ","):
        text = text.replace(character, "\\" + character)
    return _CONTROL.sub("", text.replace("\n", "\\n"))


def fold(line: str) -> bytes:
    """One content line as UTF-8 with CRLF, broken so that no piece has more than LINE_OCTETS octets.

    Every piece behind the first begins with a space, which counts. No character is split, though section 3.1 lets one
    be: many readers decode piece by piece.
    """
    data = line.encode()
    pieces: list[bytes] = []
    start, room = 0, LINE_OCTETS
    while len(data) - start > room:
        end = start + room
        while data[end] & 0xC0 == 0x80:  # inside a character
            end -= 1
        pieces.append(data[start:end])
        start, room = end, LINE_OCTETS - 1
    pieces.append(data[start:])
    return b"\r\n ".join(pieces) + b"\r\n"


def _event(event: Event, method: Method) -> list[str]:
    if not event.uid:
        raise ValueError("an event needs a UID")
    if event.sequence < 0:
        raise ValueError(f"SEQUENCE is not negative: {event.sequence}")
    if event.end_ns <= event.start_ns:
        raise ValueError("an event ends behind its start")
    if method is Method.CANCEL and event.status is not Status.CANCELLED:
        raise ValueError("METHOD:CANCEL takes cancelled events only")
    lines = [
        "BEGIN:VEVENT",
        f"UID:{escape(event.uid)}",
        f"DTSTAMP:{_utc(event.stamp_ns)}",
        f"DTSTART:{_utc(event.start_ns)}",
        f"DTEND:{_utc(event.end_ns)}",
        f"SEQUENCE:{event.sequence}",
        f"STATUS:{event.status}",
        f"SUMMARY:{escape(event.summary)}",
    ]
    lines += [
        f"{key}:{escape(text)}"
        for key, text in (("DESCRIPTION", event.description), ("LOCATION", event.location))
        if text
    ]
    lines += [
        f"{key}:{_uri(uri)}"
        for key, uri in (
            ("URL", event.url),
            ("ORGANIZER", event.organizer and f"mailto:{event.organizer}"),
            ("ATTENDEE", event.attendee and f"mailto:{event.attendee}"),
        )
        if uri
    ]
    # A cancelled booking no longer takes up anybody's time.
    lines.append(f"TRANSP:{'TRANSPARENT' if event.status is Status.CANCELLED else 'OPAQUE'}")
    lines.append("END:VEVENT")
    return lines


def _utc(t_ns: int) -> str:
    return datetime.fromtimestamp(t_ns // NS, UTC).strftime("%Y%m%dT%H%M%SZ")


def _uri(uri: str) -> str:
    if _UNSAFE_URI.search(uri):
        raise ValueError("an address or link holds spaces, quotes or breaks")
    return uri
