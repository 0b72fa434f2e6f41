"""Errors of the edge agent, named after what the caller does next."""

from __future__ import annotations

from lab_contract.errors import Problem


class EdgeError(Exception):
    """Base of everything the edge agent raises."""


class SourceUnavailable(EdgeError):
    """Retry later: the equipment does not answer now."""


class SourceMisconfigured(EdgeError):
    """Stop this source and say why: `place` names the setting, `expected` what must stand or be done there."""

    def __init__(self, place: str, expected: str) -> None:
        super().__init__(f"{place}: {expected}")
        self.place = place
        self.expected = expected


class SettingsInvalid(EdgeError):
    """Mend the file and start again. Each problem names the file, the place in it and the expected value."""

    def __init__(self, file: str, problems: list[Problem]) -> None:
        super().__init__("\n".join(problem.line(file) for problem in problems))
        self.file = file
        self.problems = problems


class DataFolderInUse(EdgeError):
    """Stop the other agent or name another folder: two agents must never share a spool."""


class SpoolUnavailable(EdgeError):
    """Keep the batches and try again: the disk does not take them now (full, read-only)."""
