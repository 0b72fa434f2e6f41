"""Beside the line: passwords of brokers and equipment, read from a file or the environment, never from settings."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Protocol

from edge_agent.errors import SourceMisconfigured


class Account(Protocol):
    """Settings that name a password: at most one of the two is given. The file is relative to the settings file."""

    password_file: Path | None
    password_env: str | None


def read_password(account: Account, base: Path) -> str | None:
    """The password, None where the settings name none; `base` is the folder of the settings file.

    A file may end in one line break. Raises SourceMisconfigured with the place `password_file` or `password_env`; the
    password is in no message.
    """
    if account.password_file is not None and account.password_env is not None:
        raise SourceMisconfigured("password_file", "expected one of password_file and password_env, found both")
    if account.password_env is not None:
        password = os.environ.get(account.password_env, "")
        if not password:
            raise SourceMisconfigured("password_env", f"expected the environment variable {account.password_env} set")
        return password
    if account.password_file is None:
        return None
    path = base / account.password_file
    try:
        password = path.read_text("utf-8").removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise SourceMisconfigured(
            "password_file", f"expected a readable file, found {str(path)!r}: {error.strerror}"
        ) from None
    except UnicodeDecodeError:
        raise SourceMisconfigured("password_file", f"expected UTF-8 text in {str(path)!r}") from None
    if not password or "\n" in password:
        raise SourceMisconfigured("password_file", f"expected one line with the password in {str(path)!r}")
    return password


def readable_by_others(path: Path) -> bool:
    """Whether any account of this machine may read the file. Always False on Windows, which has other means."""
    return os.name == "posix" and bool(path.stat().st_mode & stat.S_IROTH)
