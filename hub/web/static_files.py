"""The built style sheets and islands. Receives a served name from the manifest, hands on the file, in brotli if asked.

Names carry a hash of the content, so a browser may keep a file for ever. Only files that the manifest or the bundle
lists are served: no path of the request ever reaches the file system.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import Response

from hub.accounts.access import Open
from hub.errors import CannotRun, NotFound

DIST = Path(__file__).parent / "static" / "dist"
PREFIX = "/static"
TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}

router = APIRouter(include_in_schema=False)


class AssetsMissing(CannotRun):
    """The pages' style sheets and scripts are not built."""


@dataclass(frozen=True, slots=True)
class Asset:
    """One file as served."""

    content: bytes
    brotli: bytes | None
    type: str
    etag: str


@lru_cache(maxsize=1)
def manifest() -> dict[str, str]:
    """Served name by source name. Raises AssetsMissing."""
    try:
        return dict(json.loads((DIST / "manifest.json").read_text("utf-8"))["files"])
    except FileNotFoundError:
        raise AssetsMissing("the pages are not built: run python hub/web/build_assets.py") from None


@lru_cache(maxsize=1)
def assets() -> dict[str, Asset]:
    """Every file that may be served, read once: a few hundred kilobytes. Raises AssetsMissing."""
    found: dict[str, Asset] = {}
    for name in manifest().values():
        path = DIST / name
        small = path.with_name(f"{name}.br")
        found[name] = Asset(
            content=path.read_bytes(),
            brotli=small.read_bytes() if small.is_file() else None,
            type=TYPES[path.suffix],
            etag=f'"{name}"',
        )
    return found


def asset_url(source: str) -> str:
    """Where the built form of a source file is served. Raises AssetsMissing, also for a name that was never built."""
    try:
        return f"{PREFIX}/{manifest()[source]}"
    except KeyError:
        raise AssetsMissing(f"{source} is not among the built files: run python hub/web/build_assets.py") from None


@router.api_route(PREFIX + "/{name}", methods=["GET", "HEAD"])
async def serve(name: str, request: Request, nobody: Open) -> Response:
    """A built file; the sign-in page needs it too. Raises NotFound."""
    asset = assets().get(name)
    if asset is None:
        raise NotFound()
    headers = {
        "Cache-Control": "public, max-age=31536000, immutable",
        "ETag": asset.etag,
        "Vary": "Accept-Encoding",
        "X-Content-Type-Options": "nosniff",
        "Content-Type": asset.type,
    }
    if asset.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if asset.brotli is not None and _takes_brotli(request.headers.get("accept-encoding", "")):
        return Response(asset.brotli, headers={**headers, "Content-Encoding": "br"})
    return Response(asset.content, headers=headers)


def _takes_brotli(header: str) -> bool:
    for part in header.split(","):
        coding, _, weight = part.partition(";")
        if coding.strip() == "br":
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
