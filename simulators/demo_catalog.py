"""Fills the catalog of the simulated workshop, renews every password at each start, and writes the settings."""

from __future__ import annotations

import os
from pathlib import Path

from hub.accounts.person import Role
from hub.accounts.service import Accounts, IssuedSignIn, NewPerson
from hub.catalog.service import Catalog
from hub.clock import SystemClock
from hub.database import open_database
from hub.errors import AlreadyThere
from lab_contract.kit import Label, builtin_kit_models
from simulators.demo_settings import EDGE, KITS, ROBOT, WORKSHOP, Files, Ports, write_settings

ZONE = "Asia/Tashkent"
NAME = Label(en="Simulated workshop", zh="模拟工坊", ru="Имитация мастерской")
CITY = Label(en="Tashkent", zh="塔什干", ru="Ташкент")
PEOPLE = (
    NewPerson("admin", "Administrator", Role.ADMINISTRATOR, zone="UTC"),
    NewPerson("instructor", "Instructor", Role.INSTRUCTOR, zone="Asia/Shanghai"),
    NewPerson("technician", "Technician", Role.TECHNICIAN, zone=ZONE),
)


def prepare(files: Files, ports: Ports) -> list[IssuedSignIn]:
    """Write the settings, fill the catalog where it is empty, renew the passwords; returns the sign-ins to show.

    Blocks for a second or two. Raises HubError, CannotRun and OSError.
    """
    with open_database(files.database) as database:
        catalog = Catalog(database, builtin_kit_models())
        catalog.reload()
        if not catalog.workshops():
            catalog.add_workshop(WORKSHOP, name=NAME, city=CITY, zone=ZONE)
        try:
            edge_password = catalog.add_edge(EDGE, workshop=WORKSHOP)
        except AlreadyThere:
            edge_password = catalog.renew_edge_password(EDGE)
        try:
            robot_password = catalog.add_equipment_account(ROBOT, workshop=WORKSHOP)
        except AlreadyThere:
            robot_password = catalog.renew_equipment_password(ROBOT)
        known = catalog.kits()
        for kit, model in KITS.items():
            if kit not in known:
                catalog.add_kit(kit, workshop=WORKSHOP, model=model, edge=EDGE)
        sign_ins = Accounts(database, SystemClock()).issue_sign_ins(PEOPLE)
    _write_secret(files.edge_password, edge_password)
    _write_secret(files.robot_password, robot_password)
    write_settings(files, ports)
    return sign_ins


def _write_secret(path: Path, secret: str) -> None:
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(secret + "\n")
