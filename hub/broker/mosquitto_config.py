"""What Mosquitto is told: accounts with MQTT topic filters in; roles of its dynamic-security plugin, or the text of an
ACL file and a password file, out. No I/O.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from hub.broker.config import BrokerAccount, subjects
from hub.broker.passwords import MOSQUITTO_HASH

ROLE_PREFIX = "epip:"
"""Marks roles as the hub's own. A user who bears one is the hub's too: it is removed when the catalog drops it."""
LOG_TOPIC = "$SYS/broker/log/#"
_USER = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9_-]{0,62}[a-zA-Z0-9])?\Z")


@dataclass(frozen=True, slots=True, order=True)
class Rule:
    """One line of a role: `acltype` is the plugin's word for what may be done with the topics."""

    acltype: str
    topic: str


def role_name(user: str) -> str:
    """The role that this user alone bears: Mosquitto 2.0 does not put user names into the topics of a shared one."""
    return ROLE_PREFIX + user


def rules(account: BrokerAccount) -> frozenset[Rule]:
    """What the role of an account allows. Raises ValueError for a topic filter that is none of ours."""
    _check(account)
    allowed = {Rule("publishClientSend", topic) for topic in account.publish}
    for topic in account.subscribe:
        allowed |= {Rule("subscribePattern", topic), Rule("publishClientReceive", topic)}
    return frozenset(allowed)


def acl_text(accounts: Iterable[BrokerAccount], hub_user: str) -> str:
    """The ACL file. `hub_user` may read the broker's log besides. Raises ValueError for an account not fit for it."""
    lines = ["# Written by the hub at each start and change."]
    for account in accounts:
        _check(account)
        lines += ["", f"user {account.user}"]
        lines += [f"topic write {topic}" for topic in account.publish]
        lines += [f"topic read {topic}" for topic in account.subscribe]
        if account.user == hub_user:
            lines.append(f"topic read {LOG_TOPIC}")
    return "\n".join([*lines, ""])


def passwords_text(accounts: Iterable[BrokerAccount]) -> str:
    """The password file: who has no hash of Mosquitto's kind is left out. Raises ValueError for a bad account."""
    lines: list[str] = []
    seen: set[str] = set()
    for account in accounts:
        _check(account)
        if account.user in seen:
            raise ValueError(f"broker user {account.user!r}: expected each name once")
        seen.add(account.user)
        if account.mosquitto_hash is None:
            continue
        # Anything else would be taken for the password itself.
        if not MOSQUITTO_HASH.match(account.mosquitto_hash):
            raise ValueError(f"broker user {account.user!r}: expected a hash as mosquitto_passwd makes it")
        lines.append(f"{account.user}:{account.mosquitto_hash}")
    return "\n".join([*lines, ""]) if lines else ""


def _check(account: BrokerAccount) -> None:
    if not _USER.match(account.user):
        raise ValueError(f"broker user {account.user!r}: expected letters, digits, '_' and '-'")
    for topic_filter in (*account.publish, *account.subscribe):
        # A blank, a line end or a pattern like %u would say something else in the file.
        subjects(topic_filter)
