"""The hub as one ASGI app: `create_app` puts layers and routes together, the lifespan runs everything behind them.

The HTTP side answers from the first moment (`/healthz`, 503 elsewhere); database, broker, store and ingest start
behind it, so what is heavy to import is imported there.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI

from hub import answers
from hub.accounts.pages import router as accounts_pages
from hub.accounts.routes import router as accounts_routes
from hub.catalog.pages import router as catalog_pages
from hub.catalog.routes import router as catalog_routes
from hub.clock import Clock, SystemClock
from hub.compression import Compression
from hub.errors import CannotRun
from hub.health.pages import router as health_pages
from hub.health.routes import router as health_routes
from hub.live.routes import router as live_routes
from hub.parts import HubParts
from hub.security import Guard, ReadyGate
from hub.settings import HubSettings
from hub.web.render import language
from hub.web.static_files import assets
from hub.web.static_files import router as static_files
from lab_contract.kit import LANGUAGES

if TYPE_CHECKING:
    from hub.line import Line

log = logging.getLogger(__name__)

CATALOG_WATCH_S = 1.0
"""How soon the running hub takes over what the command line adds."""

ROUTERS = (
    accounts_pages,
    accounts_routes,
    catalog_pages,
    catalog_routes,
    health_pages,
    health_routes,
    live_routes,
    static_files,
)

StartLine = Callable[[HubParts], "Line"]


def start_line(parts: HubParts) -> Line:
    """The line of a hub, not yet entered. Blocks for the import of DuckDB and Arrow: call it in a worker thread."""
    line = importlib.import_module("hub.line")
    choose = importlib.import_module("hub.broker.choose")
    settings = parts.settings
    settings.data_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    made: Line = line.Line(
        store_url=settings.store_url,
        store_options=settings.store_options,
        retention_days=settings.retention_days,
        broker=choose.make_broker(settings),
        accounts=parts.catalog.accounts,
        kits=parts.catalog.kits,
        clock=parts.clock,
    )
    return made


def create_app(
    settings: HubSettings,
    clock: Clock | None = None,
    *,
    make_line: StartLine = start_line,
    on_fault: Callable[[], None] = lambda: None,
) -> FastAPI:
    """The hub. `on_fault` is called when the background start or the line has failed; `app.state.parts.fault` says why.

    The server that runs the app must run its lifespan.
    """
    parts = HubParts(settings, clock or SystemClock())

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        leave = asyncio.Event()
        operation = asyncio.create_task(_operate(parts, make_line, leave), name="hub operation")
        operation.add_done_callback(lambda task: _note_end(task, parts, on_fault))
        try:
            yield
        finally:
            parts.stopping.set()
            leave.set()
            if not parts.ready:
                operation.cancel()
            # Its error, if any, was noted and logged when it ended.
            await asyncio.wait([operation])

    # No generated documentation pages: FastAPI's load their scripts from foreign hosts.
    app = FastAPI(title="EPIP hub", openapi_url=None, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.parts = parts
    for router in ROUTERS:
        app.include_router(router)
    answers.install(app)
    app.add_middleware(ReadyGate, parts=parts)
    app.add_middleware(Compression)
    app.add_middleware(Guard)
    return app


async def _operate(parts: HubParts, make_line: StartLine, leave: asyncio.Event) -> None:
    from hub.accounts.service import Accounts
    from hub.catalog.kit_models import load_kit_models
    from hub.catalog.service import Catalog
    from hub.database import open_database

    # One task enters and leaves the line, as cancel scopes ask for; only its blocking steps go to threads.
    opened = open_database(parts.settings.database_file)
    database = await asyncio.to_thread(opened.__enter__)
    try:
        models = await asyncio.to_thread(load_kit_models, parts.settings.kit_model_folder)
        accounts, catalog = Accounts(database, parts.clock), Catalog(database, models)
        await asyncio.to_thread(accounts.remove_ended_sessions)
        await asyncio.to_thread(catalog.reload)
        await asyncio.to_thread(_load_pages)
        parts.started_accounts, parts.started_catalog = accounts, catalog
        async with await asyncio.to_thread(make_line, parts) as line:
            parts.started_line = line
            parts.ready = True
            log.info("ready")
            await _watch_catalog(parts, leave)
    finally:
        parts.ready = False
        await asyncio.to_thread(database.close)


def _load_pages() -> None:
    """Reads style sheets, scripts and catalogues now, so that a missing one stops the start and not the first page."""
    assets()
    for code in LANGUAGES:
        language(code)


async def _watch_catalog(parts: HubParts, leave: asyncio.Event) -> None:
    stale = False
    while not leave.is_set():
        try:
            async with asyncio.timeout(CATALOG_WATCH_S):
                await leave.wait()
        except TimeoutError:
            stale = await _take_over_catalog(parts, stale=stale)


async def _take_over_catalog(parts: HubParts, *, stale: bool) -> bool:
    """Whether the broker still has to learn of a change: `stale` says that it had to before."""
    try:
        stale = await asyncio.to_thread(parts.catalog.reload) or stale
        if stale:
            await parts.line.reload_accounts()
            log.info("the catalog has changed")
    except CannotRun as error:
        # What was known goes on running; the next round tries again.
        if parts.catalog_fault != str(error):
            log.error("the changed catalog is not taken over: %s", error)
        parts.catalog_fault = str(error)
        return stale
    parts.catalog_fault = None
    return False


def _note_end(task: asyncio.Task[None], parts: HubParts, on_fault: Callable[[], None]) -> None:
    if task.cancelled():
        return
    error = task.exception()
    if error is None:
        return
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    parts.fault = error
    known = isinstance(error, CannotRun)
    log.error("the hub cannot run: %s", error, exc_info=None if known else error)
    on_fault()
