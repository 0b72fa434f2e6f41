"""Beside the line: the hub's errors, named after what the caller does next; one handler turns each into an answer.

Texts are marked with `N_` for the catalogues and translated when they are shown: `gettext(error.message) %
error.params`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lab_contract.errors import Problem


def N_(text: str) -> str:  # noqa: N802 - the name by which gettext tools find texts
    """Marks a text for translation where it is not yet shown."""
    return text


class HubError(Exception):
    """Base of every error that becomes an answer: an HTTP status, a stable code, a text for people."""

    status = 500
    code = "internal"
    title = N_("Something went wrong here")
    default = N_("The hub could not answer. The cause is in its log.")

    def __init__(self, message: str | None = None, **params: object) -> None:
        self.message = message or self.default
        self.params = params
        super().__init__(self.detail)

    @property
    def detail(self) -> str:
        """The text in English."""
        return self.message % self.params if self.params else self.message

    @property
    def retry_after_s(self) -> int | None:
        """Whole seconds after which the same request may succeed, None where waiting does not help."""
        return None


class SignInNeeded(HubError):
    """Sign in, then ask again."""

    status = 401
    code = "sign_in_needed"
    title = N_("Sign in first")
    default = N_("This page is for people who have signed in.")


class SignInRefused(HubError):
    """Check name and password; which of the two is wrong is never said."""

    status = 401
    code = "sign_in_refused"
    title = N_("Not signed in")
    default = N_("Name or password is wrong.")


class NotAllowed(HubError):
    """Ask someone whose role allows it."""

    status = 403
    code = "not_allowed"
    title = N_("Not for your role")
    default = N_("Your role does not allow this.")


class FormStale(HubError):
    """Load the page again and send the form once more: its token is missing or of another session."""

    status = 403
    code = "form_stale"
    title = N_("This form is out of date")
    default = N_("Load the page again, then send the form once more.")


class ForeignOrigin(HubError):
    """Give up: a page of another site sent this."""

    status = 403
    code = "foreign_origin"
    title = N_("Refused")
    default = N_("The request came from a page of another site.")


class NotFound(HubError):
    """Look for it elsewhere: nothing has this id or address."""

    status = 404
    code = "not_found"
    title = N_("Not found")
    default = N_("There is nothing at this address.")


class AlreadyThere(HubError):
    """Choose another id."""

    status = 409
    code = "already_there"
    title = N_("This id is taken")
    default = N_("This id is taken.")


class TooLarge(HubError):
    """Send less."""

    status = 413
    code = "too_large"
    title = N_("Too much at once")
    default = N_("The request is larger than the hub accepts.")


class WrongHost(HubError):
    """Use the hub's own address: this name may be another site's trick to read loopback addresses."""

    status = 421
    code = "wrong_host"
    title = N_("Refused")
    default = N_("The hub does not answer under this name.")


class InputRefused(HubError):
    """Mend the named fields: `fields` gives a text for each, translatable like `message`."""

    status = 422
    code = "input_refused"
    title = N_("Please check what you entered")
    default = N_("Please check what you entered.")

    def __init__(self, message: str | None = None, *, fields: dict[str, str] | None = None, **params: object) -> None:
        super().__init__(message, **params)
        self.fields = fields or {}


class TryLater(HubError):
    """Wait `retry_after_s` seconds, then try again."""

    status = 429
    code = "try_later"
    title = N_("Too many attempts")
    default = N_("Too many attempts. Try again in %(seconds)d s.")

    def __init__(self, seconds: int) -> None:
        super().__init__(seconds=seconds)
        self.seconds = seconds

    @property
    def retry_after_s(self) -> int | None:
        """Whole seconds to wait."""
        return self.seconds


class RequestRefused(HubError):
    """Send another request: the server does not take this one (method, form). `status` says why."""

    code = "request_refused"
    title = N_("Refused")

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__("%(reason)s", reason=message)


class NotReady(HubError):
    """Ask again in a moment: the hub is still starting."""

    status = 503
    code = "not_ready"
    title = N_("The hub is starting")
    default = N_("The hub is starting. Try again in a moment.")

    @property
    def retry_after_s(self) -> int | None:
        """Whole seconds to wait."""
        return 1


class SettingsInvalid(Exception):
    """Mend the settings file and start again. Its text is one line a fault: file, place, expected value."""

    def __init__(self, file: Path | str, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(problem.line(str(file)) for problem in problems))
        self.file = str(file)
        self.problems = list(problems)


class CannotRun(Exception):
    """Do what the text says, then start the hub again: it ends with this one text, without a traceback."""


class KitModelsInvalid(CannotRun):
    """Mend these files and start again. Its text is one line a fault: file, place, expected value."""


class CatalogInvalid(CannotRun):
    """Mend the catalog or bring the kit models it speaks of. Its text is one line a fault."""


class DatabaseUnusable(CannotRun):
    """Mend or replace the database file, or start the version of the hub that made it."""


class CannotListen(CannotRun):
    """Choose another port in the settings: this one is in use or not permitted."""
