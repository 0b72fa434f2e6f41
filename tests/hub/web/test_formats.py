"""Numbers, ages, zones and languages as people read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.accounts.pages import local_address
from hub.catalog.kit_facts import common_label
from hub.catalog.panel import bar_of
from hub.web import formats
from hub.web.render import accepted_language, json_block, language
from lab_contract.kit import builtin_kit_models

NS = 1_000_000_000
NOON = 1_760_011_200 * NS
"""2025-10-09 12:00:00 UTC."""


@pytest.mark.parametrize(
    ("value", "decimals", "code", "text"),
    [
        (0.5, 3, "en", "0.500"),
        (0.5, 3, "ru", "0,500"),
        (-12.34, 1, "zh", "−12.3"),
        (-0.001, 1, "en", "0.0"),
        (float("nan"), 1, "en", "–"),
        (1e6, 0, "en", "1000000"),
    ],
)
def test_a_number_has_the_digits_it_deserves(value: float, decimals: int, code: str, text: str) -> None:
    """A pressure would show noise as if it were measured, or minus nothing."""
    assert formats.number_text(value, decimals, code) == text


@pytest.mark.parametrize(
    ("seconds", "parts"),
    [
        (-5, ("0.0", "s")),
        (0.26, ("0.3", "s")),
        (9.96, ("10", "s")),
        (119, ("119", "s")),
        (120, ("2", "min")),
        (7200, ("2", "h")),
        (172_800, ("2", "d")),
    ],
)
def test_an_age_is_told_in_the_unit_that_fits(seconds: float, parts: tuple[str, str]) -> None:
    """A kit silent for a week would be 604800 s old."""
    assert formats.age_parts(seconds) == parts


@pytest.mark.parametrize(
    ("zone", "code", "text"),
    [
        ("Asia/Tashkent", "ru", "Ташкент, UTC+5"),
        ("Asia/Shanghai", "zh", "上海, UTC+8"),
        ("Asia/Kolkata", "en", "Kolkata, UTC+5:30"),
        ("America/Caracas", "en", "Caracas, UTC−4"),
        ("UTC", "en", "UTC"),
        ("Mars/Olympus", "en", "UTC"),
    ],
)
def test_a_zone_is_named_with_its_offset(zone: str, code: str, text: str) -> None:
    """Two people in two countries would not know whose noon is meant."""
    assert formats.zone_text(NOON, zone, code) == text


def test_summer_time_counts() -> None:
    """Cairo would be an hour off for half of the year."""
    july = 1_752_000_000 * NS
    january = 1_736_000_000 * NS
    assert formats.offset_text(july, "Africa/Cairo") == "UTC+3"
    assert formats.offset_text(january, "Africa/Cairo") == "UTC+2"


def test_a_time_of_another_day_says_so() -> None:
    """An alarm of last week would look like one of this morning."""
    assert formats.moment_text(NOON, NOON + 3600 * NS, "UTC", "en") == "12:00:00"
    assert formats.moment_text(NOON, NOON + 86_400 * NS, "UTC", "en") == "9 Oct 2025 12:00:00"


def test_every_unit_of_the_kit_models_is_written_for_people() -> None:
    """A trainee would read uV^2, and a Russian page would mix two sets of symbols."""
    units = {channel.unit for model in builtin_kit_models().values() for channel in model.channels if channel.unit}
    for unit in units:
        for code in formats.LANGUAGES:
            text = formats.unit_text(unit, code)
            assert "^" not in text
            assert "deg" not in text
        assert not any("a" <= letter.lower() <= "z" for letter in formats.unit_text(unit, "ru").replace("°C", ""))


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ("", "en"),
        ("ru-RU,ru;q=0.9,en;q=0.8", "ru"),
        ("de,zh-TW;q=0.5", "zh"),
        ("en;q=0.1, ru;q=0.2", "ru"),
        ("zh;q=0, ru", "ru"),
        ("fr", "en"),
        (",;q=,=;;", "en"),
    ],
)
def test_the_browsers_language_is_understood(header: str, code: str) -> None:
    """A visitor would meet a language that they did not ask for."""
    assert accepted_language(header) == code


@given(st.text(max_size=200))
def test_any_language_header_is_survived(header: str) -> None:
    """A strange browser would get an error page instead of the sign-in page."""
    assert accepted_language(header) in formats.LANGUAGES


@pytest.mark.parametrize(
    ("wanted", "address"),
    [
        ("/kits/a?x=1", "/kits/a?x=1"),
        ("https://elsewhere.example/", "/"),
        ("//elsewhere.example", "/"),
        ("/\\elsewhere.example", "/"),
        ("/\telsewhere", "/"),
        ("/" + "a" * 600, "/"),
        ("", "/"),
    ],
)
def test_signing_in_leads_nowhere_else(wanted: str, address: str) -> None:
    """A link to our sign-in page could hand people over to a page that asks for their password again."""
    assert local_address(wanted) == address


@given(
    st.recursive(
        st.text() | st.none() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_no_text_can_end_a_json_block(data: object) -> None:
    """A text from equipment could close the script element and go on as markup."""
    text = json_block(data)
    assert "<" not in text
    assert ">" not in text


def test_a_bar_starts_at_zero_and_stays_in_its_rail() -> None:
    """A speed of -0.1 m/s would look like a fast drive forward."""
    speed = builtin_kit_models()["bci_platform"].channel_by_id["drive.speed"]
    backward, far = bar_of(speed, -0.1), bar_of(speed, 100.0)
    assert backward is not None
    assert far is not None
    assert backward.x < far.x
    assert far.x + far.width == pytest.approx(100, abs=0.2)


def test_labels_of_alike_units_share_their_words() -> None:
    """Six joints would be twenty-four lines instead of a table."""
    assert common_label(["Joint 1 speed", "Joint 2 speed", "Joint 3 speed"]) == ("Joint speed", ["1", "2", "3"])
    assert common_label(["关节1速度", "关节2速度"]) == ("关节速度", ["1", "2"])
    assert common_label(["Alpha C3 (8–13 Hz)", "Alpha Oz (8–13 Hz)"]) == ("Alpha (8–13 Hz)", ["C3", "Oz"])
    assert common_label(["Speed left", "Pressure right"])[0] == ""


def test_ages_are_written_with_the_readers_comma() -> None:
    """A Russian reader would take 0.3 for a date or a typing error."""
    age = language("ru").environment.filters["age"]
    assert age(0.3) == "0,3 с"
