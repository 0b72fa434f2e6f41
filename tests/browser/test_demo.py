"""The whole demo as a person meets it: started as a program, signed in to with what it prints, looked at in a browser.

`EPIP_PICTURES=1` also writes the pictures of the README.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from hub.web.build_assets import build
from tests.browser.conftest import Complaints, Theme, check_axe, overflow
from tests.browser.pictures import shoot
from tests.demo_program import Demo

pytestmark = [
    pytest.mark.browser,
    pytest.mark.real,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="session"),
]

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
PAGES = [
    ("/sign-in", None),
    ("/workshops/tashkent", "instructor"),
    ("/kits/plc-1", "instructor"),
    ("/kits/robot-1", "instructor"),
    ("/kits/bci-1", "instructor"),
    ("/account", "instructor"),
    ("/health", "technician"),
]
FRESH_S = 30
YOUNG_S = 2
OWN_PASSWORD = "seven swift swallows"
LANES = """() => {
  const canvas = document.querySelector(".strip canvas"), ratio = window.devicePixelRatio;
  const left = Math.ceil(76 * ratio), width = canvas.width - left, lane = (canvas.clientHeight - 22) / 8 * ratio;
  return [...Array(8).keys()].map((n) => {
    const image = canvas.getContext("2d").getImageData(left, Math.round(n * lane), width, Math.floor(lane));
    return image.data.reduce((sum, value, at) => (sum * 31 + value * (at % 7 + 1)) % 4294967291, 7);
  });
}"""
"""A figure for what is drawn in the lane of each channel, right of its label."""
FULL = """() => {
  const canvas = document.querySelector(".strip canvas"), ratio = window.devicePixelRatio;
  return canvas.getContext("2d").getImageData(78 * ratio, 0, 4, canvas.height - 22 * ratio).data.some((v) => v > 0);
}"""
"""Whether the lines have reached the left edge of the strip chart."""


@dataclass
class Workshop:
    """A running demo: its address, and what it printed to sign in with."""

    address: str
    passwords: dict[str, str]
    cookies: dict[str, list[Any]] = field(default_factory=dict)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def workshop(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Workshop]:
    """The demo, started as a program."""
    await asyncio.to_thread(build)
    folder = tmp_path_factory.mktemp("demo")
    demo = Demo(folder, folder / "data", "--json")
    try:
        said = await asyncio.to_thread(demo.ready)
        yield Workshop(said["address"], {one["user"]: one["password"] for one in said["sign_ins"]})
    finally:
        await asyncio.to_thread(demo.leave)


@pytest_asyncio.fixture(loop_scope="session")
async def complaints(workshop: Workshop) -> AsyncIterator[Complaints]:
    """Fails the test in which a page asked another host for anything, or a script failed."""
    noted = Complaints(workshop.address)
    yield noted
    assert noted.unexpected() == []


class Opener(Protocol):
    """Opens a page of the demo for one of its people, None for nobody."""

    async def __call__(self, path: str, user: str | None, *, width: int = 1280, theme: Theme = "light") -> Page: ...


@pytest_asyncio.fixture(loop_scope="session")
async def open_demo(workshop: Workshop, browser: Browser, complaints: Complaints) -> AsyncIterator[Opener]:
    """Pages that are closed after the test."""
    async with AsyncExitStack() as stack:

        async def open_demo(path: str, user: str | None, *, width: int = 1280, theme: Theme = "light") -> Page:
            context = await browser.new_context(
                viewport={"width": width, "height": 900}, color_scheme=theme, locale="en-GB"
            )
            stack.push_async_callback(context.close)
            await context.route("**/*", complaints.guard)
            page = await context.new_page()
            complaints.watch(page)
            if user is not None and user not in workshop.cookies:
                await sign_in(page, workshop, user)
                workshop.cookies[user] = await context.cookies()
            elif user is not None:
                await context.add_cookies(workshop.cookies[user])
            await page.goto(workshop.address + path)
            await page.wait_for_load_state("load")
            if await page.locator("#link").count():
                await expect(page.locator("#link")).to_have_attribute("data-link", "live", timeout=20_000)
            return page

        yield open_demo


async def sign_in(page: Page, workshop: Workshop, user: str) -> None:
    """Signs in with what the demo printed; the instructor then takes the advice to choose an own password."""
    await page.goto(f"{workshop.address}/sign-in")
    await page.get_by_label("Account name").fill(user)
    await page.get_by_label("Password").fill(workshop.passwords[user])
    await page.get_by_role("button", name="Sign in").click()
    await page.wait_for_url(lambda url: "/sign-in" not in url)
    if user != "instructor":
        return
    await page.get_by_role("link", name="Choose your own password").click()
    await page.get_by_label("Present password").fill(workshop.passwords[user])
    await page.get_by_label("New password", exact=True).fill(OWN_PASSWORD)
    await page.get_by_label("New password once more").fill(OWN_PASSWORD)
    await page.get_by_role("button", name="Change password").click()
    await expect(page.get_by_role("status")).to_contain_text("Your password is changed.")


async def picture(page: Page, name: str, last: str) -> None:
    """The page down to the element `last` as the README shows it, where pictures are wanted."""
    if os.environ.get("EPIP_PICTURES") != "1":
        return
    box = await page.locator(last).first.bounding_box()
    assert box is not None
    await page.set_viewport_size({"width": 1280, "height": round(box["y"] + box["height"] + 16)})
    shot = await shoot(page)
    assert len(shot) < 200_000, "everybody who clones the repository carries it along"
    PICTURES.mkdir(exist_ok=True)
    (PICTURES / f"{name}.png").write_bytes(shot)


async def ages(page: Page) -> list[float]:
    """The ages of the data of each kit as the page shows them, in s; a kit without data or with older words is inf."""
    shown = await page.locator("[data-kit] [data-field=age]").all_inner_texts()
    found = (re.fullmatch(r"([\d.]+) s", text.strip()) for text in shown)
    return [float(one[1]) if one else float("inf") for one in found]


async def test_the_instructor_sees_three_kits_with_young_data(open_demo: Opener) -> None:
    """The main job: somebody far away looks at the workshop as it is now."""
    page = await open_demo("/", "instructor")
    await expect(page).to_have_url(re.compile("/workshops/tashkent$"))
    await expect(page.locator("[data-kit]")).to_have_count(3)
    async with asyncio.timeout(FRESH_S):
        while max(await ages(page)) >= YOUNG_S:  # noqa: ASYNC110 - the page itself is asked
            await asyncio.sleep(0.1)
    for kit in await page.locator("[data-kit]").all():
        await expect(kit.locator("header .state")).not_to_have_text(re.compile("Stale|Offline"))
    await expect(page.locator("#linkbar")).to_be_hidden()
    await picture(page, "workshop", ".kits")


async def test_the_instructor_sees_eight_moving_channels(open_demo: Opener) -> None:
    """The instructor would watch a frozen electroencephalogram, or seven channels of eight."""
    page = await open_demo("/workshops/tashkent", "instructor")
    await page.locator("[data-kit=bci-1] h2 a").click()
    await expect(page).to_have_url(re.compile("/kits/bci-1$"))
    await page.wait_for_function(f"() => new Set(({LANES})()).size === 8")
    lanes: list[int] = await page.evaluate(LANES)
    await page.wait_for_function(f"(before) => ({LANES})().every((lane, n) => lane !== before[n])", arg=lanes)
    await page.get_by_role("button", name="Shorter window").click()
    await page.wait_for_function(FULL)
    await picture(page, "bci", ".strip canvas")
    await page.get_by_text("Values and scale of each channel").click()
    rows = page.locator("[data-strip]")
    await expect(rows).to_have_count(8)
    for n in range(8):
        rms = rows.nth(n).locator("[data-field=rms]")
        await expect(rms).to_have_text(re.compile(r"^\d+\.\d µV$"), timeout=20_000)
        await expect(rms).not_to_have_text(await rms.inner_text(), timeout=20_000)
        await expect(rows.nth(n)).not_to_have_class(re.compile("is-old"))


@pytest.mark.parametrize(("path", "user"), PAGES)
async def test_every_page_is_open_to_everybody(open_demo: Opener, path: str, user: str | None) -> None:
    """People with a screen reader, little sight or a phone would be shut out from what a real workshop shows."""
    page = await open_demo(path, user)
    await check_axe(page)
    await page.emulate_media(color_scheme="dark")
    await check_axe(page)
    await page.set_viewport_size({"width": 360, "height": 800})
    assert await overflow(page) <= 0
    await check_axe(page)
