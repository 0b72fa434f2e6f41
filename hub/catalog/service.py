"""Beside the line: what exists, for pages and for the line: which edge reads which kit, and who may use the broker.

Reading is from memory and never blocks; adding blocks (database and bcrypt): plain `def` routes and worker threads.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from hub.broker.passwords import bcrypt_hash, mosquitto_hash, new_password
from hub.catalog import repository
from hub.catalog.models import EdgeRow, EquipmentAccountRow, KitRow, WorkshopRow
from hub.clock import known_zone
from hub.database import Database
from hub.errors import N_, AlreadyThere, CatalogInvalid, InputRefused, NotFound
from lab_contract.kit import KitModel, Label
from lab_contract.topics import IDENTIFIER

if TYPE_CHECKING:
    from hub.broker.config import BrokerAccount
    from hub.line import KitEntry

EQUIPMENT_ROOT = "equipment"


@dataclass(frozen=True, slots=True)
class Kit:
    """A training kit: where it stands, what it is, which edge reads it."""

    id: str
    workshop: str
    edge: str
    model: KitModel
    name: Label


@dataclass(frozen=True, slots=True)
class Workshop:
    """A site with its kits, ordered by id. `zone` is an IANA name."""

    id: str
    name: Label
    city: Label
    zone: str
    kits: tuple[Kit, ...]


@dataclass(frozen=True, slots=True)
class Edge:
    """An edge agent and the kits that it reads; with `revoked_ns` (UTC) it is shut out of the broker."""

    id: str
    workshop: str
    revoked_ns: int | None
    kits: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Password:
    """The hashes of a broker password."""

    bcrypt: str
    mosquitto: str | None


@dataclass(frozen=True, slots=True)
class _Edge:
    facts: Edge
    password: _Password
    equipment: tuple[str, ...]
    """What speaks for itself in the edge's workshop."""


@dataclass(frozen=True, slots=True)
class _Equipment:
    name: str
    password: _Password


@dataclass(frozen=True, slots=True)
class _Snapshot:
    workshops: tuple[Workshop, ...] = ()
    edges: tuple[_Edge, ...] = ()
    equipment: tuple[_Equipment, ...] = ()


def edge_user(edge: str) -> str:
    """The user under which an edge signs in at the broker."""
    return f"edge-{edge}"


def equipment_user(name: str) -> str:
    """The user under which equipment signs in at the broker."""
    return f"equipment-{name}"


def equipment_topics(name: str) -> str:
    """The topic filter of everything that this equipment publishes and hears."""
    return f"{EQUIPMENT_ROOT}/{name}/#"


