"""Live and stored telemetry for pages and programs: receives requests, hands on JSON, CSV and WebSocket messages."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse, Response, StreamingResponse
from numpy.typing import NDArray
from starlette.websockets import WebSocket

from hub.accounts.access import SignedIn, Staff
from hub.catalog.service import Kit
from hub.errors import N_, HubError, InputRefused, NotFound
from hub.live import messages
from hub.live.history import History
from hub.live.session import KitTalk, hold, talk_of_workshop
from hub.live.state import KitView
from hub.parts import HubParts, Parts
from hub.store.base import StoreUnavailable
from lab_contract.batch import Gap

if TYPE_CHECKING:
    import pyarrow as pa

router = APIRouter(tags=["telemetry"])

MOST_CHANNELS = 64
MOST_BUCKETS = 5000
MOST_GAPS = 1000
Milliseconds = Annotated[float, Query(ge=0, le=253_402_300_799_000, allow_inf_nan=False)]
"""ms since 1970 UTC, up to the year 9999."""


class StoreAway(HubError):
    """Ask again later: the telemetry store cannot answer; its health says why."""

    status = 503
    code = "store_unavailable"
    title = N_("No stored data at the moment")
    default = N_("The telemetry store cannot answer. Live values go on; try again later.")


@router.websocket("/live/kits/{kit}")
async def live_kit(websocket: WebSocket, hub: Parts, person: SignedIn, kit: str) -> None:
    """A snapshot of the kit, then its values, alarms and stream frames as they come."""
    found = hub.catalog.kit(kit).id

    async def talk() -> None:
        with hub.line.live.watch(found) as viewer:
            await KitTalk(websocket, hub.line.live, viewer, hub.clock, lambda: hub.storing).run()

    await hold(websocket, hub.stopping, talk)


@router.websocket("/live/workshops/{workshop}")
async def live_workshop(websocket: WebSocket, hub: Parts, person: SignedIn, workshop: str) -> None:
    """The workshop's kits at a glance, once a second."""
    found = hub.catalog.workshop(workshop).id

    async def talk() -> None:
        await talk_of_workshop(websocket, hub.line.live, found, hub.clock, lambda: hub.storing)

    await hold(websocket, hub.stopping, talk)


@router.get("/api/v1/kits/{kit}")
def kit_model(hub: Parts, person: SignedIn, kit: str) -> dict[str, Any]:
    """What the kit is: its kit model with channels, streams, limits, commands and labels, without addresses."""
    found = hub.catalog.kit(kit)
    without = {"channels": {"__all__": {"address"}}, "commands": {"__all__": {"address"}}}
    model = found.model.model_dump(
        mode="json", by_alias=True, exclude={**without, "connections": {"__all__": {"settings"}}}
    )
    return {
        "id": found.id,
        "workshop": found.workshop,
        "edge": found.edge,
        "name": found.name.model_dump(),
        "digest": found.model.digest,
        "model": model,
    }


@router.get("/api/v1/kits/{kit}/latest")
def latest(hub: Parts, person: SignedIn, kit: str) -> dict[str, Any]:
    """The newest value of each channel; `fresh` is False for one that must not be taken for a live one."""
    view = _view(hub, kit)
    return {
        "now_ms": messages.ms(view.now_ns),
        "kit": messages.card(view),
        "values": {
            channel: {
                "t_ms": messages.ms(one.t),
                "value": one.value,
                "text": one.text,
                "quality": one.quality,
                "age_ms": messages.ms(max(0, view.now_ns - one.t)),
                "fresh": channel not in view.stale_channels,
            }
            for channel, one in view.values.items()
        },
    }


@router.get("/api/v1/kits/{kit}/overview")
def overview(
    hub: Parts,
    person: SignedIn,
    kit: str,
    channels: Annotated[str, Query(max_length=8192)],
    from_ms: Milliseconds,
    to_ms: Milliseconds,
    buckets: Annotated[int, Query(ge=1, le=MOST_BUCKETS)] = 600,
) -> JSONResponse:
    """Least and greatest value per bucket: `t` the bucket starts in ms, null where a bucket is empty; `gaps` that are
    known to lie in the window. Times are the hub's: those of the edge's clock, corrected by its offset.
    """
    names = _channels(hub.catalog.kit(kit), channels)
    t0, t1 = _window(from_ms, to_ms)
    history = History(hub.line.store, kit)
    try:
        found = history.overview(names, t0, t1, buckets)
        lost = history.gaps(t0, t1)
    except StoreUnavailable as error:
        raise StoreAway() from error
    return JSONResponse(
        {
            "t": [messages.ms(t) for t in found.t.tolist()],
            "width_ms": messages.ms(found.width_ns),
            "channels": {
                name: {"min": _numbers(low), "max": _numbers(high)} for name, (low, high) in found.channels.items()
            },
            "gaps": [_gap(one) for one in lost[-MOST_GAPS:]],
        }
    )


