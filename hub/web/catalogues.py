"""Message catalogues beside the pages: collects every text of hub's Python files and templates into `locales/*.po`.

`python -m hub.web.catalogues` after a change of texts: new ones appear empty in zh and ru (a test fails until they are
translated), those no longer used go. English translates to itself.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from copy import deepcopy
from io import BytesIO
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.extract import DEFAULT_KEYWORDS, extract
from babel.messages.pofile import read_po, write_po
from jinja2.ext import babel_extract

from hub.web.formats import LANGUAGES

HUB = Path(__file__).resolve().parent.parent
LOCALES = HUB / "web" / "locales"
KEYWORDS = {**DEFAULT_KEYWORDS, "N_": None}
JINJA = {"trim_blocks": "true", "lstrip_blocks": "true", "silent": "false"}


def sources() -> Iterator[tuple[str, Path]]:
    """Each file with texts, with babel's method for it."""
    for path in sorted(HUB.rglob("*.py")):
        if "node_modules" not in path.parts:
            yield "python", path
    for path in sorted((HUB / "web" / "templates").rglob("*.html")):
        yield "jinja2", path


def template() -> Catalog:
    """Every text that the hub can show, with the places where it stands."""
    found = Catalog(project="EPIP hub", charset="utf-8")
    for method, path in sources():
        place = path.relative_to(HUB.parent).as_posix()
        with path.open("rb") as file:
            how = babel_extract if method == "jinja2" else method
            options = JINJA if method == "jinja2" else {}
            for line, message, comments, context in extract(how, file, KEYWORDS, ("Note:",), options):
                # Line numbers would change the catalogues with every edit.
                found.add(message, None, [(place, None)], auto_comments=comments, context=context)
                del line
    return found


def catalogue_file(code: str) -> Path:
    """Where the catalogue of a language stands."""
    return LOCALES / code / "LC_MESSAGES" / "hub.po"


def load(code: str) -> Catalog:
    """The catalogue of a language as it stands, an empty one where there is none yet."""
    path = catalogue_file(code)
    if not path.is_file():
        return Catalog(locale=code, project="EPIP hub", charset="utf-8")
    with path.open("rb") as file:
        return read_po(file, locale=code, abort_invalid=True)


def update(code: str, texts: Catalog) -> Catalog:
    """The catalogue of a language with exactly these texts; a text that only resembles another is not guessed."""
    catalogue = load(code)
    # A copy: babel puts the very messages of the template into the catalogue.
    catalogue.update(deepcopy(texts), no_fuzzy_matching=True)
    catalogue.obsolete.clear()
    if code == "en":
        for message in catalogue:
            if message.id and not message.string:
                message.string = message.id
    return catalogue


def written(catalogue: Catalog) -> bytes:
    """The catalogue as a file, with a header that only a change of the language could change."""
    header = (
        'msgid ""\nmsgstr ""\n"Content-Type: text/plain; charset=utf-8\\n"\n"Content-Transfer-Encoding: 8bit\\n"\n'
        f'"Language: {catalogue.locale_identifier}\\n"\n"Plural-Forms: {catalogue.plural_forms}\\n"\n\n'
    )
    out = BytesIO()
    write_po(out, catalogue, width=120, sort_output=True, omit_header=True, ignore_obsolete=True)
    return header.encode() + out.getvalue()


def main() -> int:
    """Updates the three catalogues and says how many texts lack a translation."""
    texts = template()
    for code in LANGUAGES:
        catalogue = update(code, texts)
        catalogue_file(code).write_bytes(written(catalogue))
        missing = sum(1 for message in catalogue if message.id and not message.string)
        sys.stdout.write(f"{code}: {len(catalogue)} texts, {missing} without translation\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
