"""The pages as people meet them: in a browser, in three languages, in light and dark, by keyboard and on a phone."""

from __future__ import annotations

import asyncio
import re

import pytest
from playwright.async_api import BrowserContext, Page, WebSocketRoute, expect

from hub.accounts.person import Role
from tests.browser.conftest import Complaints, OpenPage, RunningHub, check_axe, overflow

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

PAGES = [
    ("/sign-in", None),
    ("/workshops/tashkent", Role.INSTRUCTOR),
    ("/kits/tas-plc-1", Role.INSTRUCTOR),
    ("/kits/tas-robot-1", Role.INSTRUCTOR),
    ("/kits/tas-bci-1", Role.INSTRUCTOR),
    ("/account", Role.TRAINEE),
    ("/health", Role.TECHNICIAN),
    ("/nowhere", Role.TRAINEE),
]


async def settled(page: Page) -> None:
    """The page has its islands at work, where it has any."""
    await page.wait_for_load_state("load")
    if await page.locator("#link").count():
        await expect(page.locator("#link")).to_have_attribute("data-link", "live", timeout=10_000)
    if await page.locator("#plots").count():
        await expect(page.locator("#plots .u-over").first).to_be_visible(timeout=10_000)


def expects(path: str, complaints: Complaints) -> None:
    if path == "/nowhere":
        complaints.expected.append("404")


@pytest.mark.parametrize(("path", "role"), PAGES)
async def test_axe_finds_nothing(open_page: OpenPage, complaints: Complaints, path: str, role: Role | None) -> None:
    """People who use a screen reader, or see little contrast, would be shut out."""
    expects(path, complaints)
    page = await open_page(path, role)
    await settled(page)
    await check_axe(page)
    await page.emulate_media(color_scheme="dark")
    await check_axe(page)


@pytest.mark.parametrize("language", ["en", "zh", "ru"])
@pytest.mark.parametrize(("path", "role"), PAGES)
async def test_a_phone_shows_every_page_without_scrolling_sideways_and_fingers_hit(
    open_page: OpenPage, complaints: Complaints, path: str, role: Role | None, language: str
) -> None:
    """A technician beside the kit would lose the right half of each line, or hit the neighbour of a button."""
    expects(path, complaints)
    page = await open_page(path, role, width=360, language=language, touch=True)
    await settled(page)
    assert await page.locator("html").get_attribute("lang") == {"zh": "zh-Hans"}.get(language, language)
    assert await overflow(page) <= 0
    assert await small_targets(page) == []


async def small_targets(page: Page) -> list[str]:
    """Controls below 24 px, or for buttons and fields below 44 px; links within a line of text may be as high as it."""
    found: list[str] = await page.evaluate(
        """() => [...document.querySelectorAll('a[href], button, input:not([type=hidden]), select, summary')]
           .filter((e) => e.checkVisibility() && !e.matches('.skip, p a, li > span a, caption a'))
           .map((e) => [e, e.getBoundingClientRect(), e.matches('button, input, select, summary') ? 44 : 24])
           .filter(([e, r, least]) => r.width < 24 || r.height < least)
           .map(([e, r]) => `${Math.round(r.width)}x${Math.round(r.height)} ${e.outerHTML.slice(0, 100)}`)"""
    )
    return found


@pytest.mark.parametrize(("path", "role"), PAGES)
async def test_the_keyboard_reaches_everything_and_focus_is_seen(
    open_page: OpenPage, complaints: Complaints, path: str, role: Role | None
) -> None:
    """Whoever works without a mouse could not reach a control, or would not see where they are."""
    expects(path, complaints)
    page = await open_page(path, role)
    await settled(page)
    wanted = await page.evaluate(
        """() => { const all = [...document.querySelectorAll(
             'a[href], button, input:not([type=hidden]), select, summary, [tabindex="0"]')]
             .filter((e) => e.checkVisibility());
           all.forEach((e, i) => { e.dataset.stop = i; }); document.activeElement?.blur(); return all.length; }"""
    )
    seen: set[str] = set()
    for _ in range(wanted + 8):
        await page.keyboard.press("Tab")
        stop = await page.evaluate(
            """() => { const e = document.activeElement; if (!e || e.dataset.stop === undefined) return null;
               const s = getComputedStyle(e); const ring = s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2;
               return [e.dataset.stop, ring, e.outerHTML.slice(0, 120)]; }"""
        )
        if stop is None:
            continue
        assert stop[1], f"no visible focus on {stop[2]}"
        seen.add(stop[0])
    missed = await page.evaluate(
        "(seen) => [...document.querySelectorAll('[data-stop]')].filter((e) => !seen.includes(e.dataset.stop))"
        ".map((e) => e.outerHTML.slice(0, 120))",
        sorted(seen),
    )
    assert missed == []


