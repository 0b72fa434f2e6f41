"""Beside the seam of the store: what a store may need besides its URL. Credentials are named by file, never given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """`data`: folder for what a store keeps beside its server. The rest is `[influx]` of the hub's settings.

    A file with a secret is read when it is needed, so that a mended one counts without a restart.
    """

    data: Path
    user: str | None = None
    password_file: Path | None = None
    token_file: Path | None = None
    ca_file: Path | None = None
    org: str | None = None
    retention_days: int | None = None
    timeout_s: float = 10.0
