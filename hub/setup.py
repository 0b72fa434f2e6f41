"""Sets a hub up from outside, beside a running one or before its first start: the command line and the demo use it.

with open_hub(load_settings(Path("hub.toml"))) as hub:
    hub.catalog.add_workshop("tashkent", name=..., city=..., zone="Asia/Tashkent")
    password = hub.catalog.add_edge("tashkent-1", workshop="tashkent")
    sign_ins = hub.accounts.issue_sign_ins([NewPerson(...), ...])
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from hub.accounts.service import Accounts
from hub.catalog.kit_models import load_kit_models
from hub.catalog.service import Catalog
from hub.clock import Clock, SystemClock
from hub.database import open_database
from hub.settings import HubSettings


@dataclass(frozen=True, slots=True)
class Hub:
    """The relational side of a hub."""

    accounts: Accounts
    catalog: Catalog


@contextmanager
def open_hub(settings: HubSettings, clock: Clock | None = None) -> Iterator[Hub]:
    """Opens (and makes, and migrates) the hub's database; blocks. A running hub takes changes over in 2 s.

    Raises KitModelsInvalid, DatabaseUnusable, CatalogInvalid.
    """
    models = load_kit_models(settings.kit_model_folder)
    with open_database(settings.database_file) as database:
        catalog = Catalog(database, models)
        catalog.reload()
        yield Hub(Accounts(database, clock or SystemClock()), catalog)