@router.get("/api/v1/kits/{kit}/raw.csv")
def raw(
    hub: Parts,
    person: SignedIn,
    kit: str,
    channels: Annotated[str, Query(max_length=8192)],
    from_ms: Milliseconds,
    to_ms: Milliseconds,
) -> StreamingResponse:
    """Every stored sample of a window of the hub's time as CSV (RFC 4180), in order; read from the store as it is sent.

    `t` is the time of the edge's clock as it was stored, `t_hub` the same corrected by the offset of that clock.
    """
    names = _channels(hub.catalog.kit(kit), channels)
    t0, t1 = _window(from_ms, to_ms)
    try:
        rows = History(hub.line.store, kit).raw(names, t0, t1)
    except StoreUnavailable as error:
        raise StoreAway() from error
    return StreamingResponse(
        csv_of(rows),
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{kit}.csv"'},
    )


@router.post("/api/v1/kits/{kit}/alarms/{channel}/{alarm}/clear", status_code=204)
def clear_alarm(hub: Parts, person: Staff, kit: str, channel: str, alarm: str) -> Response:
    """Let go of a latched alarm whose cause has gone. Raises NotFound where there is none."""
    if not hub.line.live.clear_alarm(hub.catalog.kit(kit).id, channel, alarm):
        raise NotFound()
    return Response(status_code=204)


def csv_of(batches: Iterable[pa.RecordBatch]) -> Iterator[str]:
    """Samples as CSV texts: UTC times to the nanosecond, channel, value, text, OPC UA status code."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["t", "t_hub", "channel", "value", "text", "quality"])
    for batch in batches:
        columns = {name: batch.column(name) for name in batch.schema.names}
        times = [
            np.datetime_as_string(columns.pop(name).to_numpy().view("datetime64[ns]")).tolist()
            for name in ("t", "t_hub")
        ]
        rest = [columns[name].to_pylist() for name in ("channel", "value", "text", "quality")]
        for t, t_hub, channel, value, text, quality in zip(*times, *rest, strict=True):
            writer.writerow([f"{t}Z", f"{t_hub}Z", channel, value, _harmless(text), quality])
        yield out.getvalue()
        out.seek(0)
        out.truncate()
    yield out.getvalue()


def _harmless(text: str | None) -> str | None:
    # A spreadsheet would run a text of the equipment that begins like a formula.
    return f"'{text}" if text is not None and text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _view(hub: HubParts, kit: str) -> KitView:
    view = hub.line.live.view(hub.catalog.kit(kit).id)
    if view is None:
        raise NotFound()
    return view


def _channels(kit: Kit, names: str) -> list[str]:
    found = list(dict.fromkeys(name for name in names.split(",") if name))
    unknown = [name for name in found if name not in kit.model.channel_by_id]
    if unknown:
        text = N_("This kit has no channel %(channel)s.")
        raise InputRefused(text, fields={"channels": text}, channel=unknown[0][:80])
    if not 0 < len(found) <= MOST_CHANNELS:
        text = N_("Name 1 to %(most)d channels, separated by commas.")
        raise InputRefused(text, fields={"channels": text}, most=MOST_CHANNELS)
    return found


def _window(from_ms: float, to_ms: float) -> tuple[int, int]:
    if from_ms >= to_ms:
        text = N_("The end must be later than the beginning.")
        raise InputRefused(text, fields={"to_ms": text})
    return round(from_ms * messages.NS_PER_MS), round(to_ms * messages.NS_PER_MS)


def _gap(lost: Gap) -> dict[str, Any]:
    return {
        "stream": lost.stream,
        "from_ms": messages.ms(lost.t_from),
        "to_ms": messages.ms(lost.t_to),
        "reason": lost.reason.value,
        "count": lost.count,
    }


def _numbers(values: NDArray[np.float64]) -> list[float | None]:
    return [None if number != number else number for number in values.tolist()]
