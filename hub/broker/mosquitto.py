"""Mosquitto with its dynamic-security plugin as the broker: run by an administrator, told by the hub who may do what.

Receives accounts, keeps their roles right over the control link, hands on the address for the hub's own link. The hub
makes itself an account of its own with a new password at each start.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Sequence
from pathlib import Path

from hub.broker.base import BrokerHealth, BrokerUnavailable, HubAccess
from hub.broker.config import BrokerAccount, hub_account
from hub.broker.dynsec import DynamicSecurity
from hub.broker.mosquitto_config import rules
from hub.broker.refusals import MosquittoLog, Tail
from hub.broker.settings import HUB_USER

log = logging.getLogger(__name__)

AGAIN_S = 2.0
STOP_S = 5.0


class MosquittoBroker:
    """The accounts at a Mosquitto whose dynamic-security plugin answers the account `admin`.

    With `log_file` refusals are counted there, else from the log topics, if the broker writes to any.
    """

    def __init__(self, admin: HubAccess, *, log_file: Path | None = None) -> None:
        self._log = MosquittoLog()
        self._tail = None if log_file is None else Tail(log_file, self._log)
        self._control = DynamicSecurity(
            admin, on_log=self._log.feed if log_file is None else lambda _line: None, on_connection=self._connection
        )
        self._access = HubAccess(admin.url, HUB_USER, secrets.token_urlsafe(32), admin.ca_file, admin.certificate)
        self._lock = threading.Lock()
        self._accounts: tuple[BrokerAccount, ...] = ()
        self._missing: tuple[str, ...] = ()
        self._fault = ""
        self._stopping = threading.Event()
        self._look = threading.Event()
        self._enrolled = False
        self._watcher = threading.Thread(target=self._watch, name="broker watch", daemon=True)

    @property
    def access(self) -> HubAccess:
        """The hub's own sign-in."""
        return self._access

    def start(self, accounts: Sequence[BrokerAccount]) -> None:
        """Connect and bring the accounts in order. Raises BrokerUnavailable, ValueError for a bad account."""
        if self._tail is not None:
            self._tail.start()
        self._control.start()
        with self._lock:
            self._apply(accounts)
        self._watcher.start()

    def reload(self, accounts: Sequence[BrokerAccount]) -> None:
        """Take over changed accounts; who is gone is cut off. Raises ValueError for a bad account.

        What the broker cannot take over now is tried again, and the health says why until it could.
        """
        for account in accounts:
            rules(account)
        with self._lock:
            self._accounts = tuple(accounts)
            try:
                if self._control.connected:
                    self._apply(accounts)
            except BrokerUnavailable as error:
                self._fail(error)
        self._look.set()

    def revive(self) -> None:
        """Nothing: an administrator runs it. The health page says that no heartbeat comes back."""

    def stop(self) -> None:
        """Disconnect; the accounts stay. Idempotent."""
        self._stopping.set()
        self._look.set()
        if self._watcher.ident is not None:
            self._watcher.join(STOP_S)
        self._control.stop()
        if self._tail is not None:
            self._tail.stop()

    def health(self) -> BrokerHealth:
        """Whether the control link is up, and what was refused."""
        refusals = self._log.refusals()
        detail = self._control.detail or self._fault or (self._tail.fault if self._tail else "")
        return BrokerHealth(
            "mosquitto", self._control.connected, detail, self._control.losses, missing=self._missing, refusals=refusals
        )

    def _connection(self, up: bool) -> None:
        if up:
            self._look.set()

    def _apply(self, accounts: Sequence[BrokerAccount]) -> None:
        self._accounts = tuple(accounts)
        hub = hub_account("", HUB_USER)
        absent = self._control.reconcile([hub, *accounts])
        if HUB_USER in absent or not self._enrolled:
            # Not each time the broker is back: a new password cuts the hub's own link.
            self._control.enrol(hub, self._access.password)
            self._enrolled = True
        missing = tuple(user for user in absent if user != HUB_USER)
        if missing and missing != self._missing:
            log.error("the broker does not know %s: renew their passwords", ", ".join(missing))
        self._missing = missing
        self._fault = ""

    def _watch(self) -> None:
        """Whatever the broker forgot while it was away, and whoever was added meanwhile, is put in order."""
        while not self._stopping.is_set():
            waits = AGAIN_S if self._missing or self._fault else None
            self._look.wait(waits)
            self._look.clear()
            if self._stopping.is_set():
                return
            if not self._control.connected:
                continue
            try:
                with self._lock:
                    self._apply(self._accounts)
            except BrokerUnavailable as error:
                self._fail(error)

    def _fail(self, error: BrokerUnavailable) -> None:
        if self._fault != str(error):
            log.error("the broker's accounts are not in order: %s", error)
        self._fault = str(error)
