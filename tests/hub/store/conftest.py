"""Each test of the contract runs on every store there is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from hub.store.base import TelemetryStore
from tests.influx import Influx, influxd
from tests.influx_proxy import Proxy, proxy
from tests.stores import PLACES, Place

_numbers = count(1)


@pytest.fixture(params=sorted(PLACES))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Where a fresh store is."""
    return PLACES[request.param](tmp_path)


@pytest.fixture
def store(place: Place) -> Iterator[TelemetryStore]:
    """A fresh store, open."""
    opened = place.open()
    yield opened
    opened.close()


@pytest.fixture
def new_kit() -> Callable[[], str]:
    """Ids of kits that no store has heard of: cheaper than a fresh store for each of many examples."""
    return lambda: f"kit-{next(_numbers)}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Influx]:
    """An InfluxDB for one file: its tests stop and kill it."""
    with influxd(tmp_path_factory.mktemp("influx")) as running:
        yield running


@pytest.fixture
def front(server: Influx) -> Iterator[Proxy]:
    """A proxy before it, which answers in its place where it is told to."""
    with proxy(server.port) as running:
        yield running
