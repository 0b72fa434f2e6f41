"""Beside the line: run by Alembic for each command; it gets a connection from `hub.migrations.upgrade`."""

from __future__ import annotations

from alembic import context

import hub.accounts.models
import hub.catalog.models  # noqa: F401 - both register their tables
from hub.database import Table

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Table.metadata, render_as_batch=True
)
with context.begin_transaction():
    context.run_migrations()
