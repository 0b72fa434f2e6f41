"""Beside the line: the tables of workshops, edges, kits and equipment accounts."""

from __future__ import annotations

from sqlalchemy import BigInteger, ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from hub.database import Table


class WorkshopRow(Table):
    """A site with its IANA time zone."""

    __tablename__ = "workshops"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    name_en: Mapped[str] = mapped_column(String(120))
    name_zh: Mapped[str] = mapped_column(String(120))
    name_ru: Mapped[str] = mapped_column(String(120))
    city_en: Mapped[str] = mapped_column(String(80))
    city_zh: Mapped[str] = mapped_column(String(80))
    city_ru: Mapped[str] = mapped_column(String(80))
    zone: Mapped[str] = mapped_column(String(64))


class EdgeRow(Table):
    """An edge agent, with its broker password as bcrypt's hash, for NATS, and as Mosquitto's.

    With `revoked_ns` (UTC) it is shut out; its row stays, as kits and what is stored speak of it.
    """

    __tablename__ = "edges"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    workshop_id: Mapped[str] = mapped_column(ForeignKey("workshops.id"), index=True)
    password_hash: Mapped[str] = mapped_column(String(80))
    mosquitto_hash: Mapped[str | None] = mapped_column(String(160))
    revoked_ns: Mapped[int | None] = mapped_column(BigInteger)


class KitRow(Table):
    """A training kit; without names of its own it bears those of its kit model."""

    __tablename__ = "kits"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    workshop_id: Mapped[str] = mapped_column(ForeignKey("workshops.id"), index=True)
    edge_id: Mapped[str] = mapped_column(ForeignKey("edges.id"), index=True)
    model: Mapped[str] = mapped_column(String(32))
    name_en: Mapped[str | None] = mapped_column(String(120))
    name_zh: Mapped[str | None] = mapped_column(String(120))
    name_ru: Mapped[str | None] = mapped_column(String(120))


class EquipmentAccountRow(Table):
    """An account of equipment that publishes over the hub's broker by itself, such as a robot controller."""

    __tablename__ = "equipment_accounts"

    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    workshop_id: Mapped[str] = mapped_column(ForeignKey("workshops.id"), index=True)
    password_hash: Mapped[str] = mapped_column(String(80))
    mosquitto_hash: Mapped[str | None] = mapped_column(String(160))
