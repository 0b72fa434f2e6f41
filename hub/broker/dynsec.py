"""The control link to Mosquitto's dynamic-security plugin: receives users and roles, makes them so at the broker.

Commands go to `$CONTROL/dynamic-security/v1` as JSON and each answer comes back with the command's own mark. The plugin
wants passwords in the clear and gives none back, so an account is made where its password is (`enrol`), and later only
its role is kept right (`reconcile`).
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from hub.broker.base import BrokerUnavailable, HubAccess
from hub.broker.config import BrokerAccount
from hub.broker.mosquitto_config import LOG_TOPIC, ROLE_PREFIX, Rule, role_name, rules

log = logging.getLogger(__name__)

COMMANDS = "$CONTROL/dynamic-security/v1"
ANSWERS = "$CONTROL/dynamic-security/v1/response"
CONNECT_S = 10.0
ANSWER_S = 5.0
AT_ONCE = 50
"""Commands in one message."""


@dataclass(frozen=True, slots=True)
class Present:
    """What the broker holds: the roles of each user, the rules of each role."""

    users: Mapping[str, frozenset[str]]
    roles: Mapping[str, frozenset[Rule]]


class DynamicSecurity:
    """The control link, from `start` to `stop` or as a context. `access` is an account with the plugin's admin role.

    `on_log(line)` hears what the broker tells on its log topics; `on_connection(up)` each change of the link. Both run
    on the network thread.
    """

    def __init__(
        self,
        access: HubAccess,
        *,
        on_log: Callable[[str], None] = lambda _line: None,
        on_connection: Callable[[bool], None] = lambda _up: None,
    ) -> None:
        self._access = access
        self._on_log = on_log
        self._on_connection = on_connection
        self._changed = threading.Condition()
        self._answers: dict[str, dict[str, Any]] = {}
        self._detail = "not connected yet"
        self._link = access.link("epip-admin", self._received, self._connection)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BrokerUnavailable:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Connect. Raises BrokerUnavailable where that does not succeed in 10 s or the sign-in is refused."""
        self._link.subscribe(ANSWERS)
        self._link.subscribe(LOG_TOPIC)
        self._link.start()
        with self._changed:
            if not self._changed.wait_for(lambda: self._link.connected or self._link.refusal, CONNECT_S):
                raise BrokerUnavailable(f"the broker at {self._access.url} does not answer: {self._detail}")
        if self._link.refusal:
            raise BrokerUnavailable(
                f"the broker at {self._access.url} refuses the account {self._access.user!r} of the settings: "
                f"{self._link.refusal}"
            )

    def stop(self) -> None:
        """Disconnect. Idempotent."""
        self._link.stop()

    @property
    def connected(self) -> bool:
        """Whether the link is up."""
        return self._link.connected

    @property
    def losses(self) -> int:
        """How often the link was lost."""
        return self._link.counters["disconnects"]

    @property
    def detail(self) -> str:
        """Why the link is down."""
        return "" if self._link.connected else self._detail

    def present(self) -> Present:
        """What the broker holds now. Raises BrokerUnavailable."""
        users, roles = self._run([_command("listClients", verbose=True), _command("listRoles", verbose=True)])
        return Present(
            {
                user["username"]: frozenset(role["rolename"] for role in user.get("roles", ()))
                for user in users["clients"]
            },
            {
                role["rolename"]: frozenset(
                    Rule(acl["acltype"], acl["topic"]) for acl in role.get("acls", ()) if acl["allow"]
                )
                for role in roles["roles"]
            },
        )

    def enrol(self, account: BrokerAccount, password: str, present: Present | None = None) -> None:
        """Make an account with its role and its password, or give it this password. Raises BrokerUnavailable.

        A live connection of the account ends when its password changes.
        """
        present = present or self.present()
        commands = _role_commands(account, present)
        if account.user in present.users:
            commands += _bearing(account, present)
            commands.append(_command("setClientPassword", username=account.user, password=password))
        else:
            bears = [{"rolename": role_name(account.user)}]
            commands.append(_command("createClient", username=account.user, password=password, roles=bears))
        self._run(commands)

    def remove(self, user: str) -> None:
        """Remove an account that the hub has made, and cut it off. Raises BrokerUnavailable."""
        self._run(_removal(user, self.present()))

    def reconcile(self, accounts: Sequence[BrokerAccount]) -> tuple[str, ...]:
        """Give these accounts their roles, remove every other of the hub's; returns the users that are not there.

        Whoever is removed is cut off. Raises BrokerUnavailable, ValueError for an account that is not fit.
        """
        present = self.present()
        wanted = {account.user: account for account in accounts}
        commands: list[dict[str, Any]] = []
        for account in accounts:
            if account.user in present.users:
                commands += _role_commands(account, present) + _bearing(account, present)
        for role in present.roles:
            user = role.removeprefix(ROLE_PREFIX)
            if role == user or user in wanted:
                continue
            commands += _removal(user, present)
        self._run(commands)
        return tuple(user for user in wanted if user not in present.users)

    def _run(self, commands: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The data of each answer. Raises BrokerUnavailable where one is refused or does not come."""
        answers: list[dict[str, Any]] = []
        for first in range(0, len(commands), AT_ONCE):
            answers += self._run_together(commands[first : first + AT_ONCE])
        return answers

    def _run_together(self, commands: list[dict[str, Any]]) -> list[dict[str, Any]]:
        marks = [secrets.token_hex(8) for _ in commands]
        marked = [command | {"correlationData": mark} for command, mark in zip(commands, marks, strict=True)]
        deadline = time.monotonic() + ANSWER_S
        if not self._link.publish(COMMANDS, json.dumps({"commands": marked}).encode()):
            raise BrokerUnavailable(f"no connection to the broker at {self._access.url}: {self._detail}")
        with self._changed:
            came = self._changed.wait_for(
                lambda: all(mark in self._answers for mark in marks), max(0.0, deadline - time.monotonic())
            )
            answers = [self._answers.pop(mark, {}) for mark in marks]
        if not came:
            raise BrokerUnavailable(
                f"the broker at {self._access.url} did not answer on {COMMANDS} in {ANSWER_S:.0f} s: expected its "
                f"dynamic-security plugin, and {self._access.user!r} to bear the plugin's admin role"
            )
        for command, answer in zip(commands, answers, strict=True):
            if "error" in answer:
                name = command.get("username") or command.get("rolename", "")
                raise BrokerUnavailable(f"the broker refused {command['command']} {name}: {answer['error']}")
        return [answer.get("data", {}) for answer in answers]

    def _received(self, topic: str, payload: bytes) -> None:
        if topic != ANSWERS:
            self._on_log(payload.decode("utf-8", "replace"))
            return
        try:
            answers = json.loads(payload)["responses"]
            found = {answer["correlationData"]: answer for answer in answers if "correlationData" in answer}
        except (ValueError, KeyError, TypeError) as error:
            log.warning("an answer of the broker's plugin is not understood: %s", error)
            return
        with self._changed:
            # Only what is waited for is kept: answers to other administrators are none of ours.
            self._answers |= found
            while len(self._answers) > 10 * AT_ONCE:
                self._answers.pop(next(iter(self._answers)))
            self._changed.notify_all()

    def _connection(self, up: bool, why: str) -> None:
        # Told before `start` wakes up, so that what it does then comes after.
        self._on_connection(up)
        with self._changed:
            self._detail = why
            self._changed.notify_all()


def _command(name: str, **arguments: Any) -> dict[str, Any]:
    return {"command": name, **arguments}


def _role_commands(account: BrokerAccount, present: Present) -> list[dict[str, Any]]:
    name, wanted = role_name(account.user), rules(account)
    found = present.roles.get(name)
    if found == wanted:
        return []
    acls = [{"acltype": r.acltype, "topic": r.topic, "priority": 0, "allow": True} for r in sorted(wanted)]
    return [_command("createRole" if found is None else "modifyRole", rolename=name, acls=acls)]


def _removal(user: str, present: Present) -> list[dict[str, Any]]:
    role = role_name(user)
    commands: list[dict[str, Any]] = []
    # A user of this name without our role is an administrator's: it stays.
    if role in present.users.get(user, ()):
        commands.append(_command("deleteClient", username=user))
    if role in present.roles:
        commands.append(_command("deleteRole", rolename=role))
    return commands


def _bearing(account: BrokerAccount, present: Present) -> list[dict[str, Any]]:
    name = role_name(account.user)
    if name in present.users[account.user]:
        return []
    return [_command("addClientRole", username=account.user, rolename=name)]
