"""Beside the line: the kit models this hub knows: those that ship with it and those in the folder of the settings."""

from __future__ import annotations

from pathlib import Path

from hub.errors import KitModelsInvalid
from lab_contract.errors import KitModelInvalid
from lab_contract.kit import KitModel, builtin_kit_models, load_kit_model


def load_kit_models(folder: Path | None) -> dict[str, KitModel]:
    """The kit models by id. Raises KitModelsInvalid with every fault of every file."""
    faults: list[str] = []
    try:
        models = builtin_kit_models()
    except KitModelInvalid as error:
        models = {}
        faults.append(str(error))
    if folder is not None and not folder.is_dir():
        faults.append(f"{folder}: kit_models: expected a folder with kit models")
    if folder is not None:
        for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
            try:
                model = load_kit_model(path)
            except KitModelInvalid as error:
                faults.append(str(error))
                continue
            if model.id in models:
                faults.append(f"{path}: id: expected an id that no other kit model has, found {model.id!r}")
            else:
                models[model.id] = model
    if faults:
        raise KitModelsInvalid("\n".join(faults))
    return models
