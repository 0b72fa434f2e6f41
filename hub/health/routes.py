"""Beside the line: `/healthz` for anyone, from the first moment; `/api/v1/health` with the line's details."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.encoders import jsonable_encoder
from fastapi.responses import JSONResponse

from hub.accounts.access import Open, Technical
from hub.parts import Parts

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz(hub: Parts, access: Open) -> JSONResponse:
    """Whether the process answers and whether it can serve; nothing more, as anyone may ask."""
    return JSONResponse({"alive": True, "ready": hub.ready}, 200 if hub.ready else 503)


@router.get("/api/v1/health")
def health(hub: Parts, person: Technical) -> dict[str, Any]:
    """Broker, ingest counters, store, and what is kept aside in quarantine, by reason."""
    return {
        "ready": hub.ready,
        "now_ns": hub.clock.time_ns(),
        "catalog_fault": hub.catalog_fault,
        "line": jsonable_encoder(hub.line.health()),
    }
