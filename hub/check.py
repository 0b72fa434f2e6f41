"""Finds the faults the hub would meet at its start, without touching the network or changing anything."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hub.catalog.kit_models import load_kit_models
from hub.catalog.service import Catalog
from hub.database import rehearsal
from hub.errors import CatalogInvalid, DatabaseUnusable, KitModelsInvalid, SettingsInvalid
from hub.settings import load_settings


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
