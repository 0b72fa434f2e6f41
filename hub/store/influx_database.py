"""Beneath the InfluxDB store: finds or makes the database and the retention, deletes, and says what it found.

What differs between 1.x, 2.x and 3.x beyond writing and asking stands here alone: 1.x by InfluxQL, 2.x by its buckets
and deletions, 3.x by its configuration endpoint; 3.x deletes by the database's own retention period only.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime

from hub.store.base import SECOND, StoreFacts, StoreRefused, StoreUnavailable
from hub.store.influx_client import PATIENT_S, DatabaseMissing, Forbidden, Server
from hub.store.influx_lines import identifier, literal
from hub.store.options import StoreOptions

DAY_S = 86_400
FOR_EVER = 0
"""As servers write a retention without an end."""
META = 'SELECT last("store_id"), last("write"), last("samples_from") FROM "meta"'


def look(url: str, options: StoreOptions) -> StoreFacts:
    """What is there, without making anything. Raises StoreUnavailable, StoreMisconfigured."""
    server = Server(url, options, time.monotonic_ns)
    try:
        return found(server, 0)
    finally:
        server.close()


def found(server: Server, collapsed: int) -> StoreFacts:
    """What the server and its database are, asked anew; `collapsed` points were written again."""
    version = server.ping()
    try:
        may, (kept, _) = permissions(server), retention(server)
        detail = f"{collapsed} points written again" if collapsed else ""
    except DatabaseMissing:
        may, kept, detail = "unknown", "none yet", "the database is missing; the hub makes it where that is allowed"
    return StoreFacts(
        engine="InfluxDB",
        version=version or "unknown",
        write_path=f"{server.host}{server.write_path}, database {server.database}",
        permissions=may,
        retention=kept,
        detail=detail,
    )


def ensure(server: Server, org: str | None, retention_days: int | None) -> None:
    """Make the database where it is missing and that is allowed.

    Raises StoreUnavailable where it is missing and may not be made.
    """
    try:
        server.query(META)
    except DatabaseMissing as missing:
        try:
            _make(server, org, retention_days)
        except StoreUnavailable as error:
            raise StoreUnavailable(f"{missing}, and it cannot be made: {error}") from error


def _make(server: Server, org: str | None, retention_days: int | None) -> None:
    name = server.database
    if server.major == 1:
        duration = f" WITH DURATION {retention_days}d" if retention_days else ""
        server.query(f"CREATE DATABASE {identifier(name)}{duration}", anywhere=True)
    elif server.major == 2:
        organisation = _first(server, "/api/v2/orgs", {"org": org} if org else {}, "orgs")
        bucket = _first(server, "/api/v2/buckets", {"name": name, "orgID": organisation["id"]}, "buckets", missing={})
        if not bucket:
            rules = [{"type": "expire", "everySeconds": retention_days * DAY_S}] if retention_days else []
            body = {"orgID": organisation["id"], "name": name, "retentionRules": rules}
            bucket = _post(server, "/api/v2/buckets", body)
        mapping = {
            "bucketID": bucket["id"],
            "orgID": organisation["id"],
            "database": name,
            "retention_policy": "autogen",
            "default": True,
        }
        _post(server, "/api/v2/dbrps", mapping)
    else:
        body = {"db": name, **({"retention_period": f"{retention_days}d"} if retention_days else {})}
        _post(server, "/api/v3/configure/database", body)


def retention(server: Server) -> tuple[str, int | None]:
    """The database's own retention: for people, and in ns, FOR_EVER, or None where nobody knows.

    Raises StoreUnavailable.
    """
    if server.major == 1:
        (policies,) = server.query(f"SHOW RETENTION POLICIES ON {identifier(server.database)}", anywhere=True)
        told = [dict(zip(policies.columns, row, strict=True)) for row in policies.rows]
        default = next((one for one in told if one.get("default")), None)
        if default is None:
            return "no default retention policy", None
        hours = re.fullmatch(r"(?:(\d+)h0m)?0s", default["duration"])
        kept = None if hours is None else int(hours[1] or 0) * 3600 * SECOND
        return f"{default['name']}: {default['duration'] if kept != FOR_EVER else 'for ever'}", kept
    if server.major == 2:
        bucket = _first(server, "/api/v2/buckets", {"name": server.database}, "buckets", missing={})
        seconds = sum(int(rule.get("everySeconds", 0)) for rule in bucket.get("retentionRules", ()))
        return f"{seconds // DAY_S} days" if seconds else "for ever", seconds * SECOND
    return "by the database's own retention period", None


def kept_from(server: Server, now_ns: int) -> int | None:
    """From when on (UTC ns) the database's own retention has deleted nothing; None where nobody knows.

    Raises StoreUnavailable.
    """
    try:
        _, kept = retention(server)
    except Forbidden:
        return None
    if kept == FOR_EVER:
        return 0
    return None if kept is None else now_ns - kept


def permissions(server: Server) -> str:
    """What these credentials may do, tried out without leaving anything behind. Raises StoreUnavailable."""
    may = []
    for what, tried in (("read", lambda: server.query(META)), ("write", lambda: server.write(b""))):
        try:
            tried()
        except Forbidden:
            continue
        except StoreRefused:
            # For having no line in it: the credentials were looked at before.
            pass
        may.append(what)
    return " and ".join(may) or "none"


def bytes_on_disk(server: Server) -> int:
    """How much room the database takes, 0 where the server does not tell these credentials."""
    if server.major != 1:
        return 0
    total = 0
    try:
        shards = server.query("SHOW STATS FOR 'shard'", anywhere=True)
    except Forbidden:
        return 0
    for series in shards:
        if series.tags.get("database") == server.database and "diskBytes" in series.columns:
            total += int(series.rows[0][series.columns.index("diskBytes")])
    return total


def can_delete(server: Server) -> bool:
    """Whether single points can be deleted at all."""
    return server.major < 3


def delete_samples(server: Server, org: str | None, kit: str, channel: str, before_ns: int) -> None:
    """Delete the samples of a channel before a time."""
    if server.major == 1:
        server.query(
            f'DELETE FROM "sample" WHERE "kit" = {literal(kit)} AND "channel" = {literal(channel)} '  # noqa: S608
            f"AND time < {before_ns}",
            patient=True,
        )
        return
    predicate = f'_measurement="sample" AND kit="{kit}" AND channel="{channel}"'
    body = {"start": "1970-01-01T00:00:00Z", "stop": _rfc3339(before_ns), "predicate": predicate}
    query = {"bucket": server.database, **({"org": org} if org else {})}
    server.call("POST", "/api/v2/delete", query, body, PATIENT_S).close()


def delete_marks(server: Server, org: str | None, before_ns: int) -> None:
    """Delete the marks of writes before a time."""
    if server.major == 1:
        server.query(f'DELETE FROM "mark" WHERE time < {before_ns}', patient=True)  # noqa: S608
        return
    body = {"start": "1970-01-01T00:00:00Z", "stop": _rfc3339(before_ns), "predicate": '_measurement="mark"'}
    query = {"bucket": server.database, **({"org": org} if org else {})}
    server.call("POST", "/api/v2/delete", query, body, PATIENT_S).close()


def delete_result(server: Server, kit: str, task: str, t: int) -> None:
    """Delete a result, so that another may stand in its place; does nothing where points cannot be deleted."""
    if server.major == 1:
        server.query(
            f'DELETE FROM "result" WHERE "kit" = {literal(kit)} AND "task" = {literal(task)} AND time = {t}'  # noqa: S608
        )


def _rfc3339(ns: int) -> str:
    whole, rest = divmod(ns, SECOND)
    return f"{datetime.fromtimestamp(whole, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def _first(
    server: Server, path: str, query: Mapping[str, str], key: str, missing: dict[str, object] | None = None
) -> dict[str, object]:
    response = server.call("GET", path, query)
    found = json.loads(response.data).get(key) or []
    if not found and missing is None:
        raise StoreUnavailable(f"{path} knows none of {dict(query)}")
    return found[0] if found else (missing or {})


def _post(server: Server, path: str, body: Mapping[str, object]) -> dict[str, object]:
    response = server.call("POST", path, body=body)
    return json.loads(response.data or b"{}")