async def test_signing_in_leads_to_the_workshop_and_out_again(
    hub: RunningHub, open_page: OpenPage, complaints: Complaints
) -> None:
    """Nobody could begin to work, or leave a shared computer signed in."""
    complaints.expected.append("401")
    page = await open_page("/kits/tas-bci-1", None)
    await expect(page).to_have_url(re.compile("/sign-in\\?next="))
    await page.get_by_label("Account name").fill("trainee")
    await page.get_by_label("Password").fill("not the password")
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_role("alert")).to_contain_text("Name or password is wrong.")
    await page.get_by_label("Password").fill(hub.passwords[Role.TRAINEE])
    await page.get_by_role("button", name="Sign in").click()
    await expect(page).to_have_url(re.compile("/kits/tas-bci-1$"))
    await page.get_by_role("link", name="EPIP remote lab").click()
    await expect(page).to_have_url(re.compile("/workshops/tashkent$"))
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_role("status")).to_contain_text("You are signed out.")
    await page.goto(f"{hub.address}/workshops/tashkent")
    await expect(page).to_have_url(re.compile("/sign-in"))


async def test_the_language_is_chosen_before_signing_in(open_page: OpenPage) -> None:
    """Someone who reads no English could not even sign in."""
    page = await open_page("/sign-in", None)
    await page.get_by_role("link", name="Русский").click()
    await expect(page.locator("html")).to_have_attribute("lang", "ru")
    await page.get_by_role("link", name="中文").click()
    await expect(page.locator("html")).to_have_attribute("lang", "zh-Hans")
    await page.reload()
    await expect(page.locator("html")).to_have_attribute("lang", "zh-Hans")


async def test_three_kits_with_data_younger_than_two_seconds(open_page: OpenPage) -> None:
    """The instructor could not see at a glance that the workshop is alive."""
    page = await open_page("/workshops/tashkent")
    await settled(page)
    await expect(page.locator("[data-kit]")).to_have_count(3)
    for age in await page.locator("[data-kit] [data-field=age]").all_inner_texts():
        assert float(age.removesuffix(" s")) < 2


async def test_eight_channels_move(open_page: OpenPage) -> None:
    """The instructor would watch a frozen electroencephalogram."""
    page = await open_page("/kits/tas-bci-1")
    await settled(page)
    await page.get_by_text("Values and scale of each channel").click()
    rows = page.locator("[data-strip]")
    await expect(rows).to_have_count(8)
    for i in range(8):
        await expect(rows.nth(i).locator("[data-field=rms]")).to_contain_text("µV", timeout=10_000)
    picture = "document.querySelector('.strip canvas').toDataURL()"
    first = await page.evaluate(picture)
    await page.wait_for_function(f"(first) => {picture} !== first", arg=first, timeout=5000)


async def test_the_strip_chart_pauses_and_zooms_by_keyboard(open_page: OpenPage) -> None:
    """A person could not hold the picture still to look at it."""
    page = await open_page("/kits/tas-bci-1")
    await settled(page)
    await expect(page.locator("[data-field=note]")).to_have_text("", timeout=10_000)
    await page.locator(".strip canvas").focus()
    await page.keyboard.press("+")
    await expect(page.locator("[data-field=window]")).to_have_text("5 s window")
    await page.keyboard.press("ArrowUp")
    await expect(page.get_by_label("Scale of all channels")).to_have_value("20")
    await page.keyboard.press("Space")
    await expect(page.get_by_role("button", name="Go on")).to_have_attribute("aria-pressed", "true")


async def test_a_trend_has_a_table_a_csv_and_other_ranges(open_page: OpenPage) -> None:
    """Values could be looked at, and not taken along or read aloud."""
    page = await open_page("/kits/tas-plc-1")
    await settled(page)
    plot = page.locator(".plot").first
    await plot.get_by_text("Values as a table").click()
    await expect(plot.locator("tbody tr")).not_to_have_count(0)
    await page.get_by_role("button", name="1 h", exact=True).click()
    await expect(page.get_by_role("button", name="1 h", exact=True)).to_have_attribute("aria-pressed", "true")
    async with page.expect_download() as download:
        await plot.get_by_role("link", name="CSV").click()
    assert (await download.value).suggested_filename.endswith(".csv")
    await plot.locator(".area").focus()
    await page.keyboard.press("ArrowLeft")
    await expect(page.get_by_role("button", name="Now")).to_have_attribute("aria-pressed", "false")
    await page.keyboard.press("End")
    await expect(page.get_by_role("button", name="Now")).to_have_attribute("aria-pressed", "true")


async def test_an_alarm_is_seen_named_and_over_again(hub: RunningHub, open_page: OpenPage) -> None:
    """Air pressure falls, and the page goes on looking calm."""
    page = await open_page("/kits/tas-plc-1")
    await settled(page)
    row = page.locator('[data-channel="line.air_pressure"]')
    await expect(row).not_to_have_class(re.compile("sev-"))
    hub.feeder.instead["tas-plc-1", "line.air_pressure"] = 0.3
    try:
        await expect(row).to_have_class(re.compile("sev-high"), timeout=15_000)
        await expect(page.locator("#alarms")).to_contain_text("Supply air pressure: below the lowest limit (0.350 MPa)")
        await expect(page.locator("#kit-state")).to_have_text("Alarm")
    finally:
        hub.feeder.instead.clear()
    await expect(page.locator("#alarms")).not_to_contain_text("air pressure", timeout=15_000)


