"""How values, units, times and zones are written on a page, in the reader's language. Pure; no page and no request.

Receives numbers of the kit model's channels and UTC nanoseconds, hands on text. `assets/src/format.ts` writes the same
text for live values: change both together.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from babel import Locale
from babel.dates import format_date, get_timezone_location

LANGUAGES = ("en", "zh", "ru")
_LOCALES = {"en": "en_GB", "zh": "zh_Hans_CN", "ru": "ru_RU"}
DAY_SHOWN_NS = 20 * 3600 * 1_000_000_000
MINUS = "\N{MINUS SIGN}"

# Unified Code for Units of Measure on the left, as the kit models write it; what people read on the right.
_UNITS = {
    "1/min": "min\N{SUPERSCRIPT MINUS}\N{SUPERSCRIPT ONE}",
    "deg": "°",
    "deg/s": "°/s",
    "degC": "°C",
    "kOhm": "kΩ",
    "Ohm": "Ω",
    "uV": "µV",
    "uV^2": "µV²",
    "m/s2": "m/s²",
    "count": "",
    "ratio": "",
    "1": "",
}


# GOST 8.417 knows two sets of symbols and forbids mixing them; the kit models' Russian labels use this one.
_RUSSIAN = {
    "A": "А",
    "Hz": "Гц",
    "MPa": "МПа",
    "Ohm": "Ом",
    "V": "В",
    "W": "Вт",
    "1/min": "мин\N{SUPERSCRIPT MINUS}\N{SUPERSCRIPT ONE}",
    "deg/s": "°/с",
    "h": "ч",
    "kOhm": "кОм",
    "kg": "кг",
    "m": "м",
    "m/s": "м/с",
    "m/s2": "м/с²",
    "min": "мин",
    "mm": "мм",
    "mm/s": "мм/с",
    "ms": "мс",
    "s": "с",
    "uV": "мкВ",
    "uV^2": "мкВ²",
}


def locale_of(language: str) -> Locale:
    """CLDR's locale for one of our languages, English for any other."""
    return Locale.parse(_LOCALES.get(language, _LOCALES["en"]))


def unit_text(unit: str | None, language: str) -> str:
    """A unit as people read it in their language; empty for counts and ratios."""
    plain = _UNITS.get(unit or "", unit or "")
    return _RUSSIAN.get(unit or "", plain) if language == "ru" else plain


def number_text(value: float, decimals: int, language: str) -> str:
    """A number with exactly `decimals` digits after the point (a comma in Russian) and a real minus sign."""
    if not math.isfinite(value):
        return "\N{EN DASH}"
    text = f"{abs(value):.{decimals}f}"
    if language == "ru":
        text = text.replace(".", ",")
    return MINUS + text if value < 0 and float(f"{abs(value):.{decimals}f}") != 0 else text


def count_text(count: int) -> str:
    """A count with thin spaces between thousands, which no language here takes for a decimal sign."""
    return f"{count:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def age_parts(seconds: float) -> tuple[str, str]:
    """An age as (number, unit): 's', 'min', 'h' or 'd'. Below 10 s with one digit after the point, which tells live
    from late; negative ages, which only a wrong clock makes, count as none.
    """
    seconds = max(0.0, seconds)
    if seconds < 9.95:
        return f"{seconds:.1f}", "s"
    for size, unit, upto in ((1, "s", 120), (60, "min", 7200), (3600, "h", 172_800)):
        if seconds < upto:
            return f"{seconds / size:.0f}", unit
    return f"{seconds / 86_400:.0f}", "d"


@lru_cache(maxsize=512)
def zone_of(name: str) -> ZoneInfo:
    """The zone of an IANA name, UTC where the name is none."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        return ZoneInfo("UTC")


def local(now_ns: int, zone: str) -> datetime:
    """UTC nanoseconds as wall time in a zone."""
    return datetime.fromtimestamp(now_ns / 1e9, UTC).astimezone(zone_of(zone))


def time_text(t_ns: int, zone: str, *, seconds: bool = False) -> str:
    """Wall time of day, 24 hours."""
    return local(t_ns, zone).strftime("%H:%M:%S" if seconds else "%H:%M")


def date_text(t_ns: int, zone: str, language: str) -> str:
    """The day in a zone, such as 24 Nov 2026."""
    return format_date(local(t_ns, zone).date(), format="medium", locale=locale_of(language))


def moment_text(t_ns: int, now_ns: int, zone: str, language: str) -> str:
    """Wall time of day, with the day before it where that is not clear: more than 20 h away."""
    time = time_text(t_ns, zone, seconds=True)
    return time if abs(now_ns - t_ns) < DAY_SHOWN_NS else f"{date_text(t_ns, zone, language)} {time}"


def iso_text(t_ns: int) -> str:
    """UTC, for the `datetime` attribute of a time element."""
    return datetime.fromtimestamp(t_ns / 1e9, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def offset_text(now_ns: int, zone: str) -> str:
    """A zone's present offset, such as UTC+5 or UTC+5:30."""
    offset = local(now_ns, zone).utcoffset()
    minutes = int(offset.total_seconds() // 60) if offset else 0
    if not minutes:
        return "UTC"
    hours, rest = divmod(abs(minutes), 60)
    return f"UTC{'+' if minutes > 0 else MINUS}{hours}{f':{rest:02d}' if rest else ''}"


@lru_cache(maxsize=512)
def zone_city(zone: str, language: str) -> str:
    """The place that names a zone, in the reader's language where CLDR knows it: Tashkent, 塔什干, Ташкент."""
    return str(get_timezone_location(zone_of(zone), locale=locale_of(language), return_city=True))


def zone_text(now_ns: int, zone: str, language: str) -> str:
    """A zone as shown beside a time: place and present offset."""
    city, offset = zone_city(zone, language), offset_text(now_ns, zone)
    return offset if city == offset else f"{city}, {offset}"


@lru_cache(maxsize=1)
def zone_names() -> tuple[str, ...]:
    """The IANA names that a person may choose: places, and UTC."""
    areas = ("Africa/", "America/", "Antarctica/", "Asia/", "Atlantic/", "Australia/", "Europe/", "Indian/", "Pacific/")
    return ("UTC", *sorted(name for name in available_timezones() if name.startswith(areas)))
