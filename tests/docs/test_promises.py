"""A promise of delivery whose test is gone, or was never there, is one that nobody keeps."""

from __future__ import annotations

import re

from tests.docs.papers import ROOT, read, section

PAPER = "explanations/delivery-guarantees.md"


def test_every_promise_names_tests_that_exist() -> None:
    promises = section(read(PAPER), "What is promised")
    table = [line for line in promises.splitlines() if line.startswith("| ") and not line.startswith("| Promise")]
    assert len(table) > 10
    for line in table:
        files = re.findall(r"`([\w/]+\.py)`", line.rsplit("|", 2)[1])
        assert files, line
        folder = ""
        for file in files:
            # A name without a folder stands in that of the one before it.
            folder = file.rpartition("/")[0] or folder
            assert (ROOT / folder / file.rpartition("/")[2]).is_file(), f"{folder}/{file}"


def test_every_run_of_the_table_kept_every_promise() -> None:
    """Whoever reads the paper takes what stands there for what the product does."""
    table = section(read("reference/reliability.md"), "Runs")
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:2] == "| "]
    runs = [dict(zip(cells[0], line, strict=True)) for line in cells[1:]]
    assert len(runs) == 4
    for run in runs:
        assert run["Killed"].startswith("200: "), run
        assert [run[what] for what in ("Lost", "Duplicated", "Altered", "Unsaid")] == ["0"] * 4, run
