"""Finds the faults the hub would meet at its start, without changing anything, and without touching the network
unless the store is to be looked at.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from hub.broker.choose import problems as broker_problems
from hub.catalog.kit_models import load_kit_models
from hub.catalog.service import Catalog
from hub.database import rehearsal
from hub.errors import CatalogInvalid, DatabaseUnusable, KitModelsInvalid, SettingsInvalid
from hub.settings import HubSettings, load_settings


def faults(file: Path) -> list[str]:
    """One line a fault: file, place, expected value; empty where the hub would start."""
    try:
        settings = load_settings(file)
    except SettingsInvalid as error:
        return str(error).splitlines()
    found: list[str] = []
    models = {}
    try:
        models = load_kit_models(settings.kit_model_folder)
    except KitModelsInvalid as error:
        found += str(error).splitlines()
    found += [f"{file}: {line}" for line in _unwritable(settings.data_folder)]
    found += [problem.line(str(file)) for problem in broker_problems(settings)]
    found += [f"{file}: {line}" for line in _unreadable(settings)]
    try:
        with rehearsal(settings.database_file) as database:
            # With faulty kit models the catalog's complaints would only repeat theirs.
            if models:
                Catalog(database, models).reload()
    except DatabaseUnusable as error:
        found.append(f"{file}: database: {error}")
    except CatalogInvalid as error:
        found += [f"{settings.database_file}: {line}" for line in str(error).splitlines()]
    return found


def look_at_store(file: Path) -> tuple[list[str], list[str]]:
    """What stands where the settings say the store is, and its faults; asks a server over the network."""
    from hub.store.base import StoreError
    from hub.store.look import look

    settings = load_settings(file)
    try:
        facts = look(settings.store_url, settings.store_options)
    except StoreError as error:
        return [], [f"{file}: store: {error}"]
    told = {
        "store": f"{facts.engine} {facts.version}",
        "writes to": facts.write_path,
        "permissions": facts.permissions,
        "retention": facts.retention,
        "detail": facts.detail,
    }
    lines = [f"{name}: {text}" for name, text in told.items() if text]
    if facts.permissions in ("unknown", "read and write"):
        return lines, []
    return lines, [f"{file}: store: expected to be allowed to read and write, found {facts.permissions}"]


def _unreadable(settings: HubSettings) -> list[str]:
    """Files of [influx] that cannot be read or have nothing in them."""
    found: list[str] = []
    for name in ("password_file", "token_file", "ca_file"):
        written = getattr(settings.influx, name)
        if written is None:
            continue
        path = settings.path(written)
        try:
            if not path.read_bytes().strip():
                found.append(f"influx.{name}: expected a line in {path}, found nothing")
        except OSError as error:
            found.append(f"influx.{name}: expected a file that can be read, found {path}: {error.strerror}")
    return found


def _unwritable(folder: Path) -> list[str]:
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        return [f"data: expected a folder, found the file {existing}"]
    try:
        with tempfile.TemporaryFile(dir=existing):
            return []
    except OSError as error:
        return [f"data: expected a folder that can be written, found {existing}: {error.strerror}"]