class Catalog:
    """Workshops, kits, edges and equipment accounts. `reload` first: a new catalog knows nothing yet."""

    def __init__(self, database: Database, models: Mapping[str, KitModel]) -> None:
        self._database = database
        self.models = models
        self._lock = threading.Lock()
        self._snapshot = _Snapshot()

    def reload(self) -> bool:
        """Reads what the database holds; True where that has changed. Raises CatalogInvalid and keeps what it knew."""
        with self._lock:
            with self._database.reading() as session:
                snapshot = self._read(session)
            changed = snapshot != self._snapshot
            self._snapshot = snapshot
            return changed

    def _read(self, session: Session) -> _Snapshot:
        faults: list[str] = []
        kits: dict[str, list[Kit]] = {}
        for row in repository.kits(session):
            model = self.models.get(row.model)
            if model is None:
                known = ", ".join(sorted(self.models))
                faults.append(f"catalog: kit {row.id}: model: expected one of {known}, found {row.model!r}")
                continue
            kits.setdefault(row.workshop_id, []).append(
                Kit(row.id, row.workshop_id, row.edge_id, model, _kit_name(row, model))
            )
        if faults:
            raise CatalogInvalid("\n".join(faults))
        workshops = tuple(
            Workshop(
                row.id,
                Label(en=row.name_en, zh=row.name_zh, ru=row.name_ru),
                Label(en=row.city_en, zh=row.city_zh, ru=row.city_ru),
                row.zone,
                tuple(kits.get(row.id, ())),
            )
            for row in repository.workshops(session)
        )
        equipment = repository.equipment_accounts(session)
        everywhere = [kit for found in kits.values() for kit in found]
        edges = tuple(
            _Edge(
                Edge(row.id, row.workshop_id, row.revoked_ns, tuple(k.id for k in everywhere if k.edge == row.id)),
                _Password(row.password_hash, row.mosquitto_hash),
                tuple(e.name for e in equipment if e.workshop_id == row.workshop_id),
            )
            for row in repository.edges(session)
        )
        return _Snapshot(
            workshops,
            edges,
            tuple(_Equipment(row.name, _Password(row.password_hash, row.mosquitto_hash)) for row in equipment),
        )

    def workshops(self) -> tuple[Workshop, ...]:
        """Every workshop with its kits, by id."""
        return self._snapshot.workshops

    def workshop(self, workshop_id: str) -> Workshop:
        """One workshop. Raises NotFound."""
        for workshop in self._snapshot.workshops:
            if workshop.id == workshop_id:
                return workshop
        raise NotFound(N_("There is no workshop %(id)s."), id=workshop_id)

    def kit(self, kit_id: str) -> Kit:
        """One kit. Raises NotFound."""
        for workshop in self._snapshot.workshops:
            for kit in workshop.kits:
                if kit.id == kit_id:
                    return kit
        raise NotFound(N_("There is no kit %(id)s."), id=kit_id)

    def kits(self) -> dict[str, KitEntry]:
        """What the line must know of each kit, by kit id."""
        # Here and not above: the line imports the store, and no page needs to wait for that at the start.
        from hub.line import KitEntry

        return {
            kit.id: KitEntry(id=kit.id, edge=kit.edge, model=kit.model, workshop=kit.workshop)
            for workshop in self._snapshot.workshops
            for kit in workshop.kits
        }

    def edges(self) -> tuple[Edge, ...]:
        """Every edge, revoked ones too, by id."""
        return tuple(edge.facts for edge in self._snapshot.edges)

    def accounts(self) -> list[BrokerAccount]:
        """Who may use the broker, with topic filters."""
        from hub.broker.config import BrokerAccount, edge_account

        found: list[BrokerAccount] = []
        for edge in self._snapshot.edges:
            if edge.facts.revoked_ns is not None:
                continue
            own = edge_account(edge_user(edge.facts.id), edge.facts.id, edge.password.bcrypt, edge.password.mosquitto)
            filters = tuple(equipment_topics(name) for name in edge.equipment)
            found.append(replace(own, publish=(*own.publish, *filters), subscribe=(*own.subscribe, *filters)))
        for equipment in self._snapshot.equipment:
            filters = (equipment_topics(equipment.name),)
            user, password = equipment_user(equipment.name), equipment.password
            found.append(BrokerAccount(user, password.bcrypt, filters, filters, password.mosquitto))
        return found

    def add_workshop(self, workshop_id: str, *, name: Label, city: Label, zone: str) -> None:
        """Adds a site; `zone` is an IANA name. Raises InputRefused, AlreadyThere."""
        _check_id(workshop_id)
        if not known_zone(zone):
            text = N_("Give the IANA name of a time zone, such as Asia/Tashkent.")
            raise InputRefused(text, fields={"zone": text})
        with self._database.transaction() as session:
            _check_free(repository.workshop(session, workshop_id), workshop_id)
            session.add(
                WorkshopRow(
                    id=workshop_id,
                    name_en=name.en,
                    name_zh=name.zh,
                    name_ru=name.ru,
                    city_en=city.en,
                    city_zh=city.zh,
                    city_ru=city.ru,
                    zone=zone,
                )
            )
        self.reload()

    def add_edge(self, edge_id: str, *, workshop: str) -> str:
        """Adds an edge and returns its broker password, which is kept nowhere. Raises InputRefused, AlreadyThere."""
        _check_id(edge_id)
        password, hashed = _broker_password()
        with self._database.transaction() as session:
            _check_workshop(session, workshop)
            _check_free(repository.edge(session, edge_id), edge_id)
            row = EdgeRow(id=edge_id, workshop_id=workshop)
            row.password_hash, row.mosquitto_hash = hashed.bcrypt, hashed.mosquitto
            session.add(row)
        self.reload()
        return password

    def renew_edge_password(self, edge_id: str) -> str:
        """Gives an edge a new broker password; the old one ends, and so does a revocation. Raises NotFound."""
        password, hashed = _broker_password()
        with self._database.transaction() as session:
            row = _known_edge(session, edge_id)
            row.password_hash, row.mosquitto_hash, row.revoked_ns = hashed.bcrypt, hashed.mosquitto, None
        self.reload()
        return password

    def revoke_edge(self, edge_id: str, *, at_ns: int) -> None:
        """Shuts an edge out of the broker from now (UTC ns) until its password is renewed. Raises NotFound."""
        with self._database.transaction() as session:
            row = _known_edge(session, edge_id)
            row.revoked_ns = row.revoked_ns or at_ns
        self.reload()

    def add_equipment_account(self, name: str, *, workshop: str) -> str:
        """Adds an account for equipment that publishes by itself and returns its broker password.

        Raises InputRefused, AlreadyThere.
        """
        _check_id(name)
        password, hashed = _broker_password()
        with self._database.transaction() as session:
            _check_workshop(session, workshop)
            _check_free(repository.equipment_account(session, name), name)
            row = EquipmentAccountRow(name=name, workshop_id=workshop)
            row.password_hash, row.mosquitto_hash = hashed.bcrypt, hashed.mosquitto
            session.add(row)
        self.reload()
        return password

    def renew_equipment_password(self, name: str) -> str:
        """Gives an equipment account a new broker password. Raises NotFound."""
        password, hashed = _broker_password()
        with self._database.transaction() as session:
            row = repository.equipment_account(session, name)
            if row is None:
                raise NotFound(N_("There is no equipment account %(id)s."), id=name)
            row.password_hash, row.mosquitto_hash = hashed.bcrypt, hashed.mosquitto
        self.reload()
        return password

    def add_kit(self, kit_id: str, *, workshop: str, model: str, edge: str, name: Label | None = None) -> None:
        """Adds a kit; without a name of its own it bears its kit model's. Raises InputRefused, AlreadyThere."""
        _check_id(kit_id)
        if model not in self.models:
            text = N_("There is no such kit model; known are %(known)s.")
            raise InputRefused(text, fields={"model": text}, known=", ".join(sorted(self.models)))
        with self._database.transaction() as session:
            _check_workshop(session, workshop)
            edge_row = repository.edge(session, edge)
            if edge_row is None or edge_row.workshop_id != workshop:
                text = N_("There is no such edge in this workshop.")
                raise InputRefused(text, fields={"edge": text})
            _check_free(repository.kit(session, kit_id), kit_id)
            session.add(
                KitRow(
                    id=kit_id,
                    workshop_id=workshop,
                    edge_id=edge,
                    model=model,
                    name_en=name and name.en,
                    name_zh=name and name.zh,
                    name_ru=name and name.ru,
                )
            )
        self.reload()


def _kit_name(row: KitRow, model: KitModel) -> Label:
    if row.name_en is None or row.name_zh is None or row.name_ru is None:
        return model.label
    return Label(en=row.name_en, zh=row.name_zh, ru=row.name_ru)


def _broker_password() -> tuple[str, _Password]:
    password = new_password()
    return password, _Password(bcrypt_hash(password), mosquitto_hash(password))


def _known_edge(session: Session, edge_id: str) -> EdgeRow:
    row = repository.edge(session, edge_id)
    if row is None:
        raise NotFound(N_("There is no edge %(id)s."), id=edge_id)
    return row


def _check_id(name: str) -> None:
    if not IDENTIFIER.match(name):
        text = N_("An id has 1 to 32 of a-z, 0-9, dash and underscore, and begins and ends with a letter or digit.")
        raise InputRefused(text, fields={"id": text})


def _check_free(row: object | None, name: str) -> None:
    if row is not None:
        raise AlreadyThere(N_("The id %(id)s is taken."), id=name)


def _check_workshop(session: Session, workshop_id: str) -> None:
    if repository.workshop(session, workshop_id) is None:
        text = N_("There is no such workshop.")
        raise InputRefused(text, fields={"workshop": text})
