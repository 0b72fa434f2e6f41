"""Beside the line: JSON bodies of the catalog routes. Labels come in every language; the reader chooses."""

from __future__ import annotations

from pydantic import BaseModel

from hub.catalog.service import Kit, Workshop
from lab_contract.kit import Label


class KitOut(BaseModel):
    """A kit in its workshop."""

    id: str
    name: Label
    edge: str
    model: str
    model_version: str
    family: str

    @classmethod
    def of(cls, kit: Kit) -> KitOut:
        """The kit in JSON."""
        return cls(
            id=kit.id,
            name=kit.name,
            edge=kit.edge,
            model=kit.model.id,
            model_version=kit.model.version,
            family=kit.model.family,
        )


class WorkshopOut(BaseModel):
    """A workshop and its kits."""

    id: str
    name: Label
    city: Label
    zone: str
    kits: list[KitOut]

    @classmethod
    def of(cls, workshop: Workshop) -> WorkshopOut:
        """The workshop in JSON."""
        return cls(
            id=workshop.id,
            name=workshop.name,
            city=workshop.city,
            zone=workshop.zone,
            kits=[KitOut.of(kit) for kit in workshop.kits],
        )
