"""What is missing, in the browser: hatched on its trend, said in words, and drawn when it is known only later."""

from __future__ import annotations

import asyncio
import time

import pytest
from playwright.async_api import Page, expect

from hub.ingest.decode import decode
from lab_contract.batch import GAP_STREAM, Gap, GapReason, Header, Shape, encode_gaps
from tests.browser.conftest import EDGE, OpenPage, RunningHub, check_axe

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

SECOND = 1_000_000_000
KIT = "tas-plc-1"


async def lose(hub: RunningHub, seq: int, *lost: Gap) -> None:
    """The edge tells of gaps: stored and published like any batch."""
    line = hub.app.state.parts.line
    raw = encode_gaps(Header(EDGE, 2, seq, KIT, GAP_STREAM, Shape.GAP), lost)
    batch = decode(raw, EDGE, hub.app.state.parts.catalog.kits(), time.time_ns())
    await asyncio.to_thread(line.store.append, [batch])
    line.live.publish([batch])


async def plot(page: Page) -> None:
    await expect(page.locator("#plots .u-over").first).to_be_visible(timeout=10_000)


async def test_a_gap_is_said_with_its_reason_to_eyes_keyboard_and_screen_reader(
    open_page: OpenPage, hub: RunningHub
) -> None:
    """A hole without a reason is taken for a machine that stood still."""
    now = time.time_ns()
    await lose(hub, 1, Gap("events", now - 200 * SECOND, now - 120 * SECOND, GapReason.STOPPED, 1234))
    page = await open_page(f"/kits/{KIT}")
    await plot(page)
    area = page.locator("#plots .area").first
    readout = page.locator("#plots .readout").first
    await area.focus()
    await expect(readout).to_contain_text("the edge agent did not run (1234 samples lost)")
    box = await page.locator("#plots .u-over").first.bounding_box()
    assert box is not None
    # Five minutes are shown: 160 s ago lies a little left of the middle.
    await page.mouse.move(box["x"] + box["width"] * (300 - 160) / 300, box["y"] + box["height"] / 2)
    await expect(readout).to_contain_text("the edge agent did not run")
    await page.locator("#plots details summary").first.click()
    await expect(page.locator("#plots tr.lost").first).to_contain_text("No data from")
    await check_axe(page)


async def test_a_gap_and_a_backlog_appear_on_a_trend_that_stands_still(open_page: OpenPage, hub: RunningHub) -> None:
    """Whoever looks at the past would have to know that there is news, and load the page again."""
    page = await open_page(f"/kits/{KIT}")
    await plot(page)
    # Away from now: this trend does not ask by itself any more.
    await page.locator("#trends [data-act=earlier]").click()
    await page.locator("#plots details summary").first.click()
    rows = page.locator("#plots tr.lost", has_text="the edge's storage was full")
    await expect(rows).to_have_count(0)
    now = time.time_ns()
    await lose(hub, 2, Gap("events", now - 280 * SECOND, now - 260 * SECOND, GapReason.SPOOL_FULL, None))
    await expect(rows.first).to_be_visible(timeout=10_000)


async def test_a_page_says_when_the_hub_stores_nothing_and_when_it_does_again(
    open_page: OpenPage, hub: RunningHub
) -> None:
    """The values would stand still with nobody told why."""
    line = hub.app.state.parts.line
    page = await open_page(f"/kits/{KIT}")
    banner = page.locator("#not-storing")
    await expect(page.locator("#link")).to_have_attribute("data-link", "live", timeout=10_000)
    await expect(banner).to_be_hidden()
    writer = line._ingest._writer
    writer.trouble = "no space left on device"
    try:
        await expect(banner).to_be_visible(timeout=10_000)
        await check_axe(page)
        shop = await open_page("/workshops/tashkent")
        await expect(shop.locator("#not-storing")).to_be_visible()
    finally:
        writer.trouble = ""
    await expect(banner).to_be_hidden(timeout=10_000)
    await expect(shop.locator("#not-storing")).to_be_hidden(timeout=10_000)
