"""People, sessions, workshops, edges, kits and equipment accounts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the first tables."""
    op.create_table(
        "people",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("name", sa.String(32), nullable=False),
        sa.Column("display_name", sa.String(80), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("language", sa.String(8), nullable=False),
        sa.Column("zone", sa.String(64), nullable=False),
        sa.Column("password_hash", sa.String(255), nullable=False),
        sa.Column("issued", sa.Boolean(), nullable=False),
        sa.Column("created_ns", sa.BigInteger(), nullable=False),
        sa.UniqueConstraint("name", name="uq_people_name"),
    )
    op.create_table(
        "sessions",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column(
            "person_id",
            sa.Integer(),
            sa.ForeignKey("people.id", name="fk_sessions_person_id", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("token_hash", sa.String(64), nullable=False),
        sa.Column("created_ns", sa.BigInteger(), nullable=False),
        sa.Column("seen_ns", sa.BigInteger(), nullable=False),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("agent", sa.String(200), nullable=False),
        sa.UniqueConstraint("token_hash", name="uq_sessions_token_hash"),
    )
    op.create_index("ix_sessions_person_id", "sessions", ["person_id"])
    op.create_index("ix_sessions_seen_ns", "sessions", ["seen_ns"])
    op.create_table(
        "workshops",
        sa.Column("id", sa.String(32), primary_key=True),
        *(sa.Column(f"name_{language}", sa.String(120), nullable=False) for language in ("en", "zh", "ru")),
        *(sa.Column(f"city_{language}", sa.String(80), nullable=False) for language in ("en", "zh", "ru")),
        sa.Column("zone", sa.String(64), nullable=False),
    )
    op.create_table("edges", sa.Column("id", sa.String(32), primary_key=True), *_of_a_workshop("edges"))
    op.create_index("ix_edges_workshop_id", "edges", ["workshop_id"])
    op.create_table(
        "kits",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column(
            "workshop_id", sa.String(32), sa.ForeignKey("workshops.id", name="fk_kits_workshop_id"), nullable=False
        ),
        sa.Column("edge_id", sa.String(32), sa.ForeignKey("edges.id", name="fk_kits_edge_id"), nullable=False),
        sa.Column("model", sa.String(32), nullable=False),
        *(sa.Column(f"name_{language}", sa.String(120)) for language in ("en", "zh", "ru")),
    )
    op.create_index("ix_kits_workshop_id", "kits", ["workshop_id"])
    op.create_index("ix_kits_edge_id", "kits", ["edge_id"])
    op.create_table(
        "equipment_accounts", sa.Column("name", sa.String(32), primary_key=True), *_of_a_workshop("equipment_accounts")
    )
    op.create_index("ix_equipment_accounts_workshop_id", "equipment_accounts", ["workshop_id"])


def _of_a_workshop(table: str) -> tuple[sa.Column[str], sa.Column[str]]:
    return (
        sa.Column(
            "workshop_id", sa.String(32), sa.ForeignKey("workshops.id", name=f"fk_{table}_workshop_id"), nullable=False
        ),
        sa.Column("password_hash", sa.String(80), nullable=False),
    )
