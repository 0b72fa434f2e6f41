"""Hashes that Mosquitto understands, and edges that were shut out."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds columns; accounts from before have no hash of this kind until their password is renewed."""
    for table in ("edges", "equipment_accounts"):
        op.add_column(table, sa.Column("mosquitto_hash", sa.String(160), nullable=True))
    op.add_column("edges", sa.Column("revoked_ns", sa.BigInteger(), nullable=True))
