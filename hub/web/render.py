"""Pages: Jinja2 templates with gettext. Receives what a capability's `pages.py` found out, hands on an HTML response.

The language is the signed-in person's, else the one chosen on the sign-in page (a cookie), else the browser's first
of ours.
"""

from __future__ import annotations

import gettext
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from babel.core import negotiate_locale
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse

from hub.accounts.access import csrf_token, person_of
from hub.accounts.person import Person
from hub.errors import CannotRun, HubError
from hub.web import formats
from hub.web.formats import LANGUAGES
from hub.web.static_files import asset_url
from hub.web.words import Words, words

WEB = Path(__file__).parent
LANGUAGE_COOKIE = "epip_language"
LANGUAGE_NAMES = {"en": "English", "zh": "中文", "ru": "Русский"}
HTML_LANGUAGE = {"en": "en", "zh": "zh-Hans", "ru": "ru"}


class CataloguesMissing(CannotRun):
    """The message catalogues are not compiled: build the pages first."""


@dataclass(frozen=True, slots=True)
class Crumb:
    """One step of the path at the top of a page; the last has no address."""

    label: str
    href: str | None = None


@dataclass(frozen=True, slots=True)
class Language:
    """The templates and words of one language."""

    code: str
    environment: Environment
    words: Words
    gettext: gettext.NullTranslations


@lru_cache(maxsize=len(LANGUAGES))
def language(code: str) -> Language:
    """Templates and words of one of our languages. Raises CataloguesMissing."""
    try:
        translations = gettext.translation("hub", WEB / "locales", [code])
    except FileNotFoundError:
        raise CataloguesMissing(f"no catalogue hub.mo for {code}: run python hub/web/build_assets.py") from None
    environment = Environment(
        loader=FileSystemLoader(WEB / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.i18n"],
    )
    environment.install_gettext_translations(translations, newstyle=True)  # type: ignore[attr-defined]
    found = words(translations.gettext)

    def number(value: float, decimals: int = 0) -> str:
        return formats.number_text(value, decimals, code)

    def age(seconds: float) -> str:
        amount, unit = formats.age_parts(seconds)
        return found["age"][unit].replace("{n}", amount.replace(".", ",") if code == "ru" else amount)

    def fill(text: str, **values: object) -> str:
        for name, value in values.items():
            text = text.replace("{" + name + "}", str(value))
        return text

    environment.filters.update(number=number, count=formats.count_text, age=age, fill=fill, iso=formats.iso_text)
    environment.globals.update(
        asset=asset_url,
        words=found,
        lang=code,
        html_lang=HTML_LANGUAGE[code],
        language_names=LANGUAGE_NAMES,
        html_languages=HTML_LANGUAGE,
        time_text=formats.time_text,
        date_text=formats.date_text,
        moment_text=formats.moment_text,
        zone_text=formats.zone_text,
        zone_city=formats.zone_city,
    )
    return Language(code, environment, found, translations)


def language_for(connection: HTTPConnection, person: Person | None) -> str:
    """The language to answer in: the person's, the cookie's, the browser's, English."""
    if person is not None and person.language in LANGUAGES:
        return person.language
    chosen = connection.cookies.get(LANGUAGE_COOKIE)
    if chosen in LANGUAGES:
        return chosen
    return accepted_language(connection.headers.get("accept-language", ""))


def accepted_language(header: str) -> str:
    """The first of our languages that an Accept-Language header names, by its weights; English where it names none."""
    wanted: list[tuple[float, str]] = []
    for part in header[:400].split(","):
        tag, _, weight = part.partition(";")
        try:
            quality = float(weight.strip().removeprefix("q=")) if weight else 1.0
        except ValueError:
            continue
        if quality > 0:
            wanted.append((quality, tag.strip().replace("-", "_")))
    wanted.sort(key=lambda item: -item[0])
    for _, tag in wanted:
        base = tag.split("_", 1)[0].lower()
        if negotiate_locale([base], LANGUAGES):
            return base
    return "en"


def markup(code: str, template: str, context: Mapping[str, Any]) -> str:
    """A template as text."""
    return language(code).environment.get_template(template).render(context)


def page(
    connection: HTTPConnection,
    template: str,
    *,
    now_ns: int,
    path: Sequence[Crumb] = (),
    status: int = 200,
    **context: Any,
) -> HTMLResponse:
    """One page or fragment for whoever the access rule found; `path` is the line at the top."""
    person = person_of(connection)
    code = language_for(connection, person)
    full = {
        "person": person,
        "csrf": csrf_token(connection),
        "path": path,
        "zone": person.zone if person is not None else "UTC",
        "workshop": None,
        "storing": _storing(connection),
        "now_ns": now_ns,
        "address": connection.url.path,
        **context,
    }
    return HTMLResponse(markup(code, template, full), status, {"Content-Language": HTML_LANGUAGE[code]})


def _storing(connection: HTTPConnection) -> bool:
    app = connection.scope.get("app")
    return app is None or app.state.parts.storing


def error_page(connection: HTTPConnection, error: HubError, now_ns: int) -> HTMLResponse:
    """An error as a page that says what happened and where to go on."""
    code = language_for(connection, person_of(connection))
    return page(
        connection,
        "error.html",
        now_ns=now_ns,
        status=error.status,
        heading=translated(code, error.title),
        text=translated(code, error.message, error.params),
        retry_s=error.retry_after_s,
    )


def translated(code: str, text: str, params: Mapping[str, object] | None = None) -> str:
    """A text marked with `N_` in one of our languages."""
    shown = language(code).gettext.gettext(text)
    return shown % params if params else shown


def json_block(data: object) -> str:
    """JSON for a script element of type application/json: no text in it can end the element."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
