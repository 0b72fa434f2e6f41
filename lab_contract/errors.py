"""Errors of the contract, named after what the caller does next."""

from __future__ import annotations


class ContractError(Exception):
    """Base of everything the contract raises."""


class BatchRejected(ContractError):
    """Quarantine these bytes: they can never be stored. `reason` is a stable code, `detail` a sentence for people."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class KitModelInvalid(ContractError):
    """Mend the file and load it again. Each problem names the file, the place in it and the expected value."""

    def __init__(self, file: str, problems: list[Problem]) -> None:
        super().__init__("\n".join(problem.line(file) for problem in problems))
        self.file = file
        self.problems = problems


class TopicInvalid(ContractError):
    """Ignore and count the message: its topic is none of ours."""


class MessageInvalid(ContractError):
    """Ignore and count the message: it is not one of the contract's messages."""


class Problem:
    """One fault in a document: where it is (`channels[3].unit`) and what was expected there."""

    def __init__(self, place: str, expected: str) -> None:
        self.place = place
        self.expected = expected

    def line(self, file: str) -> str:
        """The fault as one line for a terminal or a log."""
        return f"{file}: {self.place or 'document'}: {self.expected}"

    def __repr__(self) -> str:
        return f"Problem({self.place!r}, {self.expected!r})"