async def test_a_latched_alarm_waits_for_somebody_to_clear_it(hub: RunningHub, open_page: OpenPage) -> None:
    """An emergency stop that is over would vanish unseen, or stay for ever."""
    page = await open_page("/kits/tas-plc-1")
    await settled(page)
    hub.feeder.instead["tas-plc-1", "line.estop"] = 1
    try:
        await expect(page.locator("#alarms")).to_contain_text("Emergency stop", timeout=15_000)
    finally:
        hub.feeder.instead.clear()
    await expect(page.locator("#alarms")).to_contain_text("over, stays until it is cleared", timeout=15_000)
    await page.get_by_role("button", name="Clear").click()
    await expect(page.locator("#alarms")).not_to_contain_text("Emergency stop", timeout=15_000)


async def test_data_that_no_longer_comes_is_never_shown_as_live(hub: RunningHub, open_page: OpenPage) -> None:
    """The page would show the speed of a robot that has long stood still, or no longer does."""
    page = await open_page("/kits/tas-robot-1")
    await settled(page)
    cell = page.locator('[data-channel="robot.speed_override"]')
    await expect(cell).not_to_have_class(re.compile("is-old"))
    hub.feeder.silent.add("tas-robot-1")
    try:
        await expect(page.locator("#kit-state")).to_have_text("Stale data", timeout=15_000)
        await expect(cell).to_have_class(re.compile("is-old"))
        await expect(page.locator("#alarms")).to_contain_text("Waiting, will try again (connection refused)")
    finally:
        hub.feeder.silent.clear()
    await expect(page.locator("#kit-state")).to_have_text("Ready", timeout=15_000)


async def test_a_dead_link_marks_the_whole_page(open_page: OpenPage) -> None:
    """A browser that has lost the hub would show old values as if they were new."""
    deaf = asyncio.Event()

    async def prepare(context: BrowserContext) -> None:
        await context.route_web_socket(re.compile("/live/"), connect)

    def connect(browser_side: WebSocketRoute) -> None:
        # Half open: the link stands, and nothing comes through any more.
        hub_side = browser_side.connect_to_server()
        hub_side.on_message(lambda message: None if deaf.is_set() else browser_side.send(message))

    page = await open_page("/workshops/tashkent", prepare=prepare)
    await settled(page)
    await expect(page.locator("#linkbar")).to_be_hidden()
    deaf.set()
    await expect(page.locator("#linkbar")).to_contain_text("No connection to the hub for", timeout=10_000)
    await expect(page.locator("body")).to_have_class(re.compile("link-silent"))
    deaf.clear()
    await expect(page.locator("#linkbar")).to_be_hidden(timeout=10_000)


async def test_every_page_reads_without_javascript(open_page: OpenPage) -> None:
    """On an old computer where scripts are off the page would be empty."""
    page = await open_page("/kits/tas-plc-1", javascript=False)
    await expect(page.get_by_text("Without JavaScript this page does not renew itself.")).to_be_visible()
    value = await page.locator('[data-channel="line.air_pressure"] .value').inner_text()
    assert re.fullmatch(r"0\.\d{3}", value)
    await expect(page.locator("#trends")).to_be_hidden()


async def test_the_health_page_renews_itself(open_page: OpenPage) -> None:
    """A technician would wait for a recovery that the page never shows."""
    page = await open_page("/health", Role.TECHNICIAN)
    first = await page.locator("#health > p").first.inner_text()
    await expect(page.locator("#health > p").first).not_to_have_text(first, timeout=10_000)


async def test_the_profile_changes_language_and_zone(open_page: OpenPage, complaints: Complaints) -> None:
    """A person could not read the pages in their own language and time, or not learn what was wrong with the zone."""
    complaints.expected.append("422")
    page = await open_page("/account", Role.ADMINISTRATOR)
    await page.get_by_label("Time zone").fill("Mars/Olympus")
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_label("Time zone")).to_have_attribute("aria-invalid", "true")
    await page.get_by_label("Time zone").fill("Europe/Moscow")
    await page.get_by_label("Language").select_option("ru")
    await page.get_by_role("button", name="Save").click()
    await expect(page.locator("html")).to_have_attribute("lang", "ru")
    await expect(page.locator(".clocks")).to_contain_text("Москва, UTC+3")


@pytest.mark.parametrize(("path", "role"), PAGES[:2])
async def test_the_first_page_weighs_at_most_forty_kilobytes(open_page: OpenPage, path: str, role: Role | None) -> None:
    """On a slow link the first page would take longer than people wait."""
    page = await open_page(path, role)
    await settled(page)
    assert await weight(page) <= 40_000


async def weight(page: Page) -> int:
    """Bytes on the wire for a page that was opened in a new browser, headers and all."""
    return int(
        await page.evaluate(
            "[...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]"
            ".reduce((sum, entry) => sum + entry.transferSize, 0)"
        )
    )
