"""Beside the line: every query on workshops, edges, kits and equipment accounts, inside the caller's unit of work."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from hub.catalog.models import EdgeRow, EquipmentAccountRow, KitRow, WorkshopRow


def workshop(session: Session, workshop_id: str) -> WorkshopRow | None:
    """The workshop with this id."""
    return session.get(WorkshopRow, workshop_id)


def edge(session: Session, edge_id: str) -> EdgeRow | None:
    """The edge with this id."""
    return session.get(EdgeRow, edge_id)


def kit(session: Session, kit_id: str) -> KitRow | None:
    """The kit with this id."""
    return session.get(KitRow, kit_id)


def equipment_account(session: Session, name: str) -> EquipmentAccountRow | None:
    """The equipment account with this name."""
    return session.get(EquipmentAccountRow, name)


def workshops(session: Session) -> Sequence[WorkshopRow]:
    """Every workshop, by id."""
    return session.scalars(select(WorkshopRow).order_by(WorkshopRow.id)).all()


def edges(session: Session) -> Sequence[EdgeRow]:
    """Every edge, by id."""
    return session.scalars(select(EdgeRow).order_by(EdgeRow.id)).all()


def kits(session: Session) -> Sequence[KitRow]:
    """Every kit, by id."""
    return session.scalars(select(KitRow).order_by(KitRow.id)).all()


def equipment_accounts(session: Session) -> Sequence[EquipmentAccountRow]:
    """Every equipment account, by name."""
    return session.scalars(select(EquipmentAccountRow).order_by(EquipmentAccountRow.name)).all()
