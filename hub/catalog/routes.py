"""Beside the line: workshops and their kits as JSON, for everybody who has signed in."""

from __future__ import annotations

from fastapi import APIRouter

from hub.accounts.access import SignedIn
from hub.catalog.schemas import WorkshopOut
from hub.parts import Parts

router = APIRouter(prefix="/api/v1/workshops", tags=["catalog"])


@router.get("")
def workshops(hub: Parts, person: SignedIn) -> list[WorkshopOut]:
    """Every workshop, by id."""
    return [WorkshopOut.of(workshop) for workshop in hub.catalog.workshops()]


@router.get("/{workshop_id}")
def workshop(hub: Parts, person: SignedIn, workshop_id: str) -> WorkshopOut:
    """One workshop. Raises NotFound."""
    return WorkshopOut.of(hub.catalog.workshop(workshop_id))
