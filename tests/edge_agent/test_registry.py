"""A protocol that is not in the table, or that does not keep the seam, would be found by a user only."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from pydantic import BaseModel

import edge_agent.sources
from edge_agent.sources import SOURCES, load_source
from lab_contract.kit import builtin_kit_models


@pytest.mark.parametrize("protocol", SOURCES)
def test_every_protocol_of_the_table_loads_and_keeps_the_seam(protocol: str) -> None:
    source = load_source(protocol)
    for model in (source.Settings, source.Address):
        assert issubclass(model, BaseModel)
        assert model.model_config["extra"] == "forbid"
    assert inspect.iscoroutinefunction(source.open)
    assert inspect.isasyncgenfunction(source.readings)
    assert inspect.iscoroutinefunction(source.close)


def test_every_file_of_the_folder_is_in_the_table() -> None:
    folder = Path(edge_agent.sources.__file__).parent
    files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert files == {place.partition(":")[0].rpartition(".")[2] for place in SOURCES.values()}


def test_every_protocol_of_the_kit_models_is_in_the_table() -> None:
    models = builtin_kit_models().values()
    assert {connection.protocol for model in models for connection in model.connections} <= SOURCES.keys()


def test_every_address_of_the_kit_models_is_understood_by_its_source() -> None:
    for model in builtin_kit_models().values():
        for channel in model.channels:
            source = load_source(model.connection_by_id[channel.connection].protocol)
            source.Address.model_validate(channel.address)
