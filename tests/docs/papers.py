"""Reads the repository's papers: sections, tables, inline code, links and snippets of Markdown files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOT_OURS = {"node_modules", "build", "dist"}

HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class Snippet:
    """A fenced block; `file` is what its first line names, as in `# kits/thermometer.yaml`."""

    paper: Path
    language: str
    text: str

    @property
    def file(self) -> str | None:
        named = re.match(r"# (\S+\.\w+)\n", self.text)
        return named[1] if named else None

    def __str__(self) -> str:
        return f"{self.paper.relative_to(ROOT).as_posix()} {self.language} {self.text.splitlines()[0]}"


def papers() -> list[Path]:
    """Every Markdown file of the repository."""
    found: list[Path] = []
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in NOT_OURS and not name.startswith(".")]
        found += [Path(folder, name) for name in files if name.endswith(".md")]
    return sorted(found)


def read(name: str) -> str:
    """A paper by its place in `docs`."""
    return (ROOT / "docs" / name).read_text("utf-8")


def section(text: str, heading: str) -> str:
    """What stands below a heading, up to the next of its rank or a higher one."""
    for found in HEADING.finditer(text):
        if found[2] == heading:
            rank = len(found[1])
            following = (later for later in HEADING.finditer(text, found.end()) if len(later[1]) <= rank)
            return text[found.end() : next((later.start() for later in following), len(text))]
    raise AssertionError(f"no heading {heading!r}")


def rows(text: str, first_column: str) -> dict[str, list[str]]:
    """The cells of each row of the tables that begin with this column, by each name in code in the first cell."""
    found: dict[str, list[str]] = {}
    inside = False
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if not cells or set(cells[0]) == {"-"}:
            inside = inside and bool(cells)
        elif not inside:
            inside = cells[0] == first_column
        else:
            found.update(dict.fromkeys(CODE.findall(cells[0]), cells))
    return found


def code(text: str) -> set[str]:
    """Everything in inline code."""
    return set(CODE.findall(text))


def anchors(text: str) -> set[str]:
    """The anchors that a reader of the rendered paper can jump to."""
    plain = FENCE.sub("", text)
    return {re.sub(r"[^\w\- ]", "", found[2].lower()).strip().replace(" ", "-") for found in HEADING.finditer(plain)}


def links(text: str) -> list[str]:
    """Where the paper's links lead."""
    return LINK.findall(CODE.sub("", FENCE.sub("", text)))


def snippets(*languages: str) -> Iterator[Snippet]:
    """The fenced blocks of these languages in every paper."""
    for paper in papers():
        for language, text in FENCE.findall(paper.read_text("utf-8")):
            if language in languages:
                yield Snippet(paper, language, text)
