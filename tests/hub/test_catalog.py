"""What exists: each edge reaches its own topics at the broker, and pages show workshops in every language."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import bcrypt
import pytest

from hub.accounts.person import Role
from hub.catalog.models import EdgeRow
from hub.catalog.service import Catalog
from hub.database import Database
from hub.errors import AlreadyThere, CatalogInvalid, InputRefused, NotFound
from hub.parts import HubParts
from hub.settings import HubSettings
from hub.setup import open_hub
from lab_contract.kit import Label
from tests.hub.conftest import Browser, IdleLine, until

TASHKENT = Label(en="Tashkent Workshop", zh="塔什干鲁班工坊", ru="Мастерская в Ташкенте")
CITY = Label(en="Tashkent", zh="塔什干", ru="Ташкент")


def furnish(catalog: Catalog) -> str:
    """One workshop with one edge and one kit; the edge's password."""
    catalog.add_workshop("tashkent", name=TASHKENT, city=CITY, zone="Asia/Tashkent")
    password = catalog.add_edge("tas-1", workshop="tashkent")
    catalog.add_kit("tas-plc-1", workshop="tashkent", model="plc_line", edge="tas-1")
    return password


def test_an_edge_may_use_its_own_topics_and_those_of_its_workshops_equipment(catalog: Catalog) -> None:
    furnish(catalog)
    catalog.add_workshop("cairo", name=TASHKENT, city=CITY, zone="Africa/Cairo")
    catalog.add_edge("cai-1", workshop="cairo")
    catalog.add_equipment_account("robot-1", workshop="tashkent")
    accounts = {account.user: account for account in catalog.accounts()}
    tashkent = accounts["edge-tas-1"]
    assert tashkent.publish == (
        "lab/v1/tas-1/up",
        "lab/v1/tas-1/up/reply",
        "lab/v1/tas-1/up/probe",
        "lab/v1/tas-1/status",
        "equipment/robot-1/#",
    )
    assert tashkent.subscribe == ("lab/v1/tas-1/down/#", "equipment/robot-1/#")
    assert accounts["edge-cai-1"].subscribe == ("lab/v1/cai-1/down/#",)
    robot = accounts["equipment-robot-1"]
    assert robot.publish == robot.subscribe == ("equipment/robot-1/#",)


def test_a_broker_password_is_returned_once_and_kept_as_a_bcrypt_hash(catalog: Catalog, database: Database) -> None:
    password = furnish(catalog)
    with database.reading() as session:
        kept = session.query(EdgeRow).one().password_hash
    assert kept.startswith("$2a$")
    assert bcrypt.checkpw(password.encode(), kept.encode())
    renewed = catalog.renew_edge_password("tas-1")
    (account,) = catalog.accounts()
    assert bcrypt.checkpw(renewed.encode(), account.password_hash.encode())
    assert not bcrypt.checkpw(password.encode(), account.password_hash.encode())


def test_the_line_learns_which_edge_reads_which_kit(catalog: Catalog) -> None:
    furnish(catalog)
    (entry,) = catalog.kits().values()
    assert (entry.id, entry.edge, entry.workshop, entry.model.id) == ("tas-plc-1", "tas-1", "tashkent", "plc_line")


def test_a_kit_without_a_name_of_its_own_bears_that_of_its_kit_model(catalog: Catalog) -> None:
    furnish(catalog)
    name = Label(en="Line 2", zh="二号线", ru="Линия 2")
    catalog.add_kit("tas-plc-2", workshop="tashkent", model="plc_line", edge="tas-1", name=name)
    assert catalog.kit("tas-plc-1").name == catalog.models["plc_line"].label
    assert catalog.kit("tas-plc-2").name == name
    with pytest.raises(NotFound, match=r"There is no kit tas-plc-3\."):
        catalog.kit("tas-plc-3")


def test_what_does_not_fit_is_refused_with_the_field(catalog: Catalog) -> None:
    furnish(catalog)
    catalog.add_workshop("cairo", name=TASHKENT, city=CITY, zone="Africa/Cairo")
    refused = [
        ("model", lambda: catalog.add_kit("k", workshop="tashkent", model="toaster", edge="tas-1")),
        ("edge", lambda: catalog.add_kit("k", workshop="cairo", model="plc_line", edge="tas-1")),
        ("workshop", lambda: catalog.add_edge("e", workshop="nowhere")),
        ("id", lambda: catalog.add_edge("Edge/1", workshop="cairo")),
        ("id", lambda: catalog.add_edge("#", workshop="cairo")),
        ("zone", lambda: catalog.add_workshop("w", name=TASHKENT, city=CITY, zone="GMT+5")),
    ]
    for field, add in refused:
        with pytest.raises(InputRefused) as caught:
            add()
        assert list(caught.value.fields) == [field]
    with pytest.raises(AlreadyThere):
        catalog.add_kit("tas-plc-1", workshop="tashkent", model="plc_line", edge="tas-1")


def test_a_kit_whose_model_is_gone_is_told_and_what_was_known_stays(catalog: Catalog, database: Database) -> None:
    furnish(catalog)
    other = Catalog(database, {"robot_cell": catalog.models["robot_cell"]})
    with pytest.raises(CatalogInvalid, match=r"kit tas-plc-1: model: expected one of robot_cell, found 'plc_line'"):
        other.reload()
    assert other.workshops() == ()


async def test_pages_and_programs_get_workshops_in_every_language(
    signed_in: Callable[[Role], Awaitable[Browser]], parts: HubParts
) -> None:
    furnish(parts.catalog)
    opened = await signed_in(Role.TRAINEE)
    (workshop,) = (await opened.http.get("/api/v1/workshops")).json()
    assert workshop["name"] == {"en": TASHKENT.en, "zh": TASHKENT.zh, "ru": TASHKENT.ru}
    assert workshop["zone"] == "Asia/Tashkent"
    assert [kit["id"] for kit in workshop["kits"]] == ["tas-plc-1"]
    assert (await opened.http.get("/api/v1/workshops/tashkent")).json() == workshop
    missing = await opened.http.get("/api/v1/workshops/atlantis")
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
    assert missing.json()["detail"] == "There is no workshop atlantis."


async def test_the_running_hub_takes_over_what_the_command_line_adds(
    parts: HubParts, settings: HubSettings, line: IdleLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new edge gets in without a restart, which would cut everybody else off."""
    with open_hub(settings) as beside:
        furnish(beside.catalog)
    await until(lambda: line.reloads == 1)
    assert parts.catalog.kit("tas-plc-1").edge == "tas-1"
