"""How many bytes the first pages cost over a thin line: the simulated workshop in Chromium, with an empty cache."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect, sync_playwright

from simulators.demo_catalog import WORKSHOP
from tests.bench.demo import demo
from tests.bench.figures import Figure, figure
from tests.bench.programs import NotReady
from tests.browser.conftest import FLAGS

INSTRUCTOR = "instructor"


def measure() -> list[Figure]:
    """Everything that a page loads until it is live: HTML, CSS, JavaScript, icons, with the headers of the answers."""
    program = shutil.which("/usr/bin/chromium") or shutil.which("chromium")
    if program is None:
        raise NotReady("no Chromium: expected /usr/bin/chromium or `chromium` on the PATH")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch, demo(Path(scratch, "demo")) as workshop:
        ready = json.loads(workshop.line("{"))
        password = next(one["password"] for one in ready["sign_ins"] if one["user"] == INSTRUCTOR)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
            first = _bytes(browser, f"{ready['address']}/sign-in", [])
            cookies = _sign_in(browser, ready["address"], password)
            second = _bytes(browser, f"{ready['address']}/workshops/{WORKSHOP}", cookies)
            browser.close()
    return [
        figure("page: sign-in, all bytes with brotli", first / 1000, "kB", "<= 40"),
        figure("page: workshop with three kits, all bytes with brotli", second / 1000, "kB", "<= 40"),
    ]


def _sign_in(browser: Browser, address: str, password: str) -> list[Any]:
    with browser.new_context(locale="en-GB") as context:
        page = context.new_page()
        page.goto(f"{address}/sign-in")
        page.get_by_label("Account name").fill(INSTRUCTOR)
        page.get_by_label("Password").fill(password)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(lambda url: "/sign-in" not in url)
        return [{"name": c["name"], "value": c["value"], "url": address} for c in context.cookies()]


def _bytes(browser: Browser, address: str, cookies: list[Any]) -> int:
    """Bytes of all answers to a new visitor."""
    with browser.new_context(locale="en-GB") as context:
        context.add_cookies(cookies)
        page = context.new_page()
        sizes: dict[str, int] = {}
        network = context.new_cdp_session(page)
        network.on("Network.loadingFinished", lambda it: sizes.update({it["requestId"]: it["encodedDataLength"]}))
        network.send("Network.enable")
        page.goto(address, wait_until="networkidle")
        _wait_live(page)
        return sum(sizes.values())


def _wait_live(page: Page) -> None:
    if page.locator("#link").count():
        expect(page.locator("#link")).to_have_attribute("data-link", "live", timeout=10_000)
