"""What the broker is told: accounts with MQTT topic filters in, the text of NATS configuration files out. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hub.broker.passwords import BCRYPT_HASH
from hub.broker.settings import is_loopback
from lab_contract.batch import MAX_BYTES
from lab_contract.topics import ROOT, Kind, every_edge, topic

HUB_USER = "hub"
HEARTBEAT_TOPIC = f"{ROOT}-hub/heartbeat"
"""The hub hears itself here: the proof that the broker passes messages on."""
MAX_PAYLOAD = MAX_BYTES + 1024 * 1024
"""Above the largest batch, so that a batch at its limit is refused by nobody."""
MAX_ACK_PENDING = 8192
MAX_PENDING = 256 * 1024 * 1024
"""Bytes that may wait for the hub, which hears batches with QoS 0: past them it would be cut off. An edge has 8 MiB on
their way at most, so thirty may return at once with full windows."""
MAX_FILE_STORE = 1 << 30
"""Said outright: left to itself the server takes a share of what is free when it starts, and one that was started on a
full disk turns every client away for ever, however much is free by then. What it stores is sessions, a few kB."""
USERS_FILE = "users.conf"

_USER = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9_-]{0,62}[a-zA-Z0-9])?\Z")
_LEVEL = re.compile(r"[A-Za-z0-9_-]+\Z")


@dataclass(frozen=True)
class BrokerAccount:
    """A user of the broker; `publish` and `subscribe` are MQTT topic filters.

    `password_hash` is bcrypt's, which NATS understands. `mosquitto_hash` is that of Mosquitto's password file, None for
    an account of a time when the hub kept none.
    """

    user: str
    password_hash: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    mosquitto_hash: str | None = None


EDGE_SAYS = (Kind.UP, Kind.REPLY, Kind.PROBE, Kind.STATUS)
HUB_SAYS = (Kind.ACK, Kind.COMMAND, Kind.TIME, Kind.REPLAY)


def edge_account(user: str, edge: str, password_hash: str, mosquitto_hash: str | None = None) -> BrokerAccount:
    """The account of an edge agent: what it may say and hear, and nothing of any other edge."""
    return BrokerAccount(
        user,
        password_hash,
        publish=tuple(topic(edge, kind) for kind in EDGE_SAYS),
        subscribe=(f"{ROOT}/{edge}/down/#",),
        mosquitto_hash=mosquitto_hash,
    )


def hub_account(password_hash: str, user: str = HUB_USER, mosquitto_hash: str | None = None) -> BrokerAccount:
    """The hub's own account."""
    return BrokerAccount(
        user,
        password_hash,
        publish=(*map(every_edge, HUB_SAYS), HEARTBEAT_TOPIC),
        subscribe=(*map(every_edge, EDGE_SAYS), HEARTBEAT_TOPIC),
        mosquitto_hash=mosquitto_hash,
    )


def subjects(topic_filter: str) -> list[str]:
    """The NATS subjects that an MQTT topic filter stands for.

    `a/#` also matches `a` in MQTT, `a.>` does not match `a` in NATS: hence two. Raises ValueError for a filter with a
    level that has no plain counterpart (empty, a dot, a blank).
    """
    levels = topic_filter.split("/")
    names: list[str] = []
    for place, level in enumerate(levels):
        if level == "#" and place == len(levels) - 1:
            names.append(">")
        elif level == "+":
            names.append("*")
        elif _LEVEL.match(level):
            names.append(level)
        else:
            raise ValueError(f"topic filter {topic_filter!r}: expected levels of letters, digits, '_', '-' between '/'")
    subject = ".".join(names)
    return [subject, ".".join(names[:-1])] if names[-1] == ">" and len(names) > 1 else [subject]


def users_text(accounts: Iterable[BrokerAccount]) -> str:
    """The included file with every user. Raises ValueError where an account is not fit to stand in it."""
    lines = ["# Written by the hub at each start and change; holds password hashes.", "users: ["]
    seen: set[str] = set()
    for account in accounts:
        if not _USER.match(account.user) or account.user in seen:
            raise ValueError(f"broker user {account.user!r}: expected each name once, of letters, digits, '_' and '-'")
        # The broker would take anything else for the password itself.
        if not BCRYPT_HASH.match(account.password_hash):
            raise ValueError(f"broker user {account.user!r}: expected a bcrypt hash of the password")
        seen.add(account.user)
        lines.append(
            f'  {{user: "{account.user}", password: "{account.password_hash}", permissions: {{'
            f"publish: {_rule(account.publish)}, subscribe: {_rule(account.subscribe)}}}}}"
        )
    return "\n".join([*lines, "]", ""])


def _rule(filters: tuple[str, ...]) -> str:
    allowed = [f'"{subject}"' for topic_filter in filters for subject in subjects(topic_filter)]
    # An empty list of allowed subjects would allow everything.
    return f"{{allow: [{', '.join(allowed)}]}}" if allowed else '{deny: [">"]}'


def server_text(
    folder: Path,
    port: int,
    users_file: str = USERS_FILE,
    *,
    host: str = "127.0.0.1",
    tls: tuple[Path, Path] | None = None,
) -> str:
    """The broker's configuration: MQTT on `host`, NATS on loopback, file storage in `folder`.

    `tls` is a certificate and its key. Raises ValueError for a host beyond loopback without it.
    """
    if tls is None and not is_loopback(host):
        raise ValueError(f"host {host!r}: expected a certificate and its key, or a loopback address")

    def path(name: str | Path) -> str:
        return '"' + (folder / name).as_posix().replace('"', '\\"') + '"'

    listen = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    encryption = "" if tls is None else f" tls {{ cert_file: {path(tls[0])}, key_file: {path(tls[1])}, timeout: 10 }},"

    return f"""# Written by the hub at each start.
server_name: "epip-hub"
listen: "127.0.0.1:-1"
max_payload: {MAX_PAYLOAD}
max_pending: {MAX_PENDING}
log_file: {path("broker.log")}
logfile_size_limit: 4194304
logfile_max_num: 3
ports_file_dir: {path("ports")}
jetstream {{ store_dir: {path("jetstream")}, max_file_store: {MAX_FILE_STORE} }}
mqtt {{ listen: "{listen}",{encryption} max_ack_pending: {MAX_ACK_PENDING} }}
authorization {{
  timeout: 5
  include "{users_file}"
}}
"""
